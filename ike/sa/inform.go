package sa

import (
	"encoding/binary"
	"slices"

	"espalier/ike/wire"
	"espalier/internal/event"
)

// nextTask begins the next request when the window is open.
func (m *Machine) nextTask() {
	m.deleteOthers()
	k := &m.s.IKE
	// A successor that the peer has not moved to yet stops what is new.
	for m.s.Phase == Established && k.Request == nil && m.s.Own == nil && m.next() == nil {
		t, ok := m.takeTask()
		if !ok {
			return
		}
		switch t.Kind {
		case taskRekeyIKE:
			m.beginCreate(&Create{Kind: RekeyIKESA})
		case taskRekeyChild:
			c := m.child(t.Child)
			switch {
			case c == nil || m.conn.Child(c.Name) == nil:
			case c.Status == ChildInstalled && m.awaitsPeer(c):
				c.RekeyAt = m.env.Now.Add(m.retryPause())
			case c.canRekey():
				m.beginCreate(&Create{Kind: RekeyChildSA, Child: c.Name, Old: c.UniqueID})
			}
		case taskCreateChild, taskCreateSingle:
			m.createTask(t)
		case taskCreateBound:
			m.boundTask(t)
		case taskDeleteIKE:
			if m.s.EndReason == "" {
				m.s.EndReason = "terminated"
			}
			m.to(Closing)
			m.inform(k, t, wire.NewDelete(wire.ProtoIKE))
		case taskDeleteChild:
			if c := m.child(t.Child); c != nil && c.Status == ChildDeleting {
				m.inform(k, t, wire.NewDelete(wire.ProtoESP, c.SPIIn))
			}
		case taskDeleteSPI:
			m.inform(k, t, wire.NewDelete(wire.ProtoESP, uint32(t.Child)))
		default:
			m.beginOther(k, t)
		}
	}
}

// takeTask takes the first task that has nothing to wait for. A rekeying waits until
// the peer has confirmed that the child before is deleted, which is our next request.
// charon 6.0 does not follow two rekeyings with two deletes after them: it gives up its
// outbound policy with the second, and what it sends is clear text until the next
// rekeying.
func (m *Machine) takeTask() (Task, bool) {
	i := slices.IndexFunc(m.s.Tasks, func(t Task) bool { return t.Kind != taskRekeyChild || !m.replaces(t.Child) })
	if i < 0 {
		return Task{}, false
	}
	t := m.s.Tasks[i]
	m.s.Tasks = slices.Delete(m.s.Tasks, i, i+1)
	return t, true
}

// replaces reports whether a child came of our rekeying of another that is not
// deleted yet.
func (m *Machine) replaces(child uint64) bool {
	return slices.ContainsFunc(m.s.Children, func(o Child) bool { return o.OwnNew == child && o.Status <= ChildDeleting })
}

// deleteOthers deletes replaced IKE SAs, each in its own window.
func (m *Machine) deleteOthers() {
	kept := m.s.Tasks[:0]
	var now []wire.SPI
	for _, t := range m.s.Tasks {
		k := m.ikeBySPI(wire.SPI(t.Child))
		switch {
		case t.Kind != taskDeleteOther || k != nil && k.Request != nil:
			kept = append(kept, t)
		case k != nil:
			now = append(now, k.LocalSPI())
		}
	}
	m.s.Tasks = kept
	for _, spi := range now {
		if k := m.ikeBySPI(spi); k != nil {
			m.inform(k, Task{Kind: taskDeleteOther, Child: uint64(spi)}, wire.NewDelete(wire.ProtoIKE))
		}
	}
}

// inform sends an INFORMATIONAL request that remembers what it is for.
func (m *Machine) inform(k *IKE, t Task, ps ...wire.Payload) {
	m.requestFor(k, t, wire.ExchangeInformational, ps...)
}

// beginOther begins the tasks that are neither deletes nor CREATE_CHILD_SA.
func (m *Machine) beginOther(k *IKE, t Task) {
	switch t.Kind {
	case taskCheck:
		m.inform(k, t, m.appendPathCheck(nil)...)
	case taskRedirect:
		m.beginRedirect(k, t)
	case taskProbe:
		m.beginProbe(k, t)
	case taskUpdate:
		m.sendUpdate(k, t)
	case taskReachable:
		m.inform(k, t, m.cookie2())
	case taskToken:
		m.inform(k, t, m.appendToken(nil, k)...)
	case taskAddresses:
		m.inform(k, t, m.appendAddrs(nil)...)
	}
}

// informed ends what an INFORMATIONAL of ours was for, with the payloads of its
// answer; deletes have their own way.
func (m *Machine) informed(k *IKE, t Task, ps []wire.Payload) {
	switch t.Kind {
	case taskCheck:
		m.pathChecked(k, ps)
	case taskUpdate:
		m.updated(ps)
	case taskReachable:
		m.reachable(ps)
	case taskAddresses:
		m.addressesTold(k)
	}
}

func (m *Machine) child(id uint64) *Child {
	for i := range m.s.Children {
		if m.s.Children[i].UniqueID == id {
			return &m.s.Children[i]
		}
	}
	return nil
}

// informationalResponse ends our INFORMATIONAL exchange.
func (m *Machine) informationalResponse(k *IKE, ps []wire.Payload) {
	request, purpose := k.Request, k.Request.For
	k.Request = nil
	m.persist = true
	if k != &m.s.IKE {
		// A replaced IKE SA ends with its delete, whatever the answer says: an error
		// in it would end the IKE SA, too (RFC 7296 2.21.3), and nothing is on it any more.
		if purpose.Kind == 0 || purpose.Kind == taskDeleteOther { // what else there was is asked once more on the new one
			m.dropIKE(k)
		}
		m.nextTask()
		return
	}
	if m.s.Phase == Closing {
		m.fail(m.s.EndReason)
		return
	}
	if m.fatalAnswer(wire.ExchangeInformational, ps) {
		return
	}
	m.informed(k, purpose, ps)
	if purpose.Kind == taskProbe {
		m.probed(request)
	}
	m.deleted(purpose)
	m.sweep()
	m.nextTask()
}

