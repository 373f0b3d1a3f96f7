package engine

import (
	"context"
	"errors"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"espalier/dataplane"
	"espalier/ike/sa"
	"espalier/ike/sa/satest"
)

func perCPUs(c *sa.Connection) { c.Children[0].PerCPU = sa.PerCPUYes }

func fourCPUs(o *Options) {
	fourShards(o)
	o.Settings.CPUs = 4
}

// cpus are those of the box's CHILD SAs in the data plane, -1 for any.
func (b *box) cpus() (out []int) {
	b.t.Helper()
	for _, i := range b.infos() {
		for _, c := range i.Children {
			s, ok := b.dp.SA(dataplane.SAKey{Dst: c.Remote.Addr(), Proto: dataplane.ESP, SPI: c.SPIOut})
			switch {
			case !ok:
				b.t.Errorf("CHILD SA %d is not in the data plane", c.UniqueID)
			case s.CPU == nil:
				out = append(out, -1)
			default:
				out = append(out, int(*s.CPU))
			}
		}
	}
	slices.Sort(out)
	return out
}

// TestAcquireCPU: what the kernel reports of a CPU brings up an SA of that CPU,
// once, and the report of another daemon's policy nothing.
func TestAcquireCPU(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFabric()
		moon := newBox(t, f, moonAddr, []*sa.Connection{moonConn(perCPUs, trapped)}, fourCPUs)
		sun := newBox(t, f, sunAddr, []*sa.Connection{sunConn(perCPUs)}, fourCPUs)
		synctest.Wait()
		moon.acquire()
		time.Sleep(10 * time.Second)
		report := func(cpu uint32) {
			p := moon.outPolicy()
			moon.dp.Inject(dataplane.Acquire{Policy: p.PolicyKey, ReqID: p.Templates[0].ReqID, CPU: &cpu})
		}
		if p := moon.outPolicy(); p.Flags&dataplane.PolicyCPUAcquire == 0 {
			t.Errorf("policy %+v does not report CPUs", p)
		}
		for range 50 {
			report(2)
		}
		time.Sleep(10 * time.Second)
		if got := moon.cpus(); !slices.Equal(got, []int{-1, 2}) {
			t.Errorf("CPUs %v, expected -1 and 2", got)
		}
		if got := sun.cpus(); !slices.Equal(got, []int{-1, 0}) {
			t.Errorf("the peer's CPUs %v, expected -1 and 0", got)
		}
		other := uint32(1)
		moon.dp.Inject(dataplane.Acquire{ReqID: 4711, CPU: &other})
		time.Sleep(time.Second)
		moon.holds(4, 3) // no record of the kernel's is left as an SPI
		info := moon.infos()[0]
		i := slices.IndexFunc(info.Children, func(c sa.ChildInfo) bool { return c.CPU == nil })
		fallback := Target{IKE: info.UniqueID, Child: info.Children[i].UniqueID}
		for cpu, want := range map[uint32]error{3: nil, 2: nil} {
			if err := moon.SplitChild(context.Background(), fallback, cpu); !errors.Is(err, want) {
				t.Errorf("CPU %d: %v", cpu, err)
			}
		}
		time.Sleep(5 * time.Second)
		if got := moon.cpus(); !slices.Equal(got, []int{-1, 2, 3}) {
			t.Errorf("CPUs %v, expected -1, 2 and 3", got)
		}
		bound := Target{IKE: info.UniqueID, Child: info.Children[1-i].UniqueID}
		if err := moon.SplitChild(context.Background(), bound, 1); !errors.Is(err, ErrNotPerCPU) {
			t.Errorf("beside one that is bound: %v, expected %v", err, ErrNotPerCPU)
		}
		if err := moon.SplitChild(context.Background(), Target{IKE: 99, Child: 1}, 1); !errors.Is(err, ErrNotFound) {
			t.Errorf("beside none: %v, expected %v", err, ErrNotFound)
		}
		for _, b := range []*box{moon, sun} {
			b.stop()
			if n := len(b.perCPU.byReqID); n != 0 {
				t.Errorf("%d request ids are still known", n)
			}
		}
	})
}

// TestAcquireCPUAfterRekey: reports follow the fallback when it is rekeyed.
func TestAcquireCPUAfterRekey(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFabric()
		rekeyed := func(c *sa.Connection) { c.Children[0].RekeyTime = time.Hour }
		moon := newBox(t, f, moonAddr, []*sa.Connection{moonConn(perCPUs, started, rekeyed)}, fourCPUs)
		sun := newBox(t, f, sunAddr, []*sa.Connection{sunConn(perCPUs)}, fourCPUs)
		time.Sleep(90 * time.Minute)
		cpu := uint32(1)
		p := moon.outPolicy()
		moon.dp.Inject(dataplane.Acquire{Policy: p.PolicyKey, ReqID: p.Templates[0].ReqID, CPU: &cpu})
		time.Sleep(10 * time.Second)
		if got := moon.cpus(); !slices.Equal(got, []int{-1, 1}) {
			t.Errorf("CPUs %v, expected -1 and 1", got)
		}
		if n := len(moon.perCPU.byReqID); n != 1 {
			t.Errorf("%d request ids are known, expected 1", n)
		}
		moon.stop()
		sun.stop()
	})
}

