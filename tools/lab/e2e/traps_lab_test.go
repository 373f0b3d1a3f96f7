//go:build lab

package e2e

import (
	"fmt"
	"strings"
	"testing"

	"espalier/tools/lab/topo"
)

// messages counts the lines of the daemon's log with this message.
func (l *lab) messages(t *testing.T, message string) (n int) {
	t.Helper()
	for _, m := range l.lines(t) {
		if m["message"] == message {
			n++
		}
	}
	return n
}

// TestTrap lets packets bring the tunnel up, from behind the gateway and from itself, again after the peer has deleted it, and shows that strongSwan was
// offered the packet's own selectors first.
func TestTrap(t *testing.T) {
	l := newLab(t, topo.Config{}, false)
	s := shapes[0]
	ours, theirs := l.sides(psk, suites[1], s)
	ours.child = "start_action = trap"
	l.start(t, ours, theirs)
	a, b := l.client(l.ours), l.client(l.theirs)
	to := b.Inner(s.inner)
	l.event(t, "trap installed", "child", "net")
	if k, err := kernelOf(l.ours); err != nil || len(k.states) != 0 || len(k.policies) != 3 {
		t.Fatalf("expected 3 policies and no state, got %v\n%s", err, k)
	}
	if n, err := l.ours.Run(t.Context(), "cat", "/proc/sys/net/core/xfrm_acq_expires"); err != nil || strings.TrimSpace(n) != "180" {
		t.Errorf("xfrm_acq_expires: expected 180, got %q, %v", n, err)
	}
	up := func(when string, children int) {
		t.Helper()
		// Many packets at once; the first ones are lost.
		if _, err := a.Run(t.Context(), "ping", "-n", "-q", "-c", "50", "-i", "0.01", "-W", "1", to.String()); err != nil {
			t.Logf("%s: the first pings: %v", when, err)
		}
		l.eventually(t, "answers through the tunnel "+when, func() error { return trial(t, a, to) })
		k, err := kernelOf(l.ours)
		if err != nil || len(k.states) != 2 || len(k.policies) != 3 {
			t.Errorf("%s: expected 2 states and 3 policies, got %v\n%s", when, err, k)
		}
		if n := l.messages(t, "CHILD SA installed"); n != children {
			t.Errorf("%s: %d CHILD SAs since the start, expected %d", when, n, children)
		}
		if n := l.messages(t, "IKE SA established"); n != 1 {
			t.Errorf("%s: %d IKE SAs since the start, expected 1", when, n)
		}
	}
	up("by the trap", 1)
	ping := "1/8" // type 8 and code 0 of protocol 1
	first := fmt.Sprintf("looking for a child config for %s/32[%s] %s === %s/32[%s] %s", to, ping, b.Subnet(s.inner), a.Inner(s.inner), ping, a.Subnet(s.inner))
	if log := l.swan.Log()[l.swanLog:]; !strings.Contains(log, first) {
		t.Errorf("expected %q in strongSwan's log, got %s", first, grep(log, "looking for a child config"))
	} else {
		t.Logf("strongSwan: %s", grep(log, "looking for a child config"))
	}
	for i := range 2 {
		if err := l.strongSwan(t.Context(), "terminate", "child", "net", "timeout", "30000"); err != nil {
			t.Fatal(err)
		}
		l.eventually(t, "the trap alone", func() error {
			if k, err := kernelOf(l.ours); err != nil || len(k.states) != 0 || len(k.policies) != 3 {
				return fmt.Errorf("%v\n%s", err, k)
			}
			return nil
		})
		up(fmt.Sprintf("after delete %d", i+1), i+2)
	}
	if c := l.counts(t); c.Clear != 0 {
		t.Errorf("expected no clear text, got %+v", c)
	}
	l.end(t, "SIGTERM")
}

// TestPeersTrap has a packet on the peer's side bring the tunnel up: we pass over its own selectors, which strongSwan offers first.
func TestPeersTrap(t *testing.T) {
	l := newLab(t, topo.Config{}, false)
	s := shapes[0]
	ours, theirs := l.sides(psk, suites[1], s)
	theirs.child = "start_action = trap"
	l.start(t, ours, theirs)
	a, b := l.client(l.ours), l.client(l.theirs)
	for i := range 2 {
		l.eventually(t, "the peer's trap alone", func() error {
			if k, err := kernelOf(l.theirs); err != nil || len(k.states) != 0 || len(k.policies) != 3 {
				return fmt.Errorf("%v\n%s", err, k)
			}
			return nil
		})
		l.eventually(t, "answers through the tunnel", func() error { return trial(t, b, a.Inner(s.inner)) })
		l.states(t, 2)
		if n := l.messages(t, "CHILD SA installed"); n != i+1 {
			t.Errorf("%d CHILD SAs since the start, expected %d", n, i+1)
		}
		if e := l.event(t, "CHILD SA installed"); fmt.Sprint(e["local_ts"]) != "["+ours.localTS+"]" || fmt.Sprint(e["remote_ts"]) != "["+ours.remoteTS+"]" {
			t.Errorf("expected the whole networks, got %v", e)
		}
		l.ask(t, "terminate", "child", "net", "timeout", "30000")
	}
	if c := l.counts(t); c.Clear != 0 {
		t.Errorf("expected no clear text, got %+v", c)
	}
	if err := l.strongSwan(t.Context(), "uninstall", "ike", "peer", "child", "net"); err != nil {
		t.Error(err)
	}
	l.end(t, "SIGTERM")
}

// grep returns the lines that hold the text.
func grep(log, text string) string {
	var out []string
	for _, line := range strings.Split(log, "\n") {
		if strings.Contains(line, text) {
			out = append(out, line)
		}
	}
	return strings.Join(out, "\n")
}
