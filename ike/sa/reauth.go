package sa

import (
	"encoding/binary"
	"math"
	"net/netip"
	"slices"
	"time"

	"espalier/dataplane"
	"espalier/ike/auth"
	"espalier/ike/suite"
	"espalier/ike/wire"
	"espalier/internal/event"
)

// Reauthentication (RFC 7296 2.8.3) is make-before-break: a wholly new session
// sets the same CHILD SAs up beside the old ones, and when it has them the old
// session deletes itself. Which sessions belong together stands in the new one's
// state alone, so that whatever interrupts it leaves the old one as it was, and
// that tries again.
//
//	old: At passes → Reauthenticate → (goes on) … Superseded → delete
//	new: Start → … → established, children made → Supersede

// Reauth is what a session knows of it; nil: nothing is due.
type Reauth struct {
	// At is when we set up a new session in this one's place; zero: never.
	At time.Time
	// Replaces is the unique id of the session in whose place this one comes;
	// zero: none, or no longer there.
	Replaces uint64
	// Asked: the children that the old session got meanwhile were asked for.
	Asked bool
}

func (c *coder) reauth(r *Reauth) {
	instant(c, &r.At)
	num(c, &r.Replaces)
	boolean(c, &r.Asked)
}

// Expected is the CHILD SA that a new session in an old one's place will get: as
// the peer may use it before its answer has reached us, its inbound SA is
// installed before we ask.
type Expected struct {
	Choice    suite.Choice // without key exchange; the only one offered
	ReqID     uint32
	Installed bool
}

func (c *coder) expected(x *Expected) {
	c.choice(&x.Choice)
	num(c, &x.ReqID)
	boolean(c, &x.Installed)
}

// leastLifetime keeps a peer from having us authenticate without end.
const leastLifetime = 5 * time.Second

// reauthRetry is how long an interrupted reauthentication is left alone. The
// shell ignores us while the new session is still being set up.
const reauthRetry = 30 * time.Second

// Replaces is the unique id of the session in whose place this one is set up;
// zero: none. The two are no duplicates of each other.
func (m *Machine) Replaces() uint64 {
	if m.s.Reauth == nil {
		return 0
	}
	return m.s.Reauth.Replaces
}

// NewReplacement makes the session that takes old's place: the same peer at the
// same address, conn as it is configured now, and old's children. Handle(Start)
// sets it off. id and spi are as for NewInitiator, in old's bucket.
func NewReplacement(id uint64, spi wire.SPI, conn *Connection, old *Machine) *Machine {
	names := old.installedNames(conn)
	m := NewInitiator(id, spi, conn, "", old.s.IKE.Local, old.s.IKE.Remote)
	m.s.Reauth = &Reauth{Replaces: old.s.ID}
	m.AskFor(old.leased(false))
	if len(names) == 0 {
		return m
	}
	m.s.ChildName = names[0]
	for _, name := range names[1:] {
		m.s.Tasks = append(m.s.Tasks, Task{Kind: taskCreateChild, Name: name})
	}
	for i := range old.s.Children {
		if c := &old.s.Children[i]; c.Name == names[0] && c.Status == ChildInstalled {
			m.s.Setup.Expected = expectedLike(c, conn.Child(c.Name))
		}
	}
	return m
}

// expectedLike is what a child like c will be; nil when the configuration has
// moved on.
func expectedLike(c *Child, cfg *ChildConfig) *Expected {
	if cfg.IPComp || cfg.UniqueMarkIn != 0 || cfg.UniqueIfIDIn != 0 || cfg.Mode != dataplane.Tunnel && cfg.Mode != dataplane.Transport {
		return nil // there is more to agree about than can be foreseen
	}
	choice := suite.Choice{Number: 1, Proposal: suite.WithoutKE([]suite.Proposal{c.Chosen.Proposal})[0]}
	if _, err := suite.Accept(suite.WithoutKE(cfg.Proposals), []wire.Proposal{choice.Wire(nil)}); err != nil || c.Mode != cfg.Mode {
		return nil
	}
	return &Expected{Choice: choice, ReqID: c.ReqID}
}

// installedNames are the configurations of the session's children that conn has,
// each once.
func (m *Machine) installedNames(conn *Connection) (names []string) {
	for i := range m.s.Children {
		if c := &m.s.Children[i]; c.Status == ChildInstalled && conn.Child(c.Name) != nil && !slices.Contains(names, c.Name) {
			names = append(names, c.Name)
		}
	}
	return names
}

