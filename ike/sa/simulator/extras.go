package simulator

import (
	"math/rand/v2"
	"slices"

	"espalier/dataplane"
	"espalier/ike/sa"
)

// extras are what else a seed may have.
type extras struct {
	holds bool
	// fragment is the largest IP packet of an IKE message; 0: the default.
	fragment int
	limits   bool // CHILD SAs have limits of packets
	// seamless: something is renewed at the end, under traffic, that must lose nothing.
	seamless bool
	// traps: packets of children without SA are reported; they stand at addresses, so
	// not where those change.
	traps bool
}

func newExtras(r *rand.Rand, without Classes) (e extras) {
	e.holds = true
	if r.IntN(6) == 0 {
		e.fragment = 160 + r.IntN(120)
	}
	e.limits = r.IntN(6) == 0
	e.seamless = r.IntN(4) == 0
	e.traps = r.IntN(5) == 0
	if without&Traps != 0 {
		e.traps = false
	}
	if without&Holds != 0 {
		e.holds, e.seamless = false, false
	}
	if without&Fragments != 0 {
		e.fragment = 0
	}
	if without&Limits != 0 {
		e.limits = false
	}
	return e
}

// limit gives a child limits of packets, of which some come soon.
func (s *sim) limit(c *sa.ChildConfig) {
	if s.limits {
		c.RekeyPackets, c.RandPackets, c.LifePackets = 60, 30, 66
	}
}

// expired hands the sessions what the kernel reports of limits, as the engine
// does.
func (k *kernelWatch) expired() {
	for {
		select {
		case ev := <-k.g.dp.Events():
			if e, ok := ev.(dataplane.Expire); ok {
				k.expire(e)
			}
		default:
			return
		}
	}
}

func (k *kernelWatch) expire(e dataplane.Expire) {
	g, s := k.g, k.g.s
	s.strict = s.strict && !e.Hard
	what := "soft limit"
	if e.Hard {
		what = "hard limit"
		delete(k.sas, e.Key)
	}
	s.tracef("%s kernel: %s of %s", g.name, what, e.Key)
	s.res.Features[what]++
	s.after(s.between(0, s.jobs), func() {
		for _, x := range slices.Clone(g.sessions) {
			for _, c := range x.m.State().Children {
				in := c.SPIIn == e.Key.SPI && c.Local == e.Key.Dst
				if in || c.SPIOut == e.Key.SPI && c.Remote == e.Key.Dst && c.ReqID == e.ReqID {
					s.meetAll(what)
					x.step(sa.Expired{ChildID: c.UniqueID, Hard: e.Hard})
					return
				}
			}
		}
	})
}

// handOver has the heirs of a session send with what they have, as the engine
// does, and calls done when they do.
func (g *gateway) handOver(heir sa.Heir, done func()) {
	life := g.life
	g.s.after(0, func() {
		if !g.up || g.life != life {
			return
		}
		left := 1
		one := func() {
			if left--; left == 0 {
				done()
			}
		}
		for _, x := range slices.Clone(g.sessions) {
			if !x.gone && heir.Is(x.m) {
				g.s.res.Features["handed over"]++
				left++
				x.heirs = append(x.heirs, one)
				x.step(sa.TakeOver{})
			}
		}
		one()
	})
}

// settleHeirs calls those who wait until the session holds nothing back.
func (x *session) settleHeirs() {
	if len(x.heirs) > 0 && (x.gone || !x.m.Holds()) {
		done := x.heirs
		x.heirs = nil
		for _, f := range done {
			f()
		}
	}
}
