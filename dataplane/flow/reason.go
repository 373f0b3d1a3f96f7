package flow

import (
	"fmt"

	"espalier/bpf"
)

// Reason is why a packet was lost (enum drop_reason of bpf/headers/layout.h).
type Reason uint32

// reasons are the names that people and JSON get; they never change.
var reasons = [...]string{
	"none", "replay", "integrity", "no-state", "expired", "no-policy", "policy-block", "template", "mode", "sequence",
	"memory", "header", "encap", "out-no-state", "out-proto", "out-bundle", "other", "selector",
}

func (r Reason) String() string {
	if int(r) < len(reasons) {
		return reasons[r]
	}
	return fmt.Sprintf("reason-%d", uint32(r))
}

// Total is what is counted beside the SAs (enum total of bpf/headers/layout.h).
type Total uint32

// totals are the names that people and JSON get; they never change.
var totals = [...]string{
	"esp-unknown", "esp-transit", "ike", "keepalive", "fragment", "redirected", "redirect-failed", "flow-redirected",
	"mss-rewritten", "mss-malformed", "guard-unknown-spi", "guard-not-peer", "guard-rate", "guard-ike-spi", "guard-malformed",
	"cpu-taken", "esp-out-unknown", "malformed", "esp-behind", "shed", "flow-unfinished",
}

func (t Total) String() string {
	if int(t) < len(totals) {
		return totals[t]
	}
	return fmt.Sprintf("total-%d", uint32(t))
}

// GuardMode is what the guard does with packets that nobody asked for.
type GuardMode uint32

// Modes of the guard (enum guard_mode of bpf/headers/layout.h).
const (
	GuardOff GuardMode = iota
	GuardLog           // counts what it would drop
	GuardOn
)

func (m GuardMode) String() string {
	switch m {
	case GuardOff:
		return "off"
	case GuardLog:
		return "log"
	case GuardOn:
		return "on"
	}
	return fmt.Sprintf("guard-%d", uint32(m))
}

// ParseGuardMode reads off, log or on.
func ParseGuardMode(s string) (GuardMode, error) {
	for m := GuardOff; m <= GuardOn; m++ {
		if m.String() == s {
			return m, nil
		}
	}
	return 0, fmt.Errorf("guard mode %q: expected off, log or on", s)
}

// Steering is how inbound packets get their CPU.
type Steering uint32

// Steering policies (enum steer_mode of bpf/headers/layout.h).
const (
	SteerOff  Steering = iota // stay where the NIC put them
	SteerSlot                 // each SA has its CPU: pinned
	SteerHash                 // by hash of SPI and addresses
	// SteerAuto: each SA has its CPU, and none until somebody gives it one (Shift).
	SteerAuto
)

// flows is what becomes of clear packets from inside.
func (s Steering) flows() bpf.FlowMode {
	switch s {
	case SteerSlot, SteerHash:
		return bpf.FlowList
	case SteerAuto:
		return bpf.FlowGroup
	}
	return bpf.FlowStay
}

func (s Steering) String() string {
	switch s {
	case SteerOff:
		return "off"
	case SteerSlot:
		return "pinned"
	case SteerHash:
		return "hash"
	case SteerAuto:
		return "auto"
	}
	return fmt.Sprintf("steering-%d", uint32(s))
}

// ParseSteering reads off, hash, pinned or auto.
func ParseSteering(s string) (Steering, error) {
	for m := SteerOff; m <= SteerAuto; m++ {
		if m.String() == s {
			return m, nil
		}
	}
	return 0, fmt.Errorf("steering %q: expected off, hash, pinned or auto", s)
}
