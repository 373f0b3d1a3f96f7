package tune

import (
	"maps"
	"slices"
	"time"

	"espalier/dataplane/flow"
	"espalier/dataplane/host"
)

// Linker is a Paths that knows the interfaces; flow.Flow is one.
type Linker interface {
	Links() ([]flow.Link, error)
}

// Loser is a Paths that knows what SAs lose; flow.Flow is one.
type Loser interface {
	Losses() ([]flow.Loss, error)
}

// network is what the kernel's box looks at beside CPUs and SAs' packets. What cannot
// be read is left out of the observation, without a word: most boxes lack some of it.
type network struct {
	links  func() ([]flow.Link, error)
	losses func() ([]flow.Loss, error)
	shape  func(link string) host.LinkShape
	stats  func([]host.LinkShape) ([]host.LinkStat, error)
	irqs   func() (map[int]map[int]uint64, error)
	ip     func() (host.IPStat, error)
	xfrm   func() ([]flow.Stat, error)
	runs   func(program string) bool

	known    []flow.Link
	shapes   []host.LinkShape
	balance  bool
	lookedAt time.Time // at these

	before   netCounts
	lost     map[flow.Key]flow.Loss
	lossesAt time.Time
	lossy    uint64 // what XFRM had counted of such losses then
}

// netCounts are counters at one moment.
type netCounts struct {
	links map[string]host.LinkStat
	irqs  map[int]map[int]uint64
	ip    host.IPStat
	hasIP bool
	xfrm  map[string]uint64
}

func newNetwork(p Paths) *network {
	n := &network{links: func() ([]flow.Link, error) { return nil, nil }, shape: host.ShapeOf, stats: host.LinkStats, irqs: host.Interrupts, ip: host.IPStats, xfrm: flow.KernelStats,
		runs: host.Runs}
	if l, ok := p.(Linker); ok {
		n.links = l.Links
	}
	if l, ok := p.(Loser); ok {
		n.losses = l.Losses
	}
	return n
}

// observe adds what grew since the call before.
func (n *network) observe(o *Observation, now time.Time) {
	n.look(now)
	c := n.read()
	defer func() { n.before = c }()
	if n.before.links == nil {
		return // nothing to compare with yet
	}
	for _, l := range n.known {
		s, there := c.links[l.Name]
		old, was := n.before.links[l.Name]
		if !there || !was || s.Received < old.Received || s.Sent < old.Sent {
			continue // it has just come, or come anew
		}
		o.Links = append(o.Links, n.link(l, &s, &old, c.irqs))
	}
	if c.hasIP && n.before.hasIP {
		s, old := &c.ip, &n.before.ip
		o.System.TooBig, o.System.Segments, o.System.Retransmitted = grew(s.TooBig, old.TooBig), grew(s.Segments, old.Segments), grew(s.Retransmitted, old.Retransmitted)
	}
	for name, v := range c.xfrm {
		if v = grew(v, n.before.xfrm[name]); v > 0 {
			if o.System.XFRM == nil {
				o.System.XFRM = map[string]uint64{}
			}
			o.System.XFRM[name] = v
		}
	}
	// Packets of tunnels that do not fit are XFRM's to count.
	o.System.TooBig += o.System.XFRM["XfrmOutStateModeError"]
	n.charge(o, c.xfrm, now)
}

// grew is a counter's growth; one that was reset grew by nothing.
func grew(now, before uint64) uint64 {
	if now < before {
		return 0
	}
	return now - before
}

// lookEvery is how often it is looked which interfaces and programs there are.
const lookEvery = 10 * time.Second

func (n *network) look(now time.Time) {
	if !n.lookedAt.IsZero() && now.Sub(n.lookedAt) < lookEvery {
		return
	}
	links, err := n.links()
	if err != nil {
		return // the fast path is busy: they are as before
	}
	n.lookedAt, n.known, n.balance = now, links, n.runs("irqbalance")
	n.shapes = nil
	for _, l := range links {
		n.shapes = append(n.shapes, n.shape(l.Name))
	}
}

