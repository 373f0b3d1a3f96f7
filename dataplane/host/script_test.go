package host

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// TestRunScript runs what the shell makes of a command: its environment and no
// other, both outputs, its exit status.
func TestRunScript(t *testing.T) {
	t.Setenv("ESPALIER_TEST_LEAK", "1")
	var lines []string
	err := Local{}.RunScript(t.Context(), `echo "$PLUTO_VERB"; echo err >&2; env | grep -c LEAK; printf 'no end'; exit 3`,
		[]string{"PATH=" + os.Getenv("PATH"), "PLUTO_VERB=up-host"}, func(s string) { lines = append(lines, s) })
	if err == nil || err.Error() != "script: exit status 3" {
		t.Errorf("got error %v", err)
	}
	if want := []string{"up-host", "err", "0", "no end"}; !slices.Equal(lines, want) {
		t.Errorf("got %q, want %q", lines, want)
	}
	lines = nil
	if err := (Local{}).RunScript(t.Context(), "head -c 10000 /dev/zero | tr '\\0' x; echo", []string{"PATH=" + os.Getenv("PATH")}, func(s string) { lines = append(lines, s) }); err != nil {
		t.Error(err)
	}
	if n := len(strings.Join(lines, "")); n != 10000 || len(lines) != 3 {
		t.Errorf("expected 10000 bytes in 3 parts, got %d in %d", n, len(lines))
	}
}

// TestScriptThatStays shows that what a script leaves running does not hold its
// caller, and that a time limit takes all with it.
func TestScriptThatStays(t *testing.T) {
	env := []string{"PATH=" + os.Getenv("PATH")}
	dir := t.TempDir()
	pids := filepath.Join(dir, "pid")
	if err := (Local{}).RunScript(t.Context(), "sleep 1000 & echo $! > "+pids, env, func(string) {}); err != nil {
		t.Error(err)
	}
	b, err := os.ReadFile(pids)
	if err != nil {
		t.Fatal(err)
	}
	if err := (Local{}).RunScript(t.Context(), "kill "+strings.TrimSpace(string(b)), env, func(string) {}); err != nil {
		t.Errorf("expected the script's child to live: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	started := func(string) { cancel() }
	if err := (Local{}).RunScript(ctx, "(sleep 1000; echo late) & echo $! > "+pids+"; echo started; wait", env, started); err == nil {
		t.Error("expected an error of a script that was killed")
	}
	if b, err = os.ReadFile(pids); err != nil {
		t.Fatal(err)
	}
	for range 1000 {
		if _, err := os.Stat("/proc/" + strings.TrimSpace(string(b))); err != nil {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Error("what the script has started lives on")
}
