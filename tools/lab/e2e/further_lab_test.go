//go:build lab

package e2e

import (
	"fmt"
	"strings"
	"testing"

	"espalier/tools/lab/topo"
)

// inConnection puts lines into the connection of a side's text; side has no place for them.
func inConnection(text, lines string) string {
	return strings.Replace(text, "  version = 2\n", "  version = 2\n  "+lines+"\n", 1)
}

// withSecond adds a child "two" for the IPv6 networks to a side's text.
func withSecond(s side) string {
	second := fmt.Sprintf("two {\n    esp_proposals = %s\n    local_ts = %s\n    remote_ts = %s\n  }\n", s.esp, s.self.Subnet(topo.IPv6), s.peer.Subnet(topo.IPv6))
	return strings.Replace(s.conf(), "children { net {", "children { "+second+"net {", 1)
}

// TestFurtherChildren sets IKE SAs up with and without a child in IKE_AUTH, from both sides, and brings a second child up and down on them.
func TestFurtherChildren(t *testing.T) {
	l := newLab(t, topo.Config{}, false)
	s := shapes[0]
	for _, c := range []struct {
		weStart      bool
		ours, theirs string // childless
		creates      int    // CREATE_CHILD_SA exchanges for the first child
	}{
		{true, "force", "allow", 1}, {true, "allow", "allow", 0}, {true, "prefer", "never", 0},
		{false, "allow", "force", 1}, {false, "never", "prefer", 0},
	} {
		t.Run(fmt.Sprintf("we start %v, ours %s, theirs %s", c.weStart, c.ours, c.theirs), func(t *testing.T) {
			ours, theirs := l.sides(psk, suites[0], s)
			l.startWith(t, files{inConnection(withSecond(ours), "childless = "+c.ours), nil},
				files{inConnection(withSecond(theirs), "childless = "+c.theirs), nil})
			l.mustInitiate(t, c.weStart)
			l.installed(t, s)
			l.traffic(t, s, false)
			if n := strings.Count(l.swan.Log()[l.swanLog:], "generating CREATE_CHILD_SA request") + strings.Count(l.swan.Log()[l.swanLog:], "parsed CREATE_CHILD_SA request"); n != c.creates {
				t.Errorf("expected %d CREATE_CHILD_SA exchanges, got %d", c.creates, n)
			}
			// The second child comes from the other side than the IKE SA, goes, and comes from this one.
			for _, weAsk := range []bool{!c.weStart, c.weStart} {
				if err := l.child(t, weAsk, "initiate", "two"); err != nil {
					t.Fatal(err)
				}
				l.states(t, 4)
				if err := l.client(l.ours).Ping(t.Context(), l.client(l.theirs).Inner(topo.IPv6), 3); err != nil {
					t.Error(err)
				}
				if err := l.child(t, !weAsk, "terminate", "two"); err != nil {
					t.Fatal(err)
				}
				l.states(t, 2)
			}
			if n := strings.Count(l.log(), `"IKE SA established"`); n != 1 {
				t.Errorf("expected one IKE SA for all children, got %d", n)
			}
		})
	}
}

// child brings one child up or takes it down, from either side.
func (l *lab) child(t *testing.T, ours bool, command, child string) error {
	t.Helper()
	if ours {
		return l.espalier(t.Context(), command, "ike", "peer", "child", child, "timeout", "30000")
	}
	return l.strongSwan(t.Context(), command, "ike", "peer", "child", child, "timeout", "30000", "loglevel", "1")
}

// states waits until both kernels hold so many SAs.
func (l *lab) states(t *testing.T, n int) {
	t.Helper()
	for _, h := range []*topo.Host{l.ours, l.theirs} {
		l.eventually(t, fmt.Sprintf("%d SAs in %s", n, h.Name), func() error {
			k, err := kernelOf(h)
			if err == nil && len(k.states) != n {
				err = fmt.Errorf("%d SAs\n%s", len(k.states), k)
			}
			return err
		})
	}
}