// TestSplitAndJoin: SAs of single CPUs come and go by request. The peer's limit, and
// that a CPU still sends, are errors, as is why there can be none.
func TestSplitAndJoin(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFabric()
		moon := newBox(t, f, moonAddr, []*sa.Connection{moonConn(perCPUs, started)}, fourCPUs)
		sun := newBox(t, f, sunAddr, []*sa.Connection{sunConn(perCPUs)}, func(o *Options) {
			fourCPUs(o)
			o.Settings.MaxPerCPU = 1
		})
		time.Sleep(10 * time.Second)
		// child is the CHILD SA of a CPU, -1: the fallback.
		child := func(cpu int) (sa.ChildInfo, Target) {
			t.Helper()
			info := moon.infos()[0]
			for _, c := range info.Children {
				if c.CPU == nil && cpu < 0 || c.CPU != nil && int(*c.CPU) == cpu {
					return c, Target{IKE: info.UniqueID, Child: c.UniqueID}
				}
			}
			t.Fatalf("no CHILD SA of CPU %d", cpu)
			return sa.ChildInfo{}, Target{}
		}
		_, fallback := child(-1)
		for cpu, want := range []error{nil, nil, ErrMaxQueue} {
			if err := moon.SplitChild(t.Context(), fallback, uint32(cpu)); !errors.Is(err, want) {
				t.Errorf("CPU %d: %v, expected %v", cpu, err, want)
			}
			time.Sleep(5 * time.Second)
		}
		if got := moon.cpus(); !slices.Equal(got, []int{-1, 0}) {
			t.Errorf("CPUs %v, expected -1 and 0: the peer takes one", got)
		}
		bound, part := child(0)
		if err := moon.dp.Count(dataplane.SAKey{Dst: bound.Remote.Addr(), Proto: dataplane.ESP, SPI: bound.SPIOut}, 1, 100); err != nil {
			t.Error(err)
		}
		for target, want := range map[Target]error{part: ErrSending, fallback: ErrNotPerCPU, {IKE: 99, Child: 1}: ErrNotFound} {
			if err := moon.JoinChild(t.Context(), target); !errors.Is(err, want) {
				t.Errorf("%v: %v, expected %v", target, err, want)
			}
		}
		time.Sleep(2 * time.Minute)
		if err := moon.JoinChild(t.Context(), part); err != nil {
			t.Error(err)
		}
		time.Sleep(7 * time.Second) // the inbound SA stays for 5, for packets under way
		if got, theirs := moon.cpus(), sun.cpus(); !slices.Equal(got, []int{-1}) || !slices.Equal(theirs, got) {
			t.Errorf("CPUs %v and the peer's %v, expected the fallback alone", got, theirs)
		}
		if err := moon.SplitChild(t.Context(), fallback, 3); err != nil {
			t.Errorf("after one has gone: %v", err)
		}
		moon.stop()
		sun.stop()
	})
}

// TestWhyWhole says in words what keeps a CHILD SA from having others beside it.
func TestWhyWhole(t *testing.T) {
	why := func(change func(*Options), opts ...satest.Option) (text string) {
		t.Helper()
		synctest.Test(t, func(t *testing.T) {
			moon := newBox(t, newFabric(), moonAddr, []*sa.Connection{moonConn(opts...)}, change)
			text = moon.WhyWhole("sun", "net")
			if gone := moon.WhyWhole("sun", "other"); gone != "its configuration has gone" {
				t.Error(gone)
			}
			moon.stop()
		})
		return text
	}
	compressed := func(c *sa.Connection) { c.Children[0].IPComp = true }
	old := func(o *Options) {
		o.DataPlane = dataplane.NewFake(dataplane.FakeOptions{Features: &dataplane.Features{}})
	}
	for got, want := range map[string]string{
		why(nil):                      "its configuration has per_cpu_sas = no",
		why(nil, perCPUs, compressed): "its configuration has ipcomp = yes",
		why(old, perCPUs):             "this kernel has none (6.13 and newer do)",
		why(nil, perCPUs):             "the peer has not announced that it takes them",
	} {
		if got != want {
			t.Errorf("%q, expected %q", got, want)
		}
	}
}
