// Package sa is the session machine of IKEv2 (RFC 7296): a pure function from
// (state, event, now, randomness) to (state, actions). It does no I/O, reads no
// clock and starts no goroutine; the engine is its shell, and a simulator can be.
package sa

import (
	"fmt"
	"net/netip"
	"slices"
	"time"

	"espalier/dataplane"
	"espalier/ike/suite"
	"espalier/ike/wire"
	"espalier/internal/event"
)

// Machine is one session: an IKE SA with its CHILD SAs. It is used by one
// goroutine at a time.
type Machine struct {
	s State

	// What follows is derived from the state and never encoded.
	conn       *Connection
	inner      []wire.Payload         // Setup.Inner parsed
	expectKeys *suite.ChildKeys       // of the SA that jobExpect installs
	forget     []dataplane.SPIRequest // see Arm; empty between steps
	acts       []Action
	env        *Env
	onStep     func(Transition) // tests count coverage
	persist    bool
}

// NewInitiator makes a session that Handle(Start) sets off. spi must come from
// NewSPI with the session's bucket; child names the CHILD SA to negotiate first,
// empty for the connection's first.
func NewInitiator(id uint64, spi wire.SPI, conn *Connection, child string, local, remote netip.AddrPort) *Machine {
	return &Machine{conn: conn, s: State{
		ID: id, Conn: conn.Name, ChildName: child, Setup: &Setup{}, Began: true,
		IKE: IKE{Initiator: true, SPIi: spi, Local: local, Remote: remote},
	}}
}

// NewResponder makes a session whose first event is the peer's IKE_SA_INIT
// request. spi must come from NewSPI with the bucket that the request hashes to.
func NewResponder(id uint64, spi wire.SPI, local, remote netip.AddrPort) *Machine {
	return &Machine{s: State{
		ID: id, Setup: &Setup{},
		IKE: IKE{SPIr: spi, Local: local, Remote: remote},
	}}
}

// Handle takes one step. It never blocks and never panics on what came from the
// network. The returned slice is the caller's.
func (m *Machine) Handle(env *Env, ev Event) []Action {
	m.begin(env)
	defer m.done()
	if m.s.Phase == Ended {
		return nil
	}
	if m.s.Created.IsZero() {
		m.s.Created = env.Now
	}
	switch e := ev.(type) {
	case Start:
		m.start(e)
	case Received:
		m.received(e)
	case JobDone:
		m.jobDone(e)
	case Tick:
		m.tick()
	case Terminate:
		m.terminate(e)
	case Rekey:
		m.rekey(e.ChildID)
	case NewChild:
		m.newChildWanted(e.Child, e.Packet)
	case SplitChild:
		m.split(e)
	case Expired:
		m.expired(e)
	case Displaced:
		m.displaced(e)
	case NetworkChanged:
		was := m.s.Network
		m.networkChanged(e.Paths)
		if m.s.Network == was { // else it has moved, and its routes with it
			m.renetwork()
		}
	case Mapped:
		m.mapped(e)
	case ReauthenticateNow:
		m.reauthAt(env.Now)
		m.reauthDue(env.Now)
	case SendRedirect:
		m.sendRedirect(e.Gateway)
	case TakeOver:
		m.takeOver()
	case Superseded:
		m.supersededBy()
	case Abort:
		m.fail(e.Reason)
	}
	m.supersede()
	m.arm()
	m.restCiphers()
	return m.ordered()
}

// begin and done are around a step: between steps a machine holds nothing but
// its state.
func (m *Machine) begin(env *Env) {
	m.acts, m.env, m.persist = env.Room[:0], env, false
	env.Room, env.at = nil, Received{}
}

func (m *Machine) done() { m.acts, m.env = nil, nil }

// Resume issues the outstanding jobs again, for a machine made by Decode.
func (m *Machine) Resume(env *Env) []Action {
	m.begin(env)
	defer m.done()
	for _, j := range m.s.Jobs {
		spec := m.spec(j)
		if k, ok := spec.(Kernel); ok {
			again(k.Ops)
		}
		m.act(Job{ID: j.ID, Spec: spec})
	}
	return m.ordered()
}

