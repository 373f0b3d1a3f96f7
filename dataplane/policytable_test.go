package dataplane

import (
	"math/rand/v2"
	"net/netip"
	"reflect"
	"testing"
)

// kernelModel does what PolicyChange asks, and objects to what a kernel would.
type kernelModel map[PolicyKey]Policy

func (k kernelModel) do(t *testing.T, c PolicyChange) {
	t.Helper()
	key := c.Key()
	_, stands := k[key]
	switch c.Kernel() {
	case KernelAdd:
		if stands {
			t.Fatal("add of a policy that stands")
		}
		k[key] = c.Policy()
	case KernelUpdate:
		if !stands || reflect.DeepEqual(k[key], c.Policy()) {
			t.Fatal("update of a policy that does not stand, or that changes nothing")
		}
		k[key] = c.Policy()
	case KernelRemove:
		if !stands {
			t.Fatal("removal of a policy that does not stand")
		}
		delete(k, key)
	}
}

// TestPolicyTableModel compares random changes and undone batches with plain lists.
func TestPolicyTableModel(t *testing.T) {
	rnd := rand.New(rand.NewPCG(21, 22))
	table, kernel := NewPolicyTable(), kernelModel{}
	model := map[PolicyKey][]Policy{} // oldest first
	key := func() PolicyKey {
		return PolicyKey{Selector: Selector{
			Src: netip.PrefixFrom(v4(uint32(rnd.IntN(3))<<8), 24), Dst: netip.MustParsePrefix("::/0"),
		}, Dir: Direction(rnd.IntN(3))}
	}
	for range 3000 {
		var done []PolicyChange
		before := map[PolicyKey][]Policy{}
		for k, v := range model {
			before[k] = append([]Policy(nil), v...)
		}
		for range 1 + rnd.IntN(4) {
			k, owner := key(), uint64(1+rnd.IntN(4))
			stack := append([]Policy(nil), model[k]...)
			at := -1
			for i := range stack {
				if stack[i].Owner == owner {
					at = i
				}
			}
			var c PolicyChange
			if rnd.IntN(2) == 0 {
				p := Policy{PolicyKey: k, Owner: owner, Priority: rnd.Uint32(), Templates: make([]Template, rnd.IntN(3))}
				for i := range p.Templates {
					p.Templates[i] = Template{ReqID: rnd.Uint32(), Src: v4(rnd.Uint32()), Dst: v4(rnd.Uint32()), Proto: ESP, Mode: Tunnel, Optional: i == 0}
				}
				c = table.Install(&p)
				if at >= 0 {
					stack[at] = p
				} else {
					stack = append(stack, p)
				}
			} else {
				c = table.Delete(&k, owner)
				if at >= 0 {
					stack = append(stack[:at], stack[at+1:]...)
				}
			}
			model[k] = stack
			kernel.do(t, c)
			done = append(done, c)
		}
		if rnd.IntN(3) == 0 {
			for i := len(done) - 1; i >= 0; i-- {
				table.Undo(done[i])
				kernel.do(t, done[i].Reverse())
			}
			model = before
		}
		for k, stack := range model {
			got, stands := kernel[k]
			if stands != (len(stack) > 0) {
				t.Fatalf("%v stands: %v, expected %v", k, stands, stack)
			}
			if !stands {
				continue
			}
			want := stack[len(stack)-1]
			if len(got.Templates) == 0 && len(want.Templates) == 0 {
				got.Templates = want.Templates
			}
			if !reflect.DeepEqual(got, want) || table.Owner(&k) != want.Owner {
				t.Fatalf("stands %+v, expected %+v", got, want)
			}
		}
		if table.Len() != len(kernel) {
			t.Fatalf("%d keys in the table, %d in the kernel", table.Len(), len(kernel))
		}
	}
}

// TestEventQueue: never waits, keeps order, and one Overrun stands for each gap.
func TestEventQueue(t *testing.T) {
	rnd := rand.New(rand.NewPCG(31, 32))
	q := NewEventQueue(4)
	next, expected, overruns, gap := uint32(0), uint32(0), 0, false
	read := func() {
		switch e := (<-q.C()).(type) {
		case Expire:
			if e.ReqID < expected || e.ReqID > expected && !gap {
				t.Fatalf("event %d, expected %d or an Overrun before it", e.ReqID, expected)
			}
			expected, gap = e.ReqID+1, false
		case Overrun:
			if gap {
				t.Fatal("two Overruns with nothing between them")
			}
			overruns++
			gap = true
		}
	}
	for range 20000 {
		if rnd.IntN(5) < 3 {
			q.Push(Expire{ReqID: next})
			next++
		} else if len(q.C()) > 0 {
			read()
		}
		if len(q.C()) > 4 {
			t.Fatal("more than 4 events wait")
		}
	}
	if overruns == 0 || q.Dropped() == 0 {
		t.Error("nothing overran: the test tests nothing")
	}
	full := NewEventQueue(4)
	for id := range uint32(9) {
		full.Push(Expire{ReqID: id})
	}
	for id := range uint32(3) {
		if e := <-full.C(); e != (Expire{ReqID: id}) {
			t.Errorf("a queue of 4 gave %+v, expected event %d", e, id)
		}
	}
	if e := <-full.C(); e != (Overrun{}) || full.Dropped() != 6 {
		t.Errorf("then %+v, %d dropped; expected an Overrun for 6", e, full.Dropped())
	}
	for range 10 {
		q.Push(Overrun{})
	}
	q.Close()
	q.Push(Expire{})
	q.Close()
	n := 0
	for range q.C() {
		n++
	}
	if n == 0 || n > 4 {
		t.Errorf("%d events after Close, expected 1 to 4", n)
	}
}

// TestPolicyTableSame: an owner whose policy is the same to the kernel changes
// nothing there, coming or going; any difference does.
func TestPolicyTableSame(t *testing.T) {
	tmpl := Template{Src: netip.MustParseAddr("192.0.2.1"), Dst: netip.MustParseAddr("192.0.2.2"), Proto: ESP, Mode: Tunnel, ReqID: 7}
	policy := func(owner uint64, change func(*Policy)) *Policy {
		p := &Policy{Owner: owner, Priority: 100, Templates: []Template{tmpl}}
		if change != nil {
			change(p)
		}
		return p
	}
	for _, c := range []struct {
		name   string
		change func(*Policy)
		want   KernelOp
	}{
		{"same", nil, KernelNone},
		{"priority", func(p *Policy) { p.Priority = 99 }, KernelUpdate},
		{"verdict", func(p *Policy) { p.Verdict = Block }, KernelUpdate},
		{"flags", func(p *Policy) { p.Flags = PolicyICMP }, KernelUpdate},
		{"request id", func(p *Policy) { p.Templates[0].ReqID = 8 }, KernelUpdate},
		{"no template", func(p *Policy) { p.Templates = nil }, KernelUpdate},
		{"two templates", func(p *Policy) { p.Templates = append(p.Templates, tmpl) }, KernelUpdate},
	} {
		table := NewPolicyTable()
		if first := table.Install(policy(1, nil)); first.Kernel() != KernelAdd {
			t.Fatalf("%s: the first asks %d", c.name, first.Kernel())
		}
		second := table.Install(policy(2, c.change))
		back := table.Delete(&PolicyKey{}, 2)
		if second.Kernel() != c.want || back.Kernel() != c.want {
			t.Errorf("%s: expected %d, coming asks %d, going %d", c.name, c.want, second.Kernel(), back.Kernel())
		}
	}
}
