//go:build lab

package e2e

import (
	"fmt"
	"strconv"
	"strings"
	"testing"

	"espalier/tools/lab/topo"
)

// TestPathMTU has Espalier behind a router with a smaller MTU towards the wire, which says so to nobody.
func TestPathMTU(t *testing.T) {
	l := newLab(t, topo.Config{NAT: true}, false)
	if _, err := l.Router.RunInput(t.Context(), `table inet silent {
	chain out { type filter hook output priority 0; icmp type destination-unreachable drop; icmpv6 type packet-too-big drop; }
}
`, "nft", "-f", "-"); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		outer topo.Family
		mtu   int // such that few sizes have to be tried that are too big
	}{{topo.IPv4, 1441}, {topo.IPv6, 1444}} {
		t.Run(c.outer.String(), func(t *testing.T) {
			l.narrow(t, l.Router, "out0", c.mtu)
			if got := l.findMTU(t, c.outer, true); got != c.mtu {
				t.Errorf("found %d, the router has %d", got, c.mtu)
			}
		})
	}
}

// TestPathMTUBlackHole is the same with a wire that swallows what is too big, whether it could be fragmented or not.
func TestPathMTUBlackHole(t *testing.T) {
	l := newLab(t, topo.Config{}, false)
	l.narrow(t, l.Wire, "port2", 1437) // a bridge lets four octets more pass, for a VLAN tag
	for _, weStart := range []bool{true, false} {
		t.Run(fmt.Sprintf("we start: %t", weStart), func(t *testing.T) { l.findMTU(t, topo.IPv4, weStart) })
	}
}

// narrow sets the MTU of a device.
func (l *lab) narrow(t *testing.T, h *topo.Host, dev string, mtu int) {
	t.Helper()
	if _, err := h.Run(t.Context(), "ip", "link", "set", dev, "mtu", strconv.Itoa(mtu)); err != nil {
		t.Fatal(err)
	}
}

// findMTU brings a tunnel up and waits until the path MTU is known, which must be what pings find, and must not have disturbed the tunnel.
func (l *lab) findMTU(t *testing.T, outer topo.Family, weStart bool) int {
	t.Helper()
	s := shape{outer: outer, inner: topo.IPv4}
	ours, theirs := l.sides(psk, suites[1], s)
	ours.more = "espalier { path_mtu = yes }\n"
	if l.Router != nil {
		theirs.remote = "%any"
	}
	l.start(t, ours, theirs)
	l.mustInitiate(t, weStart)
	line := l.event(t, "path MTU")
	mtu, err := strconv.Atoi(fmt.Sprint(line["mtu"]))
	if err != nil {
		t.Fatalf("%v: %v", line, err)
	}
	headers := 28
	if outer == topo.IPv6 {
		headers = 48
	}
	for size, fits := range map[int]bool{mtu: true, mtu + 1: false} {
		_, err := l.ours.Run(t.Context(), "ping", "-M", "do", "-c", "1", "-W", "2", "-s", strconv.Itoa(size-headers), l.theirs.Outer(outer).String())
		if fits != (err == nil) {
			t.Errorf("found %d; a packet of %d octets: %v", mtu, size, err)
		}
	}
	if err := l.wire.Reset(); err != nil { // of the pings
		t.Fatal(err)
	}
	t.Logf("path MTU %d", mtu)
	out, err := l.esp.Espctl(t.Context(), "sa", "show")
	if err != nil || !strings.Contains(out, "path mtu") || !strings.Contains(out, strconv.Itoa(mtu)) {
		t.Errorf("expected the path MTU in what espctl shows, got %v\n%s", err, out)
	}
	l.installed(t, s)
	if err := l.client(l.ours).Ping(t.Context(), l.client(l.theirs).Inner(s.inner), 3); err != nil {
		t.Error(err)
	}
	for _, m := range l.lines(t) {
		if m["message"] == "negotiation failed" {
			t.Errorf("%v", m)
		}
	}
	l.end(t, "strongSwan terminates")
	return mtu
}
