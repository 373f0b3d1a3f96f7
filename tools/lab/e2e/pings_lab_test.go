//go:build lab

package e2e

import (
	"net/netip"
	"strconv"
	"strings"
	"testing"
	"time"

	"espalier/tools/lab/topo"
)

// pings has the client of our side ping that of the peer's, a request each interval, until they are stopped.
func (l *lab) pings(t *testing.T, s shape, interval time.Duration) *topo.Echoes {
	t.Helper()
	p, err := l.client(l.ours).StartEcho(topo.Echo{To: l.client(l.theirs).Inner(s.inner), Interval: interval})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// stopPings ends them and shows that every request was answered; it returns how many.
func (l *lab) stopPings(t *testing.T, p *topo.Echoes) int {
	t.Helper()
	a := p.Stop()
	return l.all(t, a, a.Err())
}

// trial pings twice, where one may be lost and whoever asks does so until both are answered.
func trial(t *testing.T, from *topo.Host, to netip.Addr) error {
	_, err := from.Echo(t.Context(), topo.Echo{To: to, Count: 2, Wait: 2 * time.Second})
	return err
}

// steadyPings are six seconds of traffic both ways, of which every ping is answered. The machine may stand still meanwhile, and no traffic be there for
// so long that something is done for want of it: then look is called again, and another six seconds begin.
func (l *lab) steadyPings(t *testing.T, s shape, look func()) {
	t.Helper()
	for range 5 {
		look()
		a, err := l.client(l.ours).Echo(t.Context(), topo.Echo{To: l.client(l.theirs).Inner(s.inner), Interval: 200 * time.Millisecond, Count: 30})
		l.all(t, a, err)
		if pause := a.Pause(); pause > time.Second {
			t.Logf("nothing for %s: once more", pause)
			continue
		}
		return
	}
	t.Fatal("no six seconds of traffic without a pause of a second, in five attempts")
}

// countedPings sends n requests, and shows that every one was answered.
func (l *lab) countedPings(t *testing.T, s shape, interval time.Duration, n int) {
	t.Helper()
	a, err := l.client(l.ours).Echo(t.Context(), topo.Echo{To: l.client(l.theirs).Inner(s.inner), Interval: interval, Count: n})
	l.all(t, a, err)
}

// all shows that every request was answered, or where packets were dropped; it returns how many answers there were. What strongSwan's kernel itself says it
// has dropped on the way out is not ours to answer for: charon deletes a rekeyed outbound SA at once, with the packet that is on its way through it.
func (l *lab) all(t *testing.T, a topo.Answers, err error) int {
	t.Helper()
	theirs := 0
	if l.swan != nil {
		count := xfrmStat(t, l.theirs, "XfrmOutStateInvalid")
		theirs, l.theirDrops = count-l.theirDrops, count
	}
	if err == nil || a.Lost() > 0 && a.Lost() <= theirs {
		t.Log(a)
		if theirs > 0 {
			t.Logf("%s dropped %d packets with SAs that it had deleted", l.theirs.Name, theirs)
		}
		return a.Answered
	}
	t.Error(err)
	for _, h := range []*topo.Host{l.ours, l.theirs} {
		out, err := h.Run(t.Context(), "awk", "$2 > 0", "/proc/net/xfrm_stat")
		t.Logf("XFRM of %s dropped: %s %v", h.Name, strings.Join(strings.Fields(out), " "), err)
	}
	return a.Answered
}

// xfrmStat reads a counter of XFRM.
func xfrmStat(t *testing.T, h *topo.Host, name string) int {
	t.Helper()
	out, err := h.Run(t.Context(), "awk", "$1 == \""+name+"\" {print $2}", "/proc/net/xfrm_stat")
	if err != nil {
		t.Fatalf("%s of %s: %v", name, h.Name, err)
	}
	n, err := strconv.Atoi(strings.TrimSpace(out))
	if err != nil {
		t.Fatalf("%s of %s: %v", name, h.Name, err)
	}
	return n
}
