// Package satest runs session machines against each other in memory: a virtual
// clock, a network that a test may bend, data planes that are fakes. Everything
// is deterministic from the seed.
package satest

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"time"

	"espalier/dataplane"
	"espalier/ike/auth"
	"espalier/ike/lease"
	"espalier/ike/sa"
	"espalier/ike/wire"
	"espalier/internal/event"
)

// World is a clock, a network and the nodes on it.
type World struct {
	Now time.Time
	// Mangle sees every datagram before it is delivered and returns what arrives
	// in its place; nil: everything arrives as sent.
	Mangle func(Packet) []Packet
	// RoundTrip writes every session's state out and reads it back after each
	// step, so that nothing that matters can hide outside of it.
	RoundTrip bool
	OnStep    func(sa.Transition)
	// Stepped sees a node after each step, before its jobs are done; may be nil.
	Stepped func(*Node)

	rnd   *rand.ChaCha8
	queue []Packet
	nodes []*Node
}

// Packet is a datagram under way.
type Packet struct {
	From, To netip.AddrPort
	Data     []byte
	DF       bool // must not be fragmented on its way
}

// Node is one gateway with its sessions.
type Node struct {
	Addr     netip.Addr
	Also     []netip.Addr // further addresses it receives at
	Env      sa.Env
	DP       *dataplane.Fake
	Link     int // MTU of its link, for those who ask
	Net      dataplane.FakeNetwork
	Pools    lease.Pools // see ServePools
	Sessions []*sa.Machine
	Events   []event.Event
	// Fail makes jobs fail: it is asked before each.
	Fail       func(sa.Spec) error
	Interfaces map[string]uint32 // indexes of network interfaces
	// NoCPI makes the reservation of CPIs fail.
	NoCPI bool
	// Sealed counts Gone actions, Up Authenticated ones.
	Gone, Up int
	// Redirects are what a test follows by hand.
	Redirects []sa.Redirected
	// Restarts and Traps are the actions of these kinds, each "connection/child".
	Restarts, Traps []string
	Keepalives      int // actions of this kind
	// Forgot are the acquires that the data plane was told to forget.
	Forgot []dataplane.SPIRequest
	// Refuses has messages for unknown IKE SPIs answered, as an engine does.
	Refuses bool

	known map[uint64]sa.Contact // sessions by id, see contact

	w        *World
	lastID   uint64
	lastReq  uint32
	reqids   map[sa.AskChild]uint32
	nextUniq uint64
	leases   map[int][]lease.Grant // by session
	later    []later
}

// New makes a world whose randomness comes from the seed.
func New(seed uint64) *World {
	var key [32]byte
	for i := range 8 {
		key[i] = byte(seed >> (8 * i))
	}
	return &World{Now: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC), rnd: rand.NewChaCha8(key)}
}

// Rand is the world's source of randomness.
func (w *World) Rand() *rand.ChaCha8 { return w.rnd }

// Add puts a gateway into the world.
func (w *World) Add(addr string, conns []*sa.Connection, creds *auth.Credentials) *Node {
	set := sa.DefaultSettings()
	n := &Node{w: w, reqids: map[sa.AskChild]uint32{}, Addr: netip.MustParseAddr(addr),
		DP:  dataplane.NewFake(dataplane.FakeOptions{Seed: uint64(len(w.nodes) + 1), Now: func() time.Time { return w.Now }}),
		Env: sa.Env{Rand: w.rnd, Conns: sa.NewConnSet(conns, nil), Creds: creds, Settings: &set}, leases: map[int][]lease.Grant{}}
	w.nodes = append(w.nodes, n)
	return n
}

// ServePools gives the gateway pools.
func (n *Node) ServePools(pools ...*lease.Pool) {
	n.Pools.Set(pools)
	n.Env.Conns = n.Env.Conns.WithPools(pools)
}

// Initiate starts a session of the named connection and returns it.
func (n *Node) Initiate(conn, child string, peer netip.Addr) *sa.Machine {
	n.Prepare(conn, child, peer)
	n.step(len(n.Sessions)-1, sa.Start{})
	return n.Sessions[len(n.Sessions)-1]
}

// Prepare makes a session of the named connection that Do with sa.Start starts.
func (n *Node) Prepare(conn, child string, peer netip.Addr) *sa.Machine {
	n.lastID++
	m := sa.NewInitiator(n.lastID, sa.NewSPI(uint8(n.lastID), 0, n.w.rnd), n.Env.Conns.ByName(conn), child,
		netip.AddrPortFrom(n.Addr, 500), netip.AddrPortFrom(peer, 500))
	m.OnStep(n.w.OnStep)
	n.Sessions = append(n.Sessions, m)
	return m
}

// Do hands an event to the i-th session.
func (n *Node) Do(i int, ev sa.Event) { n.step(i, ev) }

