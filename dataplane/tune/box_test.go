package tune

import (
	"context"
	"errors"
	"iter"
	"reflect"
	"strings"
	"testing"
	"time"

	"espalier/dataplane/flow"
	"espalier/dataplane/host"
)

// fakePaths is a fast path of two CPUs.
type fakePaths struct {
	sas    []flow.Traffic
	steer  []int
	taken  [2]uint64
	shifts []flow.Shift
	answer []flow.Shifted
}

func (p *fakePaths) Traffic() iter.Seq[*flow.Traffic] {
	return func(yield func(*flow.Traffic) bool) {
		for i := range p.sas {
			if !yield(&p.sas[i]) {
				return
			}
		}
	}
}
func (p *fakePaths) SteerCPUs() []int     { return p.steer }
func (p *fakePaths) Taken(cpu int) uint64 { return p.taken[cpu] }
func (p *fakePaths) Queue() int           { return 100 }
func (p *fakePaths) Shift(_ context.Context, s []flow.Shift) []flow.Shifted {
	p.shifts = s
	return p.answer
}

// count adds packets of 1000 bytes that a CPU received for an SA.
func (p *fakePaths) count(sa, cpu int, packets uint64) {
	p.sas[sa].Packets[cpu] += packets
	p.sas[sa].Bytes[cpu] += 1000 * packets
}

func TestKernelBox(t *testing.T) {
	traffic := func(slot uint32, cpu int) flow.Traffic {
		return flow.Traffic{Slot: slot, Generation: 1, SPI: 100 + slot, CPU: cpu, Packets: make([]uint64, 2), Bytes: make([]uint64, 2)}
	}
	p := &fakePaths{sas: []flow.Traffic{traffic(0, -1), traffic(1, 1)}, steer: []int{0, 1}}
	b := NewBox(p)
	b.wires = stillNetwork()
	now := time.Unix(1000, 0)
	b.now = func() time.Time { return now }
	cpus := []host.CPUTime{{CPU: 0}, {CPU: 1}}
	b.times = func() ([]host.CPUTime, error) { return append([]host.CPUTime(nil), cpus...), nil }
	soft := []host.Softnet{{CPU: 0}, {CPU: 1}}
	b.net = func() ([]host.Softnet, error) { return append([]host.Softnet(nil), soft...), nil }
	observe := func() Observation {
		t.Helper()
		o, err := b.Observe()
		if err != nil {
			t.Fatal(err)
		}
		return o
	}
	p.count(0, 0, 77) // before anybody looked
	if o := observe(); o.Interval != 0 || len(o.SAs) != 0 {
		t.Errorf("the first time: %+v", o)
	}
	// A second in which CPU 0 received 1000 packets for each SA, did those of the first, and ran programs for a tenth of
	// its time; of the others CPU 1 took 600, 100 can wait, 300 are lost.
	now = now.Add(time.Second)
	ms := func(n int) time.Duration { return time.Duration(n) * time.Millisecond }
	cpus[0] = host.CPUTime{CPU: 0, Processes: ms(100), Kernel: ms(200), SoftIRQ: ms(300), Idle: ms(400)}
	cpus[1] = host.CPUTime{CPU: 1, Kernel: ms(990), Idle: ms(10)}
	soft[0] = host.Softnet{CPU: 0, Dropped: 5, Squeezed: 7}
	p.count(0, 0, 1000)
	p.count(1, 0, 1000)
	p.taken[1] = 600
	o := observe()
	want := Observation{
		At: time.Second, Interval: time.Second, System: System{Dropped: 5, Squeezed: 7},
		CPUs: []CPU{{ID: 0, Online: true, Busy: 0.6, Foreign: 0.1, Squeezed: 7}, {ID: 1, Online: true, Busy: 0.99, Dropped: 300}},
		SAs: []SA{{ID: SAID{0, 1}, SPI: 100, CPU: NoCPU, Packets: 1000, Bytes: 1_000_000}, {ID: SAID{1, 1}, SPI: 101, CPU: 1, Packets: 1000,
			Bytes: 1_000_000, Lost: 300}},
	}
	for i := range o.CPUs {
		o.CPUs[i].Busy = float64(int(o.CPUs[i].Busy*1000+0.5)) / 1000
	}
	if !reflect.DeepEqual(o, want) {
		t.Errorf("observed\n%+v; expected\n%+v", o, want)
	}
	// Moving off the CPU that loses packets may shed, off the other not.
	p.answer = []flow.Shifted{{Waited: ms(40), Shed: 12}, {Err: errors.New("no moment")}}
	m := b.Move(t.Context(), []Move{{SA: SAID{1, 1}, From: 1, To: 0}, {SA: SAID{0, 1}, From: NoCPU, To: 1}})
	if want := []flow.Shift{{Slot: 1, Generation: 1, To: 0, MayShed: true}, {Slot: 0, Generation: 1, To: 1}}; !reflect.DeepEqual(p.shifts, want) {
		t.Errorf("shifts %+v; expected %+v", p.shifts, want)
	}
	if m[0].Err != nil || !strings.Contains(m[0].Note, "CPU 1 did not get through, so 12 packets were dropped") || m[1].Err == nil {
		t.Errorf("moved %+v", m)
	}
	// What is not there any more, or has become another, is not compared.
	now = now.Add(time.Second)
	p.sas = p.sas[:1]
	p.sas[0].Generation = 3
	if o := observe(); len(o.SAs) != 0 || o.Interval != time.Second {
		t.Errorf("another SA in the slot: %+v", o)
	}
	now = now.Add(time.Second)
	p.count(0, 1, 5)
	if o := observe(); len(o.SAs) != 1 || o.SAs[0].Arrives != 1 || o.SAs[0].Packets != 5 {
		t.Errorf("packets arrive elsewhere: %+v", o)
	}
	// Without steering there is nothing to move, but to be set.
	p.steer = nil
	now = now.Add(time.Second)
	cpus[0].Idle += ms(500)
	cpus[0].SoftIRQ += ms(500)
	if o := observe(); len(o.SAs) != 0 || len(o.CPUs) != 2 || !o.CPUs[0].Online || !o.CPUs[1].Online || o.CPUs[0].Busy != 0.5 {
		t.Errorf("not steered: %+v", o)
	}
}

