package simulator

import (
	"net/netip"
	"slices"
	"time"

	"espalier/dataplane"
	"espalier/ike/sa"
	"espalier/ike/wire"
	"espalier/internal/event"
	"espalier/internal/secret"
)

// gateway is one side: its kernel and its disk outlive the daemon, the rest
// does not.
type gateway struct {
	s      *sim
	index  int
	name   string
	conn   string              // its only connection
	addrs  []netip.Addr        // what it has; packets go out by the first
	dark   map[netip.Addr]bool // those that nothing gets through
	dp     *dataplane.Fake
	kernel kernelWatch
	disk   map[uint64][]byte
	// answered are the addresses that ever answered a request.
	answered map[netip.Addr]bool
	traps    []*trap
	lastAddr byte
	lastMove time.Time

	// The daemon.
	up       bool
	life     int // counts restarts
	env      sa.Env
	settings sa.Settings
	sessions []*session // in the order of their making
	spis     map[wire.SPI]*session
	halfOpen map[halfOpenKey]*session
	reg      registry
	contacts []contact
	lastID   uint64
	// When the kernel's queue, and the way back from it, are free: both keep
	// their order.
	kernelFree, answerFree time.Time
	hinted                 bool // a change of the network is about to be told
	hintFree               time.Time
}

type halfOpenKey struct {
	remote netip.Addr
	spi    wire.SPI
}

// session is a machine with what the shell keeps of it.
type session struct {
	g         *gateway
	m         *sa.Machine
	life      int
	gone      bool
	key       halfOpenKey
	grants    []grant
	inline    []sa.JobDone
	downSeen  bool
	spins     int
	spinsAt   time.Time
	twice     map[string]time.Time // duplicates of CHILD SAs, since when
	delivered []byte               // the message that the step is about
	heirs     []func()             // wait until it holds nothing back
}

func newGateway(s *sim, i int) *gateway {
	g := &gateway{s: s, index: i, name: [2]string{"moon", "sun"}[i], conn: [2]string{"sun", "moon"}[i],
		addrs: []netip.Addr{[2]netip.Addr{moonAddr, sunAddr}[i]}, dark: map[netip.Addr]bool{}, answered: map[netip.Addr]bool{},
		disk: map[uint64][]byte{}, settings: sa.DefaultSettings()}
	g.dp = dataplane.NewFake(dataplane.FakeOptions{Seed: s.seed*2 + uint64(i), Now: func() time.Time { return s.now }, Events: 64})
	g.kernel = kernelWatch{g: g, sas: map[dataplane.SAKey]*kernelSA{}, keys: map[string]dataplane.SAKey{}, sent: map[string]uint64{}, works: map[uint32]bool{}}
	g.settings.CPUs = s.cpus
	if s.fragment > 0 {
		g.settings.FragmentSize = s.fragment
	}
	if s.tokens {
		g.settings.CrashSecret = secret.Bytes(g.name + g.name)
	}
	g.env = sa.Env{Rand: s.bytes, Settings: &g.settings}
	g.env.Conns, g.env.Creds = s.configuration(i)
	g.boot()
	return g
}

// boot starts the daemon with nothing in its memory.
func (g *gateway) boot() {
	g.up, g.sessions, g.contacts = true, nil, nil
	g.spis, g.halfOpen = map[wire.SPI]*session{}, map[halfOpenKey]*session{}
	g.reg.reset()
	g.kernelFree, g.answerFree = time.Time{}, time.Time{}
	g.hinted = false
	g.lookAround()
}

// crash ends the daemon: what was under way in it is lost.
func (g *gateway) crash(why string) {
	if !g.up {
		return
	}
	g.s.tracef("%s  CRASH %s", g.name, why)
	g.s.res.Features["crash"]++
	for _, x := range g.sessions {
		x.gone = true
	}
	g.up, g.sessions = false, nil
	g.life++
	keep := !g.s.chance(g.s.forget)
	g.s.after(g.s.between(50*time.Millisecond, 8*time.Second), func() { g.restart(keep) })
}

// restart brings the daemon back, with what it had stored or without.
func (g *gateway) restart(keep bool) {
	s := g.s
	if g.up {
		return
	}
	if !keep {
		clear(g.disk)
		s.strict = false
		s.res.Features["restart without state"]++
	} else {
		s.res.Features["restart with state"]++
	}
	s.tracef("%s  STARTS, state kept: %v", g.name, keep)
	g.boot()
	ids := make([]uint64, 0, len(g.disk))
	for id := range g.disk {
		ids = append(ids, id)
	}
	slices.Sort(ids)
	for _, id := range ids {
		m, err := sa.Decode(g.disk[id], g.env.Conns)
		if err != nil {
			s.failf("%s: stored session %d: %v", g.name, id, err)
		}
		s.fault.decoded(g, m)
		g.adopt(m).recall()
	}
	g.traps = nil
	g.reconcile()
	g.setTraps()
	for _, x := range slices.Clone(g.sessions) {
		if !g.up || x.gone {
			return
		}
		g.env.Now = s.now
		x.perform(x.m.Resume(&g.env))
		x.drain()
		x.after()
	}
	g.tellLost()
	g.networkChanged() // who knows what became of it meanwhile
}