func (n *network) read() netCounts {
	c := netCounts{links: map[string]host.LinkStat{}, xfrm: map[string]uint64{}}
	if len(n.shapes) > 0 {
		stats, _ := n.stats(n.shapes)
		for _, s := range stats {
			c.links[s.Name] = s
		}
		if slices.ContainsFunc(stats, func(s host.LinkStat) bool { return len(s.IRQs) > 0 }) {
			c.irqs, _ = n.irqs()
		}
	}
	var err error
	c.ip, err = n.ip()
	c.hasIP = err == nil
	stats, _ := n.xfrm()
	for _, s := range stats {
		c.xfrm[s.Name] = s.Packets
	}
	return c
}

func (n *network) link(l flow.Link, s, old *host.LinkStat, irqs map[int]map[int]uint64) Link {
	out := Link{Name: l.Name, Inside: l.Inside, Steered: l.Steered, Device: s.Device, Queues: s.Queues, SendQueues: s.SendQueues,
		Received: s.Received - old.Received, ReceivedBytes: grew(s.ReceivedBytes, old.ReceivedBytes),
		Sent: s.Sent - old.Sent, SentBytes: grew(s.SentBytes, old.SentBytes), Missed: grew(s.Missed, old.Missed)}
	if len(s.Shares) == len(old.Shares) {
		for q, v := range s.Shares {
			out.Shares = append(out.Shares, grew(v, old.Shares[q]))
		}
	}
	for _, number := range s.IRQs {
		irq, most := IRQ{Number: number}, uint64(0)
		for cpu, v := range irqs[number] {
			v = grew(v, n.before.irqs[number][cpu])
			irq.Count += v
			if v > most || v == most && v > 0 && cpu < irq.CPU {
				most, irq.CPU = v, cpu
			}
		}
		if irq.Count > 0 {
			out.IRQs = append(out.IRQs, irq)
		}
	}
	return out
}

// lossesEvery is how often the kernel is asked at most what single SAs lost.
const lossesEvery = 10 * time.Second

// charge says of each SA what it lost since it was asked last. All SAs have to be
// listed for that, so it is done only after some lost anything.
func (n *network) charge(o *Observation, xfrm map[string]uint64, now time.Time) {
	lossy := xfrm["XfrmInStateSeqError"] + xfrm["XfrmInStateProtoError"]
	if n.losses == nil || lossy <= n.lossy || now.Sub(n.lossesAt) < lossesEvery {
		return
	}
	list, err := n.losses()
	if err != nil {
		return
	}
	lost, bySPI := map[flow.Key]flow.Loss{}, map[uint32]flow.Loss{}
	for _, l := range list {
		lost[l.Key] = l
		old := n.lost[l.Key]
		l.Late, l.Repeated, l.Forged = grew(l.Late, old.Late), grew(l.Repeated, old.Repeated), grew(l.Forged, old.Forged)
		if l.Window > 0 { // own inbound ones: their SPIs are unique
			bySPI[l.Key.SPI] = l
		}
	}
	n.lost, n.lossesAt, n.lossy = lost, now, lossy
	for i := range o.SAs {
		s := &o.SAs[i]
		l := bySPI[s.SPI]
		s.Window, s.Late, s.Repeated, s.Forged = l.Window, l.Late, l.Repeated, l.Forged
		delete(bySPI, s.SPI)
	}
	for _, spi := range slices.Sorted(maps.Keys(bySPI)) {
		if l := bySPI[spi]; l.Late+l.Repeated+l.Forged > 0 {
			o.Losing = append(o.Losing, SA{SPI: spi, CPU: NoCPU, Window: l.Window, Late: l.Late, Repeated: l.Repeated, Forged: l.Forged})
		}
	}
}
