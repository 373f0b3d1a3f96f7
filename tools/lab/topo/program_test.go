package topo

import (
	"os"
	"path/filepath"
	"testing"
)

// TestProgram shows that the copy of a program is made anew when the program has changed, and only then.
func TestProgram(t *testing.T) {
	t.Setenv("TMPDIR", t.TempDir())
	t.Setenv("ESPALIER_PROGRAM_TEST", "")
	top := t.TempDir()
	if err := os.MkdirAll(filepath.Join(top, "bin"), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Chdir(top)
	find := func() (string, os.FileInfo) {
		t.Helper()
		path, err := program("ESPALIER_PROGRAM_TEST", "tool")
		if err != nil {
			t.Fatal(err)
		}
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		return path, info
	}
	if path, err := program("ESPALIER_PROGRAM_TEST", "tool"); err == nil {
		t.Errorf("found %s where there is none", path)
	}
	var seen []os.FileInfo
	for _, text := range []string{"one", "one", "three"} {
		if was, err := os.ReadFile("bin/tool"); err != nil || string(was) != text {
			if err := os.WriteFile("bin/tool", []byte(text), 0o755); err != nil {
				t.Fatal(err)
			}
		}
		path, info := find()
		if got, err := os.ReadFile(path); err != nil || string(got) != text || info.Mode().Perm() != 0o755 {
			t.Errorf("%s holds %q, %v, mode %o; expected %q, executable", path, got, err, info.Mode().Perm(), text)
		}
		seen = append(seen, info)
	}
	if !os.SameFile(seen[0], seen[1]) || os.SameFile(seen[1], seen[2]) {
		t.Error("expected a copy to be made the first time and when the program had changed")
	}
	t.Setenv("ESPALIER_PROGRAM_TEST", "/elsewhere")
	if path, err := program("ESPALIER_PROGRAM_TEST", "tool"); err != nil || path != "/elsewhere" {
		t.Errorf("%s, %v, expected what the environment says", path, err)
	}
}
