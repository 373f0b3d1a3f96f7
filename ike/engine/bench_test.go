package engine

import (
	"context"
	"crypto/ecdh"
	"crypto/rand"
	"fmt"
	"io"
	"net/netip"
	"runtime"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"espalier/dataplane"
	"espalier/ike/auth"
	"espalier/ike/engine/sockets"
	"espalier/ike/sa"
	"espalier/ike/sa/satest"
)

// BenchmarkSetup measures whole set-ups: IKE SA and first CHILD SA between two
// engines in this process, each with its shard, registry, timers, event bus and
// log, over a network in memory and with data planes that are fakes. Nothing is
// prepared or remembered that a real peer would not see: nonces and key
// exchange keys are fresh, certificates are parsed from the message and their
// chains verified, each time.
//
// Set-ups run in rounds, and between the rounds stand the four operations of
// the standard library's X25519 that one set-up needs at least. The metrics are
// of CPU time, user and system, of the whole process, so the garbage collector
// counts. The sessions are deleted between the rounds, outside of the
// measurement; what the collector has left of them then is not.
//
//	cpu-ms/setup    median of the rounds
//	x25519-ratio    median of the rounds, each divided by its neighbours
//	allocs/setup    mean, with the network's one copy of each message
//	B/setup         mean
//	x25519-us/op    median: how fast the machine was, busy neighbours included
func BenchmarkSetup(b *testing.B) {
	b.Run("PSK", func(b *testing.B) {
		creds := testCreds()
		benchmarkSetup(b, creds, creds)
	})
	b.Run("ECDSA-P256", func(b *testing.B) {
		ca := satest.NewCA("ecdsa", rand.Reader, time.Now())
		benchmarkSetup(b, ca.Credentials("moon.example.org"), ca.Credentials("sun.example.org"), satest.Pubkey)
	})
}

// setupsPerRound is how many sessions live at once at most: enough that the
// collector runs within a round, and some way from an empty table.
const setupsPerRound = 100

func benchmarkSetup(b *testing.B, moonCreds, sunCreds *auth.Credentials, opts ...satest.Option) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	f := newFabric()
	sun := benchEngine(b, f, sunAddr, []*sa.Connection{
		satest.Conn("moon", "sun.example.org", "moon.example.org", "10.2.0.0/16", "10.1.0.0/16", opts...),
	}, sunCreds)
	var conns []*sa.Connection
	for i := range setupsPerRound { // each with a subnet of its own, to which the responder narrows
		opts := append([]satest.Option{to(sunAddr)}, opts...)
		conns = append(conns, satest.Conn(fmt.Sprintf("sun%d", i), "moon.example.org", "sun.example.org",
			fmt.Sprintf("10.1.%d.0/24", i), "10.2.0.0/16", opts...))
	}
	moon := benchEngine(b, f, moonAddr, conns, moonCreds)

	var m setupMetrics
	round(b, moon, sun, conns) // warms caches and pools
	b.ResetTimer()
	for done := 0; done < b.N; {
		n := min(setupsPerRound, b.N-done)
		b.StopTimer()
		before := fourX25519(b, n)
		b.StartTimer()
		cost := round(b, moon, sun, conns[:n])
		b.StopTimer()
		m.add(n, cost, (before+fourX25519(b, n))/2)
		b.StartTimer()
		done += n
	}
	b.StopTimer()
	m.report(b)
}

func benchEngine(b *testing.B, f *fabric, addr string, conns []*sa.Connection, creds *auth.Credentials, change ...func(*Options)) *Engine {
	tr := f.join(addr)
	tr.ch = make(chan sockets.Datagram, 16) // tests have a queue of megabytes, which the collector would scan
	o := Options{
		DataPlane: dataplane.NewFake(dataplane.FakeOptions{}), Conns: conns, Creds: creds,
		Settings: DefaultSettings(), Log: zerolog.New(io.Discard), Sockets: tr, Inline: true,
		Route: func(netip.Addr) (netip.Addr, error) { return netip.MustParseAddr(addr), nil },
	}
	for _, f := range change {
		f(&o)
	}
	e, err := New(o)
	if err != nil {
		b.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- e.Run(ctx) }()
	b.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			b.Errorf("Run: %v", err)
		}
	})
	<-e.Begun()
	return e
}

