package engine

import (
	"net/netip"
	"sync"

	"espalier/ike/wire"
)

// Bounds of what the network can put into one shard's inbox.
const (
	maxMessages     = 2048
	maxMessageBytes = 8 << 20
	maxInits        = 512 // IKE_SA_INIT requests, apart so that a flood cannot displace sessions
	initsPerTurn    = 32  // so that a flood cannot delay sessions for long
)

// message is one IKE message on its way to a shard. The buffer returns to the
// pool when the shard is done with it.
type message struct {
	local, remote netip.AddrPort
	header        wire.Header
	buf           *[]byte
}

// result is what a job brought back.
type result struct {
	sess  *session
	id    uint32
	value any
	err   error
	count bool // in counters.busy
}

// inbox is what waits for a shard. Results and control calls are always taken:
// their number is bounded by what was asked. Messages are taken up to the
// bounds. It never blocks either side.
type inbox struct {
	wake chan struct{} // readable when something may be waiting

	mu       sync.Mutex
	results  []result
	calls    []func(*shard)
	messages []message
	inits    []message
	bytes    int
	pool     *sync.Pool // of *[]byte
}

// batch is what a shard takes out in one turn; its slices are reused.
type batch struct {
	results  []result
	calls    []func(*shard)
	messages []message
	inits    []message
}

func newInbox(pool *sync.Pool) *inbox {
	return &inbox{wake: make(chan struct{}, 1), pool: pool}
}

func (in *inbox) signal() {
	select {
	case in.wake <- struct{}{}:
	default:
	}
}

func (in *inbox) putResult(r result) {
	in.mu.Lock()
	in.results = append(in.results, r)
	in.mu.Unlock()
	in.signal()
}

func (in *inbox) call(f func(*shard)) {
	in.mu.Lock()
	in.calls = append(in.calls, f)
	in.mu.Unlock()
	in.signal()
}

// putMessage copies the message in unless a bound is reached.
func (in *inbox) putMessage(local, remote netip.AddrPort, h wire.Header, data []byte) bool {
	in.mu.Lock()
	defer in.mu.Unlock()
	if len(in.messages) >= maxMessages || in.bytes+len(data) > maxMessageBytes {
		return false
	}
	in.messages = append(in.messages, in.fill(local, remote, h, data))
	in.signal()
	return true
}

// putInit is putMessage for a request that opens a session.
func (in *inbox) putInit(local, remote netip.AddrPort, h wire.Header, data []byte) bool {
	in.mu.Lock()
	defer in.mu.Unlock()
	if len(in.inits) >= maxInits || in.bytes+len(data) > maxMessageBytes {
		return false
	}
	in.inits = append(in.inits, in.fill(local, remote, h, data))
	in.signal()
	return true
}

func (in *inbox) fill(local, remote netip.AddrPort, h wire.Header, data []byte) message {
	in.bytes += len(data)
	buf := in.pool.Get().(*[]byte)
	*buf = append((*buf)[:0], data...)
	return message{local, remote, h, buf}
}

// take moves what waits into b, of IKE_SA_INIT requests only a turn's share,
// and reports whether it took anything.
func (in *inbox) take(b *batch) bool {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.results, b.results = b.results[:0], in.results
	in.calls, b.calls = b.calls[:0], in.calls
	in.messages, b.messages = b.messages[:0], in.messages
	n := min(len(in.inits), initsPerTurn)
	b.inits = append(b.inits[:0], in.inits[:n]...)
	in.inits = append(in.inits[:0], in.inits[n:]...)
	for _, list := range [2][]message{b.messages, b.inits} {
		for _, m := range list {
			in.bytes -= len(*m.buf)
		}
	}
	return len(b.results)+len(b.calls)+len(b.messages)+len(b.inits) > 0
}

// recycle returns a message's buffer; big ones are left to the collector.
func (in *inbox) recycle(m message) {
	if cap(*m.buf) <= 4096 {
		in.pool.Put(m.buf)
	}
}

func newBufferPool() *sync.Pool {
	return &sync.Pool{New: func() any {
		b := make([]byte, 0, 1500)
		return &b
	}}
}
