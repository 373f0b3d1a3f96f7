//go:build lab

package e2e

import (
	"fmt"
	"strings"
	"testing"

	"espalier/dataplane/xfrm"
	"espalier/tools/lab/topo"
)

// keepaliveCounters count the NAT keepalives that leave a host: all of them, and those of a program's socket; the kernel's have none.
const keepaliveCounters = `table inet keepalives {
	counter sent { }
	counter programs { }
	chain out {
		type filter hook output priority 0;
		udp dport 4500 udp length 9 counter name "sent"
		udp dport 4500 udp length 9 meta skuid 0 counter name "programs"
	}
}
`

// TestKeepalives: behind a NAT the kernel keeps the mapping alive while there is a tunnel, and the daemon says nothing; where the kernel is
// not to, or can't, the daemon does. Traffic is as good as a keepalive to the kernel.
func TestKeepalives(t *testing.T) {
	l := newLab(t, topo.Config{NAT: true}, false)
	if _, err := l.ours.RunInput(t.Context(), keepaliveCounters, "nft", "-f", "-"); err != nil {
		t.Fatal(err)
	}
	s := shapes[0]
	for _, by := range []string{"kernel", "daemon"} {
		t.Run(by, func(t *testing.T) {
			ours, theirs := l.sides(psk, suites[0], s)
			theirs.remote = "%any"
			ours.more = "espalier {\n keep_alive = 2s\n keep_alive_by = " + by + "\n}\n"
			l.start(t, ours, theirs)
			l.mustInitiate(t, true)
			kernel := by == "kernel" && natKeepalive(t, l.ours)
			all0, programs0 := l.keepalivesOf(t)
			l.eventually(t, "keepalives on the wire", func() error {
				if n := l.counts(t).Keepalive; n < 4 {
					return fmt.Errorf("%d", n)
				}
				return nil
			})
			all, programs := l.keepalivesOf(t)
			all, programs = all-all0, programs-programs0
			t.Logf("%d keepalives, %d of them the daemon's", all, programs)
			if kernel != (programs == 0) || !kernel && all != programs {
				t.Errorf("%d keepalives, %d of them the daemon's, expected all to be the kernel's: %t", all, programs, kernel)
			}
			if !kernel {
				return
			}
			before := 0
			l.steadyPings(t, s, func() { before = l.counts(t).Keepalive })
			if n := l.counts(t).Keepalive - before; n > 1 { // one may have been due
				t.Errorf("%d keepalives in 6 s of traffic", n)
			}
		})
	}
	l.end(t, "SIGTERM")
}

// keepalivesOf reads the counters, both at once: one more may come at any time.
func (l *lab) keepalivesOf(t *testing.T) (all, programs int) {
	t.Helper()
	out, err := l.ours.Run(t.Context(), "nft", "list", "counters", "table", "inet", "keepalives")
	if err != nil {
		t.Fatal(err)
	}
	for name, n := range map[string]*int{"sent": &all, "programs": &programs} {
		_, rest, _ := strings.Cut(out, "counter "+name)
		if _, err := fmt.Sscanf(rest[max(strings.Index(rest, "packets"), 0):], "packets %d", n); err != nil {
			t.Fatalf("counter %s: %v in %s", name, err, out)
		}
	}
	return all, programs
}

// natKeepalive tells whether the host's kernel can send keepalives.
func natKeepalive(t *testing.T, h *topo.Host) (can bool) {
	t.Helper()
	err := h.Do(func() error {
		x, err := xfrm.Open(xfrm.Options{JournalDir: t.TempDir()})
		if err != nil {
			return err
		}
		can = x.Features().NATKeepalive
		return x.Close()
	})
	if err != nil {
		t.Fatal(err)
	}
	return can
}
