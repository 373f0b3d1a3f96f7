package guest

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
)

// Near is a copy of a shared program in the guest's memory, which is made once, and again when the program has changed: the host is asked for a shared
// program's pages at each start, ten times as long as the start takes otherwise.
func Near(path string) (string, error) {
	info, err := os.Stat(path)
	if err != nil {
		return "", err
	}
	dir := filepath.Join(os.TempDir(), "espalier-programs")
	to := filepath.Join(dir, filepath.Base(path))
	if has, err := os.Stat(to); err == nil && has.Size() == info.Size() && has.ModTime().Equal(info.ModTime()) {
		return to, nil
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	from, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer from.Close()
	fresh, err := os.CreateTemp(dir, filepath.Base(path)+".")
	if err != nil {
		return "", err
	}
	defer os.Remove(fresh.Name()) // gone already when all went well
	if _, err = io.Copy(fresh, from); err == nil {
		err = fresh.Chmod(0o755)
	}
	if e := fresh.Close(); err == nil {
		err = e
	}
	if err == nil {
		err = os.Chtimes(fresh.Name(), info.ModTime(), info.ModTime())
	}
	if err != nil {
		return "", fmt.Errorf("copying %s to %s: %w", path, dir, err)
	}
	return to, os.Rename(fresh.Name(), to)
}
