package simulator

import (
	"espalier/dataplane"
	"espalier/ike/sa"
)

// Fault is a defect that is planted into one gateway from outside: into its
// machine's state, its actions, or what goes to its kernel. Each function may be
// nil.
type Fault struct {
	Name string
	// Before and After change the state around a step.
	Before, After func(st *sa.State, ev sa.Event)
	// Actions changes what is done, Ops what goes to the kernel.
	Actions func(st *sa.State, acts []sa.Action) []sa.Action
	Ops     func(st *sa.State, ops []dataplane.Op) []dataplane.Op
	// Decoded changes what a restart reads back.
	Decoded func(st *sa.State)
}

// struck is the gateway that has the fault.
const struck = 0

func (f *Fault) before(x *session, ev sa.Event) {
	if f != nil && f.Before != nil && x.g.index == struck {
		f.Before(x.m.State(), ev)
	}
}

func (f *Fault) after(x *session, ev sa.Event) {
	if f != nil && f.After != nil && x.g.index == struck {
		f.After(x.m.State(), ev)
	}
}

func (f *Fault) actions(x *session, ev sa.Event, acts []sa.Action) []sa.Action {
	if f == nil || f.Actions == nil || x.g.index != struck {
		return acts
	}
	return f.Actions(x.m.State(), acts)
}

func (f *Fault) ops(x *session, ops []dataplane.Op) []dataplane.Op {
	if f == nil || f.Ops == nil || x.g.index != struck {
		return ops
	}
	return f.Ops(x.m.State(), ops)
}

func (f *Fault) decoded(g *gateway, m *sa.Machine) {
	if f != nil && f.Decoded != nil && g.index == struck {
		f.Decoded(m.State())
	}
}
