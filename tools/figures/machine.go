package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// machine is where and when a value was measured.
type machine struct {
	cpu, kernel, goVersion string
	date                   time.Time
}

func (m machine) String() string { return m.cpu + ", Linux " + m.kernel + ", " + m.goVersion }

func thisMachine(ctx context.Context) (machine, error) {
	info, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		return machine{}, err
	}
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return machine{}, err
	}
	v, err := goEnv(ctx, "GOVERSION") // of the Go that measures, not of the one that built this
	if err != nil {
		return machine{}, err
	}
	return machine{cpuModel(string(info)), unix.ByteSliceToString(u.Release[:]), v, time.Now().UTC()}, nil
}

// cpuModel finds the processor's name in /proc/cpuinfo.
func cpuModel(info string) string {
	for line := range strings.Lines(info) {
		if k, v, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(k) == "model name" {
			return strings.Join(strings.Fields(v), " ")
		}
	}
	return "unknown processor"
}

// moduleRoot is the folder of go.mod.
func moduleRoot(ctx context.Context) (string, error) {
	mod, err := goEnv(ctx, "GOMOD")
	if err != nil {
		return "", err
	}
	if mod == "" || mod == os.DevNull {
		return "", errors.New("expected to run inside of the module, found no go.mod")
	}
	return filepath.Dir(mod), nil
}

func goEnv(ctx context.Context, name string) (string, error) {
	out, err := exec.CommandContext(ctx, "go", "env", name).Output()
	if err != nil {
		return "", fmt.Errorf("go env %s: %w", name, err)
	}
	return strings.TrimSpace(string(out)), nil
}
