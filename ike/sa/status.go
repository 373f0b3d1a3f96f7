package sa

import (
	"slices"

	"espalier/dataplane"
	"espalier/ike/suite"
	"espalier/ike/wire"
)

// Info copies what people may know of the session.
func (m *Machine) Info() Info {
	k := &m.s.IKE
	i := Info{
		UniqueID: m.s.ID, Conn: m.s.Conn, State: ikeState(m.s.Phase), Initiator: k.Initiator,
		Local: k.Local, Remote: k.Remote, SPIi: k.SPIi, SPIr: k.SPIr,
		NATLocal: k.NATLocal, NATRemote: k.NATRemote, NATFake: k.NATFake,
		Algorithms: algorithmsOf(k.Chosen), Established: m.s.Since,
	}
	if m.s.Path != nil {
		i.PathMTU = m.s.Path.MTU
	}
	if !k.LocalID.IsAny() {
		i.LocalID = k.LocalID.String()
	}
	if !k.RemoteID.IsAny() {
		i.RemoteID = k.RemoteID.String()
	}
	i.LocalVIPs, i.RemoteVIPs = slices.Clone(m.leased(false)), slices.Clone(m.leased(true))
	if m.s.Reauth != nil {
		i.ReauthAt = m.s.Reauth.At
	}
	for _, t := range m.s.Tasks {
		i.TasksQueued = append(i.TasksQueued, taskName(t.Kind))
	}
	for n := range m.s.Children {
		i.Children = append(i.Children, m.childInfo(&m.s.Children[n]))
	}
	return i
}

func (m *Machine) childInfo(c *Child) ChildInfo {
	i := ChildInfo{
		UniqueID: c.UniqueID, Name: c.Name, ReqID: c.ReqID, State: childState(c.Status), Mode: c.Mode, Proto: dataplane.ESP,
		Local: c.place().Local, Remote: c.place().Remote, PlacedAt: c.InstalledAt, Encap: c.Encap, SPIIn: c.SPIIn, SPIOut: c.SPIOut, CPIIn: c.CPIIn, CPIOut: c.CPIOut, MarkIn: c.MarkIn, MarkOut: c.MarkOut, IfIDIn: c.IfIDIn, IfIDOut: c.IfIDOut,
		Algorithms: algorithmsOf(c.Chosen), InstalledAt: c.InstalledAt,
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

func ikeState(p Phase) IKEState {
	switch {
	case p == Fresh || p == Generating:
		return IKECreated
	case p < Established:
		return IKEConnecting
	case p == Established:
		return IKEEstablished
	case p == Closing:
		return IKEDeleting
	}
	return IKEDestroying
}

func childState(s ChildStatus) ChildState {
	switch s {
	case ChildNegotiated, ChildInstalling:
		return ChildSAInstalling
	case ChildInstalled:
		return ChildSAInstalled
	case ChildDeleting, ChildFading:
		return ChildSADeleting
	}
	return ChildSADestroying
}

func taskName(k TaskKind) string {
	switch k {
	case taskDeleteIKE:
		return "IKE_DELETE"
	case taskProbe:
		return "IKE_PROBE" // strongSwan has none such
	}
	return "CHILD_DELETE"
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
