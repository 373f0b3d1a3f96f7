package engine

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"espalier/dataplane"
	"espalier/ike/engine/sockets"
	"espalier/ike/sa"
)

// A trap is a child's policies without SA: the kernel reports the first packet
// that meets them and drops what follows until the SA is there. A report walks
//
//	idle ─► waiting ─► trying ─► pausing ─► idle
//
// so that many packets are one attempt, whichever shard it falls to. The policies
// stand beneath those of the CHILD SA and show again when that goes. The kernel's
// record of the packet keeps it from reporting another one, for
// net.core.xfrm_acq_expires seconds, unless an SA takes its place: the end of a pause
// removes it.
type traps struct {
	mu      sync.Mutex
	ctx     context.Context // nil: nothing is installed or tried any more
	byName  map[ChildName]*trap
	byKey   map[dataplane.PolicyKey][]*trap // by their outbound policies
	waiting []*trap
	running int
	ignored atomic.Uint64 // reports that ask for nothing new
	dropped atomic.Uint64 // reports beyond the bounds
	// The bounds of either.
	maxAttempts, maxWaiting int

	tries map[ChildName]*trapTry // to install one that has no address yet
	// last is closed when the youngest trap has been tried once: request ids are
	// given in the order in which traps are asked for.
	last <-chan struct{}
	wg   sync.WaitGroup

	slots chan struct{} // attempts to install that resolve at the same time
	turns turns
}

// trapTry is the installing of a trap.
type trapTry struct {
	ctx    context.Context
	cancel context.CancelFunc
	wanted bool // by the configuration
	again  bool // something changed meanwhile
}

type trap struct {
	name     ChildName
	t        *sa.Trap
	from     trapSource // when it was last settled
	grant    grant
	policies []dataplane.Policy
	wanted   bool // by the configuration's start_action; else by hand, or by dpd_action or close_action
	state    trapState
	packet   *sa.Packet // of the report that is being worked on
	failures int
	missed   bool // a report came while an earlier one was being worked on
	gone     bool
	timer    *time.Timer // pausing
}

// trapSource is what a trap follows from, addresses aside.
type trapSource struct {
	conn         *sa.Connection
	maxSelectors int
	routes       bool // install_routes
}

func (c *config) trapSource(conn *sa.Connection) trapSource {
	return trapSource{conn, c.settings.MaxSelectors, c.settings.InstallRoutes}
}

// trapRoutes is added to a trap's unique id where the owner of its routes is
// asked for; sessions count from 1.
const trapRoutes = 1 << 62

type trapState uint8

const (
	trapIdle trapState = iota
	trapWaiting
	trapTrying
	trapPausing
)

// Bounds of what packets can set off.
const (
	maxAcquireAttempts = 256   // under way at the same time
	maxAcquiresWaiting = 16384 // for one of those; what is beyond is dropped, and reported by the kernel again when its record expires
)

// trapRefresh is how often the addresses of traps are settled anew.
const trapRefresh = hostsRefresh

func (t *traps) begin(ctx context.Context) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.ctx, t.slots = ctx, make(chan struct{}, startsAtOnce)
	t.byName, t.byKey = map[ChildName]*trap{}, map[dataplane.PolicyKey][]*trap{}
	t.tries = map[ChildName]*trapTry{}
	t.maxAttempts, t.maxWaiting = maxAcquireAttempts, maxAcquiresWaiting
}

// endTraps stops all attempts and takes the traps out of the data plane.
func (e *Engine) endTraps() {
	t := &e.traps
	t.mu.Lock()
	t.ctx, t.waiting = nil, nil
	for _, try := range t.tries {
		try.cancel()
	}
	for _, x := range t.byName {
		if x.timer != nil && x.timer.Stop() {
			t.wg.Done()
		}
	}
	t.mu.Unlock()
	t.wg.Wait()
	for n := range t.byName { // nobody else is left
		if err := e.uninstallTrap(n); err != nil {
			e.log.Error().Str("conn", n.Conn).Str("child", n.Child).Err(err).Msg("trap could not be removed")
		}
	}
}

// trapNames are the children that the configuration wants trapped.
func trapNames(conns []*sa.Connection) []ChildName {
	var out []ChildName
	for _, c := range conns {
		for _, ch := range c.Children {
			if ch.Trap {
				out = append(out, ChildName{c.Name, ch.Name})
			}
		}
	}
	return out
}

