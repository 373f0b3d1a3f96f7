package sa

import (
	"net/netip"

	"espalier/dataplane"
	"espalier/dataplane/selector"
	"espalier/internal/event"
)

// jobMove moves one CHILD SA, JobRef.Child, to where its Moving says.
const jobMove JobKind = 31

// Place is where a CHILD SA is, or an SPI reserved: outer addresses, ports and
// UDP encapsulation. Without encapsulation the ports are 0.
type Place struct {
	Local, Remote netip.AddrPort
	Encap         bool
}

func (c *coder) place(p *Place) {
	addrPort(c, &p.Local)
	addrPort(c, &p.Remote)
	boolean(c, &p.Encap)
}

// place is where CHILD SAs of the IKE SA belong now.
func (k *IKE) place() Place { return placeOf(k.Local, k.Remote, k.encap()) }

// childPlace is where a new CHILD SA is installed.
func (m *Machine) childPlace(k *IKE) Place {
	if p := m.s.Mobile; p != nil && p.Check {
		return p.Proven
	}
	return k.place()
}

func placeOf(local, remote netip.AddrPort, encap bool) Place {
	if !encap {
		local, remote = withPort(local, 0), withPort(remote, 0)
	}
	return Place{local, remote, encap}
}

// encaps are the ports as inbound and outbound packets of a child have them at a
// place; nil without encapsulation.
func (m *Machine) encaps(c *Child, at Place) (in, out *dataplane.Encap) {
	if !at.Encap {
		return nil, nil
	}
	in = &dataplane.Encap{SrcPort: at.Remote.Port(), DstPort: at.Local.Port(), OrigAddr: c.Orig}
	out = &dataplane.Encap{SrcPort: at.Local.Port(), DstPort: at.Remote.Port()}
	if c.Options&ChildKeepsNAT != 0 {
		out.Keepalive = m.env.Settings.KeepAlive
	}
	if c.perCPU() {
		in.SrcPort = 0
	}
	if cfg := m.conn.Child(c.Name); c.bound() && cfg != nil && cfg.PerCPU == PerCPUEncap {
		out.SrcPort = c.ownPort()
	}
	return in, out
}

// place is where the kernel has the child.
func (c *Child) place() Place {
	return placeOf(netip.AddrPortFrom(c.Local, c.LocalPort), netip.AddrPortFrom(c.Remote, c.RemotePort), c.Encap)
}

// put notes where the child is. In transport mode the outer addresses are the
// packets' own, so the selectors follow them.
func (c *Child) put(p Place) {
	if c.Mode == dataplane.Transport && c.Local.IsValid() {
		c.LocalTS = follow(c.LocalTS, c.Local, p.Local.Addr())
		c.PeerTS = follow(c.PeerTS, c.Remote, p.Remote.Addr())
	}
	c.Local, c.LocalPort = p.Local.Addr(), p.Local.Port()
	c.Remote, c.RemotePort = p.Remote.Addr(), p.Remote.Port()
	c.Encap = p.Encap
}

// follow replaces an address by another in selectors; the list is a new one.
func follow(ts []selector.TS, from, to netip.Addr) []selector.TS {
	out := append([]selector.TS(nil), ts...)
	for i := range out {
		if t := &out[i]; t.Start == from && t.End == from {
			t.Start, t.End = to, to
		}
	}
	return out
}

// placeChildren gives the children of a state of version 1 their ports, which
// were those of the IKE SA.
func (m *Machine) placeChildren() {
	for i := range m.s.Children {
		if c := &m.s.Children[i]; c.Encap {
			c.LocalPort, c.RemotePort = m.s.IKE.Local.Port(), m.s.IKE.Remote.Port()
		}
	}
	for _, x := range []*Create{m.s.Own, m.s.Peer} {
		if x != nil && x.Candidate != nil && x.Candidate.Encap {
			x.Candidate.LocalPort, x.Candidate.RemotePort = m.s.IKE.Local.Port(), m.s.IKE.Remote.Port()
		}
	}
}

// createAt is where the SPI of our exchange is reserved.
func (m *Machine) createAt(c *Create) Place {
	if !c.At.Local.IsValid() {
		c.At = m.childPlace(&m.s.IKE)
	}
	return c.At
}

// reservePlace is where the SPI of an exchange, or of the set-up (nil), belongs.
func (m *Machine) reservePlace(c *Create) Place {
	switch {
	case c == nil:
		return m.s.IKE.place()
	case c.Candidate != nil:
		return c.Candidate.place()
	}
	return m.createAt(c)
}

func (m *Machine) reserveDst(c *Create) netip.Addr { return m.reservePlace(c).Local.Addr() }

// moveTo changes the addresses of the session, and of its CHILD SAs with it.
func (m *Machine) moveTo(local, remote netip.AddrPort) {
	k := &m.s.IKE
	if k.Local == local && k.Remote == remote {
		return
	}
	was := m.eventIKE()
	for k := range m.ikes() {
		k.Local, k.Remote = local, remote
	}
	m.persist = true
	m.network()
	m.publish(event.IKEMoved{IKE: m.eventIKE(), OldLocal: was.Local, OldRemote: was.Remote})
}

