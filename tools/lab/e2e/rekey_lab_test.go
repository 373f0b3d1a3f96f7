//go:build lab

package e2e

import (
	"strings"
	"testing"
	"time"

	"espalier/tools/lab/topo"
)

// TestRekey lets both sides rekey CHILD and IKE SAs under a running ping, often at the same time: not one packet is lost.
func TestRekey(t *testing.T) {
	l := newLab(t, topo.Config{}, false)
	s := shapes[0]
	ours, theirs := l.sides(psk, suites[0], s)
	ours.child = "rekey_time = 4s\n    life_time = 1h"
	theirs.child = "rekey_time = 5s\n    life_time = 1h"
	// The IKE SA's times have no place in side.
	connection := func(text, lines string) string {
		return strings.Replace(text, "  version = 2\n", "  version = 2\n  "+lines+"\n", 1)
	}
	l.startWith(t, files{connection(ours.conf(), "rekey_time = 7s"), l.pki.files(t, ours)},
		files{connection(theirs.conf(), "rekey_time = 9s\n  over_time = 30s\n  rand_time = 0s"), l.pki.files(t, theirs)})
	l.mustInitiate(t, true)
	const seconds, rate = 30, 50
	l.countedPings(t, s, time.Second/rate, seconds*rate)
	ikes, children := 0, 0
	for _, m := range l.lines(t) {
		switch m["message"] {
		case "IKE SA rekeyed":
			ikes++
		case "CHILD SA installed":
			children++
		case "negotiation failed":
			t.Errorf("%v", m)
		}
	}
	t.Logf("%d CHILD SAs, %d rekeyed IKE SAs", children, ikes)
	if children < 8 || ikes < 3 {
		t.Errorf("expected at least 8 CHILD SAs and 3 rekeyed IKE SAs in %d s, got %d and %d", seconds, children, ikes)
	}
	l.end(t, "SIGTERM")
}
