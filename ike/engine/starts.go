package engine

import (
	"context"
	"errors"
	"sync"
	"time"

	"espalier/ike/engine/sockets"
	"espalier/ike/sa"
)

// starts are the children that ought to be up: those with start_action=start,
// those that dpd_action or close_action set up again, and those that somebody
// asked for without waiting. A round tries each address of the peer, its names
// looked up afresh. The first connect has as many rounds as keyingtries say, a
// child that was up before any number, with pauses that double from a second to
// a minute. While there is no way to the peer (no route, no address for its
// name) nothing was tried yet, and the engine goes on as long as it takes.
//
// A shard takes the mutex for a few lines to say how a try has ended.
type starts struct {
	mu    sync.Mutex
	ctx   context.Context
	slots chan struct{}
	want  map[ChildName]*start
	wg    sync.WaitGroup
}

// start is one of them.
type start struct {
	name    ChildName
	active  bool // a try is under way, or the next one waits
	forever bool // tried until it is up
	try     int  // counts tries, so that the answer of an earlier one is known
	way     int  // which of the ways to the peer is next
	ways    int
	rounds  int
	pause   time.Duration // before the next round
	up      time.Time     // when it last came up
	timer   *time.Timer   // of the pause
	cancel  context.CancelFunc
}

const (
	startsAtOnce  = 16 // attempts that may resolve and begin at the same time
	firstPause    = time.Second
	longestPause  = time.Minute
	lookupTimeout = 10 * time.Second
	// steadyTime is how long a child must have been up to be set up again without
	// a pause.
	steadyTime = time.Minute
)

func (st *starts) begin(ctx context.Context) {
	st.mu.Lock()
	defer st.mu.Unlock()
	st.ctx, st.want, st.slots = ctx, map[ChildName]*start{}, make(chan struct{}, startsAtOnce)
}

// end stops all tries that have not begun, and waits.
func (st *starts) end() {
	st.mu.Lock()
	for _, r := range st.want {
		st.drop(r)
	}
	st.ctx = nil
	st.mu.Unlock()
	st.wg.Wait()
}

// drop forgets a start; the caller holds the mutex.
func (st *starts) drop(r *start) {
	if r.timer != nil {
		r.timer.Stop()
	}
	if r.cancel != nil {
		r.cancel()
	}
	delete(st.want, r.name)
}

// stop ends the tries for children that somebody has ended.
func (st *starts) stop(names []ChildName) {
	st.mu.Lock()
	defer st.mu.Unlock()
	for _, n := range names {
		if r := st.want[n]; r != nil {
			st.drop(r)
		}
	}
}

// stopAll ends the tries for all children of which pick says that they are
// configured no more.
func (st *starts) stopAll(pick func(ChildName) bool) {
	st.mu.Lock()
	defer st.mu.Unlock()
	for n, r := range st.want {
		if pick(n) {
			st.drop(r)
		}
	}
}

// hurry makes what waits due, since the network has changed.
func (e *Engine) hurryStarts() {
	st := &e.starts
	st.mu.Lock()
	defer st.mu.Unlock()
	for _, r := range st.want {
		if r.timer != nil && r.timer.Stop() {
			r.pause = 0
			e.schedule(r, 0)
		}
	}
}

// startChildren initiates the children of a connection that have Start, of
// those that only allows (nil: all).
func (e *Engine) startChildren(c *sa.Connection, only func(child string) bool) {
	for _, ch := range c.Children {
		if ch.Start && (only == nil || only(ch.Name)) {
			e.start(ChildName{c.Name, ch.Name}, false)
		}
	}
}

// start has a child brought up, forever as one that was up before.
func (e *Engine) start(n ChildName, forever bool) {
	st := &e.starts
	st.mu.Lock()
	defer st.mu.Unlock()
	r := st.claim(n)
	if r == nil {
		return
	}
	r.forever = r.forever || forever
	if r.active {
		return
	}
	r.active = true
	if forever && e.now().Sub(r.up) < steadyTime {
		e.pauseStart(r) // it comes and goes
		return
	}
	r.pause = 0
	e.schedule(r, 0)
}

