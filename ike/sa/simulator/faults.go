package simulator

import (
	"slices"
	"time"

	"espalier/dataplane"
	"espalier/ike/sa"
	"espalier/ike/wire"
)

// taskDelete is the kind of task that deletes a CHILD SA; its number is part of
// the encoding.
const taskDelete sa.TaskKind = 1

// Faults are defects that the simulator must find.
var Faults = []Fault{
	{Name: "the delete of a child is lost", After: func(st *sa.State, _ sa.Event) {
		st.Tasks = slices.DeleteFunc(st.Tasks, func(t sa.Task) bool { return t.Kind == taskDelete })
	}},
	{Name: "the wrong winner of a collision of CHILD SAs", Before: func(st *sa.State, _ sa.Event) {
		for i := range st.Children {
			clear(st.Children[i].PeerNonce) // ours is never the lower one
		}
	}},
	{Name: "the wrong winner of a collision of IKE SAs", Before: func(st *sa.State, _ sa.Event) {
		for _, k := range st.Others {
			if k.Role == sa.IKENext {
				clear(k.MinNonce)
			}
		}
	}},
	{Name: "the window is off by one: a repeated request is a new one", Before: func(st *sa.State, ev sa.Event) {
		if h, ok := requestOf(ev); ok && st.Phase == sa.Established {
			if k := &st.IKE; k.SPIi == h.SPIi && k.SPIr == h.SPIr && h.MessageID+1 == k.NextIn && k.Answer != nil {
				k.NextIn--
			}
		}
	}},
	{Name: "an answer is not kept for a repeated request", After: func(st *sa.State, _ sa.Event) {
		if st.Phase == sa.Established {
			st.IKE.Answer = nil
		}
	}},
	{Name: "the old child is not deleted after a rekeying", After: func(st *sa.State, _ sa.Event) {
		for i := range st.Children {
			if c := &st.Children[i]; c.Status == sa.ChildDeleting && c.EndReason == "rekeyed" && (c.Stop == sa.StopDone || c.Stop == sa.StopNot) {
				c.Status, c.Stop = sa.ChildInstalled, sa.StopNot
				st.Tasks = slices.DeleteFunc(st.Tasks, func(t sa.Task) bool { return t == sa.Task{Kind: taskDelete, Child: c.UniqueID} })
			}
		}
	}},
	{Name: "a reserved SPI is not released", Ops: func(st *sa.State, ops []dataplane.Op) []dataplane.Op {
		return slices.DeleteFunc(ops, func(op dataplane.Op) bool {
			d, ok := op.(dataplane.DeleteSA)
			return ok && slices.ContainsFunc(st.Orphans, func(o sa.Orphan) bool { return o.SPI == d.Key.SPI })
		})
	}},
	{Name: "the rekeying of a child that is being deleted is accepted", Before: func(st *sa.State, ev sa.Event) {
		if h, ok := requestOf(ev); ok && h.Exchange == wire.ExchangeCreateChildSA && h.SPIi == st.IKE.SPIi && h.MessageID == st.IKE.NextIn {
			for i := range st.Children {
				if c := &st.Children[i]; c.Status == sa.ChildDeleting {
					c.Status = sa.ChildInstalled
				}
			}
		}
	}},
	{Name: "a message is sent before the state is stored", Actions: func(_ *sa.State, acts []sa.Action) []sa.Action {
		slices.SortStableFunc(acts, func(a, b sa.Action) int { return rank(a) - rank(b) })
		return acts
	}},
	{Name: "the inbound SA goes before the peer sends on the new one", Ops: func(st *sa.State, ops []dataplane.Op) []dataplane.Op {
		if st.Own == nil || st.Own.Candidate == nil {
			return ops
		}
		for i := range st.Children {
			if c := &st.Children[i]; c.UniqueID == st.Own.Old { // as what replaces it is installed
				ops = append(ops, dataplane.DeleteSA{Key: dataplane.SAKey{Dst: c.Local, Proto: dataplane.ESP, SPI: c.SPIIn}})
			}
		}
		return ops
	}},
	{Name: "the new SA is sent on before the peer has it", After: func(st *sa.State, _ sa.Event) {
		if p := st.Peer; p != nil && p.Candidate != nil {
			p.Candidate.InboundOnly = false
		}
	}},
	{Name: "the policies of a child stay", Ops: func(_ *sa.State, ops []dataplane.Op) []dataplane.Op {
		return slices.DeleteFunc(ops, func(op dataplane.Op) bool { _, ok := op.(dataplane.DeletePolicy); return ok })
	}},
	{Name: "IVs begin again after a restart", After: func(st *sa.State, _ sa.Event) { st.IKE.SealCounter = 0 }},
	{Name: "a message id is left out after a restart", Decoded: func(st *sa.State) {
		if st.Phase == sa.Established && st.IKE.Request == nil {
			st.IKE.NextOut++
		}
	}},
	{Name: "a second request while one is outstanding", Before: func(st *sa.State, _ sa.Event) {
		if r := st.IKE.Request; r != nil && r.Exchange == wire.ExchangeInformational && len(st.Tasks) > 0 && st.Phase == sa.Established {
			st.IKE.Request = nil
		}
	}},
	{Name: "the SPI of a replaced IKE SA stays", Actions: func(_ *sa.State, acts []sa.Action) []sa.Action {
		return slices.DeleteFunc(acts, func(a sa.Action) bool { _, ok := a.(sa.Disown); return ok })
	}},
	{Name: "a move forgets one of the SAs", Churn: true, Ops: func(_ *sa.State, ops []dataplane.Op) []dataplane.Op {
		return slices.DeleteFunc(ops, func(op dataplane.Op) bool { m, ok := op.(dataplane.MoveSA); return ok && m.Dir == dataplane.Out })
	}},
	{Name: "a move leaves the policies where they were", Churn: true, Ops: func(_ *sa.State, ops []dataplane.Op) []dataplane.Op {
		return slices.DeleteFunc(ops, func(op dataplane.Op) bool {
			_, ok := op.(dataplane.InstallPolicy)
			return ok && slices.ContainsFunc(ops, func(op dataplane.Op) bool { _, ok := op.(dataplane.MoveSA); return ok })
		})
	}},
	{Name: "an address update that comes late is obeyed", Churn: true, Before: func(st *sa.State, ev sa.Event) {
		if h, ok := requestOf(ev); ok && h.SPIi == st.IKE.SPIi && h.MessageID < st.IKE.NextIn && st.Phase == sa.Established && !st.Began && st.Mobile != nil {
			st.IKE.Remote = ev.(sa.Received).Remote
		}
	}},
	{Name: "an update that another change overtakes is not repeated", Churn: true, After: func(st *sa.State, _ sa.Event) {
		if r := st.IKE.Request; r != nil && r.For.Kind == taskUpdate {
			st.Tasks = slices.DeleteFunc(st.Tasks, func(t sa.Task) bool { return t.Kind == taskUpdate })
			st.Mobile.Local, st.Mobile.Remote = st.IKE.Local, st.IKE.Remote
		}
	}},
	{Name: "CHILD SAs go to an address that is not proven", Churn: true, After: func(st *sa.State, _ sa.Event) {
		if st.Mobile != nil {
			st.Mobile.Check = false
		}
	}},
	{Name: "an SPI that was reserved at an old address is released at the new one", Churn: true, Ops: func(st *sa.State, ops []dataplane.Op) []dataplane.Op {
		for i, op := range ops {
			if d, ok := op.(dataplane.DeleteSA); ok && slices.ContainsFunc(st.Orphans, func(o sa.Orphan) bool { return o.SPI == d.Key.SPI }) {
				d.Key.Dst = st.IKE.Local.Addr()
				ops[i] = d
			}
		}
		return ops
	}},
	{Name: "what is held back is sent on at once", After: func(st *sa.State, _ sa.Event) {
		if p := st.Peer; p != nil && p.Candidate != nil && !p.Candidate.TakeOverAt.IsZero() {
			p.Candidate.InboundOnly, p.Candidate.TakeOverAt = false, time.Time{}
		}
	}},
	{Name: "sequence numbers begin again after a move", Churn: true, Kernel: func(dp *dataplane.Fake, ops []dataplane.Op) (out []dataplane.Op) {
		for _, op := range ops {
			m, ok := op.(dataplane.MoveSA)
			had, there := dp.SA(m.Key)
			if !ok || !there || m.Dir != dataplane.Out {
				out = append(out, op)
				continue
			}
			moved := had
			moved.Src, moved.Dst, moved.Encap, moved.Seq = m.NewSrc, m.NewDst, m.Encap, dataplane.Replay{}
			out = append(out, dataplane.DeleteSA{Key: had.SAKey}, dataplane.InstallSA{SA: moved})
		}
		return out
	}},
}

// rank puts what is stored last.
func rank(a sa.Action) int {
	switch a.(type) {
	case sa.Persist:
		return 1
	case sa.Gone:
		return 2
	}
	return 0
}

// requestOf is the header of a request that an event brings.
func requestOf(ev sa.Event) (wire.Header, bool) {
	r, ok := ev.(sa.Received)
	if !ok {
		return wire.Header{}, false
	}
	h, err := wire.ParseHeader(r.Data)
	return h, err == nil && !h.IsResponse()
}
