package engine

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"math/rand/v2"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"espalier/dataplane"
	"espalier/ike/auth"
	"espalier/ike/engine/sockets"
	"espalier/ike/sa"
	"espalier/ike/sa/satest"
	"espalier/internal/event"
	"espalier/internal/secret"
)

// fabric is a network in memory between transports.
type fabric struct {
	mu   sync.Mutex
	ends map[netip.Addr]*memTransport
	// pass decides about each message; nil: all pass. Called under mu.
	pass func(from, to netip.AddrPort, data []byte) bool
	sent int
	// marked counts messages by DSCP, 0 left out.
	marked map[uint8]int
}

type memTransport struct {
	f      *fabric
	ch     chan sockets.Datagram
	closed chan struct{}
	once   sync.Once
}

func newFabric() *fabric {
	return &fabric{ends: map[netip.Addr]*memTransport{}, marked: map[uint8]int{}}
}

func (f *fabric) join(a string) *memTransport {
	t := &memTransport{f: f, ch: make(chan sockets.Datagram, 1<<14), closed: make(chan struct{})}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.ends[netip.MustParseAddr(a)] = t
	return t
}

func (f *fabric) setPass(pass func(from, to netip.AddrPort, data []byte) bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.pass = pass
}

// delay has every message take its own time, up to a bound, so that they overtake
// one another.
func (f *fabric) delay(seed uint64, most time.Duration) {
	rnd := rand.New(rand.NewPCG(seed, 5))
	f.setPass(func(from, to netip.AddrPort, data []byte) bool {
		d := sockets.Datagram{Local: to, Remote: from, Data: bytes.Clone(data)}
		end := f.ends[to.Addr()]
		time.AfterFunc(time.Duration(rnd.Int64N(int64(most))), func() { end.ch <- d })
		return false
	})
}

func (t *memTransport) Receive(fn func(sockets.Datagram)) error {
	for {
		select {
		case d := <-t.ch:
			fn(d)
		case <-t.closed:
			return nil
		}
	}
}

func (t *memTransport) SendWhole(local, remote netip.AddrPort, data []byte, _ uint8) error {
	return t.Send(local, remote, data)
}

func (t *memTransport) Send(local, remote netip.AddrPort, data []byte) error {
	t.f.mu.Lock()
	defer t.f.mu.Unlock()
	t.f.sent++
	to := t.f.ends[remote.Addr()]
	if to == nil || t.f.pass != nil && !t.f.pass(local, remote, data) {
		return nil // as a network: lost
	}
	select {
	case to.ch <- sockets.Datagram{Local: remote, Remote: local, Data: bytes.Clone(data)}:
	default:
	}
	return nil
}

func (t *memTransport) SendDSCP(local, remote netip.AddrPort, data []byte, dscp uint8) error {
	t.f.mu.Lock()
	t.f.marked[dscp]++
	t.f.mu.Unlock()
	return t.Send(local, remote, data)
}

func (t *memTransport) Close() error {
	t.once.Do(func() { close(t.closed) })
	return nil
}

// box is an engine with its data plane, in a test.
type box struct {
	*Engine
	t      *testing.T
	dp     *dataplane.Fake
	tr     *memTransport
	events *event.Subscription
	cancel context.CancelFunc
	done   chan error
	once   sync.Once
}

const (
	moonAddr = "192.0.2.1"
	sunAddr  = "192.0.2.2"
)

func testCreds() *auth.Credentials {
	b := auth.NewBuilder()
	if err := b.AddShared(secret.Bytes("correct horse battery staple"), nil, "test"); err != nil {
		panic(err)
	}
	return b.Build()
}

