package topo

import (
	"fmt"
	"os"
	"path/filepath"

	"espalier/tools/lab/guest"
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
		if _, err := os.Stat(path); err == nil {
			return guest.Near(path)
		}
	}
	return "", fmt.Errorf("no %s: expected its path in %s, or bin/%s above the working directory ('make build')", name, variable, name)
}