// startNow begins a child's first try in the caller's goroutine, to say when
// there can be none.
func (e *Engine) startNow(ctx context.Context, n ChildName) error {
	st := &e.starts
	st.mu.Lock()
	r := st.claim(n)
	if r == nil {
		st.mu.Unlock()
		return ErrStopping
	}
	if r.active && (r.timer == nil || !r.timer.Stop()) {
		st.mu.Unlock()
		return nil // under way
	}
	r.active, r.timer, r.pause = true, nil, 0
	r.try++
	try := r.try
	st.mu.Unlock()
	err := e.tryStart(ctx, r, try)
	if err != nil {
		st.mu.Lock()
		defer st.mu.Unlock()
		if st.want[n] == r && r.try == try {
			st.drop(r)
		}
	}
	return err
}

// claim finds or makes the record of a child; nil when the engine stops. The
// caller holds the mutex.
func (st *starts) claim(n ChildName) *start {
	if st.ctx == nil {
		return nil
	}
	r := st.want[n]
	if r == nil {
		r = &start{name: n}
		st.want[n] = r
	}
	return r
}

// pauseStart schedules the next round after a pause that grows each time; the
// caller holds the mutex.
func (e *Engine) pauseStart(r *start) {
	r.pause = min(max(2*r.pause, firstPause), longestPause)
	e.schedule(r, r.pause)
}

// schedule sets the next try; the caller holds the mutex.
func (e *Engine) schedule(r *start, after time.Duration) {
	st := &e.starts
	r.try++
	try := r.try
	r.timer = nil
	if after <= 0 {
		e.runTry(r, try)
		return
	}
	r.timer = time.AfterFunc(after, func() {
		st.mu.Lock()
		defer st.mu.Unlock()
		if st.ctx != nil && st.want[r.name] == r && r.try == try {
			r.timer = nil
			e.runTry(r, try)
		}
	})
}

// runTry begins a try in a goroutine, which ends when the session has begun; the
// caller holds the mutex.
func (e *Engine) runTry(r *start, try int) {
	st := &e.starts
	ctx, cancel := context.WithCancel(st.ctx)
	r.cancel = cancel
	st.wg.Go(func() {
		defer cancel()
		select {
		case st.slots <- struct{}{}:
			defer func() { <-st.slots }()
		case <-ctx.Done():
			return
		}
		if err := e.tryStart(ctx, r, try); err != nil && ctx.Err() == nil {
			e.notBegun(r, try, err)
		}
	})
}

// tryStart begins or joins a session for a start.
func (e *Engine) tryStart(ctx context.Context, r *start, try int) error {
	c := e.config.Load().set.ByName(r.name.Conn)
	if c == nil || r.name.Child != "" && c.Child(r.name.Child) == nil {
		return ErrNotFound
	}
	w := &wait{up: true, child: r.name.Child, then: func(err error) { e.tried(r, try, err) }}
	_, err := e.attempt(ctx, c, w, func(ways int) int {
		e.starts.mu.Lock()
		defer e.starts.mu.Unlock()
		r.ways = ways
		return r.way
	})
	return err
}

// notBegun goes on after a try that came to no session.
func (e *Engine) notBegun(r *start, try int, err error) {
	st := &e.starts
	st.mu.Lock()
	defer st.mu.Unlock()
	if st.want[r.name] != r || r.try != try {
		return
	}
	log := e.log.Warn().Str("conn", r.name.Conn).Str("child", r.name.Child).Err(err)
	if !sockets.Unreachable(err) && !errors.Is(err, errLookup) {
		log.Msg("not initiated")
		st.drop(r)
		return
	}
	e.pauseStart(r)
	log.Dur("again_in", r.pause).Msg("no way to the peer now")
}

// tried takes what became of a try's session.
func (e *Engine) tried(r *start, try int, err error) {
	st := &e.starts
	st.mu.Lock()
	defer st.mu.Unlock()
	if st.ctx == nil || st.want[r.name] != r || r.try != try {
		return
	}
	if err == nil {
		r.active, r.forever, r.way, r.rounds, r.up = false, false, 0, 0, e.now()
		return
	}
	if r.way++; r.way < r.ways {
		e.schedule(r, 0)
		return
	}
	r.way = 0
	r.rounds++
	limit := 0
	if c := e.config.Load().set.ByName(r.name.Conn); c != nil && !r.forever {
		limit = c.KeyingTries
	}
	log := e.log.Warn().Str("conn", r.name.Conn).Str("child", r.name.Child).Int("round", r.rounds)
	if r.rounds == limit {
		log.Msg("the peer was tried as often as keyingtries say, given up")
		st.drop(r)
		return
	}
	e.pauseStart(r)
	log.Dur("again_in", r.pause).Msg("the child is not up, trying again")
}
