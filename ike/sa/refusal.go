package sa

import (
	"espalier/dataplane/selector"
	"espalier/ike/wire"
	"espalier/internal/event"
)

// task is what asks for the exchange once more.
func (c *Create) task() Task {
	t := Task{Kind: taskCreateChild, Name: c.Child}
	switch {
	case c.Kind == RekeyIKESA:
		t = Task{Kind: taskRekeyIKE}
	case c.Kind == RekeyChildSA:
		t = Task{Kind: taskRekeyChild, Child: c.Old}
	case c.Single:
		t.Kind = taskCreateSingle
	case c.Fallback != 0:
		t = Task{Kind: taskCreateBound, Child: c.Fallback, CPU: c.CPU}
	}
	return t
}

// createRefusal explains a refusal of our CREATE_CHILD_SA and ends it. A CHILD SA
// is not asked for again: the operator, or the next packet, may do so.
func (m *Machine) createRefusal(c *Create, n *wire.Notify) {
	cause, fix := refusal(n.NotifyType)
	m.failed(cause, true, c.Child, fix, event.Fact{Name: "exchange", Value: wire.ExchangeCreateChildSA.String()}, event.Fact{Name: "notify", Value: n.NotifyType.String()})
	m.endOwn(c.Kind != CreateChild)
}

// refusal is the cause by which people know a peer's error notify about a CHILD
// SA, and what can be done about it.
func refusal(n wire.NotifyType) (event.Cause, string) {
	switch n {
	case wire.NotifyNoProposalChosen:
		return event.NoProposalChosen, "give both sides one ESP proposal in common, key exchange included"
	case wire.NotifyTSUnacceptable:
		return event.TSUnacceptable, "local_ts of one side must overlap remote_ts of the other, in both directions"
	case wire.NotifySinglePairRequired:
		return event.PeerError, "the peer takes one pair of selectors a CHILD SA: give each its own child"
	case wire.NotifyNoAdditionalSAs:
		return event.PeerError, "the peer takes no further CHILD SA on this IKE SA: put the child into a connection of its own"
	case wire.NotifyInternalAddressFailure:
		return event.PeerError, "the peer has no virtual address for us: its pool is empty or missing"
	case wire.NotifyFailedCPRequired:
		return event.PeerError, "the peer wants us to ask for a virtual address: set vips"
	case wire.NotifyInvalidSyntax:
		return event.InvalidSyntax, ""
	}
	return event.PeerError, ""
}

// retrySinglePair asks for the child again with one selector a side, as a peer
// wants it that answered SINGLE_PAIR_REQUIRED (RFC 7296 2.9.2).
func (m *Machine) retrySinglePair(child string) {
	m.publish(event.Retrying{IKE: m.eventIKE(), Cause: event.TSUnacceptable,
		Facts: []event.Fact{{Name: "child", Value: child}, {Name: "notify", Value: wire.NotifySinglePairRequired.String()}}})
	m.s.Tasks, m.persist = append(m.s.Tasks, Task{Kind: taskCreateSingle, Name: child}), true
}

// firstPair cuts both lists to the first selectors of one family.
func firstPair(local, remote []selector.TS) (l, r []selector.TS) {
	for i := range local {
		for j := range remote {
			if local[i].Start.Is4() == remote[j].Start.Is4() {
				return local[i : i+1], remote[j : j+1]
			}
		}
	}
	return local, remote
}

// fatalAnswer ends the session when the peer's answer to a request of ours says
// that the IKE SA is over: these two notifies do so without a Delete
// (RFC 7296 2.21.2, 2.21.3). It reports whether it did.
func (m *Machine) fatalAnswer(ex wire.ExchangeType, ps []wire.Payload) bool {
	n, ok := wire.FindError(ps)
	if !ok || n.NotifyType != wire.NotifyInvalidSyntax && n.NotifyType != wire.NotifyAuthenticationFailed {
		return false
	}
	cause := event.InvalidSyntax
	if n.NotifyType == wire.NotifyAuthenticationFailed {
		cause = event.AuthenticationFailed
	}
	m.failed(cause, true, "", "", event.Fact{Name: "exchange", Value: ex.String()}, event.Fact{Name: "notify", Value: n.NotifyType.String()})
	m.followClosed()
	m.fail("the peer answered " + n.NotifyType.String())
	return true
}

// peerReports heeds the error notifies that a peer may send in an INFORMATIONAL
// request about what it received from us. None of them ends anything by itself:
// INVALID_SPI (RFC 7296 1.5) has the CHILD SA rekeyed, for a peer that lost it
// says so then; the others are for people.
func (m *Machine) peerReports(ps []wire.Payload) {
	for n := range wire.All[*wire.Notify](ps) {
		if !n.NotifyType.IsError() {
			continue
		}
		name := ""
		if n.NotifyType == wire.NotifyInvalidSPI {
			if c := m.childByPeerSPI(n.Data); c != nil && c.canRekey() {
				name, c.RekeyAt, m.persist = c.Name, m.env.Now, true
			}
		}
		m.failed(event.PeerError, true, name, "", event.Fact{Name: "exchange", Value: wire.ExchangeInformational.String()}, event.Fact{Name: "notify", Value: n.NotifyType.String()})
		return // one message is one report
	}
}

// noAdditionalSAs: the peer makes no SA on this IKE SA, neither a new one nor one
// in the place of another (RFC 7296 1.3). A further CHILD SA is given up; what
// would have been rekeyed gets a new IKE SA, with its children.
func (m *Machine) noAdditionalSAs(c *Create, n *wire.Notify) {
	if c.Kind == CreateChild {
		m.createRefusal(c, n)
		return
	}
	m.publish(event.Retrying{IKE: m.eventIKE(), Cause: event.PeerError,
		Facts: []event.Fact{{Name: "notify", Value: n.NotifyType.String()}, {Name: "instead", Value: "reauthentication"}}})
	m.endOwn(false)
	m.reauthAt(m.env.Now)
	m.reauthDue(m.env.Now)
}