// reauthAt brings the reauthentication forward to t; later ones change nothing.
func (m *Machine) reauthAt(t time.Time) {
	if t.IsZero() {
		return
	}
	if m.s.Reauth == nil {
		m.s.Reauth = &Reauth{}
	}
	if at := m.s.Reauth.At; at.IsZero() || t.Before(at) {
		m.s.Reauth.At = t
		m.persist = true
	}
}

// scheduleReauth sets the time when the session is established. A responder
// leaves it to the initiator, which it has told the lifetime, and acts only when
// that has passed by a tenth.
func (m *Machine) scheduleReauth() {
	after, margin := m.conn.ReauthTime, m.conn.ReauthTime/10
	if !m.s.IKE.Initiator {
		after, margin = after+margin, 0
	}
	m.reauthAt(m.schedule(after, margin))
}

// appendLifetime announces how long a responder takes the initiator's
// authentication for good (RFC 4478 3).
func (m *Machine) appendLifetime(ps []wire.Payload) []wire.Payload {
	s := m.conn.ReauthTime / time.Second
	if m.s.IKE.Initiator || s <= 0 {
		return ps
	}
	data := binary.BigEndian.AppendUint32(nil, uint32(min(s, math.MaxUint32)))
	return append(ps, &wire.Notify{NotifyType: wire.NotifyAuthLifetime, Data: data})
}

// readLifetime heeds a responder's AUTH_LIFETIME, in IKE_AUTH or later
// (RFC 4478 3): we reauthenticate in the last tenth of it.
func (m *Machine) readLifetime(ps []wire.Payload) {
	n, ok := wire.FindNotify(ps, wire.NotifyAuthLifetime)
	if !ok || !m.s.Began {
		return
	}
	if len(n.Data) != 4 {
		m.discard("AUTH_LIFETIME: expected 4 octets, got " + itoa(len(n.Data)))
		return
	}
	life := time.Duration(binary.BigEndian.Uint32(n.Data)) * time.Second
	m.reauthAt(m.schedule(max(life-life/20, leastLifetime), life/20))
}

func (m *Machine) reauthDeadline() time.Time {
	if m.s.Reauth == nil || m.s.Phase != Established || m.hasTaskKind(taskDeleteIKE) {
		return time.Time{}
	}
	return m.s.Reauth.At
}

// reauthDue asks for the new session, and again until it supersedes us.
func (m *Machine) reauthDue(now time.Time) {
	at := m.reauthDeadline()
	if at.IsZero() || now.Before(at) {
		return
	}
	m.s.Reauth.At = now.Add(reauthRetry + m.retryPause())
	m.persist = true
	if !m.hasTaskKind(taskDeleteIKE) {
		m.act(Reauthenticate{})
	}
}

func (m *Machine) hasTaskKind(kinds ...TaskKind) bool {
	return slices.ContainsFunc(m.s.Tasks, func(t Task) bool { return slices.Contains(kinds, t.Kind) })
}

// supersede ends, when we have all that we came for, the session that we replace.
func (m *Machine) supersede() {
	r := m.s.Reauth
	if r == nil || r.Replaces == 0 || m.s.Phase != Established || m.s.Own != nil || len(m.s.Later) > 0 ||
		m.hasTaskKind(taskCreateChild, taskCreateSingle) || slices.ContainsFunc(m.s.Jobs, func(j JobRef) bool { return j.Kind == jobSupersede }) {
		return
	}
	m.job(jobSupersede)
}

// superseded follows when the old session knows: it has ended, is ending, or has
// children that we lack, which are asked for once.
func (m *Machine) superseded(missing []string) {
	r := m.s.Reauth
	if len(missing) > 0 && !r.Asked {
		r.Asked = true
		for _, name := range missing {
			m.newChildWanted(name, nil)
		}
		return
	}
	r.Replaces, m.persist = 0, true
}

// Missing are the children that old has and m has not; for a shell that does the
// job Supersede.
func (m *Machine) Missing(old *Machine) (names []string) {
	if m.s.Reauth == nil || m.s.Reauth.Asked {
		return nil // once is enough
	}
	have := m.installedNames(m.conn)
	return slices.DeleteFunc(old.installedNames(m.conn), func(name string) bool { return slices.Contains(have, name) })
}

