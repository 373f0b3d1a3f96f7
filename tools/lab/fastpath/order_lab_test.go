//go:build lab

package fastpath

import (
	"context"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"sync"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"espalier/bpf"
	"espalier/dataplane"
	"espalier/dataplane/flow"
	"espalier/tools/bench/esp"
	"espalier/tools/lab/topo"
)

// numbers is how many inner packets a stream has: each bears its number.
const numbers = 1 << 12

// numbered are the inner packets of a stream, by their turn. Their UDP has no checksum (RFC 768).
func numbered(t testing.TB, n *topo.Net, stream uint16, size int) [][]byte {
	t.Helper()
	const ip, udp = 20, 8
	first := innerPacket(t, n, topo.IPv4, stream, size)
	binary.BigEndian.PutUint16(first[ip+6:], 0)
	out := make([][]byte, numbers)
	for i := range out {
		out[i] = append([]byte(nil), first...)
		binary.BigEndian.PutUint32(out[i][ip+udp:], uint32(i))
	}
	return out
}

// order is what the client got of a stream.
type order struct {
	got, late int
	missing   int // numbers that were skipped, late ones among them
	last      uint32
}

// orderSink reads numbered packets at a client.
type orderSink struct {
	mu      sync.Mutex
	streams map[uint16]*order
}

func newOrderSink(t testing.TB, n *topo.Net) *orderSink {
	t.Helper()
	return newOrderSinkAt(t, n.GW1, n.Client1)
}

func newOrderSinkAt(t testing.TB, gateway, client *topo.Host) *orderSink {
	t.Helper()
	// What the client has no time for waits; else it would look as if the gateway had lost it.
	must(t, os.WriteFile("/proc/sys/net/core/netdev_max_backlog", []byte("100000"), 0o644))
	s := &orderSink{streams: map[uint16]*order{}}
	must(t, client.Do(func() error {
		c, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(client.Inner(topo.IPv4), sinkPort)))
		if err != nil {
			return err
		}
		t.Cleanup(func() { c.Close() })
		raw := need[syscall.RawConn](t)(c.SyscallConn())
		var bufErr error
		if err := raw.Control(func(fd uintptr) { bufErr = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 128<<20) }); err != nil {
			return err
		}
		go s.read(raw)
		return bufErr
	}))
	must(t, gateway.Ping(t.Context(), client.Inner(topo.IPv4), 1))
	return s
}