// again marks operations that may have been done before a crash.
func again(ops []dataplane.Op) {
	for i, op := range ops {
		if in, ok := op.(dataplane.InstallSA); ok {
			in.Again = true
			ops[i] = in
		}
	}
}

// Deadline is when Tick is due; zero when never.
func (m *Machine) Deadline() time.Time {
	d := m.s.Expires
	sooner := func(t time.Time) {
		if !t.IsZero() && (d.IsZero() || t.Before(d)) {
			d = t
		}
	}
	for k := range m.ikes() {
		if k.Request != nil {
			sooner(k.Request.Again)
		}
		if m.s.Phase == Established { // rekeyDue looks at them in no other
			sooner(k.RekeyAt)
		}
	}
	if m.s.Phase == Established {
		sooner(m.s.IKE.EndsAt)
	}
	for i := range m.s.Children {
		c := &m.s.Children[i]
		if m.s.Phase == Established && c.Status == ChildInstalled {
			sooner(c.RekeyAt)
			sooner(c.IdleAt)
			sooner(c.RearmAt)
		}
		if m.s.Phase == Established && c.Status == ChildFading {
			sooner(c.FadeAt)
		}
		if m.s.Phase == Established && c.Stop == StopWait {
			sooner(c.RekeyAt)
		}
	}
	sooner(m.laterDeadline())
	sooner(m.reauthDeadline())
	sooner(m.takeOverDeadline())
	sooner(m.liveDeadline())
	sooner(m.pathDeadline())
	sooner(m.fragmentsDeadline())
	return d
}

// ID is the session's unique id.
func (m *Machine) ID() uint64 { return m.s.ID }

// ConnName is the connection's name; empty on a responder before one is chosen.
func (m *Machine) ConnName() string { return m.s.Conn }

// DSCP is what the IP headers of the session's messages carry, 0 to 63.
func (m *Machine) DSCP() uint8 {
	if m.conn == nil {
		return 0
	}
	return m.conn.DSCP
}

// Initiator reports whether we are the original initiator.
func (m *Machine) Initiator() bool { return m.s.IKE.Initiator }

// LocalSPI is the IKE SPI that peers address us with.
func (m *Machine) LocalSPI() wire.SPI { return m.s.IKE.LocalSPI() }

// Owns reports whether messages to our SPI belong to this session.
func (m *Machine) Owns(spi wire.SPI) bool { return m.ikeBySPI(spi) != nil }

// PeerSPI is the peer's IKE SPI; zero before it is known.
func (m *Machine) PeerSPI() wire.SPI { return m.s.IKE.PeerSPI() }

// Local and Remote are the addresses that IKE uses now.
func (m *Machine) Local() netip.AddrPort { return m.s.IKE.Local }

// Remote is the peer's address and port that IKE uses now.
func (m *Machine) Remote() netip.AddrPort { return m.s.IKE.Remote }

// IsEstablished reports whether both sides are authenticated and the session lives.
func (m *Machine) IsEstablished() bool { return m.s.Phase == Established }

// Phase is where the session stands.
func (m *Machine) Phase() Phase { return m.s.Phase }

// OnStep sets a function that sees every transition; for tests that measure
// coverage.
func (m *Machine) OnStep(f func(Transition)) { m.onStep = f }

func (m *Machine) act(a Action) { m.acts = append(m.acts, a) }

// to moves to another phase. A step that the drawing does not have is a defect
// of this package; it ends the session, for a security protocol must not go on
// from a state nobody thought of.
func (m *Machine) to(p Phase) {
	t := Transition{m.s.IKE.Initiator, m.s.Phase, p}
	if !mayStep(t) {
		m.failed(event.Internal, false, "", "please report this", event.Fact{Name: "detail", Value: fmt.Sprintf("no step from %s to %s", t.From, t.To)})
		m.fail("internal error")
		return
	}
	if m.onStep != nil {
		m.onStep(t)
	}
	m.s.Phase = p
	m.persist = true
}

