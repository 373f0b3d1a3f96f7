package simulator

import (
	"espalier/dataplane"
	"espalier/ike/sa"
)

// split has packets, or the tuner, ask for SAs of CPUs, at both gateways as often
// as at one.
func (s *sim) split(g *gateway) {
	do := func(g *gateway, cpu uint32, acquired bool) {
		x := g.established()
		if x == nil {
			return
		}
		for _, c := range x.m.State().Children {
			if c.Options&sa.ChildPerCPU != 0 && c.Options&sa.ChildBound == 0 {
				s.tracef("CPU %d of %s: acquired %v", cpu, g.name, acquired)
				s.res.Features["SA of a CPU asked for"]++
				x.step(sa.SplitChild{ChildID: c.UniqueID, CPU: cpu, Acquired: acquired})
			}
			if g.established() != x {
				return
			}
		}
	}
	s.strict = false // the kernel here sends with the newest SA, which the peer may not have yet
	cpu, acquired := uint32(s.rnd.IntN(s.cpus)), s.chance(2)
	do(g, cpu, acquired)
	if s.chance(2) {
		o, cpu := s.gws[1-g.index], uint32(s.rnd.IntN(s.cpus))
		s.after(s.between(0, s.latency), func() { do(o, cpu, acquired) })
	}
}

// armed does a job Arm: the policies, and the reports that the kernel forgets.
func (g *gateway) armed(a sa.Arm) error {
	if err := g.kernel.apply(a.Ops); err != nil {
		return err
	}
	for _, r := range a.Forget {
		if err := dataplane.ForgetAcquire(g.dp, r); err != nil {
			return err
		}
	}
	return nil
}

// cpusOf counts the children of a session by whether they are bound, and checks
// that no CPU that could have its own stands without its fallback.
func (g *gateway) cpusOf(st *sa.State) {
	bound, fallbacks := 0, map[string]bool{}
	for _, c := range st.Children {
		if c.Options&sa.ChildBound == 0 {
			fallbacks[c.Name] = true
		}
	}
	for _, c := range st.Children {
		if c.Options&sa.ChildBound == 0 {
			continue
		}
		if bound++; !fallbacks[c.Name] {
			g.s.failf("%s: child %s of CPU %d stands without its fallback", g.name, c.Name, c.CPU)
		}
		if int(c.CPU) >= g.s.cpus {
			g.s.failf("%s: child %s is bound to CPU %d of %d", g.name, c.Name, c.CPU, g.s.cpus)
		}
	}
	if bound > 0 {
		g.s.res.Features["SA of a CPU at the end"] += bound
	}
}
