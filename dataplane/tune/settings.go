package tune

import (
	"cmp"
	"fmt"
	"strconv"
	"time"
)

// System is what a round sees of the box beside CPUs and SAs.
type System struct {
	// Settings are the current values of those of Known that the box has.
	Settings map[Setting]string
	Dropped  uint64 // packets in the interval that found a CPU's backlog full (softnet)
	Squeezed uint64 // times in the interval that packet processing ended with work left
	// Refused are settings that could not be changed since the observation before.
	Refused    []Setting
	IRQBalance bool // another program moves interrupts
	MSS        bool // TCP is fitted to the tunnels
	// TooBig counts packets that may not be cut and did not fit their way; the others are
	// TCP of the box's own.
	TooBig, Segments, Retransmitted uint64
	// XFRM are the packets that the kernel's XFRM lost, by its own names, those not zero.
	XFRM map[string]uint64
}

// Setting is the name of something that the tuner may change: a sysctl by its
// dotted name, or one of those below.
type Setting string

// Settings that the tuner knows.
const (
	MaxBacklog  Setting = "net.core.netdev_max_backlog"  // packets
	Budget      Setting = "net.core.netdev_budget"       // packets a round of softirq
	BudgetTime  Setting = "net.core.netdev_budget_usecs" // microseconds a round of softirq
	ReceiveMax  Setting = "net.core.rmem_max"            // bytes
	SendMax     Setting = "net.core.wmem_max"            // bytes
	OptMemMax   Setting = "net.core.optmem_max"          // bytes
	CPUGovernor Setting = "cpu.governor"                 // of all CPUs: "performance", "powersave" ...
)

// Known are all settings that the tuner may change.
var Known = []Setting{MaxBacklog, Budget, BudgetTime, ReceiveMax, SendMax, OptMemMax, CPUGovernor}

// Set gives a setting another value. Whoever carries it out remembers what it was
// before the first one, and restores that at the end.
type Set struct {
	Setting  Setting
	From, To string
}

func (Set) isAction() {}

func (s Set) String() string {
	return fmt.Sprintf("set %s from %s to %s", s.Setting, cmp.Or(s.From, "none"), cmp.Or(s.To, "none"))
}

// rule says when a setting is raised.
type rule struct {
	setting Setting
	// least is what it shall be in any case; 0: whatever it is.
	least int
	// most is the highest value that the tuner gives it.
	most int
	sign *sign // that the box runs short of it; nil: none shows
}

// sign is a count of the system that grows while the box runs short of something.
type sign struct {
	count func(*System) uint64
	text  string // for count and interval
}

// perSecond is the rate from which on a count of the system is a sign: single
// ones happen on a healthy box.
const perSecond = 10

var (
	dropped  = &sign{func(s *System) uint64 { return s.Dropped }, "%d packets found the queue to a CPU full in %v"}
	squeezed = &sign{func(s *System) uint64 { return s.Squeezed }, "packet processing stopped %d times in %v with packets waiting"}
)

var rules = []rule{
	{ReceiveMax, 16 << 20, 16 << 20, nil},
	{SendMax, 16 << 20, 16 << 20, nil},
	{OptMemMax, 128 << 10, 128 << 10, nil},
	{MaxBacklog, 0, 1 << 15, dropped},
	{Budget, 0, 1200, squeezed},
	{BudgetTime, 0, 16_000, squeezed},
}

// rate is the count in a second.
func (s *sign) rate(o *Observation) float64 {
	return float64(s.count(&o.System)) / o.Interval.Seconds()
}

func (s *sign) say(o *Observation) string {
	return fmt.Sprintf(s.text, s.count(&o.System), o.Interval.Round(time.Millisecond))
}

// attempt is a changed setting that is to be judged.
type attempt struct {
	set    Set
	sign   *sign
	round  int
	before float64 // rate of the sign
}

// judgeSettings says what came of settings that were changed some rounds ago.
func (t *Tuner) judgeSettings(o Observation) (out []Verdict) {
	for _, r := range rules {
		a, tried := t.tried[r.setting]
		if !tried || t.round-a.round < shortRounds {
			continue
		}
		delete(t.tried, r.setting)
		now := a.sign.rate(&o)
		out = append(out, Verdict{Actions: []Action{a.set}, Helped: now < a.before*(1-comparable),
			Text: a.sign.say(&o) + fmt.Sprintf(", that is %.0f a second; %.0f before", now, a.before)})
	}
	return out
}

const (
	// shortRounds is for how many rounds in a row a sign must show.
	shortRounds = 3
	// governorBusy is the load from which on a CPU that saves power is too slow.
	governorBusy = 0.8
)

// settings applies the rules.
func (t *Tuner) settings(o Observation) []Planned {
	var out []Planned
	for _, r := range rules {
		now, err := strconv.Atoi(o.System.Settings[r.setting])
		if err != nil {
			continue // not there, or not a number: not ours to judge
		}
		if now < r.least && t.round >= t.knobs.banned[r.setting].until {
			out = append(out, planSet(o, r.setting, r.least, "less than a gateway's sockets need under load"))
			continue
		}
		if r.sign == nil || t.round < t.knobs.banned[r.setting].until {
			continue
		}
		if r.sign.rate(&o) <= perSecond {
			delete(t.short, r.setting)
			continue
		}
		if t.short[r.setting]++; t.short[r.setting] >= shortRounds && now < r.most {
			t.short[r.setting] = 0
			p := planSet(o, r.setting, min(2*max(now, 1), r.most), r.sign.say(&o))
			t.tried[r.setting] = attempt{p.Action.(Set), r.sign, t.round, r.sign.rate(&o)}
			out = append(out, p)
		}
	}
	return append(out, t.governor(o)...)
}

func planSet(o Observation, s Setting, to int, why string) Planned {
	return Planned{Action: Set{Setting: s, From: o.System.Settings[s], To: strconv.Itoa(to)}, Reason: Reason{Text: why}}
}

// governor asks for full clock speed while a CPU is busy. It goes up once; the end
// of the tuner takes it back.
func (t *Tuner) governor(o Observation) []Planned {
	now, there := o.System.Settings[CPUGovernor]
	if !there || now == "performance" || t.round < t.knobs.banned[CPUGovernor].until {
		return nil
	}
	for _, c := range o.CPUs {
		if c.Online && c.Busy > governorBusy {
			if t.short[CPUGovernor]++; t.short[CPUGovernor] < shortRounds {
				return nil
			}
			t.short[CPUGovernor] = 0
			return []Planned{{Action: Set{Setting: CPUGovernor, From: now, To: "performance"}, Reason: Reason{
				Text: fmt.Sprintf("CPU %d is busy for %s of its time while its clock may be low", c.ID, percent(c.Busy))}}}
		}
	}
	delete(t.short, CPUGovernor)
	return nil
}
