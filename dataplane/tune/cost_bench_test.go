package tune

import (
	"iter"
	"math/rand/v2"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"espalier/bpf"
	"espalier/dataplane/flow"
	"espalier/dataplane/flow/table"
	"espalier/dataplane/host"
)

// tablePaths are a fast path's table without a kernel.
type tablePaths struct {
	fakePaths
	tab *table.Table
}

func (p *tablePaths) Traffic() iter.Seq[*flow.Traffic] {
	return flow.TrafficOf(p.tab.Reader, func(uint32) bool { return false })
}

// cpuTime is what this process has used.
func cpuTime(b *testing.B) time.Duration {
	b.Helper()
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// BenchmarkTuner10k is a minute of the tuner on two CPUs with 10,000 SAs, all of which have traffic that varies, from its start on: what
// it reads of the table and of /proc, and what it decides, with its own choice of when to look. The settings' files are not read.
func BenchmarkTuner10k(b *testing.B) {
	const sas, load = 10_000, 0.5 // of each CPU
	arrays := table.NewArrays(bpf.Sizes{Slots: 1 << 14, CPUs: 2})
	tab, err := table.New(arrays)
	if err != nil {
		b.Fatal(err)
	}
	slots := make([]uint32, sas)
	for i := range slots {
		if slots[i], err = tab.Insert(bpf.MakeKey(bpf.DirIn, netip.MustParseAddr("192.0.2.1"), uint32(1000+i)), table.Attr{CPU: uint32(i % 2)}); err != nil {
			b.Fatal(err)
		}
	}
	ways := uint32(len(bpf.IndexBucket{}.Way))
	rng := rand.New(rand.NewPCG(1, 2))
	for b.Loop() {
		p := &tablePaths{fakePaths{steer: []int{0, 1}}, tab}
		box, tuner := NewBox(p), New(Limits{})
		now, idle := time.Unix(1e9, 0), time.Duration(0)
		box.now = func() time.Time { return now }
		box.times = func() ([]host.CPUTime, error) {
			_, err := host.CPUTimes() // costs what it costs
			busy := now.Sub(time.Unix(1e9, 0)) - idle
			return []host.CPUTime{{CPU: 0, SoftIRQ: busy, Idle: idle}, {CPU: 1, SoftIRQ: busy, Idle: idle}}, err
		}
		var used, passed time.Duration
		rounds := 0
		for wait := time.Duration(0); passed < time.Minute; passed += wait {
			now, idle = now.Add(wait), idle+time.Duration(float64(wait)*(1-load))
			for i := range sas {
				at := arrays.SAs[slots[i]].Place
				c := &arrays.Index[uint32(i%2)*arrays.Config.Buckets+at/ways].Way[at%ways]
				n := uint64(wait.Seconds()*100*(0.8+0.4*rng.Float64())) + 1
				c.Packets, c.Bytes = c.Packets+n, c.Bytes+1000*n
				p.taken[i%2] += n
			}
			began := cpuTime(b)
			o, err := box.Observe()
			if err != nil {
				b.Fatal(err)
			}
			wait = 250 * time.Millisecond
			if o.Interval > 0 {
				wait = tuner.Decide(o).Next
			}
			used += cpuTime(b) - began
			rounds++
		}
		b.ReportMetric(100*used.Seconds()/passed.Seconds(), "cpu-percent")
		b.ReportMetric(float64(rounds), "rounds")
	}
}
