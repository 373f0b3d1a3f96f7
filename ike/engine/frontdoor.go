package engine

import (
	"crypto/sha256"
	"encoding/binary"
	"net/netip"
	"sync"
	"time"

	"espalier/ike/engine/sockets"
	"espalier/ike/sa"
	"espalier/ike/wire"
)

// maxMajorVersion is the highest major version of IKE we speak.
const maxMajorVersion = 2

// frontDoor takes one message from the transport: what cannot be a message of
// IKEv2 goes no further, the rest goes to the inbox of the shard that owns it.
// It runs in the transport's goroutines and never blocks.
func (e *Engine) frontDoor(d sockets.Datagram) {
	e.counters.received.Add(1)
	h, err := wire.ParseHeader(d.Data)
	switch {
	case err != nil:
		e.drop(DropShort)
		return
	case h.MajorVersion() != maxMajorVersion:
		e.drop(DropVersion)
		e.answerVersion(d, h)
		return
	case uint64(h.Length) != uint64(len(d.Data)):
		e.drop(DropLength)
		return
	case h.SPIi == 0 || d.Remote.Port() == 0 || !d.Remote.IsValid():
		e.drop(DropSPI)
		return
	}
	if opensSession(h) {
		if e.stopping.Load() {
			e.drop(DropStopping)
		} else if !e.bucketShard(e.initBucket(h.SPIi, d.Remote.Addr())).inbox.putInit(d.Local, d.Remote, h, d.Data) {
			e.drop(DropInitFull)
		}
		return
	}
	if !e.bucketShard(sa.BucketOf(sa.OwnSPI(h))).inbox.putMessage(d.Local, d.Remote, h, d.Data) {
		e.drop(DropInboxFull)
	}
}

// opensSession reports whether the message is an IKE_SA_INIT request
// (RFC 7296 1.2): the only one that may come without our SPI.
func opensSession(h wire.Header) bool {
	return h.Exchange == wire.ExchangeIKESAInit && h.SPIr == 0 && h.IsInitiator() && !h.IsResponse()
}

// initBucket is the bucket of a session that an IKE_SA_INIT request opens: a
// retransmission, with a COOKIE or another key exchange or without, comes to
// the same shard. The hash is keyed, so that nobody fills one shard on purpose.
func (e *Engine) initBucket(spi wire.SPI, remote netip.Addr) uint8 {
	var b [40]byte
	copy(b[:], e.hashKey[:])
	binary.BigEndian.PutUint64(b[16:], uint64(spi))
	a := remote.As16()
	copy(b[24:], a[:])
	return sha256.Sum256(b[:])[0]
}

// answerVersion tells a peer with a higher major version which one we speak,
// at a bounded rate (RFC 7296 2.5). Responses are never answered.
func (e *Engine) answerVersion(d sockets.Datagram, h wire.Header) {
	if h.MajorVersion() < maxMajorVersion || h.IsResponse() {
		return
	}
	if !e.versions.allow(e.now()) {
		e.counters.muted.Add(1)
		return
	}
	e.counters.answers.Add(1)
	e.send(d.Local, d.Remote, sa.Refusal(h, &wire.Notify{NotifyType: wire.NotifyInvalidMajorVersion, Data: []byte{maxMajorVersion}}))
}

// message is a message for a session that should exist.
func (s *shard) message(m message) {
	x := s.sessions[sa.OwnSPI(m.header)]
	if x == nil {
		s.e.drop(DropUnknownSPI)
		s.answerUnknown(m)
		return
	}
	s.step(x, sa.Received{Local: m.local, Remote: m.remote, Data: *m.buf})
}

// answerUnknown sends INVALID_IKE_SPI for a request, at a bounded rate; a
// restarted gateway's peers learn of it the sooner (RFC 7296 1.5, 2.21.4), and
// believe it when the answer shows the token of RFC 6290.
func (s *shard) answerUnknown(m message) {
	if m.header.IsResponse() || m.header.Exchange == wire.ExchangeIKESAInit {
		return
	}
	if !s.unknown.allow(s.e.now()) {
		s.e.counters.muted.Add(1)
		return
	}
	s.e.counters.answers.Add(1)
	s.e.send(m.local, m.remote, sa.RefuseUnknown(&s.e.config.Load().settings.Settings, s.e.opts.Settings.NodeID, m.header))
}

// halfOpenKey finds the session of a repeated IKE_SA_INIT request.
type halfOpenKey struct {
	remote netip.Addr
	spi    wire.SPI // the initiator's
}

// init is an IKE_SA_INIT request: of a half-open session, or for a new one if
// load and cookie permit (RFC 7296 2.6).
func (s *shard) init(m message) {
	key := halfOpenKey{m.remote.Addr(), m.header.SPIi}
	if x := s.halfOpen[key]; x != nil {
		s.step(x, sa.Received{Local: m.local, Remote: m.remote, Data: *m.buf})
		return
	}
	e, set := s.e, &s.e.config.Load().settings
	switch {
	case e.stopping.Load():
		e.drop(DropStopping)
		return
	case e.workers.waiting() > set.MaxQueuedJobs || s.kernel.waiting() > set.MaxQueuedJobs:
		e.drop(DropOverload)
		return
	case e.reg.halfOpen.Load() >= int64(set.CookieThreshold) && !s.cookie(m):
		return
	}
	prefix := set.prefixOf(key.remote)
	if why, ok := e.reg.admit(prefix, set.MaxHalfOpen, set.MaxHalfOpenPerPrefix); !ok {
		e.drop(why)
		return
	}
	bucket := e.initBucket(key.spi, key.remote)
	spi := s.newSPI(bucket)
	x := &session{
		m: sa.NewResponder(e.reg.ikeIDs.Add(1), spi, m.local, m.remote), bucket: bucket, spi: spi,
		key: key, halfOpen: true, prefix: uint8(prefix.Bits()),
	}
	s.add(x)
	s.halfOpen[key] = x
	s.step(x, sa.Received{Local: m.local, Remote: m.remote, Data: *m.buf})
}

// cookie reports whether the request carries our cookie; if not, it is answered
// with a demand for one and nothing is kept.
func (s *shard) cookie(m message) bool {
	msg, err := wire.ParseMessage(*m.buf)
	if err != nil {
		s.e.drop(DropMalformed)
		return false
	}
	ni, ok := wire.First[*wire.Nonce](msg.Payloads)
	if !ok {
		s.e.drop(DropMalformed)
		return false
	}
	now, got := s.e.now(), sa.CookieOf(msg)
	if got != nil && s.e.cookies.accepts(now, got, ni.Data, m.remote.Addr(), msg.SPIi) {
		return true
	}
	if got == nil {
		s.e.drop(DropNoCookie)
	} else {
		s.e.drop(DropBadCookie)
	}
	s.e.send(m.local, m.remote, sa.CookieReply(msg, s.e.cookies.bake(now, ni.Data, m.remote.Addr(), msg.SPIi)))
	return false
}

// limiter is a token bucket; safe for concurrent use.
type limiter struct {
	mu     sync.Mutex
	rate   float64 // a second
	burst  float64
	tokens float64
	last   time.Time
}

func newLimiter(rate, burst float64) *limiter {
	return &limiter{rate: rate, burst: burst, tokens: burst}
}

func (l *limiter) allow(now time.Time) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if dt := now.Sub(l.last).Seconds(); dt > 0 {
		l.tokens = min(l.tokens+dt*l.rate, l.burst)
		l.last = now
	}
	if l.tokens < 1 {
		return false
	}
	l.tokens--
	return true
}