// applyTraps brings the traps in line with the configuration: those that it no
// longer wants go, those that it wants are installed or follow what changed.
func (e *Engine) applyTraps(conns []*sa.Connection) {
	wanted := map[ChildName]bool{}
	names := trapNames(conns)
	for _, n := range names {
		wanted[n] = true
	}
	cfg := e.config.Load()
	set := cfg.set
	t := &e.traps
	var gone, stay []ChildName
	settled := map[ChildName]bool{}
	t.mu.Lock()
	for n, x := range t.byName {
		c := set.ByName(n.Conn)
		switch {
		case wanted[n] && x.wanted && x.from == cfg.trapSource(c):
			settled[n] = true // connections are not changed once they are made
		case wanted[n]:
		case c == nil || c.Child(n.Child) == nil || x.wanted:
			gone = append(gone, n)
		default:
			stay = append(stay, n)
		}
	}
	for n, try := range t.tries {
		if c := set.ByName(n.Conn); c == nil || c.Child(n.Child) == nil || try.wanted && !wanted[n] {
			try.cancel()
		}
	}
	t.mu.Unlock()
	for _, n := range gone {
		if err := e.uninstallTrap(n); err != nil {
			e.log.Error().Str("conn", n.Conn).Str("child", n.Child).Err(err).Msg("trap could not be removed")
		}
	}
	for _, n := range names {
		if !settled[n] {
			e.trap(n)
		}
	}
	for _, n := range stay {
		e.trap(n)
	}
}

// trap installs the child's trap and returns at once, for dpd_action and
// close_action too; one that is installed already is compared with the
// configuration and the addresses of now. Without a way to the peer, or an
// address for its name, it goes on trying.
func (e *Engine) trap(n ChildName) {
	t := &e.traps
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.ctx == nil {
		return
	}
	if try := t.tries[n]; try != nil && try.ctx.Err() == nil {
		try.again = true
		return
	}
	ctx, cancel := context.WithCancel(t.ctx)
	c := e.config.Load().set.ByName(n.Conn)
	try := &trapTry{ctx: ctx, cancel: cancel, wanted: c != nil && c.Child(n.Child) != nil && c.Child(n.Child).Trap}
	t.tries[n] = try
	ahead, first := t.last, make(chan struct{})
	tried := sync.OnceFunc(func() { close(first) })
	if c == nil || !c.Named() { // who waits for a name holds nobody up
		t.last = first
	}
	t.wg.Go(func() {
		defer cancel()
		defer tried()
		if ahead != nil {
			select {
			case <-ahead:
			case <-ctx.Done():
			}
		}
		for again := true; again; {
			e.trapUntilInstalled(ctx, n, tried)
			t.mu.Lock()
			if again = try.again && ctx.Err() == nil; again {
				try.again = false
			} else if t.tries[n] == try {
				delete(t.tries, n)
			}
			t.mu.Unlock()
		}
	})
}

// trapUntilInstalled tries to install a trap; tried hears that it was tried once.
func (e *Engine) trapUntilInstalled(ctx context.Context, n ChildName, tried func()) {
	pause := firstPause
	for ctx.Err() == nil {
		err := e.installTrap(ctx, n)
		tried()
		if err == nil || ctx.Err() != nil {
			return
		}
		log := e.log.Warn().Str("conn", n.Conn).Str("child", n.Child).Err(err)
		if !sockets.Unreachable(err) && !errors.Is(err, errLookup) {
			log.Msg("trap not installed")
			return
		}
		log.Dur("again_in", pause).Msg("trap not installed: no way to the peer now")
		select {
		case <-time.After(pause):
		case <-ctx.Done():
		}
		pause = min(2*pause, longestPause)
	}
}

// Install puts a child's trap, or a shunt, into the data plane.
// Errors: ErrNotFound, ErrStopping; else what keeps it from being installed.
func (e *Engine) Install(ctx context.Context, conn, child string) error {
	if e.started.Load() == nil || e.stopping.Load() {
		return ErrStopping
	}
	c := e.config.Load().set.ByName(conn)
	if c != nil && c.ShuntOf(child) != nil {
		return e.standing.override(e, ChildName{conn, child}, true)
	}
	return e.installTrap(ctx, ChildName{conn, child})
}

// Uninstall takes a child's trap, or a shunt, out of the data plane. A CHILD SA
// of the child stays. Errors: ErrNotFound when there is none, ErrStopping.
func (e *Engine) Uninstall(conn, child string) error {
	if e.started.Load() == nil || e.stopping.Load() {
		return ErrStopping
	}
	c := e.config.Load().set.ByName(conn)
	if c != nil && c.ShuntOf(child) != nil {
		return e.standing.override(e, ChildName{conn, child}, false)
	}
	t := &e.traps
	n := ChildName{conn, child}
	t.mu.Lock()
	if try := t.tries[n]; try != nil {
		try.cancel()
	}
	t.mu.Unlock()
	return e.uninstallTrap(n)
}

func (t *traps) count() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.byName)
}

// enter and leave keep the maps; the caller holds mu.
func (t *traps) enter(x *trap) {
	t.byName[x.name] = x
	for i := range x.policies {
		if p := &x.policies[i]; p.Dir == dataplane.Out {
			t.byKey[p.PolicyKey] = append(t.byKey[p.PolicyKey], x)
		}
	}
}

