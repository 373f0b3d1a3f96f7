package tune

import "slices"

// A CPU is eager when a program runs on it that makes more packets come the more time
// it gets: a sender, or what senders wait for. Loads do not show that: the program has
// what SAs leave it, whatever that is. It shows when an SA goes, and much more comes.
// From then on SAs leave that CPU, one by one, as long as another one gets through what
// it has, and none comes to it that it has no room for. What made less come is taken
// back, as any move is.

const (
	// eagerShare is the least part of a CPU that other programs must have for one of
	// them to be what packets come from.
	eagerShare = 0.3
	// eagerBusy is the share of its time from which on a CPU is taken to have none left for
	// them: they wait for others at times, or for the CPU that has their packets.
	eagerBusy = 0.9
	// eagerRounds is for how long it is taken to be so: a minute at least.
	eagerRounds = 240
)

// waits tells whether what a CPU has to do besides SAs would do with more time.
func (v *view) waits(cpu int) bool {
	return v.o.CPUs[cpu].Busy >= eagerBusy && v.base[cpu] >= eagerShare
}

// add adds a move to those that are to be judged.
func (tr *trial) add(m Move, v *view, it item) {
	tr.moves = append(tr.moves, m)
	if v.waits(it.start) {
		tr.left = appendNew(tr.left, v.o.CPUs[it.start].ID)
	}
	if v.base[it.at] >= eagerShare {
		tr.joined = appendNew(tr.joined, v.o.CPUs[it.at].ID)
	}
}

// isEager tells whether a CPU was found to be eager of late.
func (t *Tuner) isEager(cpu int) bool { return t.round < t.eager[cpu] }

// found notes what a trial says about programs beside the SAs.
func (t *Tuner) found(tr *trial, now outcome) {
	for _, cpu := range tr.left {
		if now.offered > tr.before.offered*(1+comparable) && now.delivered > tr.before.delivered {
			t.eager[cpu] = t.round + eagerRounds
		}
	}
}

// foundWorse is found for moves that are taken back.
func (t *Tuner) foundWorse(tr *trial) {
	for _, cpu := range tr.left {
		delete(t.eager, cpu)
	}
	for _, cpu := range tr.joined {
		t.eager[cpu] = t.round + eagerRounds
	}
}

// makeWay is a step that takes an SA off an eager CPU, if another one may have room:
// that it got through all that it had is what counts, for a packet costs a CPU with
// time to spare more than one that has none.
func (t *Tuner) makeWay(v *view, p *plan) []item {
	if t.trial != nil {
		return nil // that one's verdict is to be of nothing else
	}
	to := -1
	for c, cpu := range v.o.CPUs {
		if p.open[c] && !t.isEager(cpu.ID) && cpu.Busy < saturated && cpu.Dropped == 0 && (to < 0 || cpu.Busy < v.o.CPUs[to].Busy) {
			to = c
		}
	}
	if to < 0 {
		return nil
	}
	var step []item
	for _, it := range p.items {
		from := v.o.CPUs[it.start]
		if it.at = to; it.fixed || it.load == 0 || !t.isEager(from.ID) || !v.waits(it.start) || t.isBanned(it.sa, p, it) {
			continue
		}
		if step == nil || it.load > step[0].load {
			step = []item{it}
		}
	}
	return step
}

// eagerCPUs says which of the plan's CPUs are.
func (t *Tuner) eagerCPUs(cpus []CPU) []bool {
	out := make([]bool, len(cpus))
	for i, c := range cpus {
		out[i] = t.isEager(c.ID)
	}
	return out
}

// appendNew appends what is not there yet.
func appendNew(s []int, x int) []int {
	if slices.Contains(s, x) {
		return s
	}
	return append(s, x)
}