// read takes what has come now and then, many packets a system call. In User-Mode Linux on a busy machine a system call takes 100 us: reading
// each packet by itself, and being woken for it, kept the CPUs busier than the gateway did.
func (s *orderSink) read(c syscall.RawConn) {
	b := newBatch()
	for {
		err := c.Read(func(fd uintptr) bool {
			for n := b.receive(fd); n > 0; n = b.receive(fd) {
				for i := range n {
					s.take(b.stream(i), binary.BigEndian.Uint32(b.head[i][:]))
				}
			}
			return true
		})
		if err != nil {
			return
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// batch is where a system call puts packets: of each, whom it is from and its first octets, the number.
type batch struct {
	vec  []mmsghdr
	iov  []unix.Iovec
	from []unix.RawSockaddrInet4
	head [][4]byte
}

// mmsghdr is struct mmsghdr of <sys/socket.h>.
type mmsghdr struct {
	hdr unix.Msghdr
	_   uint64 // how long it was
}

func newBatch() *batch {
	const size = 64
	b := &batch{vec: make([]mmsghdr, size), iov: make([]unix.Iovec, size), from: make([]unix.RawSockaddrInet4, size), head: make([][4]byte, size)}
	for i := range b.vec {
		b.iov[i] = unix.Iovec{Base: &b.head[i][0], Len: uint64(len(b.head[i]))}
		b.vec[i].hdr = unix.Msghdr{Name: (*byte)(unsafe.Pointer(&b.from[i])), Namelen: unix.SizeofSockaddrInet4, Iov: &b.iov[i], Iovlen: 1}
	}
	return b
}

// receive takes what waits in the socket, without waiting, and says how many packets that were.
func (b *batch) receive(fd uintptr) int {
	n, _, errno := unix.RawSyscall6(unix.SYS_RECVMMSG, fd, uintptr(unsafe.Pointer(&b.vec[0])), uintptr(len(b.vec)), unix.MSG_DONTWAIT, 0, 0)
	if errno != 0 {
		return 0
	}
	return int(n)
}

// stream is the one that a packet is of: the client's port is network byte order.
func (b *batch) stream(i int) uint16 {
	return binary.BigEndian.Uint16((*[2]byte)(unsafe.Pointer(&b.from[i].Port))[:])
}

func (s *orderSink) take(stream uint16, number uint32) {
	s.mu.Lock()
	defer s.mu.Unlock()
	o := s.streams[stream]
	if o == nil {
		o = &order{last: numbers - 1}
		s.streams[stream] = o
	}
	o.got++
	if step := (number - o.last) % numbers; step == 0 || step > numbers/2 {
		o.late++
	} else {
		o.missing += int(step) - 1
		o.last = number
	}
}

// sum is that of all streams.
func (s *orderSink) sum() (o order) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, x := range s.streams {
		o.got, o.late, o.missing = o.got+x.got, o.late+x.late, o.missing+x.missing
	}
	return o
}

// numberedSAs installs SAs, and returns the generator of their packets. Their replay window is wider than a CPU's queue.
func numberedSAs(g *gateway, count, size int) ([]dataplane.SA, *esp.Generator) {
	g.Helper()
	must(g, g.x.Apply(allowInbound(g.n.GW1, g.n.GW2, topo.IPv4)))
	var sas []dataplane.SA
	var streams []esp.Stream
	for i := range count {
		sa := inbound(g.n, gcm, topo.IPv4, spiOf(i), 4096)
		must(g, g.x.Apply([]dataplane.Op{dataplane.InstallSA{SA: sa}}))
		sas = append(sas, sa)
		streams = append(streams, esp.Stream{SA: sa, Inner: numbered(g, g.n, uint16(i), size)})
	}
	return sas, need[*esp.Generator](g)(esp.NewGenerator(fromWire(g, g.n), esp.Mix{}, streams...))
}

// delivered waits until the client has all that the programs counted, and says what it got.
func (s *orderSink) delivered(t testing.TB, counted func() uint64) order {
	t.Helper()
	until(t, "packets at the client", func() (bool, string) {
		o, want := s.sum(), counted()
		return uint64(o.got) == want, fmt.Sprintf("%d packets counted, the client got %d; %d skipped, %d late", want, o.got, o.missing, o.late)
	})
	return s.sum()
}

// settled waits until nothing comes any more.
func (s *orderSink) settled(t testing.TB) order {
	t.Helper()
	last := -1
	until(t, "the last packets at the client", func() (bool, string) {
		was := last
		last = s.sum().got
		time.Sleep(300 * time.Millisecond)
		return s.sum().got == last && was == last, fmt.Sprintf("%d, then %d packets", was, last)
	})
	return s.sum()
}

// TestMovesKeepOrder moves SAs, and then groups of clear connections, to and fro every few milliseconds while their packets come: each arrives,
// none after a later one of its SA or connection.
func TestMovesKeepOrder(t *testing.T) {
	if *tunerLoad == 0 {
		t.Skip("runs where -tuner-load is given, as make fast-test and make soak do; on emulated CPUs it has run once")
	}
	const count = 8
	t.Run("SAs", func(t *testing.T) {
		g := networkOnly(t)
		sink := newOrderSink(t, g.n)
		sas, gen := numberedSAs(g, count, 200)
		g.start(" steering = auto\n tune = off")
		g.known(sas...)
		g.esp.Kill()
		m := &moving{gateway: g, table: g.steering(sas), sink: sink}
		m.run(t, packetSocket(t, g.n, 4096), gen, g.n.Wire)
	})
	t.Run("connections", func(t *testing.T) {
		g := networkOnly(t)
		g.start(" steering = auto\n tune = off")
		g.attached("flow_in", "cpu_in")
		g.tunnelOf(gcm, topo.IPv4, 4096) // sent by several CPUs, packets leave the window of 64 where a hypervisor stops one of them
		must(t, g.n.Client1.Ping(t.Context(), g.n.Client2.Inner(topo.IPv4), 1))
		g.esp.Kill()
		m := &moving{gateway: g, table: g.steering(nil)}
		ports := g.connections(&m.table, count)
		m.sink = newOrderSinkAt(t, g.n.GW2, g.n.Client2)
		m.run(t, clearSocket(t, g.n, 4096), newNumberedFlows(t, g.n, 200, ports...), g.n.Client1)
	})
}

// moving is a gateway whose SAs or groups of connections are moved.
type moving struct {
	*gateway
	table steering
	sink  *orderSink
}

// counted are the packets of them all.
func (m *moving) counted() (sum uint64) {
	for _, slot := range m.table.slots {
		sum += m.table.table.Counters(slot).Packets
	}
	return sum
}

// run moves them while packets are sent from a host, and looks at what arrives.
func (m *moving) run(t *testing.T, s esp.Sender, gen esp.Source, from *topo.Host) {
	const rate, piece = 3_000, 4 * time.Second
	shifter := flow.NewShifter(m.table.table, m.table.cpus)
	t.Cleanup(shifter.Close)
	before := m.counted()
	ctx, cancel := context.WithCancel(t.Context())
	var fill sync.WaitGroup
	fill.Go(func() { _ = s.Ring().Keep(ctx, gen) })
	moved, failed := 0, 0
	// A slow or busy machine gets more time for the moves that are expected.
	for began := time.Now(); time.Since(began) < *tunerLoad/10 || moved < 50 && time.Since(began) < *tunerLoad/10+patience; {
		sent := make(chan esp.Report, 1)
		go func() {
			defer close(sent)
			if err := from.Do(func() (err error) {
				r, err := esp.Send(t.Context(), s, esp.Pace{Count: uint64(rate * piece.Seconds()), Rate: rate, Batch: 16, CPU: 0})
				sent <- r
				return err
			}); err != nil {
				t.Error(err)
			}
		}()
		ok, no := moveAbout(t, m.table, shifter, sent)
		moved, failed = moved+ok, failed+no
	}
	cancel()
	fill.Wait()
	o := m.sink.delivered(t, func() uint64 { return m.counted() - before })
	t.Logf("%d moves, %d without a moment; %d packets at the client", moved, failed, o.got)
	if o.late > 0 || o.missing > 0 {
		t.Errorf("%d packets late, %d skipped of %d: expected each in its turn", o.late, o.missing, o.got)
	}
	if shed := m.table.table.Total(bpf.TotalShed); shed > 0 || moved < 50 {
		t.Errorf("%d moves, %d packets dropped for them; expected at least 50, and none", moved, shed)
	}
}

// numberedFlows are packets of connections from the first client to the other one, in turn, each with its number.
type numberedFlows struct {
	frames [][]byte
	turn   int
}

func newNumberedFlows(t testing.TB, n *topo.Net, size int, ports ...uint16) *numberedFlows {
	t.Helper()
	c := newClearFlows(t, n, size, ports...)
	f := &numberedFlows{}
	for range ports {
		b := need[[]byte](t)(c.Append(nil))
		binary.BigEndian.PutUint16(b[14+20+6:], 0) // no checksum
		f.frames = append(f.frames, b)
	}
	return f
}

// Append implements esp.Source.
func (f *numberedFlows) Append(dst []byte) ([]byte, error) {
	at := len(dst)
	dst = append(dst, f.frames[f.turn%len(f.frames)]...)
	binary.BigEndian.PutUint32(dst[at+14+20+8:], uint32(f.turn/len(f.frames)%numbers))
	f.turn++
	return dst, nil
}

// moveAbout moves SAs at random until the sender has sent.
func moveAbout(t *testing.T, table steering, shifter *flow.Shifter, sent <-chan esp.Report) (moved, failed int) {
	t.Helper()
	rng := rand.New(rand.NewPCG(1, 2))
	for {
		select {
		case r := <-sent:
			t.Log(r)
			return moved, failed
		case <-time.After(time.Duration(2+rng.IntN(6)) * time.Millisecond):
		}
		var shifts []flow.Shift
		for i := range 1 + rng.IntN(3) {
			slot := table.slots[(rng.IntN(4)+4*i)%len(table.slots)]
			sa, _ := table.table.Slot(slot)
			shifts = append(shifts, flow.Shift{Slot: slot, Generation: sa.Generation, To: rng.IntN(3) - 1})
		}
		for _, r := range shifter.Shift(t.Context(), shifts) {
			switch {
			case r.Err != nil:
				failed++
			case r.Waited > 0:
				moved++
			}
		}
	}
}
