package tune

import (
	"cmp"
	"fmt"
	"slices"

	"espalier/dataplane/host"
)

// queues spreads what an interface receives and sends over CPUs: interrupts of a
// card's queues, packets of an inside interface with fewer queues than CPUs (RPS), the
// transmit queues that CPUs use (XPS).
func (t *Tuner) queues(v *view) (out []Planned) {
	if t.limits.Queues < 0 {
		return nil
	}
	if hot := v.receiver(); hot >= 0 && t.knobs.hot >= shortRounds {
		if out = t.interrupts(v, hot); len(out) == 0 {
			out = t.packetSteering(v, hot)
		}
	}
	if len(out) == 0 {
		out = t.sendQueues(v)
	}
	return out[:min(len(out), t.limits.Queues)]
}

// fewInterrupts is how much less often than the busiest of its card an interrupt comes
// that is none of a queue in use: what the card has to say of its cable, once in two
// seconds. That on another CPU would help nobody.
const fewInterrupts = 20

// interrupts moves one interrupt from a CPU that serves several queues to one with
// room. The queue with least to do goes: the others stay where their caches are.
func (t *Tuner) interrupts(v *view, hot int) []Planned {
	to := v.coolest(hot)
	if v.o.System.IRQBalance || to < 0 {
		return nil // irqbalance would move it back
	}
	for _, l := range v.o.Links {
		var here []IRQ
		for _, q := range l.IRQs {
			if q.CPU == v.o.CPUs[hot].ID && q.Count > 0 {
				here = append(here, q)
			}
		}
		slices.SortFunc(here, func(a, b IRQ) int { return cmp.Compare(a.Count, b.Count) })
		for len(here) > 0 && here[0].Count < here[len(here)-1].Count/fewInterrupts {
			here = here[1:]
		}
		if len(here) < 2 {
			continue
		}
		for _, q := range here {
			s := Setting(host.IRQAffinity(q.Number))
			now, ok := t.free(v, s)
			cpu := fmt.Sprint(v.o.CPUs[to].ID)
			if !ok || now == cpu {
				continue
			}
			// Whatever comes of it, the same interrupt stays for a while.
			t.banKnob(s)
			return []Planned{{Action: Set{Setting: s, From: now, To: cpu}, Reason: Reason{Text: fmt.Sprintf(
				"CPU %d is busy for %s of its time and serves %d queues of %s; CPU %s has room for the one with least to do",
				v.o.CPUs[hot].ID, percent(v.o.CPUs[hot].Busy), len(here), l.Name, cpu)}}}
		}
	}
	return nil
}

// skewed is the share of packets from which on one of several queues has them all.
const skewed = 0.6

// packetSteering has the kernel spread by connection what an inside interface
// receives. Outside, all packets of a tunnel are one connection to the kernel, and the
// BPF programs do it better.
func (t *Tuner) packetSteering(v *view, hot int) (out []Planned) {
	var cpus []uint32
	for i, c := range v.o.CPUs {
		if v.open[i] && c.Foreign < 0.5 {
			cpus = append(cpus, uint32(c.ID))
		}
	}
	if len(cpus) < 2 || v.coolest(hot) < 0 {
		return nil
	}
	to := host.FormatCPUs(cpus)
	for _, l := range v.o.Links {
		if !l.Inside || l.Steered || perSec(l.Received, v.o.Interval) < knobRate || !l.arrivesOn(v.o.CPUs[hot].ID) {
			continue
		}
		why := fmt.Sprintf("%s has %s for %d CPUs", l.Name, count(l.Queues, "receive queue", "receive queues"), len(cpus))
		if share := l.fullest(); l.Queues >= len(cpus) && share < skewed {
			continue
		} else if l.Queues >= len(cpus) {
			why = fmt.Sprintf("one of %d receive queues of %s gets %s of its packets", l.Queues, l.Name, percent(share))
		}
		for q := range l.Queues {
			s := Setting(host.RPS(l.Name, q))
			if now, ok := t.free(v, s); ok && now == "" {
				out = append(out, Planned{Action: Set{Setting: s, To: to}, Reason: Reason{Text: fmt.Sprintf(
					"CPU %d is busy for %s of its time, for packets that come in clear; %s, and others have room", v.o.CPUs[hot].ID, percent(v.o.CPUs[hot].Busy), why)}})
			}
		}
	}
	return out
}

// arrivesOn tells whether the CPU may be the one that serves the interface.
func (l *Link) arrivesOn(cpu int) bool {
	return len(l.IRQs) == 0 || slices.ContainsFunc(l.IRQs, func(q IRQ) bool { return q.CPU == cpu && q.Count > 0 })
}

// fullest is the share of packets that the fullest receive queue gets; 0: not known.
func (l *Link) fullest() float64 {
	sum := uint64(0)
	for _, n := range l.Shares {
		sum += n
	}
	if sum == 0 {
		return 0
	}
	return float64(slices.Max(l.Shares)) / float64(sum)
}

// sendQueues gives each CPU a transmit queue, where the driver has given them to none.
func (t *Tuner) sendQueues(v *view) (out []Planned) {
	var cpus []uint32
	for i, c := range v.o.CPUs {
		if v.open[i] {
			cpus = append(cpus, uint32(c.ID))
		}
	}
	for _, l := range v.o.Links {
		if !l.Device || l.SendQueues < 2 || len(cpus) < 2 || perSec(l.Sent, v.o.Interval) < knobRate {
			continue
		}
		for q := range min(l.SendQueues, len(cpus)) {
			s := Setting(host.XPS(l.Name, q))
			if now, ok := t.free(v, s); !ok || now != "" {
				continue
			}
			var mine []uint32
			for i, cpu := range cpus {
				if i%l.SendQueues == q {
					mine = append(mine, cpu)
				}
			}
			out = append(out, Planned{Action: Set{Setting: s, To: host.FormatCPUs(mine)}, Reason: Reason{Text: fmt.Sprintf(
				"%s has %d transmit queues and no CPU has one of its own: CPUs wait for each other at them", l.Name, l.SendQueues)}})
		}
	}
	return out
}