// step runs an event and the jobs that follow from it.
func (n *Node) step(i int, ev sa.Event) {
	events := []sa.Event{ev}
	for len(events) > 0 {
		ev, events = events[0], events[1:]
		n.Env.Now = n.w.Now
		m := n.Sessions[i]
		if m == nil {
			return
		}
		for _, a := range m.Handle(&n.Env, ev) {
			switch a := a.(type) {
			case sa.Send:
				n.w.queue = append(n.w.queue, Packet{From: a.Local, To: a.Remote, Data: append([]byte(nil), a.Data...), DF: a.DF})
			case sa.Job:
				r, err := n.perform(i, a.Spec)
				events = append(events, sa.JobDone{ID: a.ID, Result: r, Err: err})
			case sa.Publish:
				n.Events = append(n.Events, a.Event)
			case sa.Authenticated:
				n.Up++
			case sa.Keepalive:
				n.Keepalives++
			case sa.Displace:
				n.displace(a)
			case sa.Restart:
				n.Restarts = append(n.Restarts, a.Conn+"/"+a.Child)
			case sa.PutTrap:
				n.Traps = append(n.Traps, a.Conn+"/"+a.Child)
			case sa.Redirected:
				n.Redirects = append(n.Redirects, a)
			case sa.Reauthenticate:
				n.replace(i)
			case sa.Gone:
				n.Gone++
				n.Sessions[i] = nil
				for _, g := range n.leases[i] {
					n.Pools.Release(g)
				}
				delete(n.leases, i)
			}
		}
		if n.w.Stepped != nil {
			n.w.Stepped(n)
		}
		if n.w.RoundTrip && n.Sessions[i] != nil {
			n.reborn(i)
		}
	}
	n.after()
}

// later is an event that waits for the end of the step that caused it.
type later struct {
	id uint64
	ev sa.Event
}

// after hands out the events that waited.
func (n *Node) after() {
	for len(n.later) > 0 {
		l := n.later[0]
		n.later = n.later[1:]
		for i, m := range n.Sessions {
			if m != nil && m.ID() == l.id {
				n.step(i, l.ev)
			}
		}
	}
}

// reborn replaces a session by what its encoding says.
func (n *Node) reborn(i int) {
	b := n.Sessions[i].Encode(nil)
	m, err := sa.Decode(b, n.Env.Conns)
	if err != nil {
		panic(fmt.Sprintf("state of phase %s does not read back: %v", n.Sessions[i].Phase(), err))
	}
	if again := m.Encode(nil); string(again) != string(b) {
		panic(fmt.Sprintf("state of phase %s changes when read back", n.Sessions[i].Phase()))
	}
	m.OnStep(n.w.OnStep)
	n.Sessions[i] = m
}

// replace starts the session that takes the i-th's place, if none does.
func (n *Node) replace(i int) {
	old := n.Sessions[i]
	for _, m := range n.Live() {
		if m.Replaces() == old.ID() {
			return
		}
	}
	n.lastID++
	m := sa.NewReplacement(n.lastID, sa.NewSPI(uint8(n.lastID), 0, n.w.rnd), n.Env.Conns.ByName(old.ConnName()), old)
	m.OnStep(n.w.OnStep)
	n.Sessions = append(n.Sessions, m)
	n.step(len(n.Sessions)-1, sa.Start{})
}

// shared reports whether a session other than the i-th has a child with the
// request id.
func (n *Node) shared(i int, reqid uint32) bool {
	for j, m := range n.Sessions {
		if m == nil || j == i {
			continue
		}
		for _, c := range m.Info().Children {
			if c.ReqID == reqid {
				return true
			}
		}
	}
	return false
}

// supersede does the job of that name.
func (n *Node) supersede(m *sa.Machine, s sa.Supersede) []string {
	for _, o := range n.Live() {
		if s.Twin.Is(o) {
			n.later = append(n.later, later{m.ID(), sa.Terminate{}})
			return nil
		}
	}
	for i, old := range n.Sessions {
		if old != nil && old.ID() == s.Session {
			missing := m.Missing(old)
			if len(missing) == 0 {
				n.step(i, sa.Superseded{})
			}
			return missing
		}
	}
	return nil
}

