package guest

import (
	"os"
	"path/filepath"
	"testing"
)

// TestNear shows that the copy of a program is made anew when the program has changed, and only then.
func TestNear(t *testing.T) {
	t.Setenv("TMPDIR", t.TempDir())
	program := filepath.Join(t.TempDir(), "tool")
	if path, err := Near(program); err == nil {
		t.Errorf("found %s where there is none", path)
	}
	var seen []os.FileInfo
	for _, text := range []string{"one", "one", "three"} {
		if was, err := os.ReadFile(program); err != nil || string(was) != text {
			if err := os.WriteFile(program, []byte(text), 0o755); err != nil {
				t.Fatal(err)
			}
		}
		path, err := Near(program)
		if err != nil {
			t.Fatal(err)
		}
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := os.ReadFile(path); err != nil || string(got) != text || info.Mode().Perm() != 0o755 {
			t.Errorf("%s holds %q, %v, mode %o; expected %q, executable", path, got, err, info.Mode().Perm(), text)
		}
		seen = append(seen, info)
	}
	if !os.SameFile(seen[0], seen[1]) || os.SameFile(seen[1], seen[2]) {
		t.Error("expected a copy to be made the first time and when the program had changed")
	}
}
