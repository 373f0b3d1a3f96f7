//go:build lab

package fastpath

import (
	"encoding/binary"
	"net/netip"
	"strconv"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"espalier/dataplane/host"
	"espalier/tools/bench/esp"
	"espalier/tools/lab/topo"
)

// BenchmarkModel measures what the tuner's simulation (dataplane/tune, model_test.go) takes the prices of packets to be, large and small ones:
// what CPU 0, which receives, has to do with one that it decrypts itself and with one that it gives away, and what the CPU has to do that gets
// it, all without what sending them costs; and how long a CPU's thread takes to wake up. The rate is one that both CPUs get through.
func BenchmarkModel(b *testing.B) {
	for _, size := range []int{innerSize, 200} {
		b.Run(strconv.Itoa(size), func(b *testing.B) {
			for b.Loop() {
				c := measureCosts(b, size)
				b.ReportMetric(1e6*c.stay, "us/packet-stays")
				b.ReportMetric(1e6*c.give, "us/packet-given")
				b.ReportMetric(1e6*c.there, "us/packet-taken")
			}
		})
	}
	b.Run("wake-up", func(b *testing.B) {
		for b.Loop() {
			b.ReportMetric(float64(wakeDelay(b).Microseconds()), "us/wake-up")
		}
	})
}

// costs are seconds of a packet: on CPU 0 when it stays there and when it is given away, and on CPU 1 then.
type costs struct{ stay, give, there float64 }

func measureCosts(b *testing.B, size int) costs {
	s := newSteeredOf(b, tunnels)
	for i := range s.streams {
		s.streams[i].Inner = [][]byte{innerPacket(b, s.n, topo.IPv4, uint16(i), size)}
	}
	sender := liveFrames(b, s.n, 4096)
	must(b, sender.Ring().Fill(s.generator(), 0))
	must(b, sender.Ring().Replay())
	pace := esp.Pace{Count: 100_000, Rate: 20_000, CPU: 0}
	drop := dropAll(b, s.gateway)
	alone0, alone1 := s.busy(pace, sender)
	must(b, drop.Close())
	s.startSteering()
	s.steer.set(b, none...)
	stay, _ := s.busy(pace, sender)
	s.steer.set(b, 1, 1, 1, 1)
	give, there := s.busy(pace, sender)
	return costs{stay - alone0, give - alone0, there - alone1}
}

// busy sends and says how many seconds of a packet both CPUs were at work.
func (s *steered) busy(pace esp.Pace, sender esp.Sender) (first, second float64) {
	s.Helper()
	before := need[[]host.CPUTime](s)(host.CPUTimes())
	got := s.decrypted()
	r := send(s, s.n, sender, pace)
	s.idle()
	after := need[[]host.CPUTime](s)(host.CPUTimes())
	at := func(i int) float64 {
		work := after[i].Total() - after[i].Idle - before[i].Total() + before[i].Idle
		return work.Seconds() / float64(r.Sent)
	}
	s.Logf("%d of them decrypted, %.1f and %.1f us of a packet; %s", s.decrypted()-got, 1e6*at(0), 1e6*at(1), r)
	return at(0), at(1)
}

// wakeDelay is how much later a packet arrives at the client when it goes through the queue of a CPU that sleeps.
func wakeDelay(b *testing.B) time.Duration {
	const packets = 400
	g := networkOnly(b)
	fd := stampedSink(b, g.n)
	sas, gen := numberedSAs(g, 1, 200)
	g.start(" steering = auto\n tune = off")
	g.known(sas...)
	g.esp.Kill()
	table := g.steering(sas)
	s := packetSocket(b, g.n, 4096)
	must(b, s.Ring().Fill(gen, 2*packets+100))
	latency := func(cpu int) float64 {
		table.set(b, cpu)
		var all []float64
		for range packets {
			began := time.Now()
			send(b, g.n, s, esp.Pace{Count: 1, Batch: 1, CPU: 0})
			all = append(all, stamp(b, fd).Sub(began).Seconds())
			time.Sleep(2 * time.Millisecond)
		}
		return median(all)
	}
	stay, given := latency(-1), latency(1)
	b.Logf("from the sender to the client: %.1f us, through the other CPU %.1f us", 1e6*stay, 1e6*given)
	return time.Duration((given - stay) * float64(time.Second))
}

// stampedSink is a socket at the first client whose packets bear the time of their arrival.
func stampedSink(t testing.TB, n *topo.Net) (fd int) {
	t.Helper()
	must(t, n.Client1.Do(func() (err error) {
		if fd, err = unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0); err != nil {
			return err
		}
		addr := netip.AddrPortFrom(n.Client1.Inner(topo.IPv4), sinkPort)
		if err = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_TIMESTAMPNS, 1); err != nil {
			return err
		}
		return unix.Bind(fd, &unix.SockaddrInet4{Addr: addr.Addr().As4(), Port: int(addr.Port())})
	}))
	t.Cleanup(func() { unix.Close(fd) })
	must(t, n.GW1.Ping(t.Context(), n.Client1.Inner(topo.IPv4), 1))
	return fd
}

// stamp waits for a packet and says when it came.
func stamp(t testing.TB, fd int) time.Time {
	t.Helper()
	var buf, oob [2048]byte
	_, size, _, _, err := unix.Recvmsg(fd, buf[:], oob[:], 0)
	must(t, err)
	msgs := need[[]unix.SocketControlMessage](t)(unix.ParseSocketControlMessage(oob[:size]))
	for _, m := range msgs {
		if m.Header.Type == unix.SO_TIMESTAMPNS && len(m.Data) >= int(unsafe.Sizeof(unix.Timespec{})) {
			return time.Unix(int64(binary.NativeEndian.Uint64(m.Data)), int64(binary.NativeEndian.Uint64(m.Data[8:])))
		}
	}
	t.Fatal("expected a packet with the time of its arrival")
	return time.Time{}
}