// tellLost tells sessions of CHILD SAs that ended in the kernel while nobody listened,
// as the engine does after events were lost.
func (g *gateway) tellLost() {
	for _, x := range slices.Clone(g.sessions) {
		for _, c := range x.m.Info().Children {
			if !c.State.InKernel() || c.State == sa.ChildSAUpdating {
				continue
			}
			if !g.kernel.has(c.Local.Addr(), c.SPIIn) || !c.InboundOnly && !g.kernel.has(c.Remote.Addr(), c.SPIOut) {
				g.s.strict = false
				x.step(sa.Expired{ChildID: c.UniqueID, Hard: true})
			}
		}
	}
}

// adopt makes the gateway the owner of a machine.
func (g *gateway) adopt(m *sa.Machine) *session {
	x := &session{g: g, m: m, life: g.life}
	g.sessions = append(g.sessions, x)
	for _, spi := range ownSPIs(m) {
		g.spis[spi] = x
	}
	x.grants = g.reg.keep(m)
	return x
}

// ownSPIs are the IKE SPIs that lead to a session.
func ownSPIs(m *sa.Machine) []wire.SPI {
	st := m.State()
	out := []wire.SPI{st.IKE.LocalSPI()}
	for _, k := range st.Others {
		out = append(out, k.LocalSPI())
	}
	return out
}

// reconcile takes out of the kernel what no session holds.
func (g *gateway) reconcile() {
	sas, policies := map[dataplane.SAKey]bool{}, map[dataplane.DeletePolicy]bool{}
	for _, x := range g.sessions {
		for _, op := range x.m.Footprint() {
			switch op := op.(type) {
			case dataplane.DeleteSA:
				sas[op.Key] = true
			case dataplane.DeletePolicy:
				policies[op] = true
			}
		}
	}
	for {
		snap, err := g.dp.List()
		if err != nil {
			g.s.failf("%s: list: %v", g.name, err)
		}
		var ops []dataplane.Op
		for _, p := range snap.Policies {
			if d := (dataplane.DeletePolicy{Key: p.PolicyKey, Owner: p.Owner}); !policies[d] {
				ops = append(ops, d)
			}
		}
		more := len(ops) > 0 // an owner below may come up
		for _, i := range snap.SAs {
			if !sas[i.SAKey] {
				ops = append(ops, dataplane.DeleteSA{Key: i.SAKey})
			}
		}
		if err := g.kernel.apply(ops); err != nil {
			g.s.failf("%s: reconcile: %v", g.name, err)
		}
		if !more {
			return
		}
	}
}

// initiate starts a session.
func (g *gateway) initiate() {
	targets := g.targets()
	local, ok := g.route()
	if !g.up || !ok || len(targets) == 0 { // what stands behind a NAT is not reached
		return
	}
	remote := targets[0]
	if len(targets) > 1 {
		remote = targets[g.s.rnd.IntN(len(targets))]
	}
	if len(g.s.gws[0].sessions)+len(g.s.gws[1].sessions) > 0 {
		g.s.strict = false
	}
	g.lastID++
	m := sa.NewInitiator(g.lastID, g.newSPI(), g.env.Conns.ByName(g.conn), "net",
		netip.AddrPortFrom(local, 500), netip.AddrPortFrom(remote, 500))
	x := g.adopt(m)
	x.step(sa.Start{})
}

func (g *gateway) newSPI() wire.SPI { return sa.NewSPI(uint8(g.lastID), 0, g.s.bytes) }

// receive finds the session of a datagram as an engine does.
func (g *gateway) receive(from, to netip.AddrPort, data []byte) {
	if !g.up {
		return
	}
	h, err := wire.ParseHeader(data)
	if err != nil {
		g.s.failf("%s: a message without header: %v", g.name, err)
	}
	own := sa.OwnSPI(h)
	x := g.spis[own]
	key := halfOpenKey{from.Addr(), h.SPIi}
	opens := h.Exchange == wire.ExchangeIKESAInit && own == 0 && h.IsInitiator() && !h.IsResponse()
	if opens {
		if x = g.halfOpen[key]; x == nil {
			g.lastID++
			x = g.adopt(sa.NewResponder(g.lastID, g.newSPI(), to, from))
			x.key = key
			g.halfOpen[key] = x
		}
	}
	if x == nil {
		if !h.IsResponse() && h.Exchange != wire.ExchangeIKESAInit {
			g.refuse(from, to, h)
		}
		return
	}
	g.s.wire.deliver(g, x, h, data)
	x.delivered = data
	x.step(sa.Received{Local: to, Remote: from, Data: slices.Clone(data)})
	x.delivered = nil
}

