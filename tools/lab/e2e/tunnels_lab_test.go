//go:build lab

package e2e

import (
	"fmt"
	"testing"

	"github.com/vishvananda/netlink"

	"espalier/tools/lab/topo"
)

// TestTunnels brings up, uses and ends tunnels of every kind, each two properties together at least once.
func TestTunnels(t *testing.T) {
	l := newLab(t, topo.Config{}, false)
	for i, row := range pairwise([]int{len(initiators), len(auths), len(suites), len(shapes), len(encaps), len(ends)}) {
		weStart, auth, suite, shape, encap, end := row[0] == 0, auths[row[1]], suites[row[2]], shapes[row[3]], row[4], ends[row[5]]
		name := fmt.Sprintf("%02d %s, %s, %s, %s, %s, %s", i, initiators[row[0]], auth, suite.name, shape.name, encaps[encap], end)
		t.Run(name, func(t *testing.T) {
			ours, theirs := l.sides(auth, suite, shape)
			ours.encap, theirs.encap = encap == 1, encap == 2
			l.start(t, ours, theirs)
			l.mustInitiate(t, weStart)
			l.installed(t, shape)
			l.traffic(t, shape, encap != 0)
			l.end(t, end)
		})
	}
}

// installed shows that our kernel has one SA each way and the policies of one child.
func (l *lab) installed(t *testing.T, s shape) {
	t.Helper()
	k, err := kernelOf(l.ours)
	if err != nil {
		t.Fatal(err)
	}
	mode, forward := netlink.XFRM_MODE_TUNNEL, 1
	if s.transport {
		mode, forward = netlink.XFRM_MODE_TRANSPORT, 0
	}
	dirs := map[netlink.Dir]int{}
	for _, p := range k.policies {
		dirs[p.Dir]++
	}
	if len(k.states) != 2 || k.states[0].Mode != mode || k.states[1].Mode != mode ||
		dirs[netlink.XFRM_DIR_IN] != 1 || dirs[netlink.XFRM_DIR_OUT] != 1 || dirs[netlink.XFRM_DIR_FWD] != forward {
		t.Errorf("expected 2 states in mode %s and a policy each way, got\n%s", mode, k)
	}
}

// end takes the tunnel down in one of the ways of ends, and shows that both kernels are empty then.
func (l *lab) end(t *testing.T, how string) {
	t.Helper()
	var err error
	switch how {
	case "SIGTERM":
		err = l.esp.Stop()
	case "conn down":
		err = l.espalier(t.Context(), "terminate", "ike", "peer", "timeout", "30000")
	case "strongSwan terminates":
		err = l.strongSwan(t.Context(), "terminate", "ike", "peer", "timeout", "30000")
	case "SIGKILL":
		l.crash(t)
		return
	}
	if err != nil {
		t.Fatalf("%s: %v", how, err)
	}
	l.expectNothing(t, l.ours, how)
	l.expectNothing(t, l.theirs, how)
	if c := l.counts(t); c.Clear != 0 {
		t.Errorf("%s: expected no clear text, got %+v", how, c)
	}
}

// crash kills the daemon and starts it again: what it left in the kernel goes at the start, and a stop leaves nothing.
func (l *lab) crash(t *testing.T) {
	t.Helper()
	l.esp.Kill()
	k, err := kernelOf(l.ours)
	if err != nil || len(k.states) != 2 {
		t.Errorf("expected a crash to leave 2 states, so that the test has a point, got %v\n%s", err, k)
	}
	if err := l.esp.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	l.expectNothing(t, l.ours, "a start after a SIGKILL")
	if err := l.esp.Stop(); err != nil {
		t.Fatal(err)
	}
	l.expectNothing(t, l.ours, "a stop after that")
}
