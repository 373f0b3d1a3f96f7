//go:build lab

package e2e

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"espalier/tools/lab/topo"
)

// TestReauthentication lets either side reauthenticate, make-before-break, under a ping every 10 ms: not one packet is lost.
func TestReauthentication(t *testing.T) {
	l := newLab(t, topo.Config{}, false, "make_before_break = yes")
	s := shapes[0]
	for _, c := range []struct {
		name         string
		weStart      bool
		ours, theirs string // further lines of the connections
	}{
		{"ours", true, "reauth_time = 4s", ""},
		// Without over_time, a tenth, strongSwan's IKE SA ends in the second in which its successor is begun. It repeats a message after 4 s.
		{"strongSwan's", false, "", "reauth_time = 4s\n  over_time = 8s\n  rand_time = 0s"},
		// AUTH_LIFETIME (RFC 4478) tells strongSwan when.
		{"strongSwan's, at our demand", false, "reauth_time = 12s", "rekey_time = 0s\n  over_time = 8s"},
	} {
		t.Run(c.name, func(t *testing.T) {
			ours, theirs := l.sides(psk, suites[0], s)
			l.startWith(t, files{inConnection(ours.conf(), c.ours), nil}, files{inConnection(theirs.conf(), c.theirs), nil})
			l.mustInitiate(t, c.weStart)
			const seconds, rate = 15, 100
			l.countedPings(t, s, time.Second/rate, seconds*rate)
			ups, byUs := 0, 0
			for _, m := range l.lines(t) {
				switch m["message"] {
				case "IKE SA established":
					ups++
				case "IKE SA closed":
					if m["reason"] == "reauthenticated" {
						byUs++
					}
				case "negotiation failed":
					t.Errorf("%v", m)
				}
			}
			t.Logf("%d IKE SAs, %d of them replaced by us", ups, byUs)
			if ups < 2 || c.weStart && byUs < 1 || !c.weStart && byUs > 0 {
				t.Errorf("expected at least one reauthentication in %d s, by the side that has to", seconds)
			}
			l.states(t, 2)
		})
	}
}

// TestReauthenticationNow has either side reauthenticate when its operator says so. With unique = keep the new IKE SA is not one too many.
func TestReauthenticationNow(t *testing.T) {
	l := newLab(t, topo.Config{}, false, "make_before_break = yes")
	for _, weStart := range []bool{true, false} {
		t.Run(fmt.Sprintf("we start %v", weStart), func(t *testing.T) {
			ours, theirs := l.sides(psk, suites[0], shapes[0])
			l.startWith(t, files{inConnection(ours.conf(), "unique = keep"), nil}, files{inConnection(theirs.conf(), "unique = keep"), nil})
			l.mustInitiate(t, weStart)
			for _, weDo := range []bool{true, false, true} {
				l.rekeyed(t, "IKE SA closed", func() {
					if !weDo {
						if err := l.strongSwan(t.Context(), "rekey", "ike", "peer", "reauth", "yes"); err != nil {
							t.Fatal(err)
						}
						return
					}
					if out, err := l.esp.Espctl(t.Context(), "sa", "rekey", "peer", "--reauth"); err != nil || !strings.Contains(out, "peer is reauthenticating") {
						t.Fatalf("%v: %s", err, out)
					}
				})
				l.states(t, 2)
			}
			for _, m := range l.lines(t) {
				if m["message"] == "negotiation failed" {
					t.Errorf("%v", m)
				}
			}
			if n := l.messages(t, "IKE SA established"); n != 4 {
				t.Errorf("%d IKE SAs, expected the first and one for each reauthentication", n)
			}
		})
	}
}
