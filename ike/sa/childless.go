package sa

import (
	"fmt"
	"slices"

	"espalier/ike/wire"
	"espalier/internal/event"
)

// Childless says what a connection thinks of IKE SAs that are set up without a
// CHILD SA (RFC 6023).
type Childless uint8

// The values, strongSwan's names.
const (
	ChildlessAllow  Childless = iota // as responder; as initiator only where there is no child
	ChildlessPrefer                  // as initiator, too, when the peer supports it
	ChildlessForce                   // nothing else, on either side
	ChildlessNever                   // not on either side
)

var childlessNames = [...]string{"allow", "prefer", "force", "never"}

func (c Childless) String() string {
	if int(c) < len(childlessNames) {
		return childlessNames[c]
	}
	return fmt.Sprintf("Childless(%d)", uint8(c))
}

// ParseChildless reads what String writes.
func ParseChildless(s string) (Childless, bool) {
	i := slices.Index(childlessNames[:], s)
	return Childless(max(i, 0)), i >= 0
}

// appendChildless announces CHILDLESS_IKEV2_SUPPORTED in the responder's
// IKE_SA_INIT (RFC 6023 3).
func (m *Machine) appendChildless(ps []wire.Payload) []wire.Payload {
	if m.s.IKE.Initiator || m.conn.Childless == ChildlessNever {
		return ps
	}
	return append(ps, &wire.Notify{NotifyType: wire.NotifyChildlessIKEv2Supported})
}

// decideChildless settles, once IKE_SA_INIT is over, whether our IKE_AUTH offers
// a CHILD SA. It reports false when the session had to end.
func (m *Machine) decideChildless() bool {
	can := m.s.IKE.Peer.has(CanChildless)
	want := m.conn.Childless
	switch {
	case m.s.ChildName == "" || want == ChildlessForce:
		if !can {
			m.failed(event.PeerError, false, m.s.ChildName, "give the connection a child, and childless = allow or prefer: the peer wants a CHILD SA in IKE_AUTH",
				event.Fact{Name: "detail", Value: "the peer does not support IKE SAs without a CHILD SA (RFC 6023)"}, event.Fact{Name: "childless", Value: want.String()})
			m.fail("the peer does not support childless IKE SAs")
			return false
		}
		m.s.Setup.Childless = true
	case want == ChildlessPrefer:
		m.s.Setup.Childless = can
	}
	return true
}

// childlessRefused answers an IKE_AUTH request that has a CHILD SA where none
// may be, or none where one must be. It reports whether it did.
func (m *Machine) childlessRefused(hasChild bool) bool {
	detail, fix := "", ""
	switch {
	case hasChild && m.conn.Childless == ChildlessForce:
		detail, fix = "the peer asks for a CHILD SA in IKE_AUTH", "set childless to prefer or force on the peer, or to another value than force here"
	case !hasChild && m.conn.Childless == ChildlessNever:
		detail, fix = "the peer's IKE_AUTH has no CHILD SA", "set childless to another value than never here"
	default:
		return false
	}
	m.failed(event.InvalidSyntax, false, "", fix, event.Fact{Name: "detail", Value: detail}, event.Fact{Name: "childless", Value: m.conn.Childless.String()})
	m.respond(&m.s.IKE, wire.ExchangeIKEAuth, m.s.Setup.AuthID, &wire.Notify{NotifyType: wire.NotifyInvalidSyntax})
	m.fail("childless = " + m.conn.Childless.String() + ": " + detail)
	return true
}

// newChildWanted is the wish for a further CHILD SA of the connection. What is
// being made already is not made twice.
func (m *Machine) newChildWanted(name string, p *Packet) {
	t := Task{Kind: taskCreateChild, Name: name}
	switch {
	case m.s.Phase > Established || m.s.Phase < Established && !m.s.IKE.Initiator:
		return
	case m.s.Phase < Established && name == m.s.ChildName, slices.Contains(m.s.Tasks, t), m.hasLater(t):
		return
	case m.s.Own != nil && m.s.Own.Kind == CreateChild && m.s.Own.Child == name && m.s.Own.Fallback == 0:
		return
	}
	m.wantPacket(name, p)
	m.queue(t)
}

// createTask begins the exchange of a taskCreateChild, unless there is such a
// CHILD SA by now.
func (m *Machine) createTask(t Task) {
	if m.conn.Child(t.Name) == nil && !m.reconfigure() {
		m.later(t, retryLeast) // when the exchange that goes by the old configuration is over
		return
	}
	switch {
	case m.conn.Child(t.Name) == nil:
		m.failed(event.NoConnection, false, t.Name, "name a child that the connection has", event.Fact{Name: "detail", Value: "no child of this name"})
	case m.hasInstalled(t.Name):
	default:
		m.beginCreate(&Create{Kind: CreateChild, Child: t.Name, Single: t.Kind == taskCreateSingle})
	}
}

func (m *Machine) hasInstalled(name string) bool {
	return slices.ContainsFunc(m.s.Children, func(c Child) bool { return c.Name == name && c.Status == ChildInstalled && !c.bound() })
}

// reconfigure moves on to the connection as it is configured now, for the sake of
// a child that came with a reload. Nothing may be under way that goes by the old;
// then it reports false.
func (m *Machine) reconfigure() bool {
	if m.s.Own != nil || m.s.Peer != nil && m.s.Peer.Child != "" || len(m.s.Jobs) > 0 {
		return false
	}
	if fresh := m.env.Conns.ByName(m.s.Conn); fresh != nil {
		m.conn = fresh
	}
	return true
}