// refuse answers INVALID_IKE_SPI (RFC 7296 2.21.4).
func (g *gateway) refuse(from, to netip.AddrPort, h wire.Header) {
	g.s.send(g, to, from, sa.RefuseUnknown(&g.settings, 0, h), "")
}

// soonest is the session with the next deadline.
func (g *gateway) soonest() (x *session, at time.Time) {
	for _, y := range g.sessions {
		if d := y.m.Deadline(); !d.IsZero() && (x == nil || d.Before(at)) {
			x, at = y, d
		}
	}
	return x, at
}

// tick is a step for a deadline that has passed.
func (x *session) tick() {
	if !x.spinsAt.Equal(x.g.s.now) {
		x.spins, x.spinsAt = 0, x.g.s.now
	}
	if x.spins++; x.spins > 50 {
		st := x.m.State()
		x.g.s.failf("%s: session %d leaves its deadline %s in the past: %+v", x.g.name, x.m.ID(), x.m.Deadline().Sub(x.g.s.begin), st)
	}
	x.step(sa.Tick{})
}

// step gives the machine an event and performs its actions, and so on with the
// results of jobs that are done at once.
func (x *session) step(ev sa.Event) {
	if x.gone || !x.g.up || x.life != x.g.life {
		return
	}
	x.handle(ev)
	x.drain()
	x.after()
}

// drain hands the machine the results of jobs that were done at once.
func (x *session) drain() {
	for len(x.inline) > 0 && !x.gone {
		r := x.inline[0]
		x.inline = x.inline[1:]
		x.handle(r)
	}
}

func (x *session) handle(ev sa.Event) {
	g := x.g
	g.env.Now = g.s.now
	g.s.fault.before(x, ev)
	acts := x.m.Handle(&g.env, ev)
	g.s.fault.after(x, ev)
	x.perform(g.s.fault.actions(x, ev, acts))
}

// perform executes actions, all of them unless the gateway crashes on the way.
func (x *session) perform(acts []sa.Action) {
	g, s := x.g, x.g.s
	stop := len(acts) + 1
	if len(acts) > 0 && !s.calm && s.chance(s.crash) {
		stop = s.rnd.IntN(len(acts) + 1)
	}
	if stop > len(acts) {
		s.wire.step(x, acts)
	}
	for i, a := range acts {
		if i == stop {
			break
		}
		x.act(a, stop <= len(acts))
	}
	if stop <= len(acts) {
		g.crash("in the middle of a step")
	}
}

// act executes one action. doomed: the gateway is about to crash.
func (x *session) act(a sa.Action, doomed bool) {
	g := x.g
	switch a := a.(type) {
	case sa.Persist:
		g.disk[x.m.ID()] = x.m.Encode(nil)
	case sa.Send:
		g.s.wire.sent(g, x, a.Data)
		purpose := x.purpose(a.Data)
		x.crosses(purpose)
		g.s.send(g, a.Local, a.Remote, a.Data, purpose)
	case sa.Keepalive:
		if g.has(a.Local.Addr()) {
			g.s.outward(a.Local)
		}
	case sa.Job:
		x.job(a, doomed)
	case sa.Publish:
		x.observe(a.Event)
	case sa.Authenticated:
		if g.halfOpen[x.key] == x {
			delete(g.halfOpen, x.key)
		}
	case sa.Own:
		g.spis[a.SPI] = x
	case sa.Disown:
		delete(g.spis, a.SPI)
	case sa.Restart:
		g.wanted(a.Child)
	case sa.Displace:
		x.displace(a)
	case sa.Reauthenticate:
		x.reauthenticate()
	case sa.Gone:
		x.forget()
	}
}

// wanted sets a CHILD SA up again that its follow-up asks for.
func (g *gateway) wanted(child string) {
	g.s.res.Features["follow-up"]++
	life := g.life
	g.s.after(g.s.between(0, 2*time.Second), func() {
		if g.up && g.life == life {
			g.open(child)
		}
	})
}

// open brings a child up unless it is: in a session there is, or in a new one.
func (g *gateway) open(child string) {
	for _, x := range g.sessions {
		switch x.m.Phase() {
		case sa.Established:
			if !hasChild(x.m, child) {
				x.step(sa.NewChild{Child: child})
			}
			return
		case sa.Closing, sa.Cleaning, sa.Lingering:
		default:
			if x.m.Initiator() {
				return
			}
		}
	}
	g.initiate()
}

