package engine

import (
	"context"
	"sync/atomic"
	"testing"
	"time"

	"espalier/dataplane"
	"espalier/ike/engine/sockets"
	"espalier/ike/sa"
	"espalier/ike/sa/satest"
)

// BenchmarkIdle is b.N tunnels that carry nothing and stay up: dead peer
// detection every 30 s, CHILD SAs rekeyed every hour and IKE SAs every four. The
// engines run on a clock of the benchmark's own, which moves in steps of 100 ms as fast
// as the work is done; what a quarter of an hour costs is measured.
//
//	cpu-percent    of one core, for one end of all tunnels: the CPU time of the
//	               process, both ends, user and system, over twice the time
//	messages/s     that one end sends
func BenchmarkIdle(b *testing.B) {
	clock := newBenchClock()
	f := newFabric()
	withClock := func(o *Options) {
		o.Now = clock.now
		o.DataPlane = dataplane.NewFake(dataplane.FakeOptions{Now: clock.now})
		o.Sockets.(*memTransport).ch = make(chan sockets.Datagram, 4096)
	}
	sun := benchEngine(b, f, sunAddr, []*sa.Connection{
		satest.Conn("moon", "sun.example.org", "*.example.org", "10.2.0.0/16", "10.0.0.0/8", longLived),
	}, testCreds(), withClock)
	moon := benchEngine(b, f, moonAddr, manyConns(b.N, longLived), testCreds(), withClock)
	engines := []*Engine{moon, sun}

	// One after the other over an hour, as the rekeyings will be.
	for i := range b.N {
		if err := moon.Initiate(context.Background(), connName(i), "net", false); err != nil {
			b.Fatal(err)
		}
		clock.pass(time.Hour/time.Duration(b.N), engines...)
	}
	const measured = 15 * time.Minute
	sent, spis := f.count(), spisOf(moon)
	b.ResetTimer()
	before := cpuTime()
	clock.pass(measured, engines...)
	cpu := cpuTime() - before
	b.StopTimer()

	messages, kept := f.count()-sent, 0
	for spi := range spisOf(moon) {
		if spis[spi] {
			kept++
		}
	}
	for _, e := range engines {
		if sas, _, _ := e.dp.(*dataplane.Fake).Counts(); e.counters.sessions.Load() < int64(b.N) || sas < 2*b.N {
			b.Fatalf("of %d tunnels %d sessions and %d SAs are left", b.N, e.counters.sessions.Load(), sas)
		}
	}
	if b.N >= 100 && (kept > b.N*9/10 || kept < b.N/2) {
		b.Fatalf("%d of %d CHILD SAs were not rekeyed in %s, expected about three quarters", kept, b.N, measured)
	}
	if atLeast := b.N * int(measured/(45*time.Second)); messages < atLeast {
		b.Fatalf("%d messages in %s, expected %d at least: is anybody asked whether it lives?", messages, measured, atLeast)
	}
	b.ReportMetric(100*cpu.Seconds()/2/measured.Seconds(), "cpu-percent")
	b.ReportMetric(float64(messages)/2/measured.Seconds(), "messages/s")
}

// longLived has the defaults of a configuration, and dead peer detection.
func longLived(c *sa.Connection) {
	c.RekeyTime, c.RandTime = 4*time.Hour, 24*time.Minute
	c.DPDDelay = 30 * time.Second
	c.Children[0].RekeyTime, c.Children[0].LifeTime = time.Hour, 66*time.Minute
}

// spisOf are the inbound SPIs of an engine's CHILD SAs.
func spisOf(e *Engine) map[uint32]bool {
	spis := map[uint32]bool{}
	e.Sessions(func(i sa.Info) bool {
		for _, c := range i.Children {
			spis[c.SPIIn] = true
		}
		return true
	})
	return spis
}

// benchClock is a clock that its owner moves.
type benchClock struct{ t atomic.Int64 }

func newBenchClock() *benchClock {
	c := new(benchClock)
	c.t.Store(time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC).UnixNano())
	return c
}

func (c *benchClock) now() time.Time { return time.Unix(0, c.t.Load()) }

// pass moves the clock on, and lets the engines do after each step what is due.
func (c *benchClock) pass(d time.Duration, engines ...*Engine) {
	for d > 0 {
		step := min(d, 100*time.Millisecond)
		d -= step
		c.t.Add(int64(step))
		for _, e := range engines {
			_ = e.askAll(context.Background(), func(*shard) {}) // fails when it stops, which the benchmark sees
		}
	}
}

// count is how many messages were sent.
func (f *fabric) count() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.sent
}
