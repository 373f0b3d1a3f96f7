package tune

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

// clearRounds has the tuner decide for some rounds about groups of clear connections that arrive on CPU 0 of two with these shares of a CPU, and
// SAs beside them, which go where it says. It returns all actions with their reasons, and where the groups are.
func clearRounds(tuner *Tuner, groups, sas []float64) (log []string, at []int) {
	const unit = 1e-8 // seconds of a CPU for a byte
	var all []SA
	add := func(isClear bool, share float64) {
		n := uint32(len(all))
		packets := uint64(share / unit / (1000 + packetPrice))
		all = append(all, SA{ID: SAID{n, 1}, Clear: isClear, SPI: n, CPU: NoCPU, Packets: packets, Bytes: 1000 * packets})
	}
	for _, share := range groups {
		add(true, share)
	}
	for _, share := range sas {
		add(false, share)
	}
	for round := range 60 {
		busy := [2]float64{}
		for _, s := range all {
			busy[max(s.CPU, 0)] += unit * float64(s.Bytes+packetPrice*s.Packets)
		}
		o := Observation{At: time.Duration(round) * time.Second, Interval: time.Second, SAs: append([]SA(nil), all...),
			System: System{Settings: map[Setting]string{Pcrypt: "off"}}}
		for cpu, b := range busy {
			o.CPUs = append(o.CPUs, CPU{ID: cpu, Online: true, Busy: min(b, 1)})
		}
		for _, p := range tuner.Decide(o).Actions {
			log = append(log, fmt.Sprintf("%d: %s: %s", round, p.Action, p.Reason.Text))
			if m, ok := p.Action.(Move); ok {
				all[m.SA.Slot].CPU = m.To
			}
		}
	}
	for _, s := range all[:len(groups)] {
		at = append(at, max(s.CPU, 0))
	}
	return log, at
}

// TestClearConnectionsOfAnotherPrice: clear packets that are only passed on cost less than what IPsec does. Where a CPU has nothing else to do, that is
// not taken for the price of decrypting.
func TestClearConnectionsOfAnotherPrice(t *testing.T) {
	const unit = 1e-8
	for _, cheaper := range []float64{1, 2, 3, 10} {
		tuner, moves := New(Limits{}), 0
		shares := []float64{0.5, 0.3, 0.3, 0.3, 0.1, 0.1} // the last two are groups of connections on CPU 1
		cpu := []int{NoCPU, NoCPU, NoCPU, NoCPU, NoCPU, NoCPU}
		var busy [2]float64
		for round := range 120 {
			busy = [2]float64{}
			o := Observation{At: time.Duration(round) * time.Second, Interval: time.Second}
			for i, share := range shares {
				s := SA{ID: SAID{uint32(i), 1}, Clear: i >= 4, SPI: uint32(i), CPU: cpu[i]}
				price := unit
				if s.Clear {
					s.Arrives, price = 1, unit/cheaper
				}
				s.Packets = uint64(share / price / (1000 + packetPrice))
				s.Bytes = 1000 * s.Packets
				busy[s.place()] += share
				o.SAs = append(o.SAs, s)
			}
			for c, b := range busy {
				o.CPUs = append(o.CPUs, CPU{ID: c, Online: true, Busy: min(b, 1)})
			}
			for _, p := range tuner.Decide(o).Actions {
				if m, ok := p.Action.(Move); ok {
					cpu[m.SA.Slot] = m.To
					moves++
				}
			}
		}
		if max(busy[0], busy[1]) > 0.91 || moves > 6 {
			t.Errorf("clear packets %v times cheaper: %d moves, %.2f to do", cheaper, moves, busy)
		}
	}
}

// TestClearConnections: groups of connections that are to be encrypted go where there is room, as SAs do, and are called what they are.
func TestClearConnections(t *testing.T) {
	log, at := clearRounds(New(Limits{}), []float64{0.3, 0.3, 0.3, 0.3}, nil)
	if there := at[0] + at[1] + at[2] + at[3]; there != 2 {
		t.Errorf("%d of 4 groups are on the other CPU: %q", there, log)
	}
	if len(log) != 2 || !strings.Contains(log[0], ": move group ") || !strings.Contains(log[0], "these connections ask for 22 %") {
		t.Errorf("%q", log)
	}
}

// TestClearConnectionThatFills: nobody can be asked for help with it, nor is an SA renewed for it, and the journal says so.
func TestClearConnectionThatFills(t *testing.T) {
	log, _ := clearRounds(New(Limits{}), []float64{1.2}, []float64{0.05})
	// Once, off the CPU that receives: it has the other one for itself, as far as can be known then.
	if len(log) > 0 && strings.HasPrefix(log[0], "0: move group 0 ") {
		log = log[1:]
	}
	if n := actions(log, "leave group 0 of clear connections"); n == 0 || n != len(log) || actions(log, "a connection cannot be spread") != n {
		t.Errorf("%q", log)
	}
}
