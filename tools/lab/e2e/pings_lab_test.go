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

// pings has the client of our side ping that of the peer's, a request each interval, until they are stopped.
func (l *lab) pings(t *testing.T, s shape, interval time.Duration) *topo.Echoes {
	t.Helper()
	l.before = l.drops(t)
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
		l.before = l.drops(t)
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
	l.before = l.drops(t)
	a, err := l.client(l.ours).Echo(t.Context(), topo.Echo{To: l.client(l.theirs).Inner(s.inner), Interval: interval, Count: n})
	l.all(t, a, err)
}

// all shows that every request was answered, or where packets were dropped; it returns how many answers there were. What strongSwan's kernel itself says it
// has dropped on the way out, when nothing else was dropped at either gateway, is not ours to answer for: charon deletes a rekeyed outbound SA at once, with
// the packet that is on its way through it.
func (l *lab) all(t *testing.T, a topo.Answers, err error) int {
	t.Helper()
	if err == nil {
		t.Log(a)
		return a.Answered
	}
	now := l.drops(t)
	dropped := [2]counters{now[0].since(l.before[0]), now[1].since(l.before[1])}
	if n := dropped[1]["XfrmOutStateInvalid"]; l.swan != nil && a.Lost() > 0 && a.Lost() <= n && len(dropped[0]) == 0 && len(dropped[1]) == 1 {
		t.Logf("%v: not ours, %s dropped %d packets with SAs that it had deleted", a, l.theirs.Name, n)
		return a.Answered
	}
	t.Error(err)
	t.Logf("dropped meanwhile by XFRM of %s: %v, of %s: %v", l.ours.Name, dropped[0], l.theirs.Name, dropped[1])
	return a.Answered
}

// counters are XFRM's of what it has dropped, by name; none that are 0.
type counters map[string]int

// since is what has come to the counters.
func (c counters) since(before counters) counters {
	d := counters{}
	for name, n := range c {
		if n > before[name] {
			d[name] = n - before[name]
		}
	}
	return d
}

// drops reads the counters of our gateway and of the peer's.
func (l *lab) drops(t *testing.T) (all [2]counters) {
	t.Helper()
	for i, h := range []*topo.Host{l.ours, l.theirs} {
		out, err := h.Run(t.Context(), "cat", "/proc/net/xfrm_stat")
		if err != nil {
			t.Fatalf("XFRM's counters of %s: %v", h.Name, err)
		}
		all[i] = counters{}
		for line := range strings.Lines(out) {
			var name string
			var n int
			if _, err := fmt.Sscan(line, &name, &n); err != nil {
				t.Fatalf("XFRM's counters of %s: %q: %v", h.Name, line, err)
			}
			if n > 0 {
				all[i][name] = n
			}
		}
	}
	return all
}