// moveChildren begins to move the CHILD SAs that are not where the session is.
// One that is being moved or changed otherwise is looked at again afterwards.
func (m *Machine) moveChildren() {
	if m.s.Phase != Established || m.hasJob(jobRemove) || m.childrenWait() {
		return
	}
	to := m.s.IKE.place()
	for i := range m.s.Children {
		c := &m.s.Children[i]
		if c.Status != ChildInstalled || c.OutboundDue || c.Moving != nil || c.place() == to {
			continue
		}
		c.Moving = &to
		m.keepNAT(c, to)
		m.s.NextJob++
		ref := JobRef{ID: m.s.NextJob, Kind: jobMove, Child: c.UniqueID}
		m.s.Jobs = append(m.s.Jobs, ref)
		m.persist = true
		m.act(Job{ID: ref.ID, Spec: m.spec(ref)})
	}
}

// moveOps move a child in the kernel. Meanwhile its outbound policies drop: a
// packet that met one without its SA would have the kernel ask for another. Done
// twice, they end like the first time.
func (m *Machine) moveOps(c *Child) []dataplane.Op {
	to := *c.Moving
	n := *c
	n.put(to)
	cfg := m.conn.Child(c.Name)
	policies := cfg == nil || cfg.Policies
	var ops []dataplane.Op
	if policies {
		ops = blockOps(c, cfg)
	}
	in, out := m.encaps(c, to)
	move := func(key dataplane.SAKey, dir dataplane.Direction, cpi uint16, src, dst netip.AddrPort, encap *dataplane.Encap) {
		ops = append(ops, dataplane.MoveSA{Key: key, Dir: dir, NewSrc: src.Addr(), NewDst: dst.Addr(), Encap: encap})
		if c.compressed() {
			ops = append(ops, dataplane.MoveSA{Key: c.keyComp(key, cpi), Dir: dir, NewSrc: src.Addr(), NewDst: dst.Addr()})
		}
	}
	move(c.keyIn(), dataplane.In, c.CPIIn, to.Remote, to.Local, in)
	if !c.InboundOnly && !c.OutboundDue { // else it is not there yet
		move(c.keyOut(), dataplane.Out, c.CPIOut, to.Local, to.Remote, out)
	}
	if !policies {
		return ops
	}
	if c.Mode == dataplane.Transport && (c.Local != n.Local || c.Remote != n.Remote) {
		ops = appendPolicies(ops, c, nil, false)
	}
	return appendPolicies(ops, &n, cfg, true)
}

// blockOps have a child's outbound policies drop.
func blockOps(c *Child, cfg *ChildConfig) []dataplane.Op {
	var ops []dataplane.Op
	for _, op := range appendPolicies(nil, c, cfg, true) {
		if p, ok := op.(dataplane.InstallPolicy); ok && p.Policy.Dir == dataplane.Out {
			p.Policy.Verdict, p.Policy.Templates = dataplane.Block, nil
			ops = append(ops, p)
		}
	}
	return ops
}

// moved continues when the kernel has moved a child, or refused to.
func (m *Machine) moved(id uint64, err error) {
	if c := m.child(id); c != nil && c.Moving != nil {
		to := *c.Moving
		c.Moving = nil
		switch {
		case err == nil:
			c.put(to)
			c.MovedAt = m.env.Now
		case m.s.Phase == Established && c.Status == ChildInstalled:
			// It stays where nobody reaches it: another takes its place.
			m.failed(event.KernelRefused, false, c.Name, "", event.Fact{Name: "step", Value: "move"}, event.Fact{Name: "detail", Value: err.Error()})
			c.Status, c.EndReason = ChildDeleting, "it could not be moved"
			m.s.Tasks = append(m.s.Tasks, Task{Kind: taskDeleteChild, Child: id})
			if m.conn.Child(c.Name) != nil && !c.bound() {
				m.s.Tasks = append(m.s.Tasks, Task{Kind: taskCreateChild, Name: c.Name})
			}
		}
	}
	if m.s.Phase == Cleaning {
		m.clean()
		return
	}
	m.sweep()
	m.moveChildren()
	m.nextTask()
}

// heardFrom follows a peer whose new, authentic request comes from elsewhere: a
// NAT before it has changed its mapping. A side behind a NAT does not, for one
// forged packet could cut it off, and with MOBIKE the peer says so itself
// (RFC 7296 2.23, RFC 4555 3.8).
func (m *Machine) heardFrom(k *IKE, remote netip.AddrPort) {
	if k.Role != IKEReplaced && m.s.Phase == Established && !m.mobike() && k.followsNAT() && remote.Addr().Is4() == k.Remote.Addr().Is4() {
		m.moveTo(k.Local, remote)
		m.moveChildren()
	}
}

func (k *IKE) followsNAT() bool { return k.NATRemote && (!k.NATLocal || k.NATFake) }

// mapped follows the peer's packets, but for those that may have ports of their own.
func (m *Machine) mapped(e Mapped) {
	if m.s.Phase != Established || !m.s.IKE.followsNAT() || !e.Remote.IsValid() {
		return
	}
	for i := range m.s.Children {
		c := &m.s.Children[i]
		if c.SPIIn == e.SPI && c.Status == ChildInstalled && c.Encap && !c.perCPU() && e.Remote.Addr().Is4() == c.Remote.Is4() {
			m.moveTo(m.s.IKE.Local, e.Remote)
			m.moveChildren()
			return
		}
	}
}
