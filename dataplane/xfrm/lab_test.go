//go:build lab

package xfrm

import (
	"fmt"
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
		x.features.Migrate, x.features.SADir, x.features.PerCPU, x.features.NATKeepalive = false, false, false, false
		return x
	})
}

// kernel is the version of the guest's kernel as one number, 6.12 being 6012.
func (x *XFRM) kernel(t *testing.T) int {
	t.Helper()
	var major, minor int
	if _, err := fmt.Sscanf(x.features.Kernel, "%d.%d", &major, &minor); err != nil {
		t.Fatalf("kernel release %q: %v", x.features.Kernel, err)
	}
	return major*1000 + minor
}

// TestFeatures: a kernel has at least what came with its version. It may have
// more: 6.12.117 has per-CPU SAs of 6.13. IPTFS is left out: Debian builds its
// kernels without (no xfrm_iptfs module in 7.3.4).
func TestFeatures(t *testing.T) {
	namespace(t)
	x := openIn(t, t.TempDir())
	f, kernel := x.Features(), x.kernel(t)
	for _, c := range []struct {
		name  string
		got   bool
		since int
	}{
		{"ESN", f.ESN, 3000}, {"interfaces", f.XFRMIf, 4019},
		{"direction", f.SADir, 6010}, {"per CPU", f.PerCPU, 6013}, {"IPComp", f.IPComp, 3000}, {"migrate", f.Migrate, 7002},
		{"NAT keepalives", f.NATKeepalive, 6011},
	} {
		if kernel >= c.since && !c.got {
			t.Errorf("%s: not found on kernel %s, expected since %d", c.name, f.Kernel, c.since)
		}
	}
	for name, ok := range f.Algorithms {
		if !ok {
			t.Errorf("algorithm %s refused", name)
		}
	}
}