func (n *Node) perform(i int, spec sa.Spec) (any, error) {
	if n.Fail != nil {
		if err := n.Fail(spec); err != nil {
			return nil, err
		}
	}
	switch s := spec.(type) {
	case sa.ReserveSPI:
		s.Min, s.Max = sa.ChildSPIRange(1, 0)
		s.CPI = s.CPI && !n.NoCPI
		return s.Reserve(n.DP)
	case sa.AskChild:
		n.nextUniq++
		req := s.ReqID
		if req == 0 {
			id := s // one request id for one identity, as the registry has it
			id.Keep = 0
			if req = s.Keep; req == 0 {
				req = n.reqids[id]
			}
			if req == 0 {
				n.lastReq++
				req = n.lastReq
				n.reqids[id] = req
			}
		}
		ids := sa.ChildIDs{UniqueID: n.nextUniq, ReqID: req, Shared: n.shared(i, req)}
		if s.Interface != "" {
			ids.IfIndex = n.Interfaces[s.Interface]
			if ids.IfIndex == 0 {
				return nil, fmt.Errorf("no interface %s", s.Interface)
			}
		}
		return ids, nil
	case sa.AskLease:
		g := n.Pools.Take(s.Ask)
		n.leases[i] = append(n.leases[i], g)
		return sa.Leases{Addrs: g.Addrs}, nil
	case sa.Network:
		return nil, n.Net.Want(s.Owner, s.Wish)
	case sa.HandOver:
		for j, m := range n.Sessions {
			if m != nil && s.Heir.Is(m) {
				n.step(j, sa.TakeOver{})
			}
		}
		return nil, nil
	case sa.Supersede:
		return n.supersede(n.Sessions[i], s), nil
	case sa.Kernel:
		return nil, n.DP.Apply(s.Ops)
	case sa.Arm:
		n.Forgot = append(n.Forgot, s.Forget...)
		return nil, s.Perform(n.DP)
	case sa.AskContact:
		return n.contact(s.Contact, false), nil
	case sa.AskUnique:
		return s.Policy != sa.UniquenessKeep || !n.contact(s.Contact, true), nil
	case sa.LinkMTU:
		return n.Link, nil
	case sa.QueryUse:
		var uses []sa.Use
		for _, k := range s.Keys {
			if st, err := n.DP.QuerySA(k); err == nil {
				uses = append(uses, sa.Use{Key: k, Last: st.LastUsed})
			}
		}
		return uses, nil
	}
	return sa.Perform(spec, n.Env.Creds, n.w.rnd)
}

// Deliver takes one datagram off the network; false when none is under way.
func (w *World) Deliver() bool {
	if len(w.queue) == 0 {
		return false
	}
	p := w.queue[0]
	w.queue = w.queue[1:]
	arrive := []Packet{p}
	if w.Mangle != nil {
		arrive = w.Mangle(p)
	}
	for _, q := range arrive {
		for _, n := range w.nodes {
			if n.Addr == q.To.Addr() || slices.Contains(n.Also, q.To.Addr()) {
				n.receive(q)
			}
		}
	}
	return true
}

// receive finds the session of a datagram as an engine does.
func (n *Node) receive(p Packet) {
	h, err := wire.ParseHeader(p.Data)
	if err != nil {
		return
	}
	own := sa.OwnSPI(h)
	ev := sa.Received{Local: p.To, Remote: p.From, Data: p.Data}
	for i, m := range n.Sessions {
		if m == nil {
			continue
		}
		if m.Owns(own) || own == 0 && !m.Initiator() && m.PeerSPI() == h.SPIi {
			n.step(i, ev)
			return
		}
	}
	if n.Refuses && !h.IsResponse() && h.Exchange != wire.ExchangeIKESAInit {
		n.w.queue = append(n.w.queue, Packet{From: p.To, To: p.From, Data: sa.RefuseUnknown(n.Env.Settings, 0, h)})
		return
	}
	if own != 0 || !h.IsInitiator() || h.IsResponse() {
		return
	}
	n.lastID++
	m := sa.NewResponder(n.lastID, sa.NewSPI(uint8(n.lastID), 0, n.w.rnd), p.To, p.From)
	m.OnStep(n.w.OnStep)
	n.Sessions = append(n.Sessions, m)
	n.step(len(n.Sessions)-1, ev)
}

// Inject puts a datagram on the network.
func (w *World) Inject(p Packet) { w.queue = append(w.queue, p) }

// Settle delivers until the network is quiet, at most limit datagrams.
func (w *World) Settle(limit int) {
	for i := 0; i < limit && w.Deliver(); i++ {
	}
}

// Advance moves the clock and lets what is due happen, step by step.
func (w *World) Advance(d time.Duration) {
	end := w.Now.Add(d)
	for {
		w.Settle(1000)
		next := end
		for _, n := range w.nodes {
			for _, m := range n.Sessions {
				if m != nil && !m.Deadline().IsZero() && m.Deadline().Before(next) {
					next = m.Deadline()
				}
			}
		}
		if next.After(w.Now) {
			w.Now = next
		}
		due := false
		for _, n := range w.nodes {
			for i, m := range n.Sessions {
				if m != nil && !m.Deadline().IsZero() && !m.Deadline().After(w.Now) {
					due = true
					n.step(i, sa.Tick{})
				}
			}
		}
		if !due && !w.Now.Before(end) {
			return
		}
	}
}

// Live are the sessions that have not ended.
func (n *Node) Live() []*sa.Machine {
	var out []*sa.Machine
	for _, m := range n.Sessions {
		if m != nil {
			out = append(out, m)
		}
	}
	return out
}

// Find returns the last published event of type T.
func Find[T event.Event](n *Node) (T, bool) {
	for i := len(n.Events) - 1; i >= 0; i-- {
		if e, ok := n.Events[i].(T); ok {
			return e, true
		}
	}
	var zero T
	return zero, false
}