// ordered puts the actions of a step in the order persist → kernel and other
// jobs → send → the rest, keeping the order within each class, so that a crash
// between two of them never leaves the peer ahead of what we remember.
func (m *Machine) ordered() []Action {
	if m.persist && m.s.Phase != Ended {
		m.acts = append(m.acts, Persist{})
	}
	class := func(a Action) int {
		switch a.(type) {
		case Persist:
			return 0
		case PutTrap: // before the kernel loses what it takes the place of
			return 1
		case Job:
			return 2
		case Send:
			return 3
		case Gone:
			return 5
		}
		return 4
	}
	// Insertion sort: a step has a handful of actions.
	for i := 1; i < len(m.acts); i++ {
		for j := i; j > 0 && class(m.acts[j]) < class(m.acts[j-1]); j-- {
			m.acts[j], m.acts[j-1] = m.acts[j-1], m.acts[j]
		}
	}
	return m.acts
}

// tick handles the deadlines that have passed.
func (m *Machine) tick() {
	now := m.env.Now
	if e := m.s.Expires; !e.IsZero() && !now.Before(e) {
		switch m.s.Phase {
		case Lingering:
			m.end()
		default:
			m.s.Expires, m.s.IKE.Answer = time.Time{}, nil
			m.failed(event.HalfOpenTimeout, false, "", "the peer began and did not finish: look at its log for why, and whether its UDP port 4500 reaches us",
				event.Fact{Name: "waited", Value: m.env.Settings.HalfOpenTimeout.String()}, event.Fact{Name: "phase", Value: m.s.Phase.String()})
			m.fail("half-open timeout")
		}
		return
	}
	for k := range m.ikes() {
		if k.Request != nil && !now.Before(k.Request.Again) {
			m.retransmit(k)
			return // the rest at the next tick: the list may have changed
		}
	}
	m.overdue(now)
	m.rekeyDue(now)
	m.laterDue(now)
	m.reauthDue(now)
	m.takeOverDue(now)
	m.fragmentsDue(now)
	m.pathDue(now)
	m.liveDue(now)
	m.nextTask()
}

// terminate is the operator's wish to end the session or one CHILD SA.
func (m *Machine) terminate(e Terminate) {
	whole := e.Child == "" && e.ChildID == 0
	if m.s.Phase < Established {
		switch {
		case e.ChildID != 0 || !whole && e.Child != m.s.ChildName:
		case m.s.IKE.LocalAuth != "" && m.s.IKE.RemoteAuth != "":
			// The peer has, or will have, an SA: it is told once we are done.
			m.s.Tasks = append(m.s.Tasks, Task{Kind: taskDeleteIKE})
		default:
			m.fail("terminated")
		}
		return
	}
	if m.s.Phase != Established {
		return
	}
	if whole {
		if !slices.Contains(m.s.Tasks, Task{Kind: taskDeleteIKE}) {
			m.queue(Task{Kind: taskDeleteIKE})
		}
		return
	}
	for i := range m.s.Children {
		c := &m.s.Children[i]
		if c.Status == ChildInstalled && (c.UniqueID == e.ChildID || e.ChildID == 0 && c.Name == e.Child) {
			if c.bound() {
				m.release(c, "terminated")
				continue
			}
			c.Status, c.EndReason = ChildDeleting, "terminated"
			m.queue(Task{Kind: taskDeleteChild, Child: c.UniqueID})
		}
	}
	m.sweep()
}

// queue adds a task and begins it when the window is open.
func (m *Machine) queue(t Task) {
	m.s.Tasks = append(m.s.Tasks, t)
	m.persist = true
	m.nextTask()
}