// cost is what something took of the process.
type cost struct {
	cpu           time.Duration
	allocs, bytes uint64
}

// round sets every connection up once, checks that both ends have it, and
// deletes it again. The cost is that of the set-ups alone.
func round(b *testing.B, moon, sun *Engine, conns []*sa.Connection) cost {
	ctx := context.Background()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	start := cpuTime()
	for _, c := range conns {
		if err := moon.Initiate(ctx, c.Name, "net", false); err != nil {
			b.Fatal(err)
		}
	}
	cpu := cpuTime() - start
	runtime.ReadMemStats(&after)

	b.StopTimer()
	defer b.StartTimer()
	for _, e := range []*Engine{moon, sun} {
		if sas, reserved, policies := e.dp.(*dataplane.Fake).Counts(); sas != 2*len(conns) || reserved != 0 || policies != 3*len(conns) {
			b.Fatalf("after %d set-ups: %d SAs, %d reserved, %d policies", len(conns), sas, reserved, policies)
		}
	}
	var ids []uint64
	moon.Sessions(func(i sa.Info) bool {
		ids = append(ids, i.UniqueID)
		return true
	})
	for _, id := range ids {
		if err := moon.Terminate(ctx, Target{IKE: id}, false); err != nil {
			b.Fatal(err)
		}
	}
	return cost{cpu, after.Mallocs - before.Mallocs, after.TotalAlloc - before.TotalAlloc}
}

// fourX25519 is the CPU time of n times two key generations and two
// agreements, as the standard library does them.
func fourX25519(b *testing.B, n int) time.Duration {
	start := cpuTime()
	for range n {
		x, err1 := ecdh.X25519().GenerateKey(rand.Reader)
		y, err2 := ecdh.X25519().GenerateKey(rand.Reader)
		if err1 != nil || err2 != nil {
			b.Fatal(err1, err2)
		}
		_, err1 = x.ECDH(y.PublicKey())
		_, err2 = y.ECDH(x.PublicKey())
		if err1 != nil || err2 != nil {
			b.Fatal(err1, err2)
		}
	}
	return cpuTime() - start
}

// cpuTime is what all threads of the process have used, user and system.
func cpuTime() time.Duration {
	var r syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &r); err != nil {
		panic(err)
	}
	return time.Duration(r.Utime.Nano() + r.Stime.Nano())
}

// setupMetrics collects what the rounds cost.
type setupMetrics struct {
	cpu, ratio    []float64
	x25519        []float64
	setups        uint64
	allocs, bytes uint64
}

func (m *setupMetrics) add(n int, c cost, four time.Duration) {
	m.cpu = append(m.cpu, c.cpu.Seconds()*1e3/float64(n))
	m.ratio = append(m.ratio, float64(c.cpu)/float64(four))
	m.x25519 = append(m.x25519, four.Seconds()*1e6/float64(4*n))
	m.setups += uint64(n)
	m.allocs += c.allocs
	m.bytes += c.bytes
}

func (m *setupMetrics) report(b *testing.B) {
	b.ReportMetric(median(m.cpu), "cpu-ms/setup")
	b.ReportMetric(median(m.ratio), "x25519-ratio")
	b.ReportMetric(median(m.x25519), "x25519-us/op")
	b.ReportMetric(float64(m.allocs)/float64(m.setups), "allocs/setup")
	b.ReportMetric(float64(m.bytes)/float64(m.setups), "B/setup")
}

func median(v []float64) float64 {
	slices.Sort(v)
	return (v[(len(v)-1)/2] + v[len(v)/2]) / 2
}
