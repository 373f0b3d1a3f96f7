package sa

import (
	"espalier/ike/wire"
	"espalier/internal/event"
)

// collided tells observers when the peer begins something while we are about
// something that it touches (RFC 7296 2.8, 2.25). How it ends is decided where
// either exchange is handled; this only names and so counts the meetings.
// child is the one that the peer's request is about; nil: the IKE SA.
func (m *Machine) collided(theirs event.Exchange, child *Child) {
	if ours := m.underWay(child); ours != "" {
		m.publish(event.Collision{IKE: m.eventIKE(), Ours: ours, Theirs: theirs})
	}
}

// underWay is what we have begun that a request about the child, or about the
// IKE SA, meets; empty if nothing.
func (m *Machine) underWay(child *Child) event.Exchange {
	own := m.s.Own
	switch {
	case m.s.Phase == Closing:
		return event.DeleteIKE
	case child != nil && child.Status == ChildDeleting:
		return event.DeleteChild
	case own == nil:
		if child == nil && m.s.IKE.Request != nil && m.s.IKE.Request.For.Kind == taskDeleteChild {
			return event.DeleteChild
		}
		return ""
	case own.Kind == RekeyIKESA:
		return event.RekeyIKE
	case own.Kind == RekeyChildSA && (child == nil || own.Old == child.UniqueID):
		return event.RekeyChild
	case own.Kind == CreateChild && child == nil:
		return event.CreateChild
	}
	return ""
}

// createdBy is what a CREATE_CHILD_SA request is for.
func createdBy(sa *wire.SA, ps []wire.Payload) event.Exchange {
	if sa.Proposals[0].Protocol == wire.ProtoIKE {
		return event.RekeyIKE
	}
	if _, ok := wire.FindNotify(ps, wire.NotifyRekeySA); ok {
		return event.RekeyChild
	}
	return event.CreateChild
}
