package topo

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
)

// program is the path of a program of ours: from the environment, or a copy of bin/NAME of the repository that the working directory is in.
func program(variable, name string) (string, error) {
	if path := os.Getenv(variable); path != "" {
		return path, nil
	}
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for ; dir != "/"; dir = filepath.Dir(dir) {
		path := filepath.Join(dir, "bin", name)
		if info, err := os.Stat(path); err == nil {
			return near(path, info)
		}
	}
	return "", fmt.Errorf("no %s: expected its path in %s, or bin/%s above the working directory ('make build')", name, variable, name)
}

// near is a copy of the program in the guest's memory, which is made once: the repository is the host's, who is asked for a program's pages again at each
// start, ten times as long as the start takes otherwise.
func near(path string, info os.FileInfo) (string, error) {
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
