//go:build lab

package e2e

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"espalier/tools/lab/topo"
)

// connection puts lines into the section of the connection, whose keys have no place in side.
func connection(s side, lines string) string {
	return strings.Replace(s.conf(), "  version = 2\n", "  version = 2\n  "+lines+"\n", 1)
}

// quick are retransmissions that find a dead peer within 3 s.
const quick = "espalier {\n retransmit_tries = 2\n retransmit_timeout = 1s\n retransmit_base = 1.0\n}\n"

// TestPeerGone: a peer that is cut off, and one that crashes, are found out by DPD when nothing comes from them, and the tunnel comes back as soon as
// they do, with one CHILD SA, whoever sets it up.
func TestPeerGone(t *testing.T) {
	l := newLab(t, topo.Config{}, false, "retransmit_tries = 2", "retransmit_timeout = 1.0", "retransmit_base = 1.0")
	s := shapes[0]
	ours, theirs := l.sides(psk, suites[0], s)
	ours.child, ours.more = "dpd_action = restart", quick
	l.startWith(t, files{connection(ours, "dpd_delay = 2s"), l.pki.files(t, ours)}, files{connection(theirs, "dpd_delay = 3s"), l.pki.files(t, theirs)})
	l.mustInitiate(t, true)
	one := func(when string) {
		t.Helper()
		l.eventually(t, "one tunnel "+when, func() error {
			k, err := kernelOf(l.ours)
			if err == nil && (len(k.states) != 2 || len(k.policies) != 3) {
				err = fmt.Errorf("%d states, %d policies", len(k.states), len(k.policies))
			}
			if err == nil {
				err = l.client(l.ours).Ping(t.Context(), l.client(l.theirs).Inner(s.inner), 1)
			}
			return err
		})
		sas, err := l.swan.SAs(t.Context())
		if err != nil || strings.Count(sas, "INSTALLED") != 1 {
			t.Errorf("%s: expected strongSwan to have one CHILD SA, got %v\n%s", when, err, sas)
		}
	}
	one("at first")

	// Traffic that comes in is a sign of life: no questions.
	asked := 0
	l.steadyPings(t, s, func() { asked = strings.Count(l.swan.Log(), "parsed INFORMATIONAL request") })
	if n := strings.Count(l.swan.Log(), "parsed INFORMATIONAL request") - asked; n > 1 {
		t.Errorf("expected no liveness checks while traffic came in, got %d in 6 s", n)
	}

	l.cutOff(t, 1)
	one("after the cut")

	for _, weStart := range []bool{true, false} {
		l.swan.Kill()
		for _, what := range []string{"state", "policy"} { // as a box whose power failed
			if _, err := l.theirs.Run(t.Context(), "ip", "xfrm", what, "flush"); err != nil {
				t.Fatal(err)
			}
		}
		if err := l.swan.Restart(t.Context()); err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		if !weStart {
			l.mustInitiate(t, false)
		}
		one(fmt.Sprintf("after a crash, set up by us: %t", weStart))
		t.Logf("set up by us: %t: the tunnel was back %.1f s after the peer", weStart, time.Since(began).Seconds())
	}
	// Now it is strongSwan that has begun.
	l.cutOff(t, l.messages(t, "negotiation failed")+1)
	one("after the second cut")
	l.end(t, "SIGTERM")
}

// cutOff cuts the wire until both sides have given up, which is our nth failure.
func (l *lab) cutOff(t *testing.T, n int) {
	t.Helper()
	cut(t, l.theirs)
	l.eventually(t, "us to give up", func() error {
		timeouts := 0
		for _, m := range l.lines(t) {
			if m["message"] == "negotiation failed" && m["cause"] == "PEER_TIMEOUT" {
				timeouts++
			}
		}
		if failures := l.messages(t, "negotiation failed"); failures < n || timeouts == 0 {
			return fmt.Errorf("%d failures, %d timeouts", failures, timeouts)
		}
		return nil
	})
	l.eventually(t, "strongSwan to give up, too", func() error {
		sas, err := l.swan.SAs(t.Context())
		if err == nil && strings.Contains(sas, "ESTABLISHED") {
			err = fmt.Errorf("%s", sas)
		}
		return err
	})
	heal(t, l.theirs)
}

// cut makes a host drop all that comes in from outside.
func cut(t *testing.T, h *topo.Host) {
	t.Helper()
	if _, err := h.RunInput(t.Context(), "table inet cut {\n chain pre { type filter hook prerouting priority -450; drop; }\n}\n", "nft", "-f", "-"); err != nil {
		t.Fatal(err)
	}
}

func heal(t *testing.T, h *topo.Host) {
	t.Helper()
	if _, err := h.Run(t.Context(), "nft", "delete", "table", "inet", "cut"); err != nil {
		t.Fatal(err)
	}
}

// TestVolumes: CHILD SAs are rekeyed by what went through them, under traffic, and nothing of it is lost.
func TestVolumes(t *testing.T) {
	l := newLab(t, topo.Config{}, false)
	s := shapes[0]
	ours, theirs := l.sides(psk, suites[0], s)
	ours.child = "rekey_bytes = 200000\n    life_bytes = 10000000"
	l.start(t, ours, theirs)
	l.mustInitiate(t, true)
	to := l.client(l.theirs).Inner(s.inner)
	for range 8 {
		if _, err := l.client(l.ours).Transfer(t.Context(), l.client(l.theirs), to, 150_000); err != nil {
			t.Fatal(err)
		}
		l.countedPings(t, s, 20*time.Millisecond, 25)
	}
	children := 0
	for _, m := range l.lines(t) {
		switch m["message"] {
		case "CHILD SA installed":
			children++
		case "negotiation failed":
			t.Errorf("%v", m)
		}
	}
	if children < 5 {
		t.Errorf("expected at least 4 rekeyings by volume, got %d CHILD SAs", children)
	}
	t.Logf("%d CHILD SAs", children)
	l.end(t, "SIGTERM")
}
