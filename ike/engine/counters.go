package engine

import (
	"fmt"
	"sync/atomic"
	"time"

	"espalier/ike/engine/sockets"
)

// Drop is why the engine left a message from the network aside before any
// session saw it.
type Drop uint8

// The reasons.
const (
	DropShort         Drop = iota // shorter than an IKE header
	DropVersion                   // major version is not 2
	DropLength                    // the header's length is not the datagram's
	DropSPI                       // a zero initiator SPI, or a port of zero
	DropUnknownSPI                // no session has the SPI
	DropInboxFull                 // the shard's inbox is full
	DropInitFull                  // too many IKE_SA_INIT requests wait
	DropMalformed                 // an IKE_SA_INIT request that cannot be parsed or has no nonce
	DropNoCookie                  // answered by a demand for a COOKIE
	DropBadCookie                 // a COOKIE that is not ours, answered likewise
	DropHalfOpenLimit             // too many half-open sessions
	DropPrefixLimit               // too many half-open sessions of the peer's prefix
	DropOverload                  // too many jobs wait
	DropStopping                  // the engine takes no new sessions
	dropCount
)

var dropNames = [dropCount]string{
	"short", "version", "length", "spi", "unknown-spi", "inbox-full", "init-full", "malformed",
	"cookie-demanded", "bad-cookie", "half-open-limit", "prefix-limit", "overload", "stopping",
}

func (d Drop) String() string {
	if d < dropCount {
		return dropNames[d]
	}
	return fmt.Sprintf("Drop(%d)", uint8(d))
}

// counters are the engine's, all atomic.
type counters struct {
	drops        [dropCount]atomic.Uint64
	received     atomic.Uint64 // messages handed to the front door
	sent         atomic.Uint64
	sendErrors   atomic.Uint64
	sessions     atomic.Int64 // live and lingering
	busy         atomic.Int64 // sessions and kernel jobs that a stop has to wait for
	timers       atomic.Int64
	answers      atomic.Uint64 // INVALID_IKE_SPI and INVALID_MAJOR_VERSION sent
	muted        atomic.Uint64 // those not sent for their rate
	discarded    atomic.Uint64 // messages that changed nothing in their session
	wrongTokens  atomic.Uint64 // of them, those with a wrong token of crash detection
	crashes      atomic.Uint64 // sessions ended by a peer's token
	overruns     atomic.Uint64 // of the data plane's events
	acquires     atomic.Uint64
	softExpires  atomic.Uint64
	hardExpires  atomic.Uint64
	mappings     atomic.Uint64
	established  atomic.Uint64
	keepalives   atomic.Uint64
	netChanges   atomic.Uint64
	displaced    atomic.Uint64 // sessions ended in favour of another one with the peer
	lateReserved atomic.Uint64 // SPIs that came back after their session's end
}

// Stats are the engine's numbers at one moment.
type Stats struct {
	Started  time.Time // zero before Run
	Sessions int       // half open and lingering ones included
	HalfOpen int       // of responders
	Shards   int
	Workers  int
	Idle     int // workers without a job
	// Queued are jobs that wait for a worker, KernelQueued those that wait for
	// the kernel.
	Queued, KernelQueued int
	Timers               int // sessions that wait for a deadline
	ReqIDs               int // request ids in use

	Established uint64 // sessions that reached it since the start
	Received    uint64 // messages that reached the front door
	Sent        uint64
	SendErrors  uint64
	Answers     uint64 // answers without a session: INVALID_IKE_SPI, INVALID_MAJOR_VERSION
	Muted       uint64 // answers not sent for their rate
	Discarded   uint64 // messages that a session left aside: replayed, old, not authentic
	WrongTokens uint64 // of them, those with a wrong token of quick crash detection
	Crashes     uint64 // sessions whose peer has shown that it lost them (RFC 6290)
	Drops       map[string]uint64

	Acquires, SoftExpires, HardExpires, Mappings, Overruns uint64 // events of the data plane

	AcquiresIgnored uint64 // an attempt was under way, the CHILD SA was up, or the policy is no trap's
	AcquiresDropped uint64 // too many waited
	Traps           int    // installed

	Displaced      uint64 // sessions ended in favour of another one with the peer
	Keepalives     uint64 // NAT keepalives sent
	NetworkChanges uint64 // of addresses and default routes, as Options.NetworkChanges tells

	Sockets sockets.Stats // zero with another transport
}

// Stats reads the counters; it asks no shard.
func (e *Engine) Stats() Stats {
	c := &e.counters
	s := Stats{
		Sessions: int(c.sessions.Load()), HalfOpen: int(e.reg.halfOpen.Load()),
		Shards: len(e.shards), Workers: e.workers.size, Idle: e.workers.idle(),
		Queued: e.workers.waiting(), Timers: int(c.timers.Load()), ReqIDs: e.reg.held(),
		Established: c.established.Load(), Received: c.received.Load(),
		Sent: c.sent.Load(), SendErrors: c.sendErrors.Load(),
		Answers: c.answers.Load(), Muted: c.muted.Load(), Discarded: c.discarded.Load(),
		WrongTokens: c.wrongTokens.Load(), Crashes: c.crashes.Load(), Drops: map[string]uint64{},
		Acquires: c.acquires.Load(), SoftExpires: c.softExpires.Load(), HardExpires: c.hardExpires.Load(),
		Mappings: c.mappings.Load(), Overruns: c.overruns.Load(), NetworkChanges: c.netChanges.Load(), Keepalives: c.keepalives.Load(), Displaced: c.displaced.Load(),
	}
	s.AcquiresIgnored, s.AcquiresDropped, s.Traps = e.traps.ignored.Load(), e.traps.dropped.Load(), e.traps.count()
	if t := e.started.Load(); t != nil {
		s.Started = *t
	}
	for _, sh := range e.shards {
		s.KernelQueued += sh.kernel.waiting()
	}
	for d := range dropCount {
		s.Drops[d.String()] = c.drops[d].Load()
	}
	if set, ok := e.transport.(*sockets.Set); ok {
		s.Sockets = set.Stats()
	}
	return s
}

func (e *Engine) drop(d Drop) {
	e.counters.drops[d].Add(1)
	e.tallies.dropped(d)
}
