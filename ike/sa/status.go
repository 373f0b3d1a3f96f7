package sa

import (
	"slices"

	"espalier/dataplane"
	"espalier/ike/auth"
	"espalier/ike/suite"
	"espalier/ike/wire"
)

// Info copies what people may know of the session.
func (m *Machine) Info() Info {
	k := &m.s.IKE
	i := Info{
		UniqueID: m.s.ID, Conn: m.s.Conn, State: m.ikeState(), Initiator: k.Initiator,
		Local: k.Local, Remote: k.Remote, SPIi: k.SPIi, SPIr: k.SPIr,
		NATLocal: k.NATLocal, NATRemote: k.NATRemote, NATFake: k.NATFake,
		Algorithms: algorithmsOf(k.Chosen), Established: m.s.Since, RekeyAt: k.RekeyAt,
	}
	if m.s.Path != nil {
		i.PathMTU = m.s.Path.MTU
	}
	if !k.LocalID.IsAny() {
		i.LocalID = k.LocalID.String()
	}
	if !k.RemoteID.IsAny() {
		i.RemoteID = k.RemoteID.String()
	} else if id, ok := m.askedFor(); ok {
		i.RemoteID = id.String()
	}
	i.LocalVIPs, i.RemoteVIPs = slices.Clone(m.leased(false)), slices.Clone(m.leased(true))
	if m.s.Reauth != nil {
		i.ReauthAt = m.s.Reauth.At
	}
	for _, t := range m.s.Tasks {
		i.TasksQueued = append(i.TasksQueued, taskName(t.Kind))
	}
	if c := m.s.Own; c != nil {
		i.TasksActive = append(i.TasksActive, c.taskName())
	} else if k.Request != nil && k.Request.For.Kind != 0 {
		i.TasksActive = append(i.TasksActive, taskName(k.Request.For.Kind))
	}
	if c := m.s.Peer; c != nil {
		i.TasksPassive = append(i.TasksPassive, c.taskName())
	}
	for n := range m.s.Children {
		i.Children = append(i.Children, m.childInfo(&m.s.Children[n]))
	}
	return i
}

// askedFor is the identity that we ask the peer for in IKE_AUTH.
func (m *Machine) askedFor() (auth.ID, bool) {
	k := &m.s.IKE
	if !k.Initiator || k.LocalID.IsAny() || m.conn == nil || len(m.conn.Remote) == 0 {
		return auth.ID{}, false
	}
	id := m.conn.Remote[0].ID
	return id, isConcrete(id)
}

// InKernel reports whether a CHILD SA of the configuration, for all CPUs, is in
// the kernel, and its request id.
func (m *Machine) InKernel(child string) (reqid uint32, ok bool) {
	for i := range m.s.Children {
		if c := &m.s.Children[i]; c.Name == child && !c.bound() && m.childState(c).InKernel() {
			return c.ReqID, true
		}
	}
	return 0, false
}

func (m *Machine) childInfo(c *Child) ChildInfo {
	i := ChildInfo{
		UniqueID: c.UniqueID, Name: c.Name, ReqID: c.ReqID, CPU: c.cpu(), PerCPU: c.Options&ChildPerCPU != 0 && !c.bound(), MaxQueue: c.Options&ChildMaxQueue != 0, State: m.childState(c), Mode: c.Mode, Proto: dataplane.ESP,
		Local: c.place().Local, Remote: c.place().Remote, PlacedAt: c.InstalledAt, Encap: c.Encap, SPIIn: c.SPIIn, SPIOut: c.SPIOut, CPIIn: c.CPIIn, CPIOut: c.CPIOut, MarkIn: c.MarkIn, MarkOut: c.MarkOut, IfIDIn: c.IfIDIn, IfIDOut: c.IfIDOut,
		Algorithms: algorithmsOf(c.Chosen), InstalledAt: c.InstalledAt, RekeyAt: c.RekeyAt, InboundOnly: c.InboundOnly || c.OutboundDue,
		LocalTS: append(i0(c.LocalTS), c.LocalTS...), RemoteTS: append(i0(c.PeerTS), c.PeerTS...),
	}
	if c.MovedAt.After(i.PlacedAt) {
		i.PlacedAt = c.MovedAt
	}
	if c.Moving != nil && i.State == ChildSAInstalled {
		i.State = ChildSAUpdating
	}
	if m.conn != nil {
		if cfg := m.conn.Child(c.Name); cfg != nil && cfg.LifeTime > 0 && !c.InstalledAt.IsZero() {
			i.ExpiresAt = c.InstalledAt.Add(cfg.LifeTime)
		}
	}
	return i
}

// i0 is an empty slice of s's type, to copy into.
func i0[T any](s []T) []T { return make([]T, 0, len(s)) }

func (m *Machine) ikeState() IKEState {
	switch p := m.s.Phase; {
	case p == Fresh || p == Generating:
		return IKECreated
	case p < Established:
		return IKEConnecting
	case p == Established && m.rekeys(RekeyIKESA, 0):
		return IKERekeying
	case p == Established:
		return IKEEstablished
	case p == Closing:
		return IKEDeleting
	}
	return IKEDestroying
}

// rekeys reports whether an exchange under way replaces the IKE SA, or a child.
func (m *Machine) rekeys(kind CreateKind, child uint64) bool {
	for _, c := range [2]*Create{m.s.Own, m.s.Peer} {
		if c != nil && c.Kind == kind && c.Old == child {
			return true
		}
	}
	return false
}

func (m *Machine) childState(c *Child) ChildState {
	switch c.Status {
	case ChildNegotiated, ChildInstalling:
		return ChildSAInstalling
	case ChildInstalled:
		switch {
		case c.OwnNew != 0 || c.PeerNew != 0:
			return ChildSARekeyed
		case m.rekeys(RekeyChildSA, c.UniqueID):
			return ChildSARekeying
		}
		return ChildSAInstalled
	case ChildDeleting:
		return ChildSADeleting
	case ChildFading:
		return ChildSADeleted
	}
	return ChildSADestroying
}

// taskName is a task's in strongSwan's words, as far as it has one.
func taskName(k TaskKind) string {
	switch k {
	case taskDeleteIKE, taskDeleteOther:
		return "IKE_DELETE"
	case taskRekeyIKE:
		return "IKE_REKEY"
	case taskCreateChild, taskCreateSingle, taskCreateBound:
		return "CHILD_CREATE"
	case taskRekeyChild:
		return "CHILD_REKEY"
	case taskDeleteChild, taskDeleteSPI:
		return "CHILD_DELETE"
	case taskCheck:
		return "IKE_DPD"
	case taskUpdate, taskReachable, taskAddresses:
		return "IKE_MOBIKE"
	case taskRedirect:
		return "IKE_REDIRECT"
	case taskProbe:
		return "IKE_PROBE" // strongSwan has none such
	}
	return "IKE_TASK" // nor one for what is ours alone
}

func (c *Create) taskName() string {
	switch c.Kind {
	case RekeyIKESA:
		return "IKE_REKEY"
	case RekeyChildSA:
		return "CHILD_REKEY"
	}
	return "CHILD_CREATE"
}

func algorithmsOf(c suite.Choice) Algorithms {
	a := Algorithms{Encr: c.Encr(), Integ: c.Integ(), PRF: c.PRF().ID(), KE: c.KE(), ESN: c.ESN()}
	if t, ok := c.Get(wire.TransformENCR); ok {
		a.EncrBits = t.KeyBits
	}
	for i, ke := range c.AdditionalKEs() {
		a.FurtherKE[i] = ke
	}
	return a
}
