package tune

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"espalier/dataplane/host"
)

// card is a gateway as its interfaces show it: an inside one whose packets are
// encrypted where they arrive, and an outside one that sends them. Loads are shares of
// a CPU.
type card struct {
	rng      *rand.Rand
	settings map[Setting]string
	irqs     []int     // CPU by queue of the inside interface; empty: a device without
	work     []float64 // by queue: what its packets ask for
	flows    bool      // there are many connections: RPS can spread them
	cost     map[Setting]float64
	foreign  []float64 // by CPU: what other programs take
	refuses  map[Setting]bool
	refused  []Setting
	sets     map[Setting]int
	lastSet  int
	system   System
}

const noRPS = ""

func newCard(seed uint64, cpus, queues int) *card {
	c := &card{rng: rand.New(rand.NewPCG(seed, 11)), settings: map[Setting]string{}, foreign: make([]float64, cpus), cost: map[Setting]float64{},
		refuses: map[Setting]bool{}, sets: map[Setting]int{}, flows: true}
	for range queues {
		c.work = append(c.work, 0.1)
	}
	return c
}

// cable is the card's interrupt that no queue has.
const cable = Setting("irq/29")

// device gives the inside interface a device whose queues' interrupts are served by a CPU.
func (c *card) device(cpu int) {
	c.settings[cable] = fmt.Sprint(cpu)
	for q := range c.work {
		c.irqs = append(c.irqs, cpu)
		c.settings[Setting(host.IRQAffinity(30+q))] = fmt.Sprint(cpu)
	}
}

func (c *card) rps(q int) Setting { return Setting(host.RPS("in0", q)) }

// loads are what the CPUs have to do for packets, above 1 as well.
func (c *card) loads() []float64 {
	out := make([]float64, len(c.foreign))
	factor := 1.0
	for s, f := range c.cost {
		if strings.HasPrefix(string(s), "feature/") && c.settings[s] == "on" {
			factor *= f
		}
	}
	for q, w := range c.work {
		at := 0
		if len(c.irqs) > 0 {
			at = c.irqs[q]
		}
		list, _ := host.ParseCPUs(c.settings[c.rps(q)])
		if f, bad := c.cost[c.rps(q)]; bad && len(list) > 0 {
			w *= f
		}
		switch w *= factor; {
		case len(list) == 0:
			out[at] += w
		case !c.flows:
			out[list[0]] += w
		default:
			for _, cpu := range list {
				out[cpu] += w / float64(len(list))
			}
		}
	}
	return out
}

func (c *card) observe(d time.Duration) Observation {
	o := Observation{Interval: d, System: c.system}
	const rate = 20_000 // packets a second for a load of 1
	noise := func() float64 { return 1 + 0.04*(c.rng.Float64()-0.5) }
	for cpu, l := range c.loads() {
		room := 1 - c.foreign[cpu]
		done := min(l, room)
		o.CPUs = append(o.CPUs, CPU{ID: cpu, Online: true, Busy: min((c.foreign[cpu]+done)*noise(), 1), Foreign: c.foreign[cpu]})
	}
	work := 0.0
	for _, w := range c.work {
		work += w
	}
	n := uint64(work * rate * d.Seconds() * noise())
	through := uint64(float64(n) * c.through())
	in := Link{Name: "in0", Inside: true, Device: len(c.irqs) > 0, Queues: len(c.work), SendQueues: 1, Received: n, ReceivedBytes: 1000 * n}
	for q := range c.irqs {
		in.IRQs = append(in.IRQs, IRQ{Number: 30 + q, CPU: c.irqs[q], Count: uint64(100 * (1 + c.work[q]))})
	}
	if len(c.irqs) > 0 { // of the cable
		in.IRQs = append(in.IRQs, IRQ{Number: 29, CPU: c.irqs[0], Count: 1})
	}
	o.Links = []Link{in, {Name: "out0", Device: len(c.irqs) > 0, Queues: 1, SendQueues: 2, Sent: through, SentBytes: 1050 * through}}
	o.System.Settings, o.System.Refused, c.refused = c.settings, c.refused, nil
	return o
}

func (c *card) perform(t *testing.T, round int, d Decision) {
	t.Helper()
	for _, p := range d.Actions {
		s, is := p.Action.(Set)
		if !is {
			continue
		}
		if p.Reason.Text == "" || s.From == s.To {
			t.Errorf("round %d: %v, %+v; want a reason and a change", round, s, p.Reason)
		}
		if now, there := c.settings[s.Setting]; !there || now != s.From {
			t.Errorf("round %d: %v, but it is %q (there: %v)", round, s, now, there)
		}
		c.sets[s.Setting]++
		c.lastSet = round
		if c.refuses[s.Setting] {
			c.refused = append(c.refused, s.Setting)
			continue
		}
		c.settings[s.Setting] = s.To
		for q := range c.irqs {
			if s.Setting == Setting(host.IRQAffinity(30+q)) {
				fmt.Sscan(s.To, &c.irqs[q])
			}
		}
	}
}

