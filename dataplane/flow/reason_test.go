package flow

import (
	"testing"
	"time"
)

func TestModesByName(t *testing.T) {
	for m, name := range map[GuardMode]string{GuardOff: "off", GuardLog: "log", GuardOn: "on"} {
		if got, err := ParseGuardMode(name); err != nil || got != m || m.String() != name {
			t.Errorf("guard %s: got %s, %v", name, got, err)
		}
	}
	for m, name := range map[Steering]string{SteerOff: "off", SteerSlot: "pinned", SteerHash: "hash", SteerAuto: "auto"} {
		if got, err := ParseSteering(name); err != nil || got != m || m.String() != name {
			t.Errorf("steering %s: got %s, %v", name, got, err)
		}
	}
	if _, err := ParseGuardMode("On"); err == nil {
		t.Error("guard On: expected an error")
	}
	if _, err := ParseSteering(""); err == nil {
		t.Error("no steering: expected an error")
	}
}

func TestRate(t *testing.T) {
	before, after := Counters{Packets: 10, Bytes: 1000}, Counters{Packets: 30, Bytes: 4000}
	if r := after.Rate(before, 2*time.Second); r != (Rate{10, 1500}) {
		t.Errorf("expected 10 packets and 1500 bytes a second, got %+v", r)
	}
	if r := before.Rate(after, time.Second); r != (Rate{}) {
		t.Errorf("a counter that starts anew: expected no rate, got %+v", r)
	}
	if r := after.Rate(before, 0); r != (Rate{}) {
		t.Errorf("no time: expected no rate, got %+v", r)
	}
}