// fail ends the session: what it holds in the kernel is removed first.
func (m *Machine) fail(reason string) {
	if m.s.Phase >= Cleaning {
		return
	}
	m.s.EndReason = reason
	m.s.Expires, m.s.Tasks, m.s.Later, m.s.Pending = time.Time{}, nil, nil, nil
	m.s.Fragments = nil
	m.s.IKE.Request, m.s.IKE.RekeyAt, m.s.IKE.EndsAt = nil, time.Time{}, time.Time{}
	if st := m.s.Setup; st != nil {
		m.orphan(SPIs{st.ReservedSPI, st.ReservedCPI}, m.reserveRequest())
		st.ReservedSPI, st.ReservedCPI = 0, 0
	}
	if m.s.Peer != nil {
		m.s.Peer.Old = 0 // what of ours has waited for it is not sent any more
	}
	m.dropOthers()
	m.dropExchange(&m.s.Own)
	m.dropExchange(&m.s.Peer)
	for i := range m.s.Children {
		m.s.Children[i].Fade = false // everything goes now
	}
	// Results of the old jobs no longer count, but an SPI that is being reserved
	// must come back to be released, of a child that is being installed one must
	// know whether it was, and of one that moves, where it is.
	m.s.Jobs = slices.DeleteFunc(m.s.Jobs, func(j JobRef) bool {
		return j.Kind != jobReserve && j.Kind != jobInstall && j.Kind != jobMove
	})
	wasUp := !m.s.Since.IsZero()
	m.to(Cleaning)
	if wasUp {
		m.publish(event.IKEDown{IKE: m.eventIKE(), Reason: reason})
	}
	m.clean()
}

// clean empties the kernel of the session, when nothing more can come in.
func (m *Machine) clean() {
	switch {
	case len(m.s.Jobs) > 0:
	case m.network():
	case len(m.cleanOps()) > 0:
		m.job(jobClean)
	default:
		m.cleaned()
	}
}

// cleaned follows when the kernel holds nothing of the session any more.
func (m *Machine) cleaned() {
	for i := range m.s.Children {
		if c := &m.s.Children[i]; c.Status != ChildNegotiated {
			m.childDown(c, m.s.EndReason)
		}
	}
	for i := range m.s.Children {
		m.s.Children[i].Keys.Wipe()
	}
	m.s.Children, m.s.Orphans = nil, nil
	m.wipe()
	if m.s.IKE.Answer == nil {
		m.end()
		return
	}
	m.to(Lingering)
	m.s.Expires = m.env.Now.Add(lingerTime)
}

// lingerTime is how long the last answer of an ended session stays available
// for a peer that did not get it.
const lingerTime = 10 * time.Second

func (m *Machine) end() {
	m.to(Ended)
	m.s.Expires, m.s.IKE.Answer = time.Time{}, nil
	m.s.IKE.forgetKeys()
	m.act(Disown{m.LocalSPI()})
	m.act(Gone{})
}

// wipe clears the secrets of the set-up.
func (m *Machine) wipe() {
	if st := m.s.Setup; st != nil {
		st.Private.Wipe()
		m.s.Setup, m.inner = nil, nil
	}
}

func (m *Machine) publish(e event.Event) { m.act(Publish{Event: e}) }

// eventIKE names this IKE SA for observers.
func (m *Machine) eventIKE() event.IKE {
	k := &m.s.IKE
	e := event.IKE{
		Conn: m.s.Conn, UniqueID: m.s.ID, Local: k.Local, Remote: k.Remote,
		SPIi: uint64(k.SPIi), SPIr: uint64(k.SPIr), Initiator: k.Initiator,
	}
	if !k.LocalID.IsAny() {
		e.LocalID = k.LocalID.String()
	}
	if !k.RemoteID.IsAny() {
		e.RemoteID = k.RemoteID.String()
	}
	return e
}

// failed publishes an explained failure. It does not end anything.
func (m *Machine) failed(cause event.Cause, byPeer bool, child, fix string, facts ...event.Fact) {
	m.publish(event.Failed{IKE: m.eventIKE(), ChildName: child, Cause: cause, ByPeer: byPeer, Facts: facts, Fix: fix})
}

// discard counts a message that changes nothing.
func (m *Machine) discard(reason string) {
	m.publish(event.Discarded{Local: m.s.IKE.Local, Remote: m.s.IKE.Remote, Reason: reason})
}