// newBox starts an engine at addr. change may be nil.
func newBox(t *testing.T, f *fabric, addr string, conns []*sa.Connection, change func(*Options)) *box {
	t.Helper()
	// SPIs of its own: equal ones on both sides make two CHILD SAs that no order tells apart, which chance does once in 2^64.
	seed := binary.BigEndian.Uint32(netip.MustParseAddr(addr).AsSlice()[:4])
	b := &box{t: t, dp: dataplane.NewFake(dataplane.FakeOptions{Seed: uint64(seed)}), done: make(chan error, 1)}
	b.tr = f.join(addr)
	o := Options{
		DataPlane: b.dp, Conns: conns, Creds: testCreds(), Settings: DefaultSettings(),
		Bus: new(event.Bus), Log: zerolog.New(io.Discard), Sockets: b.tr,
		Route: func(netip.Addr) (netip.Addr, error) { return netip.MustParseAddr(addr), nil },
		Addrs: func() ([]netip.Addr, error) { return []netip.Addr{netip.MustParseAddr(addr)}, nil },
	}
	if change != nil {
		change(&o)
	}
	b.events = o.Bus.Subscribe(1 << 14)
	e, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	b.Engine = e
	ctx, cancel := context.WithCancel(context.Background())
	b.cancel = cancel
	go func() { b.done <- e.Run(ctx) }()
	t.Cleanup(b.end)
	<-e.Begun()
	return b
}

// end ends the engine however the test ended.
func (b *box) end() {
	b.once.Do(func() {
		b.cancel()
		if err := <-b.done; err != nil {
			b.t.Errorf("Run: %v", err)
		}
	})
}

// stop ends the engine and checks that nothing stays.
func (b *box) stop() {
	b.t.Helper()
	b.end()
	b.holds(0, 0)
	st := b.Stats()
	if st.Sessions != 0 && b.counters.busy.Load() != 0 || st.ReqIDs != 0 {
		b.t.Errorf("after the stop: %d sessions, %d busy, %d request ids", st.Sessions, b.counters.busy.Load(), st.ReqIDs)
	}
	for _, s := range b.shards {
		if n := len(s.children) + len(s.outbound.inbound) + len(s.outbound.more) + len(s.holding); n != 0 || len(s.replaced) > len(s.byID) {
			b.t.Errorf("after the stop shard %d: %d CHILD SAs listed, %d of %d sessions that replace one", s.index, n, len(s.replaced), len(s.byID))
		}
	}
}

// holds checks what is in the kernel; reserved SPIs must be none.
func (b *box) holds(sas, policies int) {
	b.t.Helper()
	s, r, p := b.dp.Counts()
	if s != sas || r != 0 || p != policies {
		b.t.Errorf("data plane: expected %d SAs, 0 reserved, %d policies, got %d, %d, %d", sas, policies, s, r, p)
	}
}

// saw collects the events that wait, as text.
func (b *box) saw() string {
	var out strings.Builder
	for {
		r, ok := b.events.Next()
		if !ok {
			return out.String()
		}
		log := zerolog.New(&out)
		log.Log().EmbedObject(r.Event).Msg(r.Event.Message())
	}
}

func (b *box) infos() (out []sa.Info) {
	b.Sessions(func(i sa.Info) bool {
		out = append(out, i)
		return true
	})
	return out
}

// moonConn and sunConn are the two ends of one tunnel.
func moonConn(opts ...satest.Option) *sa.Connection {
	opts = append([]satest.Option{to(sunAddr)}, opts...)
	return satest.Conn("sun", "moon.example.org", "sun.example.org", "10.1.0.0/16", "10.2.0.0/16", opts...)
}

func sunConn(opts ...satest.Option) *sa.Connection {
	return satest.Conn("moon", "sun.example.org", "moon.example.org", "10.2.0.0/16", "10.1.0.0/16", opts...)
}

// to names the peer's address.
func to(addr string) satest.Option {
	return func(c *sa.Connection) {
		a := netip.MustParseAddr(addr)
		c.RemoteAddrs = []sa.AddrSpec{{Start: a, End: a}}
	}
}

func started(c *sa.Connection) { c.Children[0].Start = true }

// pair starts both ends.
func pair(t *testing.T, f *fabric, change func(*Options)) (moon, sun *box) {
	return newBox(t, f, moonAddr, []*sa.Connection{moonConn()}, change), newBox(t, f, sunAddr, []*sa.Connection{sunConn()}, change)
}

var errBoom = errors.New("boom")