// tune runs rounds under constant load.
func (c *card) tune(t *testing.T, rounds int) {
	t.Helper()
	tuner, d := New(Limits{}), time.Second
	for round := range rounds {
		dec := tuner.Decide(c.observe(d))
		c.perform(t, round, dec)
		d = dec.Next
	}
}

// through is the part of what arrives that gets through.
func (c *card) through() float64 {
	sum := 0.0
	loads := c.loads()
	for cpu, l := range loads {
		if room := 1 - c.foreign[cpu]; l > room {
			sum += room / l
		} else {
			sum++
		}
	}
	return sum / float64(len(loads))
}

// TestQueues: each thing that can be spread is, by what helps, and left alone otherwise.
func TestQueues(t *testing.T) {
	t.Parallel()
	rps := Setting(host.RPS("in0", 0))
	xps := []Setting{Setting(host.XPS("out0", 0)), Setting(host.XPS("out0", 1))}
	for _, c := range []struct {
		name  string
		scene func(*card)
		want  map[Setting]string // that differ at the end
	}{
		{"one queue, many connections", func(c *card) { c.work[0], c.settings[rps] = 1.2, noRPS }, map[Setting]string{rps: "0-1"}},
		{"the administrator's choice", func(c *card) { c.work[0], c.settings[rps] = 1.2, "0" }, nil},
		{"a calm box", func(c *card) { c.work[0], c.settings[rps] = 0.5, noRPS }, nil},
		{"the kernel has no RPS", func(c *card) { c.work[0] = 1.2 }, nil},
		{"others keep the second CPU busy", func(c *card) { c.work[0], c.settings[rps], c.foreign[1] = 1.2, noRPS, 0.9 }, nil},
		{"it costs more than it gives", func(c *card) {
			c.work[0], c.settings[rps], c.cost[rps] = 1.0, noRPS, 4
		}, nil},
		{"two queues on one CPU", func(c *card) {
			c.work = []float64{0.5, 0.6}
			c.device(0)
		}, map[Setting]string{"irq/30": "1"}},
		{"irqbalance does that", func(c *card) {
			c.work = []float64{0.5, 0.6}
			c.device(0)
			c.system.IRQBalance = true
		}, nil},
		{"interrupts that the kernel keeps", func(c *card) {
			c.work = []float64{0.5, 0.6}
			c.device(0)
			c.refuses["irq/30"], c.refuses["irq/31"] = true, true
		}, nil},
		{"transmit queues of nobody", func(c *card) {
			c.work[0] = 0.3
			c.device(0)
			c.settings[xps[0]], c.settings[xps[1]] = "", ""
		}, map[Setting]string{xps[0]: "0", xps[1]: "1"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := newCard(1, 2, 1)
			c.scene(m)
			before := map[Setting]string{}
			for s, v := range m.settings {
				before[s] = v
			}
			m.tune(t, 60)
			for s, v := range m.settings {
				want, changed := c.want[s]
				if !changed {
					want = before[s]
				}
				if v != want {
					t.Errorf("%s is %q; want %q (set %v times)", s, v, want, m.sets)
				}
			}
		})
	}
}

// TestOffloads: features that are off go on under load and stay on if that helps.
func TestOffloads(t *testing.T) {
	t.Parallel()
	feature := func(link, f string) Setting { return Setting(host.Feature(link, f)) }
	gro, lro, esp, gso := feature("in0", "rx-gro"), feature("in0", "rx-lro"), feature("out0", "esp-hw-offload"), feature("out0", "tx-generic-segmentation")
	m := newCard(1, 2, 1)
	m.device(0)
	m.work[0] = 1.3
	for _, s := range []Setting{gro, esp, gso, feature("in0", "esp-hw-offload")} {
		m.settings[s] = "off"
	}
	m.settings[lro] = "on"
	m.cost[gro], m.cost[gso] = 0.9, 1.8
	m.tune(t, 60)
	want := map[Setting]string{gro: "on", lro: "off", esp: "on", gso: "off", feature("in0", "esp-hw-offload"): "off"}
	for s, v := range want {
		if m.settings[s] != v {
			t.Errorf("%s is %s; want %s", s, m.settings[s], v)
		}
	}
	// Calm, nothing is switched but what cannot be right.
	m = newCard(1, 2, 1)
	m.device(0)
	m.work[0], m.settings[gro], m.settings[lro] = 0.3, "off", "on"
	m.tune(t, 60)
	if m.settings[gro] != "off" || m.settings[lro] != "off" {
		t.Errorf("calm: %v", m.settings)
	}
}

