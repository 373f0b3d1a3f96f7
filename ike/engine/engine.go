package engine

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rs/zerolog"

	"espalier/dataplane"
	"espalier/ike/auth"
	"espalier/ike/engine/sockets"
	"espalier/ike/lease"
	"espalier/ike/sa"
	"espalier/internal/event"
)

// Engine runs the sessions of one IKE endpoint. Its exported methods are safe
// for concurrent use.
type Engine struct {
	opts      Options
	dp        dataplane.DataPlane
	bus       *event.Bus
	log       zerolog.Logger
	now       func() time.Time
	rand      io.Reader
	transport Transport
	reg       *registry
	workers   *queue
	shards    []*shard
	lacks     sa.Lacks                     // what the data plane can't do
	addrs     atomic.Pointer[[]netip.Addr] // the box's; nil: not known
	cookies   *cookieJar
	versions  *limiter // answers INVALID_MAJOR_VERSION
	hosts     *hostCache
	hashKey   [16]byte // of initBucket
	logSub    *event.Subscription

	config   atomic.Pointer[config]
	started  atomic.Pointer[time.Time]
	begun    chan struct{} // closed when Run has begun
	stopping atomic.Bool   // no new sessions
	quiet    chan struct{}

	applying sync.Mutex // orders Apply and SetPools
	pools    []*lease.Pool
	starts   starts
	turns    turns
	traps    traps
	perCPU   perCPU
	standing standing
	counters counters
	tallies  tallies
	lastUse  lastUse
}

// config is what a reload replaces as a whole.
type config struct {
	set      *sa.ConnSet
	creds    *auth.Credentials
	settings Settings
}

// New makes an engine and opens its sockets unless Options.Sockets is given.
// Nothing runs before Run, which closes them.
func New(o Options) (*Engine, error) {
	if o.DataPlane == nil {
		return nil, errors.New("engine: expected a data plane, got none")
	}
	o.Settings.complete()
	e := &Engine{
		opts: o, dp: o.DataPlane, bus: o.Bus, log: o.Log, now: o.Now, rand: o.Rand,
		transport: o.Sockets, reg: newRegistry(), versions: newLimiter(10, 20), lacks: sa.LacksOf(o.DataPlane.Features()),
		begun: make(chan struct{}), quiet: make(chan struct{}, 1),
	}
	if e.bus == nil {
		e.bus = new(event.Bus)
	}
	if e.opts.Route == nil {
		e.opts.Route = e.outside
	}
	if e.now == nil {
		e.now = time.Now
	}
	if e.rand == nil {
		e.rand = rand.Reader
	} else {
		e.rand = &lockedReader{r: o.Rand}
	}
	var seed [8]byte
	if _, err := io.ReadFull(e.rand, e.hashKey[:]); err != nil {
		return nil, fmt.Errorf("engine: source of randomness: %w", err)
	}
	e.cookies = newCookieJar(e.rand)
	e.hosts = newHostCache(o.Resolve)
	e.workers = newQueue(o.Settings.Workers, false)
	pool := newBufferPool()
	for i := range o.Settings.Shards {
		if _, err := io.ReadFull(e.rand, seed[:]); err != nil {
			return nil, fmt.Errorf("engine: source of randomness: %w", err)
		}
		e.shards = append(e.shards, newShard(e, i, newInbox(pool), binary.BigEndian.Uint64(seed[:])))
	}
	e.setConfig(o.Conns, o.Creds, o.Settings)
	e.logIf(e.applyStanding(), "policies could not all be installed")
	if e.transport == nil {
		set, err := e.openSockets()
		if err != nil {
			return nil, errors.Join(err, e.endStanding())
		}
		e.transport = set
	}
	e.logSub = e.bus.Subscribe(logRing)
	return e, nil
}

func (e *Engine) openSockets() (*sockets.Set, error) {
	so, s := e.opts.SocketOptions, &e.opts.Settings
	so.Addrs, so.Port, so.NATTPort = s.Listen, s.Port, s.NATTPort
	set, err := sockets.Open(so)
	if err != nil {
		return nil, err
	}
	for _, m := range set.Missing() {
		e.log.Warn().Str("missing", m).Msg("the kernel lacks a feature of the IKE sockets")
	}
	ike, natt := set.Ports()
	e.log.Info().Uint16("port", ike).Uint16("port_nat_t", natt).Int("inherited", len(so.Inherited)).Msg("IKE sockets open")
	return set, nil
}

func (e *Engine) setConfig(conns []*sa.Connection, creds *auth.Credentials, s Settings) {
	s.complete()
	s.CrashSecret = e.opts.CrashSecret
	e.reg.claim(conns)
	if e.opts.Network == nil {
		s.InstallRoutes = false
	}
	e.config.Store(&config{set: sa.NewConnSet(conns, e.hosts.lookup).WithPools(e.pools), creds: creds, settings: s})
	e.sayLacks(conns)
	e.tellPeers(conns)
}

// Close gives back what New took when Run will not be called.
func (e *Engine) Close() error {
	e.logSub.Close()
	return errors.Join(e.transport.Close(), e.endStanding())
}

// bucketShard is the shard that owns a bucket.
func (e *Engine) bucketShard(bucket uint8) *shard { return e.shards[int(bucket)%len(e.shards)] }

// Begun is closed when Run does what it is asked to; before that a call fails with
// ErrStopping.
func (e *Engine) Begun() <-chan struct{} { return e.begun }

