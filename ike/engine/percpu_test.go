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