// TestKnobsSettle: whatever the box is, constant load ends with settings that stay,
// and nothing is tried again and again.
func TestKnobsSettle(t *testing.T) {
	t.Parallel()
	const rounds = 600
	for seed := range uint64(100) {
		rng := rand.New(rand.NewPCG(seed, 5))
		m := newCard(seed, 2+rng.IntN(3), 1+rng.IntN(4))
		if rng.IntN(2) == 0 {
			m.device(rng.IntN(len(m.foreign)))
		}
		for q := range m.work {
			m.work[q] = 0.05 + rng.Float64()*0.8
			m.settings[m.rps(q)] = noRPS
			if rng.IntN(4) == 0 {
				m.cost[m.rps(q)] = 0.5 + 2.5*rng.Float64()
			}
			m.refuses[Setting(host.IRQAffinity(30+q))] = rng.IntN(4) == 0
		}
		for _, f := range offloads {
			for _, link := range []string{"in0", "out0"} {
				s := Setting(host.Feature(link, f.feature))
				m.settings[s] = []string{"on", "off"}[rng.IntN(2)]
				m.cost[s] = 0.7 + 0.6*rng.Float64()
				m.refuses[s] = rng.IntN(5) == 0
			}
		}
		m.settings["xps/out0/0"], m.settings["xps/out0/1"] = "", ""
		m.flows = rng.IntN(3) > 0
		for c := range m.foreign {
			if rng.IntN(3) == 0 {
				m.foreign[c] = rng.Float64() * 0.9
			}
		}
		before := m.through()
		m.tune(t, rounds)
		for s, n := range m.sets {
			// Tried, taken back, tried again after 60, 120, 240 rounds at the earliest.
			if n > 8 {
				t.Errorf("seed %d: %s set %d times in %d rounds", seed, s, n, rounds)
			}
		}
		// Less than what the noise hides may be lost with each of a few settings.
		if after := m.through(); after < before*0.85 {
			t.Errorf("seed %d: %.2f of what arrives gets through, %.2f before", seed, after, before)
		}
		if t.Failed() {
			return
		}
	}
}

// TestKnobLimits: a class whose limit is none does nothing, others go on.
func TestKnobLimits(t *testing.T) {
	t.Parallel()
	rps, gro := Setting(host.RPS("in0", 0)), Setting(host.Feature("in0", "rx-gro"))
	for _, c := range []struct {
		limits   Limits
		rps, gro bool
	}{{Limits{}, true, true}, {Limits{Queues: -1}, false, true}, {Limits{Offloads: -1}, true, false}, {Limits{Queues: -1, Offloads: -1}, false, false}} {
		m := newCard(1, 2, 1)
		m.work[0] = 2.5
		m.device(0)
		m.settings[rps], m.settings[gro], m.cost[gro] = noRPS, "off", 0.95
		tuner := New(c.limits)
		for round := range 60 {
			m.perform(t, round, tuner.Decide(m.observe(time.Second)))
		}
		if got := m.settings[rps] != noRPS; got != c.rps {
			t.Errorf("%+v: RPS %q", c.limits, m.settings[rps])
		}
		if got := m.settings[gro] == "on"; got != c.gro {
			t.Errorf("%+v: GRO %q", c.limits, m.settings[gro])
		}
	}
}

// TestRefusedSettings: a sysctl that nobody lets be changed is not tried each round.
func TestRefusedSettings(t *testing.T) {
	t.Parallel()
	tuner, n := New(Limits{}), 0
	var refused []Setting
	for range 200 {
		o := Observation{Interval: time.Second, System: System{Settings: map[Setting]string{ReceiveMax: "212992"}, Refused: refused}}
		refused = nil
		for _, p := range tuner.Decide(o).Actions {
			n++
			refused = append(refused, p.Action.(Set).Setting)
		}
	}
	if n < 1 || n > 3 {
		t.Errorf("set %d times in 200 rounds; want it tried again only after a while", n)
	}
}

// TestTooBig: packets that keep not fitting are said once in a long while.
func TestTooBig(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		tooBig uint64
		says   int
	}{{0, 0}, {9, 0}, {200, 1}} {
		tuner, said := New(Limits{}), []Planned{}
		for range 300 {
			o := Observation{Interval: time.Second, System: System{TooBig: c.tooBig, MSS: true}, Links: []Link{{Name: "out0", Sent: 5000}}, Paths: []Path{{"home", 1400}}}
			said = append(said, tuner.Decide(o).Actions...)
		}
		if len(said) != c.says {
			t.Fatalf("%d a second: %v", c.tooBig, said)
		}
		if len(said) > 0 && (!strings.Contains(said[0].Reason.Text, "home 1400") || changes(said[0]) || !strings.Contains(said[0].Action.String(), "MTU")) {
			t.Errorf("%+v", said[0])
		}
	}
}
