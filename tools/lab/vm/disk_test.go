package vm

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"espalier/tools/lab/store"
)

// TestDisk makes a disk of a directory and has debugfs(8) read it.
func TestDisk(t *testing.T) {
	for _, program := range []string{"mke2fs", "debugfs"} {
		if _, err := exec.LookPath(program); err != nil {
			t.Skip(err)
		}
	}
	st, err := store.OpenAt(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	dir := st.Path("root-x")
	want := bytes.Repeat([]byte("content\n"), 10_000)
	for i := range 2000 { // more than what the file system would have room for by itself
		if err := os.MkdirAll(filepath.Join(dir, "many", string(rune('a'+i%26)), string(rune('a'+i/26))), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "many", "file"), want, 0o644); err != nil {
		t.Fatal(err)
	}
	image, err := disk(t.Context(), st, dir)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := exec.Command("debugfs", "-R", "cat /many/file", image).Output(); err != nil || !bytes.Equal(got, want) {
		t.Errorf("%v: read %d bytes, expected the %d that were written", err, len(got), len(want))
	}
	before, err := os.Stat(image)
	if err != nil {
		t.Fatal(err)
	}
	again, err := disk(t.Context(), st, dir)
	if err != nil || again != image {
		t.Fatalf("%s, %v, expected %s", again, err, image)
	}
	if after, err := os.Stat(again); err != nil || !os.SameFile(before, after) {
		t.Errorf("%v: the disk was made a second time", err)
	}
	if _, err := disk(t.Context(), st, filepath.Join(st.Dir(), "missing")); err == nil {
		t.Error("expected an error for a directory that is not there")
	}
}
