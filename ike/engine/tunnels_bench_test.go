package engine

import (
	"context"
	"fmt"
	"os"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"testing"
	"time"

	"espalier/dataplane"
	"espalier/ike/sa"
	"espalier/ike/sa/satest"
)

// BenchmarkTunnels sets up b.N tunnels between two engines of this process and
// lets them live: what a gateway with many peers costs. One end is configured
// with a connection a peer, the other with one for all.
//
//	KiB/tunnel    resident memory that one end of a tunnel takes, IKE SA and
//	              CHILD SA, its fake data plane's part included: what the
//	              process grew by, divided by both ends of all tunnels
//	heap-KiB/tunnel  the live heap's part of it
//	setups/s      of wall time, both ends in one process
func BenchmarkTunnels(b *testing.B) {
	f := newFabric()
	sun := benchEngine(b, f, sunAddr, []*sa.Connection{
		satest.Conn("moon", "sun.example.org", "*.example.org", "10.2.0.0/16", "10.0.0.0/8"),
	}, testCreds())
	moon := benchEngine(b, f, moonAddr, manyConns(b.N), testCreds())
	rss, heap := memory(b)

	b.ResetTimer()
	start := time.Now()
	for i := range b.N {
		if err := moon.Initiate(context.Background(), connName(i), "net", false); err != nil {
			b.Fatal(err)
		}
	}
	took := time.Since(start)
	b.StopTimer()

	rssUp, heapUp := memory(b)
	for _, e := range []*Engine{moon, sun} {
		if sas, reserved, policies := e.dp.(*dataplane.Fake).Counts(); sas != 2*b.N || reserved != 0 || policies != 3*b.N {
			b.Fatalf("after %d set-ups: %d SAs, %d reserved, %d policies", b.N, sas, reserved, policies)
		}
	}
	ends := float64(2*b.N) * 1024
	b.ReportMetric((rssUp-rss)/ends, "KiB/tunnel")
	b.ReportMetric((heapUp-heap)/ends, "heap-KiB/tunnel")
	b.ReportMetric(float64(b.N)/took.Seconds(), "setups/s")
}

// manyConns are n connections to sun, each with an identity and a subnet of its own.
func manyConns(n int, opts ...satest.Option) []*sa.Connection {
	conns := make([]*sa.Connection, n)
	for i := range conns {
		conns[i] = satest.Conn(connName(i), fmt.Sprintf("moon%d.example.org", i), "sun.example.org",
			fmt.Sprintf("10.%d.%d.0/28", 16+i>>8, i&0xff), "10.2.0.0/16", append([]satest.Option{to(sunAddr)}, opts...)...)
	}
	return conns
}

func connName(i int) string { return "sun" + strconv.Itoa(i) }

// memory is what the process has resident and what of its heap lives, in bytes,
// after all garbage is collected and given back.
func memory(b *testing.B) (resident, live float64) {
	b.Helper()
	runtime.GC()
	debug.FreeOSMemory()
	text, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		b.Fatal(err)
	}
	pages, err := strconv.ParseFloat(strings.Fields(string(text))[1], 64)
	if err != nil {
		b.Fatal(err)
	}
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return pages * float64(os.Getpagesize()), float64(m.HeapAlloc)
}