// Twin describes what the peer may have set up in place of the session that we
// replace, when it reauthenticated at the same time. Of the two, who finds the
// other's there gives way; should both, the old session is still there.
type Twin struct {
	Self     uint64 // unique id of who asks
	Conn     string
	Local    auth.ID
	Peer     auth.ID
	Remote   netip.Addr
	After    uint64 // unique id of the old session
	Children []string
}

// twin describes it for the job Supersede.
func (m *Machine) twin() Twin {
	k := &m.s.IKE
	return Twin{m.s.ID, m.s.Conn, k.LocalID, k.RemoteID, k.Remote.Addr(), m.Replaces(), m.installedNames(m.conn)}
}

// Is reports whether m is it.
func (t Twin) Is(m *Machine) bool {
	k := &m.s.IKE
	if m.s.Phase != Established || m.s.Began || m.s.ID == t.Self || m.s.ID <= t.After || m.s.Conn != t.Conn ||
		!k.RemoteID.Equal(t.Peer) || k.Remote.Addr() != t.Remote {
		return false
	}
	have := m.installedNames(m.conn)
	return !slices.ContainsFunc(t.Children, func(name string) bool { return !slices.Contains(have, name) })
}

// supersededBy is the end of the old session, whose children another one has now.
func (m *Machine) supersededBy() {
	if m.s.Phase != Established || m.hasTaskKind(taskDeleteIKE) {
		return
	}
	m.s.EndReason = "reauthenticated"
	m.queue(Task{Kind: taskDeleteIKE})
}

// expectedChild is the child that Expected describes, with keys; nil when they
// can't be derived.
func (m *Machine) expectedChild() *Child {
	st, k := m.s.Setup, &m.s.IKE
	cfg := m.conn.Child(m.s.ChildName)
	keys, err := suite.DeriveChild(k.Chosen.PRF(), k.Keys.D, st.Expected.Choice, nil, st.Ni, st.Nr)
	if err != nil {
		return nil
	}
	choice := st.Expected.Choice
	choice.SPI = make([]byte, 4) // the peer's, which an inbound SA does not have
	c := m.candidate(cfg, k.place(), choice, nil, nil, true)
	c.Mode, c.SPIIn, c.ReqID, c.Keys = cfg.Mode, st.ReservedSPI, st.Expected.ReqID, keys
	return c
}

// expectOps install the inbound SA of the child that we are about to ask for.
func (m *Machine) expectOps() []dataplane.Op {
	c := m.expectedChild()
	if c == nil {
		return nil
	}
	m.expectKeys = &c.Keys // the operation reads them
	cfg := m.conn.Child(c.Name)
	in, _ := m.pairOf(c, cfg)
	if in.Encap != nil && m.offersPerCPU(cfg) {
		in.Encap.SrcPort = 0 // the peer may agree to it, see Child.perCPU
	}
	return []dataplane.Op{dataplane.InstallSA{SA: in}}
}

// isExpected reports whether the child that was agreed is the one whose inbound
// SA stands in the kernel.
func (m *Machine) isExpected(c *Child) bool {
	if m.s.Setup == nil || m.s.Setup.Expected == nil || !m.s.Setup.Expected.Installed {
		return false
	}
	x := m.s.Setup.Expected
	return c.ReqID == x.ReqID && sameChoice(c.Chosen, x.Choice) && c.Mode == m.conn.Child(c.Name).Mode
}

func sameChoice(a, b suite.Choice) bool {
	return a.Encr() == b.Encr() && a.EncrKeyBits() == b.EncrKeyBits() && a.Integ() == b.Integ() && a.ESN() == b.ESN()
}

// expectedRefused asks once more with all that is configured, when the peer does
// not take what it took the last time. It reports whether it does.
func (m *Machine) expectedRefused(n *wire.Notify) bool {
	if m.s.Setup.Expected == nil || n.NotifyType != wire.NotifyNoProposalChosen {
		return false
	}
	m.publish(event.Retrying{IKE: m.eventIKE(), Cause: event.NoProposalChosen,
		Facts: []event.Fact{{Name: "child", Value: m.s.ChildName}, {Name: "sent", Value: m.s.Setup.Expected.Choice.String()}}})
	m.s.Tasks = append(m.s.Tasks, Task{Kind: taskCreateChild, Name: m.s.ChildName})
	return true
}
