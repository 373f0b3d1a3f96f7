package flow

import (
	"errors"

	"espalier/bpf"
)

// Link is a network interface with what it is for.
type Link struct {
	Name   string
	Inside bool // of the side of clear packets; otherwise outside
	// Steered: a program gives its packets to CPUs.
	Steered bool
}

// ErrBusy: programs are being loaded or attached.
var ErrBusy = errors.New("the fast path is at work on its programs")

// Links are the outside and inside interfaces. Errors: ErrBusy, the kernel does not
// list them.
func (f *Flow) Links() ([]Link, error) {
	if !f.work.TryLock() {
		return nil, ErrBusy
	}
	steered := map[int]bool{}
	mode := bpf.FlowMode(f.tab.Config().FlowSteer)
	flows := mode == bpf.FlowList || mode == bpf.FlowGroup && len(f.SteerCPUs()) > 0
	for h, a := range f.hooks {
		program := h.program
		if a.variant != "" {
			program = a.variant
		}
		steered[h.ifIndex] = steered[h.ifIndex] || a.how != "" && (program == progESPIn || program == progFlowIn && flows)
	}
	f.work.Unlock()
	b, err := lookAround()
	if err != nil {
		return nil, err
	}
	set := f.settings()
	var out []Link
	for _, l := range b.links {
		switch r := roleOf(b, &set, l); r {
		case roleOutside, roleInside:
			out = append(out, Link{Name: l.Attrs().Name, Inside: r == roleInside, Steered: steered[l.Attrs().Index]})
		}
	}
	return out, nil
}
