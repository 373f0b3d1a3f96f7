package simulator

import (
	"net/netip"
	"time"

	"espalier/dataplane"
	"espalier/ike/sa"
)

// trap has the kernel report the packets of a child that has no SA.
type trap struct {
	child string
	size  int // policies
	ids   grant
	free  time.Time // until then reports are ignored
}

// setTraps installs the traps of all children, when the profile has some.
func (g *gateway) setTraps() {
	s := g.s
	targets := g.targets()
	if g.traps = nil; !s.traps || len(targets) == 0 {
		return
	}
	c := g.env.Conns.ByName(g.conn)
	for _, cfg := range c.Children {
		t, err := sa.NewTrap(c.Name, cfg, g.addrs[0], targets[0], []netip.Addr{g.addrs[0]}, 256)
		if err != nil {
			s.failf("%s: trap of %s: %v", g.name, cfg.Name, err)
		}
		ids := g.reg.child(t.Ask)
		var ops []dataplane.Op
		policies := t.Policies(ids.ids)
		g.traps = append(g.traps, &trap{child: cfg.Name, size: len(policies), ids: ids})
		for _, p := range policies {
			ops = append(ops, dataplane.InstallPolicy{Policy: p})
		}
		if err := g.kernel.apply(ops); err != nil {
			s.failf("%s: trap of %s: %v", g.name, cfg.Name, err)
		}
	}
}

// trapOf is the trap that owns a policy; nil: it is no trap's.
func (g *gateway) trapOf(owner uint64) *trap {
	for _, t := range g.traps {
		if t.ids.ids.UniqueID == owner {
			return t
		}
	}
	return nil
}

// acquired takes the kernel's report of a packet that met a trap.
func (g *gateway) acquired(reqID uint32) {
	s := g.s
	for _, t := range g.traps {
		if t.ids.ids.ReqID != reqID || !g.up || s.now.Before(t.free) {
			continue
		}
		t.free = s.now.Add(time.Second + s.jobs)
		s.res.Features["acquire"]++
		for _, o := range s.gws[1-g.index].traps {
			if o.child == t.child && !o.free.IsZero() && s.now.Sub(o.free.Add(-time.Second-s.jobs)) < 2*s.latency {
				s.meet("acquire", "acquire")
			}
		}
		life := g.life
		s.after(s.between(0, s.jobs), func() {
			if g.up && g.life == life {
				s.tracef("%s  ACQUIRE for %s", g.name, t.child)
				g.open(t.child)
			}
		})
	}
}
