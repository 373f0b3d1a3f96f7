package sa

import (
	"net/netip"

	"espalier/dataplane"
)

// Footprint are the deletes that would take out of the data plane all that the
// session has there, or may have once its outstanding jobs are done. What a
// start finds in the kernel and no session holds is left over.
func (m *Machine) Footprint() []dataplane.Op {
	ops := m.cleanOps()
	if c := m.negotiated(); c != nil && m.hasJob(jobInstall) {
		as := *c
		as.Status = ChildInstalling
		ops = as.appendRemove(ops)
	}
	for i := range m.s.Children {
		if c := m.s.Children[i]; c.Moving != nil { // by now it may be there
			c.put(*c.Moving)
			c.Fade = false
			ops = c.appendRemove(ops)
		}
	}
	reserved := func(s SPIs, dst netip.Addr, mark dataplane.Mark) {
		if s.SPI != 0 {
			ops = append(ops, dataplane.DeleteSA{Key: Orphan{Dst: dst, SPI: s.SPI, Mark: mark}.key()})
		}
		if s.CPI != 0 {
			ops = append(ops, dataplane.DeleteSA{Key: Orphan{Dst: dst, SPI: uint32(s.CPI), Mark: mark, Proto: dataplane.IPComp}.key()})
		}
	}
	if st := m.s.Setup; st != nil {
		r := m.reserveRequest()
		reserved(SPIs{st.ReservedSPI, st.ReservedCPI}, r.Dst, r.Mark)
	}
	for _, c := range []*Create{m.s.Own, m.s.Peer} {
		if c == nil {
			continue
		}
		reserved(SPIs{c.SPI, c.CPI}, m.reserveDst(c), m.reserveMark(c.Child))
		if h := c.Candidate; h != nil {
			as := *h
			as.Status = ChildInstalling
			ops = as.appendRemove(ops)
		}
	}
	return ops
}

// Quiet reports whether the session only waits for its time: nothing is asked
// of the peer, of the kernel or of the shell, and no CHILD SA is on its way in
// or out.
func (m *Machine) Quiet() bool {
	s := &m.s
	if s.Phase != Established || len(s.Jobs)+len(s.Tasks)+len(s.Others)+len(s.Orphans)+len(s.Later) > 0 || s.Own != nil || s.Peer != nil || s.Pending != nil || s.IKE.Request != nil {
		return false
	}
	for i := range s.Children {
		if s.Children[i].Status != ChildInstalled || s.Children[i].InboundOnly {
			return false
		}
	}
	return true
}

// State is the machine's own state, keys included: for tests that look or reach
// inside. Who changes it changes the session.
func (m *Machine) State() *State { return &m.s }

// ChildIDs are the unique ids of the CHILD SAs that the session has or is making.
func (m *Machine) ChildIDs() []uint64 {
	var ids []uint64
	for i := range m.s.Children {
		ids = append(ids, m.s.Children[i].UniqueID)
	}
	for _, c := range []*Create{m.s.Own, m.s.Peer} {
		if c != nil && c.Candidate != nil {
			ids = append(ids, c.Candidate.UniqueID)
		}
	}
	return ids
}
