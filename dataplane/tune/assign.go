package tune

import (
	"cmp"
	"slices"
)

// item is an SA to be assigned.
type item struct {
	sa    *SA
	mem   *memory
	load  float64 // share of a CPU
	hand  float64 // share of the CPU where it arrives that giving it to another one takes
	from  int     // index of that CPU; -1: none that is observed
	at    int     // index of its CPU in the plan
	start int     // where it was when the plan began
	fixed bool
}

// on is what having the item on a CPU costs that one. That it need not be given away
// is what it saves the CPU where it arrives.
func (it *item) on(cpu int) float64 {
	if cpu == it.from {
		return it.load - it.hand
	}
	return it.load
}

// plan is an assignment that is being searched: the load of each CPU, and the
// items on it.
type plan struct {
	cpus  []CPU
	base  []float64 // foreign load
	load  []float64 // all of it
	open  []bool    // may get work
	eager []bool    // other programs there have packets come; nil: none
	// barred tells of an item that is not to go to a CPU; nil: all may.
	barred func(item, to int) bool
	items  []item
	on     [][]int // items of each CPU; search sorts them, biggest first
}

func newPlan(cpus []CPU, base []float64, open []bool, items []item) *plan {
	p := &plan{cpus: cpus, base: base, load: slices.Clone(base), open: open, items: items, on: make([][]int, len(base))}
	for i := range items {
		items[i].start = items[i].at
		p.load[items[i].at] += items[i].load
		p.on[items[i].at] = append(p.on[items[i].at], i)
	}
	return p
}

// bigger orders items for plan.on.
func (p *plan) bigger(a, b int) int {
	x, y := &p.items[a], &p.items[b]
	if c := cmp.Compare(y.load, x.load); c != 0 {
		return c
	}
	return cmp.Compare(x.sa.ID.Slot, y.sa.ID.Slot)
}

// swapDepth bounds how many of a CPU's biggest items are tried in swaps.
const swapDepth = 24

// lossPrice is what work that a CPU has no time for costs, in squared loads: more
// than what it would cost anywhere that it is done.
const lossPrice = 4

// cost is what a load makes of a CPU: its square as far as it can be done, for the
// sum of squares is least when all have the same; and what of the SAs' part cannot.
func (p *plan) cost(cpu int, load float64) float64 {
	done := min(load, 1)
	return done*done + lossPrice*p.lost(cpu, load)
}

// lost is the SAs' work that a CPU does not get done with a load.
func (p *plan) lost(cpu int, load float64) float64 {
	return max(min(load-1, load-p.base[cpu]), 0)
}

// value is how much less it costs when a load leaves a CPU and another one gets it: in
// is what that makes of it. A CPU
// that would have more than it can do gets none unless a quarter of it is done there that
// was not done before: there is little to be had, and whatever else runs there, and
// makes way, may be what the packets come from.
func (p *plan) value(from, to int, out, in float64) float64 {
	x, y := p.load[from], p.load[to]
	if y+in > 1 && p.eager != nil && p.eager[to] {
		return -lossPrice
	}
	if y+in > 1 && p.lost(from, x)+p.lost(to, y)-p.lost(from, x-out)-p.lost(to, y+in) < min(in, 1)/4 {
		return -lossPrice
	}
	return p.cost(from, x) + p.cost(to, y) - p.cost(from, x-out) - p.cost(to, y+in)
}

// unserved is the SAs' work that no CPU gets done.
func (p *plan) unserved() (sum float64) {
	for c, load := range p.load {
		sum += p.lost(c, load)
	}
	return sum
}

// moved is the load that has another place than in the beginning: the moves can take
// no more than that off a CPU.
func (p *plan) moved() (sum float64) {
	for i := range p.items {
		if it := &p.items[i]; it.at != it.start {
			sum += it.load
		}
	}
	return sum
}

// swapped is the load that CPUs get in place of what they give away.
func (p *plan) swapped() (sum float64) {
	gets, gives := make([]float64, len(p.load)), make([]float64, len(p.load))
	for i := range p.items {
		if it := &p.items[i]; it.at != it.start {
			gets[it.at], gives[it.start] = gets[it.at]+it.load, gives[it.start]+it.load
		}
	}
	for c := range gets {
		sum += min(gets[c], gives[c])
	}
	return sum
}

// search improves the assignment until no move and no swap lessens the sum of the
// costs by more than least, or until steps are used up.
func (p *plan) search(steps int, least float64) {
	for c := range p.on {
		slices.SortFunc(p.on[c], p.bigger)
	}
	for range steps {
		a, b, gain := p.best()
		if gain <= least {
			return
		}
		p.exchange(a, b)
	}
}

// change is an item that goes to another CPU.
type change struct{ item, to int }

// none stands for no second change.
var none = change{item: -1}

// best finds the change, or the pair of them, that lessens the sum of the costs
// most; swapping is moving the difference.
func (p *plan) best() (first, second change, gain float64) {
	first, second = none, none
	for from := range p.on {
		for to := range p.on {
			if from == to || !p.open[to] || (p.load[from] <= p.load[to] && p.open[from]) {
				continue
			}
			a, b, g := p.bestBetween(from, to)
			if g > gain {
				first, second, gain = a, b, g
			}
		}
	}
	return first, second, gain
}

