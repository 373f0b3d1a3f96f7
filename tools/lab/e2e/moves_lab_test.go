//go:build lab

package e2e

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"espalier/tools/lab/topo"
)

// How often each kind of move is made; fifty in all.
const (
	ownMoves   = 15
	peersMoves = 15
	natMoves   = 20
)

// TestMOBIKE moves a tunnel under traffic: first our address changes, then strongSwan's, each of which began the IKE SA.
func TestMOBIKE(t *testing.T) {
	for _, c := range []struct {
		name string
		ours bool
		n    int
	}{{"our address", true, ownMoves}, {"strongSwan's address", false, peersMoves}} {
		t.Run(c.name, func(t *testing.T) {
			l := newLab(t, topo.Config{}, false)
			s := shapes[0]
			mover, stays := l.ours, l.theirs
			ours, theirs := l.sides(psk, suites[0], s)
			if c.ours {
				theirs.remote = "%any"
			} else {
				ours.remote = "%any"
				mover, stays = stays, mover
			}
			anywhere := func(d side, moves bool) files {
				text := d.conf()
				if moves {
					text = strings.Replace(text, "local_addrs = "+d.self.Outer(s.outer).String(), "local_addrs = %any", 1)
				}
				return files{text, nil}
			}
			l.startWith(t, anywhere(ours, c.ours), anywhere(theirs, !c.ours))
			l.mustInitiate(t, c.ours)
			ping := l.pingMeanwhile(t)
			// With its first address a device would lose the others of the network, and the routes over it.
			if _, err := mover.Run(t.Context(), "sysctl", "-qw", "net.ipv4.conf.all.promote_secondaries=1"); err != nil {
				t.Fatal(err)
			}
			here := mover.Outer(s.outer)
			for i := range c.n {
				next := netip.AddrFrom4([4]byte{192, 0, 2, byte(100 + i)})
				l.ip(t, mover, "addr add "+next.String()+"/24 dev out0")
				l.ip(t, mover, "addr del "+here.String()+"/24 dev out0")
				here = next
				l.awaitPair(t, here, stays.Outer(s.outer))
				l.passes(t)
			}
			ping(c.n)
			l.noRepeats(t)
		})
	}
}

// TestMappingMoves changes what a NAT makes of the peer behind it, without MOBIKE: ESP in UDP from elsewhere is followed, and so is IKE.
func TestMappingMoves(t *testing.T) {
	l := newLab(t, topo.Config{NAT: true}, true)
	s := shapes[0]
	ours, theirs := l.sides(psk, suites[0], s)
	ours.remote = "%any"
	without := func(d side) files {
		return files{strings.Replace(d.conf(), "  version = 2\n", "  version = 2\n  mobike = no\n", 1), nil}
	}
	l.startWith(t, without(ours), without(theirs))
	l.mustInitiate(t, false)
	ping := l.pingMeanwhile(t)
	for i := range natMoves {
		port := 20000 + i
		rule := fmt.Sprintf("flush chain inet hide post\nadd rule inet hide post oifname out0 iifname in0 meta l4proto udp masquerade to :%d\n", port)
		if _, err := l.Router.RunInput(t.Context(), rule, "nft", "-f", "-"); err != nil {
			t.Fatal(err)
		}
		if _, err := l.Router.Run(t.Context(), "conntrack", "-F"); err != nil {
			t.Fatal(err)
		}
		l.event(t, "IKE SA moved", "remote", fmt.Sprintf("%s:%d", l.Router.Outer(s.outer), port))
		l.passes(t)
	}
	ping(natMoves)
	l.noRepeats(t)
}

// ip runs a command of ip(8) in a namespace.
func (l *lab) ip(t *testing.T, h *topo.Host, line string) {
	t.Helper()
	if _, err := h.Run(t.Context(), append([]string{"ip"}, strings.Fields(line)...)...); err != nil {
		t.Fatal(err)
	}
}

// passes waits until pings from the side of strongSwan pass.
func (l *lab) passes(t *testing.T) {
	t.Helper()
	l.eventually(t, "traffic to go on", func() error {
		return trial(t, l.client(l.theirs), l.client(l.ours).Inner(topo.IPv4))
	})
}

// pingMeanwhile sends from the side of strongSwan to ours until the function that it returns is called, which then
// shows that traffic passed, all the time and at the end.
func (l *lab) pingMeanwhile(t *testing.T) func(moves int) {
	t.Helper()
	from, to := l.client(l.theirs), l.client(l.ours).Inner(topo.IPv4)
	p, err := from.StartEcho(topo.Echo{To: to, Interval: 20 * time.Millisecond, Wait: time.Second}) // some are lost, while a move lasts
	if err != nil {
		t.Fatal(err)
	}
	begin := time.Now()
	return func(moves int) {
		t.Helper()
		took := time.Since(begin)
		a := p.Stop()
		if err := from.Ping(t.Context(), to, 3); err != nil {
			t.Error(err)
		}
		t.Logf("%d moves in %s, %s", moves, took.Round(time.Millisecond), a)
		if a.Answered < moves {
			t.Errorf("%s; expected some between any two moves", a)
		}
	}
}

// awaitPair waits until all SAs of both kernels are between two addresses.
func (l *lab) awaitPair(t *testing.T, a, b netip.Addr) {
	t.Helper()
	for _, h := range []*topo.Host{l.ours, l.theirs} {
		l.eventually(t, fmt.Sprintf("the SAs of %s between %s and %s", h.Name, a, b), func() error {
			k, err := kernelOf(h)
			if err != nil {
				return err
			}
			n := 0
			for _, s := range k.states {
				src, _ := netip.AddrFromSlice(s.Src)
				dst, _ := netip.AddrFromSlice(s.Dst)
				src, dst = src.Unmap(), dst.Unmap()
				if src == a && dst == b || src == b && dst == a {
					n++
				}
			}
			if n != 2 || len(k.states) != 2 {
				return fmt.Errorf("%s", k)
			}
			return nil
		})
	}
}

// noRepeats shows that ESP passed, and that we used no sequence number twice with one key. (strongSwan 6.0.1 does now and
// then: it reads an SA, removes it, and installs it with the number that it read.)
func (l *lab) noRepeats(t *testing.T) {
	t.Helper()
	c := l.counts(t)
	own := l.event(t, "CHILD SA installed")["spi_out"]
	ours, theirs := 0, 0
	for _, spi := range c.RepeatedSPIs {
		if fmt.Sprintf("%08x", spi) == own {
			ours++
		} else {
			theirs++
		}
	}
	t.Logf("%d ESP packets, %d of them in UDP; with an SPI and sequence number seen before: %d of ours, %d of strongSwan's; %d routed back", c.Protected(), c.UDPESP, ours, theirs, c.Reflected)
	if ours != 0 || theirs != c.Repeated || c.Protected() < 100 {
		t.Errorf("%d of %d ESP packets repeat an SPI and sequence number, SPIs %08x, ours %s: expected none of ours, of at least 100", c.Repeated, c.Protected(), c.RepeatedSPIs, own)
	}
}