// deleted moves the child whose delete the peer has confirmed on to removal.
func (m *Machine) deleted(t Task) {
	for i := range m.s.Children {
		c := &m.s.Children[i]
		// A request of state version 1 does not say what it was for: then it is the
		// child that no task waits for any more.
		if c.Status != ChildDeleting || t.Kind != 0 && t != (Task{Kind: taskDeleteChild, Child: c.UniqueID}) || m.hasTask(c.UniqueID) || c.Stop == StopWait || c.Stop == StopDue || c.Stop == StopGoes {
			continue
		}
		c.Fade = c.replaced() || c.bound()
		c.Status = ChildRemoving
		m.finishReplaced(c)
	}
}

// replaced reports whether another CHILD SA has taken over, or one stays in
// whose favour this one lost a collision: the peer may have sent on it to the last.
func (c *Child) replaced() bool {
	return c.OwnNew != 0 || c.PeerNew != 0 || c.InboundOnly || c.Stop != StopNot
}

func (m *Machine) hasTask(child uint64) bool {
	return slices.ContainsFunc(m.s.Tasks, func(t Task) bool { return t.Kind == taskDeleteChild && t.Child == child })
}

// informationalRequest handles the peer's INFORMATIONAL (RFC 7296 1.4): deletes,
// error notifies, or nothing, which asks whether we live.
func (m *Machine) informationalRequest(k *IKE, id uint32, ps []wire.Payload) {
	// The peer speaks on it, so it has moved to it; unless that may be the loser of a
	// collision with ours, which it deletes (RFC 7296 2.8.2).
	if k.Role == IKENext && (!deletesIKE(ps) || m.s.Own == nil || m.s.Own.Kind != RekeyIKESA) {
		spi := k.LocalSPI()
		m.promote(k)
		k = m.ikeBySPI(spi)
	}
	if n, ok := wire.FindNotify(ps, wire.NotifyAuthenticationFailed); ok {
		m.failed(event.AuthenticationFailed, true, "", "the peer did not accept our authentication: its log names the check", event.Fact{Name: "notify", Value: n.NotifyType.String()})
		m.respond(k, wire.ExchangeInformational, id)
		m.followClosed()
		m.fail("the peer did not accept our authentication")
		return
	}
	var spis []uint32
	remove := false
	for d := range wire.All[*wire.Delete](ps) {
		if d.Protocol == wire.ProtoIKE {
			if k == &m.s.IKE && m.next() == nil {
				m.collided(event.DeleteIKE, nil)
			}
			if m.peerDeletesIKE(k, id) {
				return
			}
			if m.handOver(k, id) {
				return
			}
			m.respond(k, wire.ExchangeInformational, id)
			m.followClosed()
			m.fail("deleted by the peer")
			return
		}
		if d.Protocol == wire.ProtoESP && d.SPISize == 4 {
			ours, some := m.peerDeletes(d)
			spis, remove = append(spis, ours...), remove || some
		}
	}
	if !remove {
		m.respond(k, wire.ExchangeInformational, id, m.informationalAnswer(k, ps)...)
		m.nextTask()
		return
	}
	// The answer says that the SAs are gone, so it waits until they are.
	m.s.Pending = &PendingAnswer{On: k.LocalSPI(), MessageID: id, SPIs: spis}
	m.sweep()
}

// deletesIKE: with this the peer gives up an IKE SA, be it one that has lost a
// collision and never was in use (RFC 7296 2.8.2).
func deletesIKE(ps []wire.Payload) bool {
	for d := range wire.All[*wire.Delete](ps) {
		if d.Protocol == wire.ProtoIKE {
			return true
		}
	}
	return false
}

// informationalAnswer is what the answer to the peer's INFORMATIONAL says beside
// the SAs that are gone.
func (m *Machine) informationalAnswer(k *IKE, ps []wire.Payload) []wire.Payload {
	m.readLifetime(ps)
	m.readToken(k, ps)
	m.peerReports(ps)
	m.redirect(ps, nil)
	return m.appendMobileAnswer(k, ps, nil)
}

// peerDeletes marks the children that a Delete payload names by the SPIs the
// peer receives with. A child that we are deleting at the same moment is not
// named in the answer (RFC 7296 1.4.1). some says that there is something to
// remove.
func (m *Machine) peerDeletes(d *wire.Delete) (spis []uint32, some bool) {
	for n := range d.Count() {
		spi := binary.BigEndian.Uint32(d.SPI(n))
		m.deletedEarly(spi)
		for i := range m.s.Children {
			c := &m.s.Children[i]
			if c.SPIOut != spi || c.Status == ChildFading {
				continue
			}
			m.collided(event.DeleteChild, c)
			if c.Status == ChildInstalled {
				spis = append(spis, c.SPIIn)
			}
			m.followChild(c, func(cfg *ChildConfig) FollowUp { return cfg.CloseAction })
			if c.Status == ChildInstalled || c.Status == ChildDeleting {
				c.Status, c.EndReason, some = ChildRemoving, "deleted by the peer", true
				c.Fade = c.replaced() || c.bound() || m.hasOther(c)
				m.finishReplaced(c)
				if own := m.s.Own; own != nil && own.Old == c.UniqueID && c.PeerNew != 0 {
					own.Lost = true
				}
			}
		}
	}
	return spis, some
}
