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
	// Churn: only changes of addresses can show it, so other seeds need not be run.
	Churn bool
	// Before and After change the state around a step.
	Before, After func(st *sa.State, ev sa.Event)
	// Actions changes what is done, Ops what goes to the kernel.
	Actions func(st *sa.State, acts []sa.Action) []sa.Action
	Ops     func(st *sa.State, ops []dataplane.Op) []dataplane.Op
	// Kernel is Ops for a kernel that does something else than it was told.
	Kernel func(dp *dataplane.Fake, ops []dataplane.Op) []dataplane.Op
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
	if f == nil || x.g.index != struck {
		return ops
	}
	if f.Kernel != nil {
		ops = f.Kernel(x.g.dp, ops)
	}
	if f.Ops != nil {
		ops = f.Ops(x.m.State(), ops)
	}
	return ops
}

func (f *Fault) decoded(g *gateway, m *sa.Machine) {
	if f != nil && f.Decoded != nil && g.index == struck {
		f.Decoded(m.State())
	}
}
