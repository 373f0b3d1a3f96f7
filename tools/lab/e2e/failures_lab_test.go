//go:build lab

package e2e

import (
	"fmt"
	"strings"
	"testing"

	"espalier/tools/lab/topo"
)

// failure is a negotiation that must not succeed.
type failure struct {
	name string
	auth string
	// change breaks the configurations, which fit each other.
	change func(ours, theirs *side)
	// weStart says who initiates; both when it is empty.
	weStart []bool
	// ours and theirs are the fields that explain it, when we find out and when the peer does; a value holds the text in it.
	ours, theirs map[string]string
	// weFind says, by who initiates, whether it is us who find out.
	weFind func(weStart bool) bool
}

func byResponder(weStart bool) bool { return !weStart }
func always(bool) bool              { return true }
func never(bool) bool               { return false }

var both = []bool{true, false}

var failures = []failure{
	{name: "wrong secret", auth: psk, weStart: both, weFind: byResponder,
		change: func(_, theirs *side) { theirs.secret = wrongSecret },
		ours:   map[string]string{"cause": "AUTHENTICATION_FAILED", "by_peer": "false", "check": "", "peer_id": "gw2.example", "our_id": "gw1.example"},
		theirs: map[string]string{"cause": "AUTHENTICATION_FAILED", "by_peer": "true", "our_auth": "PSK"}},
	{name: "no common IKE proposal", auth: psk, weStart: both, weFind: byResponder,
		change: func(ours, theirs *side) {
			ours.ike, theirs.ike = "aes256-sha256-modp2048", "aes256-sha256-modp3072, aes256-sha512-modp4096"
		},
		ours: map[string]string{"cause": "NO_PROPOSAL_CHOSEN", "by_peer": "false", "ours": "aes256-sha256-modp2048",
			"peer": "aes256-sha256-prfsha256-modp3072", "part_on": "KE: ours MODP_2048, peer's MODP_3072"},
		theirs: map[string]string{"cause": "NO_PROPOSAL_CHOSEN", "by_peer": "true", "ours": "modp2048"}},
	{name: "no common ESP proposal", auth: psk, weStart: both, weFind: byResponder,
		change: func(ours, theirs *side) { ours.esp, theirs.esp = "aes256gcm16", "aes128gcm16" },
		ours:   map[string]string{"cause": "NO_PROPOSAL_CHOSEN", "by_peer": "false", "ours": "aes256gcm16", "peer": "aes128gcm16", "part_on": "ENCR"},
		theirs: map[string]string{"cause": "NO_PROPOSAL_CHOSEN", "by_peer": "true", "ours": "aes256gcm16", "child": "net"}},
	{name: "unacceptable selectors", auth: psk, weStart: both, weFind: byResponder,
		change: func(_, theirs *side) { theirs.localTS = "10.77.0.0/16" },
		ours:   map[string]string{"cause": "TS_UNACCEPTABLE", "by_peer": "false", "ours_net": "10.1.0.0/24 === 10.2.0.0/24", "peer": "10.1.0.0/24 === 10.77.0.0/16"},
		theirs: map[string]string{"cause": "TS_UNACCEPTABLE", "by_peer": "true", "ours_net": "10.1.0.0/24 === 10.2.0.0/24"}},
	{name: "their certificate is not trusted", auth: string(topo.ECDSA), weStart: both, weFind: always,
		change: func(_, theirs *side) { theirs.ca = topo.ECDSA384 },
		ours:   map[string]string{"cause": "AUTHENTICATION_FAILED", "by_peer": "false", "check": "", "peer_id": "gw2.example", "detail": "ECDSA384 Root"}},
	{name: "our certificate is not trusted", auth: string(topo.ECDSA), weStart: both, weFind: never,
		change: func(ours, _ *side) { ours.ca = topo.ECDSA384 },
		theirs: map[string]string{"cause": "AUTHENTICATION_FAILED", "by_peer": "true"}},
	{name: "their identity is another", auth: psk, weStart: both, weFind: byResponder,
		change: func(_, theirs *side) { theirs.id = "mallory.example" },
		ours:   map[string]string{"cause": "AUTHENTICATION_FAILED", "by_peer": "false", "check": "identity", "peer_id": "mallory.example"},
		theirs: map[string]string{"cause": "AUTHENTICATION_FAILED", "by_peer": "true"}},
	{name: "nobody there", auth: psk, weStart: []bool{true}, weFind: always,
		change: func(ours, _ *side) {
			ours.remote = "192.0.2.99"
			ours.more = "espalier {\n retransmit_tries = 1\n retransmit_timeout = 1s\n retransmit_base = 1.0\n}\n"
		},
		ours: map[string]string{"cause": "PEER_TIMEOUT", "by_peer": "false", "transmissions": "2", "peer": "192.0.2.99"}},
}

