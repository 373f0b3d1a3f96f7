//go:build lab

package e2e

import (
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

// stopped ends pings and shows that every request was answered; it returns how many.
func stopped(t *testing.T, p *topo.Echoes) int {
	t.Helper()
	a := p.Stop()
	if err := a.Err(); err != nil {
		t.Error(err)
	}
	t.Log(a)
	return a.Answered
}

// countedPings sends n requests, and shows that every one was answered.
func (l *lab) countedPings(t *testing.T, s shape, interval time.Duration, n int) {
	t.Helper()
	a, err := l.client(l.ours).Echo(t.Context(), topo.Echo{To: l.client(l.theirs).Inner(s.inner), Interval: interval, Count: n})
	if err != nil {
		t.Error(err)
	}
	t.Log(a)
}
