package flow

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// innerVar marks the process that runs the tests in namespaces of its own.
const innerVar = "ESPALIER_FLOW_TEST_INNER"

// TestMain runs the tests once more in a process with its own network and mount
// namespace, when it may make one: all its threads are there, as a daemon's are.
// Without the right the tests that need a kernel are skipped.
func TestMain(m *testing.M) {
	if os.Getenv(innerVar) == "" && os.Geteuid() == 0 {
		cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
		cmd.Env = append(os.Environ(), innerVar+"=1")
		cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
		cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET | unix.CLONE_NEWNS, Pdeathsig: syscall.SIGKILL}
		err := cmd.Run()
		var exit *exec.ExitError
		switch {
		case err == nil:
			os.Exit(0)
		case errors.As(err, &exit):
			os.Exit(exit.ExitCode())
		}
		fmt.Fprintln(os.Stderr, "no namespaces, so without a kernel:", err)
	}
	if os.Getenv(innerVar) != "" {
		// A BPF file system of its own: two runs at once must not meet.
		err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, "")
		if err == nil {
			err = unix.Mount("bpf", bpfRoot, "bpf", 0, "mode=0700")
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, "BPF file system for the tests:", err)
			os.Exit(1)
		}
	}
	code := m.Run()
	if left := bpfDescriptors(); code == 0 && len(left) > 0 {
		fmt.Fprintln(os.Stderr, "descriptors left open by the tests:", left)
		code = 1
	}
	os.Exit(code)
}

// bpfDescriptors are the maps, programs and links that this process has open.
func bpfDescriptors() (out []string) {
	entries, _ := os.ReadDir("/proc/self/fd")
	for _, e := range entries {
		if to, err := os.Readlink("/proc/self/fd/" + e.Name()); err == nil && strings.Contains(to, "bpf") {
			out = append(out, to)
		}
	}
	return out
}