// Run works until ctx ends and then stops in order: the peers are told, their
// answers are waited for as long as Settings.StopTimeout, nothing stays in the
// kernel, the sockets are closed and every goroutine has ended. It returns what
// made the sockets unreadable, or nil. It is called once.
func (e *Engine) Run(ctx context.Context) error {
	var shards, helpers sync.WaitGroup
	helperCtx, stopHelpers := context.WithCancel(context.Background())
	e.starts.begin(helperCtx)
	e.traps.begin(helperCtx)
	t := e.now()
	e.started.Store(&t) // from here on others may ask for something

	var logDone sync.WaitGroup
	logCtx, stopLog := context.WithCancel(context.Background())
	logDone.Go(func() { LogEvents(logCtx, e.logSub, e.log, e.opts.Quiet) })

	e.workers.run(&helpers)
	for _, s := range e.shards {
		s.kernel.run(&helpers)
		shards.Go(s.run)
	}
	received := make(chan error, 1)
	helpers.Go(func() { received <- e.transport.Receive(e.frontDoor) })
	helpers.Go(func() { e.watchDataPlane(helperCtx) })
	helpers.Go(func() { e.hosts.run(helperCtx) })
	e.lookAround()
	helpers.Go(func() { e.watchNetwork(helperCtx) })
	helpers.Go(func() { e.followAddresses(helperCtx) })
	e.hosts.want(e.config.Load().set.All())
	e.applyTraps(e.config.Load().set.All())
	for _, c := range e.config.Load().set.All() {
		e.startChildren(c, nil)
	}
	close(e.begun)

	var err error
	select {
	case <-ctx.Done():
	case err = <-received:
		if err == nil {
			err = errors.New("the IKE sockets were closed")
		}
		e.log.Error().Err(err).Msg("IKE sockets failed, stopping")
	}
	e.stopping.Store(true)
	e.starts.end()
	stopHelpers()
	e.endTraps()
	e.endSessions()
	e.logIf(e.endStanding(), "policies could not be removed")
	err = errors.Join(err, e.transport.Close())
	for _, s := range e.shards {
		close(s.quit)
	}
	shards.Wait()
	e.workers.close()
	for _, s := range e.shards {
		s.kernel.close()
	}
	helpers.Wait()
	stopLog()
	logDone.Wait()
	return err
}

// endSessions terminates what lives, waits for the peers' answers, and then
// insists.
func (e *Engine) endSessions() {
	e.log.Info().Int64("sessions", e.counters.sessions.Load()).Msg("stopping")
	for _, s := range e.shards {
		s.inbox.call((*shard).terminateAll)
	}
	e.waitQuiet(e.config.Load().settings.StopTimeout)
	if e.counters.busy.Load() == 0 {
		return
	}
	for _, s := range e.shards {
		s.inbox.call((*shard).abortAll)
	}
	e.waitQuiet(abortTimeout)
	if n := e.counters.busy.Load(); n != 0 {
		e.log.Error().Int64("pending", n).Msg("sessions could not be removed from the kernel in time")
	}
}

// abortTimeout is how long a stop waits for the kernel to remove what is left.
const abortTimeout = 5 * time.Second

// waitQuiet returns when no session is busy, or after d.
func (e *Engine) waitQuiet(d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	for {
		// The shards' answer orders this after what was asked of them before.
		if e.askAll(context.Background(), func(*shard) {}) == nil && e.counters.busy.Load() == 0 {
			return
		}
		select {
		case <-e.quiet:
		case <-timer.C:
			return
		}
	}
}

// settled counts a session that a stop need no longer wait for.
func (e *Engine) settled() {
	if e.counters.busy.Add(-1) == 0 && e.stopping.Load() {
		select {
		case e.quiet <- struct{}{}:
		default:
		}
	}
}

// askAll runs f in every shard and waits until all have.
func (e *Engine) askAll(ctx context.Context, f func(*shard)) error {
	for _, s := range e.shards {
		if err := s.ask(ctx, f); err != nil {
			return err
		}
	}
	return nil
}

func (e *Engine) send(local, remote netip.AddrPort, data []byte) { e.sendDSCP(local, remote, data, 0) }

// sendDSCP is send with the DSCP of a connection.
func (e *Engine) sendDSCP(local, remote netip.AddrPort, data []byte, dscp uint8) {
	var err error
	if t, ok := e.transport.(dscpTransport); ok && dscp != 0 {
		err = t.SendDSCP(local, remote, data, dscp)
	} else {
		err = e.transport.Send(local, remote, data)
	}
	e.sent(local, remote, err)
}

// sent counts a transmission.
func (e *Engine) sent(local, remote netip.AddrPort, err error) {
	if err != nil {
		// Not an event a message: retransmission takes care, the counter tells.
		e.counters.sendErrors.Add(1)
		e.log.Debug().Stringer("local", local).Stringer("remote", remote).Err(err).Msg("message not sent")
		return
	}
	e.counters.sent.Add(1)
}

func (e *Engine) logIf(err error, message string) {
	if err != nil {
		e.log.Error().Err(err).Msg(message)
	}
}

// lockedReader shares a test's source of randomness among goroutines.
type lockedReader struct {
	mu sync.Mutex
	r  io.Reader
}

func (l *lockedReader) Read(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return io.ReadFull(l.r, p)
}