// TestMayShed: packets are dropped for a move only off a CPU that loses some anyway.
func TestMayShed(t *testing.T) {
	const busy, half = 990 * time.Millisecond, 500 * time.Millisecond
	for name, c := range map[string]struct {
		times     host.CPUTime
		soft      host.Softnet
		from      int // CPU that the SA is steered to
		by, taken uint64
		want      bool
	}{
		"a receiver that never gets through its card":        {host.CPUTime{SoftIRQ: busy}, host.Softnet{Squeezed: 3}, NoCPU, 0, 0, true},
		"one that does, each time":                           {host.CPUTime{SoftIRQ: busy}, host.Softnet{}, NoCPU, 0, 0, false},
		"one that another program keeps busy":                {host.CPUTime{SoftIRQ: busy - half, Processes: half}, host.Softnet{Squeezed: 3}, NoCPU, 0, 0, false},
		"one that another program has a little of":           {host.CPUTime{SoftIRQ: busy - 50*time.Millisecond, Processes: 50 * time.Millisecond}, host.Softnet{Squeezed: 3}, NoCPU, 0, 0, false},
		"one with time":                                      {host.CPUTime{SoftIRQ: half}, host.Softnet{Squeezed: 3}, NoCPU, 0, 0, false},
		"a CPU that takes all it is given, if barely":        {host.CPUTime{Kernel: busy}, host.Softnet{Squeezed: 3}, 0, 1, 1000, false},
		"a CPU that takes less than its queue can have left": {host.CPUTime{Kernel: busy}, host.Softnet{}, 0, 1, 800, true},
		"a CPU whose queue has what it did not take":         {host.CPUTime{Kernel: busy}, host.Softnet{}, 0, 1, 900, false},
	} {
		p := &fakePaths{sas: []flow.Traffic{{Generation: 1, CPU: c.from, Packets: make([]uint64, 2), Bytes: make([]uint64, 2)}}, steer: []int{0, 1}, answer: []flow.Shifted{{}}}
		b := NewBox(p)
		b.wires = stillNetwork()
		now, times, soft := time.Unix(1000, 0), host.CPUTime{}, host.Softnet{}
		b.now = func() time.Time { return now }
		b.times = func() ([]host.CPUTime, error) { return []host.CPUTime{times, {CPU: 1}}, nil }
		b.net = func() ([]host.Softnet, error) { return []host.Softnet{soft, {CPU: 1}}, nil }
		if _, err := b.Observe(); err != nil {
			t.Fatal(err)
		}
		now, times, soft = now.Add(time.Second), c.times, c.soft
		times.Idle = time.Second - times.Total()
		p.count(0, int(c.by), 1000)
		p.taken[0] = c.taken
		if _, err := b.Observe(); err != nil {
			t.Fatal(err)
		}
		b.Move(t.Context(), []Move{{From: c.from, To: 1, SA: SAID{0, 1}}})
		if got := p.shifts[0].MayShed; got != c.want {
			t.Errorf("off %s: packets may be dropped: %v; expected %v", name, got, c.want)
		}
	}
}

// BenchmarkObserve10k is what reading 10,000 SAs costs beside the fast path's own part.
func BenchmarkObserve10k(b *testing.B) {
	p := &fakePaths{steer: []int{0, 1}}
	for i := range 10_000 {
		p.sas = append(p.sas, flow.Traffic{Slot: uint32(i), Generation: 1, SPI: uint32(i), CPU: i % 2, Packets: make([]uint64, 2), Bytes: make([]uint64, 2)})
	}
	box := NewBox(p)
	for b.Loop() {
		if _, err := box.Observe(); err != nil {
			b.Fatal(err)
		}
	}
}
