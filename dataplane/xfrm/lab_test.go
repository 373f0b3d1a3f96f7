//go:build lab

package xfrm

import (
	"runtime"
	"testing"

	"github.com/rs/zerolog"
	"golang.org/x/sys/unix"

	"espalier/dataplane"
	"espalier/dataplane/dptest"
)

// namespace moves the test's goroutine, with its thread, into a new network
// namespace, which ends with the test.
func namespace(t *testing.T) {
	t.Helper()
	runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		t.Fatalf("new network namespace: %v", err)
	}
}

// openIn opens an XFRM in the current namespace with a journal of its own.
func openIn(t *testing.T, dir string) *XFRM {
	t.Helper()
	x, err := Open(Options{JournalDir: dir, Log: zerolog.New(zerolog.NewTestWriter(t)).Level(zerolog.WarnLevel)})
	if err != nil {
		t.Fatalf("Open: %v", err)
	}
	t.Cleanup(func() { x.Close() })
	return x
}

func TestSuite(t *testing.T) {
	dptest.Run(t, func(t *testing.T) dataplane.DataPlane {
		namespace(t)
		return openIn(t, t.TempDir())
	})
}

// TestSuiteOlderKernel leaves out what kernels before 6.10 and 7.2 lack.
func TestSuiteOlderKernel(t *testing.T) {
	dptest.Run(t, func(t *testing.T) dataplane.DataPlane {
		namespace(t)
		x := openIn(t, t.TempDir())
		x.features.Migrate, x.features.SADir, x.features.PerCPU = false, false, false
		return x
	})
}

// TestFeatures: the lab's kernel has everything that is probed.
func TestFeatures(t *testing.T) {
	namespace(t)
	x := openIn(t, t.TempDir())
	f := x.Features()
	if !f.ESN || !f.IPTFS || !f.PerCPU || !f.SADir || !f.Migrate || !f.XFRMIf {
		t.Errorf("features %+v, expected all", f)
	}
	for name, ok := range f.Algorithms {
		if !ok {
			t.Errorf("algorithm %s refused", name)
		}
	}
}