func (t *traps) leave(x *trap) {
	x.gone = true
	if t.byName[x.name] == x {
		delete(t.byName, x.name)
	}
	if x.timer != nil && x.timer.Stop() {
		x.timer = nil
		t.wg.Done()
	}
	for i := range x.policies {
		k := x.policies[i].PolicyKey
		kept := t.byKey[k][:0]
		for _, o := range t.byKey[k] {
			if o != x {
				kept = append(kept, o)
			}
		}
		if len(kept) > 0 {
			t.byKey[k] = kept
		} else {
			delete(t.byKey, k)
		}
	}
}

// acquired takes the kernel's report of a packet that has no SA. It never waits.
func (e *Engine) acquired(ev *dataplane.Acquire) {
	t := &e.traps
	t.mu.Lock()
	defer t.mu.Unlock()
	var x *trap
	for _, o := range t.byKey[ev.Policy] {
		if o.grant.ids.ReqID == ev.ReqID {
			x = o
		}
	}
	switch {
	case t.ctx == nil || x == nil || x.state != trapIdle:
		t.ignored.Add(1)
		if x != nil {
			x.missed = true
		}
		return
	case len(t.waiting) >= t.maxWaiting:
		t.dropped.Add(1)
		return
	}
	x.packet, x.state, x.missed = sa.PacketOf(ev.Packet), trapWaiting, false
	t.waiting = append(t.waiting, x)
	e.attemptTraps()
}

// attemptTraps begins what waits, as far as the bound permits; the caller holds mu.
func (e *Engine) attemptTraps() {
	t := &e.traps
	for t.ctx != nil && t.running < t.maxAttempts && len(t.waiting) > 0 {
		x, ctx := t.waiting[0], t.ctx
		t.waiting[0] = nil
		t.waiting = t.waiting[1:]
		x.state = trapTrying
		t.running++
		t.wg.Go(func() { e.attemptTrap(ctx, x) })
	}
}

// attemptTrap brings up the CHILD SA that a packet asked for and waits for what
// becomes of it.
func (e *Engine) attemptTrap(ctx context.Context, x *trap) {
	log := e.log.With().Str("conn", x.name.Conn).Str("child", x.name.Child).Logger()
	up, _, err := e.isUp(ctx, x.name)
	settled := false
	if err == nil && !up {
		log.Info().Stringer("local", x.packet.Local).Stringer("remote", x.packet.Remote).Msg("a packet asks for the CHILD SA")
		if err = e.initiate(ctx, x.name.Conn, x.name.Child, x.packet, false); err == nil {
			// An SA with the request id has taken the place of the kernel's record.
			there, reqid, _ := e.isUp(ctx, x.name)
			settled = there && reqid == x.grant.ids.ReqID
		}
	}
	t := &e.traps
	t.mu.Lock()
	defer t.mu.Unlock()
	t.running--
	e.attemptTraps()
	if t.ctx == nil || x.gone {
		return
	}
	switch {
	case err != nil:
		x.failures++
	case up: // for a packet that its selectors do not cover
		t.ignored.Add(1)
		x.failures++
	default:
		x.failures = 0
	}
	pause := firstPause << min(max(x.failures-1, 0), 10)
	pause = min(pause, longestPause)
	if err != nil {
		log.Warn().Err(err).Dur("again_after", pause).Msg("the CHILD SA that a packet asked for did not come up")
	}
	x.state = trapPausing
	t.wg.Add(1)
	x.timer = time.AfterFunc(pause, func() {
		defer t.wg.Done()
		t.mu.Lock()
		drop := !settled || x.missed
		// Idle first: a report that follows from the drop must find it so.
		x.state, x.packet, x.timer = trapIdle, nil, nil
		t.mu.Unlock()
		if drop {
			e.dropLarval(x)
		}
	})
}

// isUp reports whether a CHILD SA of the child stands, and its request id.
func (e *Engine) isUp(ctx context.Context, n ChildName) (up bool, reqid uint32, err error) {
	for _, s := range e.shards {
		err := s.ask(ctx, func(s *shard) {
			for x := range s.byConn.of(n.Conn) {
				if x.m.IsEstablished() {
					reqid, up = x.m.InKernel(n.Child)
				}
				if up {
					return
				}
			}
		})
		if up || err != nil {
			return up, reqid, err
		}
	}
	return false, 0, nil
}

// followAddresses settles the addresses of all policies without SA anew, now and
// then: a peer's name may mean another address.
func (e *Engine) followAddresses(ctx context.Context) {
	tick := time.NewTicker(trapRefresh)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			e.readdress()
		}
	}
}

// readdress is what a change of addresses, names or routes asks of the policies
// without SA.
func (e *Engine) readdress() {
	e.logIf(e.applyStanding(), "policies could not all be brought in line with the addresses")
	e.traps.mu.Lock()
	names := make([]ChildName, 0, len(e.traps.byName))
	for n := range e.traps.byName {
		names = append(names, n)
	}
	e.traps.mu.Unlock()
	for _, n := range names {
		e.trap(n)
	}
}