func hasChild(m *sa.Machine, name string) bool {
	st := m.State()
	return slices.ContainsFunc(st.Children, func(c sa.Child) bool {
		return c.Name == name && (c.Status == sa.ChildInstalled || c.Status == sa.ChildNegotiated)
	})
}

// forget ends the shell's knowledge of a session that is Gone.
func (x *session) forget() {
	g := x.g
	x.gone = true
	others := false
	for _, gr := range x.grants {
		others = g.reg.release(gr) || others
	}
	x.grants = nil
	if others && g.s.holds {
		g.handOver(x.m.Heir(), func() {})
	}
	g.leave(x)
	delete(g.spis, x.m.LocalSPI())
	if g.halfOpen[x.key] == x {
		delete(g.halfOpen, x.key)
	}
	g.sessions = slices.DeleteFunc(g.sessions, func(y *session) bool { return y == x })
	delete(g.disk, x.m.ID())
}

// observe takes from a machine's event what the shell and the run have to know.
func (x *session) observe(ev event.Event) {
	s := x.g.s
	switch ev := ev.(type) {
	case event.ChildDown:
		x.downSeen = true
		s.tracef("%s#%d child %d down: %s", x.g.name, x.m.ID(), ev.Child.UniqueID, ev.Reason)
	case event.ChildUp:
		s.tracef("%s#%d child %d up: in %x out %x", x.g.name, x.m.ID(), ev.Child.UniqueID, ev.Child.SPIIn, ev.Child.SPIOut)
	case event.IKERekeyed:
		s.tracef("%s#%d IKE SA rekeyed: %x/%x", x.g.name, x.m.ID(), ev.SPIi, ev.SPIr)
	case event.IKEDown:
		s.tracef("%s#%d IKE SA down: %s", x.g.name, x.m.ID(), ev.Reason)
	case event.Collision:
		a, b := string(ev.Ours), string(ev.Theirs)
		if b < a {
			a, b = b, a
		}
		s.res.Collisions[a+" / "+b]++
		if ev.Ours == event.CreateChild || ev.Theirs == event.CreateChild || s.probing {
			s.strict = false // of two new ones one goes; a rekeying in the midst of a reauthentication is newer
		}
		s.tracef("%s#%d collision: ours %s, theirs %s", x.g.name, x.m.ID(), ev.Ours, ev.Theirs)
	case event.Discarded:
		s.tracef("%s#%d discards: %s", x.g.name, x.m.ID(), ev.Reason)
	case event.Failed:
		x.downSeen = true
		s.tracef("%s#%d failed: %s %v", x.g.name, x.m.ID(), ev.Cause, ev.Facts)
		s.mayFail(x, ev)
	}
}

// mayFail judges a failure that a machine explains.
func (s *sim) mayFail(x *session, ev event.Failed) {
	switch ev.Cause {
	case event.PeerTimeout, event.HalfOpenTimeout:
		s.strict = false
		s.res.Features["peer timeout"]++
		if s.fair() && ev.Cause == event.PeerTimeout { // the other one may follow a message that came late
			s.failf("%s: %s on a network that loses nothing: %v", x.g.name, ev.Cause, ev.Facts)
		}
	case event.PeerLostIKE:
		s.strict = false
		s.res.Features["loss shown by a token"]++
		if y := s.gws[1-x.g.index].spis[x.m.PeerSPI()]; y != nil && y.m.Phase() <= sa.Established {
			s.failf("%s: %s, but the peer has it: %v", x.g.name, ev.Cause, ev.Facts)
		}
	case event.NotUnique, event.AuthenticationFailed:
		if s.unique == sa.UniquenessKeep && (ev.ByPeer || ev.Cause == event.NotUnique) {
			return // as configured
		}
		s.failf("%s: %s, by peer %v: %v", x.g.name, ev.Cause, ev.ByPeer, ev.Facts)
	default:
		s.failf("%s: %s, child %q, by peer %v: %v", x.g.name, ev.Cause, ev.ChildName, ev.ByPeer, ev.Facts)
	}
}

// fair reports whether every message arrives and everybody is there.
func (s *sim) fair() bool {
	return s.churn == 0 && s.lose == 0 && s.crash == 0 && s.res.Features["outage"] == 0 && s.res.Features["crash"] == 0 && s.slowJobs == 0
}

// after brings the shell's view up to date, as the engine does.
func (x *session) after() {
	defer x.settleHeirs()
	if x.gone && !x.downSeen {
		return
	}
	if x.downSeen {
		x.releaseGrants()
		x.downSeen = false
	}
	if !x.gone && x.g.up {
		x.watchDuplicates()
	}
}