// TestFailures shows that what must not come up does not, that no SA is there even for a moment, and that our log explains it.
func TestFailures(t *testing.T) {
	l := newLab(t, topo.Config{}, false)
	for _, f := range failures {
		for _, weStart := range f.weStart {
			who := initiators[1]
			if weStart {
				who = initiators[0]
			}
			t.Run(f.name+", "+who, func(t *testing.T) { l.fails(t, f, weStart) })
		}
	}
}

func (l *lab) fails(t *testing.T, f failure, weStart bool) {
	ours, theirs := l.sides(f.auth, suites[0], shapes[0])
	f.change(&ours, &theirs)
	l.start(t, ours, theirs)
	if err := l.initiate(t, weStart); err == nil {
		t.Error("expected a failure, it succeeded")
	}
	want := f.ours
	if !f.weFind(weStart) {
		want = f.theirs
	}
	line := l.event(t, "negotiation failed", "cause", want["cause"])
	for name, part := range want {
		if got, there := line[name]; !there || !strings.Contains(fmt.Sprint(got), part) {
			t.Errorf("expected a field %s with %q in the explanation, got %v", name, part, line)
		}
	}
	// As responder we have authenticated the peer, and so installed the SAs, before it sees our certificate.
	if log := l.saLog(); strings.Contains(log, "src ") && (weStart || f.name != "our certificate is not trusted") {
		t.Errorf("expected no SA in our kernel at any time, got\n%s", log)
	}
	l.expectNothing(t, l.ours, "after the failure")
}

// TestInvalidKE shows that the group is changed when the peer asks, and asked to be changed when it has to be, and that the log names both groups.
func TestInvalidKE(t *testing.T) {
	l := newLab(t, topo.Config{}, false)
	for _, c := range []struct {
		name    string
		weStart bool
		fields  []string
	}{
		{"we guess wrong", true, []string{"cause", "INVALID_KE_PAYLOAD", "sent", "x25519", "peer_wants", "modp2048"}},
		{"they guess wrong", false, []string{"cause", "INVALID_KE_PAYLOAD", "peer_sent", "x25519", "ours", "modp2048"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			ours, theirs := l.sides(psk, suites[0], shapes[0])
			guesser := &theirs
			if c.weStart {
				guesser = &ours
			}
			guesser.ike = "aes256-sha256-x25519-modp2048"
			l.start(t, ours, theirs)
			l.mustInitiate(t, c.weStart)
			l.event(t, "trying again as the peer asks", c.fields...)
			if got := l.counts(t).IKE; got != 6 {
				t.Errorf("expected 6 IKE messages, two more than without the retry, got %d", got)
			}
			l.traffic(t, shapes[0], false)
			if !strings.Contains(l.saLog(), "spi ") {
				t.Error("the monitor of TestFailures sees no SA of a tunnel")
			}
		})
	}
}

// saLog is what the monitor has seen of SAs between the gateways coming up. It leaves out those of the loopback, with which the daemon's start tries the
// kernel's abilities, and the end of SAs: a reserved SPI is one without a key, of which only the end is announced.
func (l *lab) saLog() string {
	var out strings.Builder
	for _, sa := range blocks(l.monitor.Log()[l.monitorLog:]) {
		if strings.HasPrefix(sa, "Deleted") {
			continue
		}
		if strings.Contains(sa, l.GW2.Outer(topo.IPv4).String()) || strings.Contains(sa, l.GW2.Outer(topo.IPv6).String()) {
			out.WriteString(sa)
		}
	}
	return out.String()
}

// blocks splits what ip(8) prints: a line that is not indented begins an object.
func blocks(text string) []string {
	var out []string
	for _, line := range strings.SplitAfter(text, "\n") {
		switch {
		case strings.TrimSpace(line) == "":
		case line[0] != ' ' && line[0] != '\t':
			out = append(out, line)
		case len(out) > 0:
			out[len(out)-1] += line
		}
	}
	return out
}