// bestBetween is best for one pair of CPUs.
func (p *plan) bestBetween(from, to int) (first, second change, gain float64) {
	first, second = none, none
	gap, over := p.load[from]-p.load[to], p.load[from] > 1
	value := func(out, in float64) float64 { return p.value(from, to, out, in) }
	if !p.open[from] {
		// A CPU that went away is left whatever it costs.
		value = func(_, in float64) float64 { return 1e6 + in*(1-p.load[to]) }
	}
	some := append(p.candidates(from, to, gap/2), p.candidates(from, to, 1-p.load[to])...)
	if over {
		some = append(some, head(p.on[from])...) // what giving them away takes counts as well
	}
	for _, i := range some {
		if p.stays(i, to) {
			continue
		}
		if g := value(p.counts(i, from, over), p.counts(i, to, over)) - p.price(i, to); g > gain {
			first, second, gain = change{i, to}, none, g
		}
	}
	if !p.open[from] {
		return first, second, gain
	}
	for _, i := range head(p.on[from]) {
		if p.items[i].fixed {
			continue
		}
		for _, j := range head(p.on[to]) {
			out, in := p.counts(i, from, over)-p.counts(j, from, over), p.counts(i, to, over)-p.counts(j, to, over)
			if p.items[j].fixed || out <= 0 && in >= 0 {
				continue
			}
			if g := value(out, in) - p.price(i, to) - p.price(j, from); g > gain && !p.stays(i, to) && !p.stays(j, from) {
				first, second, gain = change{i, to}, change{j, from}, g
			}
		}
	}
	return first, second, gain
}

// stays tells whether an item is not to go to a CPU.
func (p *plan) stays(i, to int) bool {
	return p.items[i].fixed || p.barred != nil && p.barred(i, to)
}

// counts is what an item counts for on a CPU. While the CPU that it would leave gets
// through, giving packets away counts for nothing: that one is to have no more to do
// than the others, though all of them together have.
func (p *plan) counts(i, cpu int, over bool) float64 {
	if over {
		return p.items[i].on(cpu)
	}
	return p.items[i].load
}

// candidates are the items of a CPU that may go to another one, around a load, the one that would halve the gap
// or that there is room for: the last one above it and the first one below it.
func (p *plan) candidates(cpu, to int, around float64) []int {
	on := p.on[cpu]
	at, _ := slices.BinarySearchFunc(on, around, func(i int, h float64) int { return cmp.Compare(h, p.items[i].load) })
	var out []int
	for k := at - 1; k >= 0; k-- {
		if !p.stays(on[k], to) {
			out = append(out, on[k])
			break
		}
	}
	for k := at; k < len(on); k++ {
		if !p.stays(on[k], to) {
			out = append(out, on[k])
			break
		}
	}
	return out
}

// moveCost is how far apart two CPUs must be beyond the SA itself for it to be
// moved: without it a search would swap likes for likes.
const moveCost = 0.02

// price is the cost of putting an item on a CPU: one more moved, or one less.
func (p *plan) price(i, to int) float64 {
	switch it := &p.items[i]; {
	case it.at == it.start:
		return moveCost * it.load
	case to == it.start:
		return -moveCost * it.load
	}
	return 0
}

func head(on []int) []int { return on[:min(len(on), swapDepth)] }

func (p *plan) exchange(a, b change) {
	p.apply(a)
	if b != none {
		p.apply(b)
	}
}

func (p *plan) apply(c change) {
	it := &p.items[c.item]
	from := it.at
	k := slices.Index(p.on[from], c.item)
	p.on[from] = slices.Delete(p.on[from], k, k+1)
	p.load[from] -= it.on(from)
	it.at = c.to
	p.load[c.to] += it.on(c.to)
	at, _ := slices.BinarySearchFunc(p.on[c.to], c.item, p.bigger)
	p.on[c.to] = slices.Insert(p.on[c.to], at, c.item)
}

// worst is the load of the busiest CPU among those that have an item which could
// go elsewhere; 0 when there is none.
func (p *plan) worst() float64 {
	worst := 0.0
	for c, on := range p.on {
		if slices.ContainsFunc(on, func(i int) bool { return !p.items[i].fixed }) {
			worst = max(worst, p.load[c])
		}
	}
	return worst
}

// least is the load of the CPU with least to do.
func (p *plan) least() float64 {
	least := 1.0
	for c, load := range p.load {
		if p.open[c] {
			least = min(least, load)
		}
	}
	return least
}

// uneven tells whether a CPU is above the mean by more than one of its SAs, so
// that moving that one would be right whatever it gains.
func (p *plan) uneven(mean float64) bool {
	for c, on := range p.on {
		sum, biggest := 0.0, 0.0
		for _, i := range on {
			if !p.items[i].fixed {
				sum += p.items[i].load
				biggest = max(biggest, p.items[i].load)
			}
		}
		above := min(p.load[c], 1) - mean
		if min(above, sum) > biggest+0.01 && above > 0.03 {
			return true
		}
	}
	return false
}

// id is the number of the CPU with an index.
func (p *plan) id(index int) int { return p.cpus[index].ID }
