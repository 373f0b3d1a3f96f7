package simulator

import (
	"slices"

	"espalier/dataplane"
	"espalier/dataplane/selector"
	"espalier/ike/sa"
)

// quiet reports whether nothing is under way anywhere.
func (s *sim) quiet() bool {
	if len(s.queue) > 0 {
		return false
	}
	for _, g := range s.gws {
		if !g.up {
			return false
		}
		for _, x := range g.sessions {
			if !x.m.Quiet() {
				return false
			}
		}
	}
	return true
}

// check looks at both gateways when all is quiet.
func (s *sim) check() {
	if !s.quiet() {
		for _, g := range s.gws {
			for _, x := range g.sessions {
				if st := x.m.State(); !x.m.Quiet() {
					s.failf("%s#%d does not come to rest: phase %s, %d jobs, %d tasks %+v, own %v, peer %v, %d others, request %v, children %s", g.name, x.m.ID(),
						st.Phase, len(st.Jobs), len(st.Tasks), st.Tasks, st.Own != nil, st.Peer != nil, len(st.Others), st.IKE.Request != nil, statuses(st))
				}
			}
		}
		s.failf("events are left: %d", len(s.queue))
	}
	s.sameIKE()
	s.sameChildren()
	s.sameAddresses()
	for _, g := range s.gws {
		g.nothingLeft()
		g.checkKernel()
	}
}

func statuses(st *sa.State) (out []string) {
	for _, c := range st.Children {
		out = append(out, c.Status.String())
	}
	return out
}

// sameIKE: both sides have the same IKE SAs.
func (s *sim) sameIKE() {
	type spis [2]uint64
	var have [2][]spis
	for i, g := range s.gws {
		for _, x := range g.sessions {
			k := &x.m.State().IKE
			have[i] = append(have[i], spis{uint64(k.SPIi), uint64(k.SPIr)})
		}
		slices.SortFunc(have[i], func(a, b spis) int { return slices.Compare(a[:], b[:]) })
	}
	if !slices.Equal(have[0], have[1]) {
		s.failf("IKE SAs differ: moon has %x, sun has %x", have[0], have[1])
	}
	if len(have[0]) > 1 && s.unique == sa.UniquenessReplace {
		s.failf("%d IKE SAs between the same two, although one replaces the other", len(have[0]))
	}
	if len(have[0]) == 0 {
		s.failf("no IKE SA at the end")
	}
}

// sameChildren: both sides have the same CHILD SAs in each session, none twice.
func (s *sim) sameChildren() {
	type child struct {
		spii, a, b uint64
		moon, sun  string
		name       string
		bound      bool
	}
	var have [2][]child
	for i, g := range s.gws {
		for _, x := range g.sessions {
			st := x.m.State()
			g.cpusOf(st)
			for _, c := range st.Children {
				n := child{spii: uint64(st.IKE.SPIi), a: uint64(c.SPIIn), b: uint64(c.SPIOut), moon: tsText(c.LocalTS), sun: tsText(c.PeerTS), name: c.Name, bound: c.Options&sa.ChildBound != 0}
				if i == 1 {
					n.a, n.b, n.moon, n.sun = n.b, n.a, n.sun, n.moon
				}
				for _, o := range have[i] {
					if o.spii == n.spii && o.moon == n.moon && o.sun == n.sun && !o.bound && !n.bound {
						s.failf("%s#%d has child %s twice at the end", g.name, x.m.ID(), c.Name)
					}
				}
				have[i] = append(have[i], n)
				if age := s.now.Sub(c.InstalledAt); age > s.rekeyChild+2*quietLimit/4 {
					s.failf("%s#%d: child %s is %s old and was never rekeyed", g.name, x.m.ID(), c.Name, age)
				}
			}
		}
		slices.SortFunc(have[i], func(a, b child) int { return slices.Compare([]uint64{a.spii, a.a}, []uint64{b.spii, b.a}) })
	}
	if !slices.Equal(have[0], have[1]) {
		s.failf("CHILD SAs differ: moon has %+v, sun has %+v", have[0], have[1])
	}
}

func tsText(ts []selector.TS) string {
	out := ""
	for _, t := range ts {
		out += t.String() + " "
	}
	return out
}

// nothingLeft: the shell's tables are those of the sessions.
func (g *gateway) nothingLeft() {
	s := g.s
	spis, ids := 0, 0
	reqids := map[uint32]bool{}
	for _, x := range g.sessions {
		spis += len(ownSPIs(x.m))
		st := x.m.State()
		for i := range st.Children {
			reqids[st.Children[i].ReqID] = true
		}
		ids += len(st.Children)
		if len(x.grants) != len(st.Children) {
			s.failf("%s#%d: %d request ids granted for %d children", g.name, x.m.ID(), len(x.grants), len(st.Children))
		}
		if g.disk[x.m.ID()] == nil {
			s.failf("%s#%d is not stored", g.name, x.m.ID())
		}
		back, err := sa.Decode(g.disk[x.m.ID()], g.env.Conns)
		if err != nil || !back.Quiet() || len(back.State().Children) != len(st.Children) || back.State().IKE.SPIi != st.IKE.SPIi {
			s.failf("%s#%d: what is stored is not what is: %v", g.name, x.m.ID(), err)
		}
	}
	for _, t := range g.traps {
		reqids[t.ids.ids.ReqID] = true
	}
	if len(g.spis) != spis {
		s.failf("%s: %d own SPIs lead to sessions, which have %d", g.name, len(g.spis), spis)
	}
	if len(g.disk) != len(g.sessions) {
		s.failf("%s: %d sessions stored, %d live", g.name, len(g.disk), len(g.sessions))
	}
	if len(g.reg.byID) != len(reqids) || len(g.reg.reqids) > len(reqids) {
		s.failf("%s: %d request ids in use, of which children have %d", g.name, len(g.reg.byID), len(reqids))
	}
	if len(g.halfOpen) != 0 {
		s.failf("%s: %d half-open sessions", g.name, len(g.halfOpen))
	}
}

// checkKernel: the kernel holds the SAs and policies of the children, no more
// and no less, and each policy has its SA.
func (g *gateway) checkKernel() {
	s := g.s
	sas, policies := map[dataplane.SAKey]bool{}, map[dataplane.PolicyKey]bool{}
	for _, x := range g.sessions {
		for _, op := range x.m.Footprint() {
			switch op := op.(type) {
			case dataplane.DeleteSA:
				sas[op.Key] = true
			case dataplane.DeletePolicy:
				policies[op.Key] = true
			}
		}
	}
	snap, err := g.dp.List()
	if err != nil {
		s.failf("%s: list: %v", g.name, err)
	}
	out := map[dataplane.Template]bool{}
	for _, i := range snap.SAs {
		if i.Reserved {
			s.failf("%s: the kernel holds the reserved SPI %s", g.name, i.SAKey)
		}
		if !sas[i.SAKey] {
			s.failf("%s: the kernel holds SA %s of no child", g.name, i.SAKey)
		}
		if o := g.kernel.sas[i.SAKey]; o != nil && o.sa.Dir == dirOut {
			out[dataplane.Template{Src: i.Src, Dst: i.Dst, ReqID: i.ReqID}] = true
		}
		delete(sas, i.SAKey)
	}
	for k := range sas {
		s.failf("%s: the kernel lacks SA %s", g.name, k)
	}
	trapped := map[*trap]int{}
	for _, p := range snap.Policies {
		if t := g.trapOf(p.Owner); t != nil {
			trapped[t]++
			if policies[p.PolicyKey] {
				s.failf("%s: the trap %s %s stands before the policy of a child", g.name, p.Dir, p.Selector)
			}
			continue
		}
		if !policies[p.PolicyKey] {
			s.failf("%s: the kernel holds policy %s %s of no child", g.name, p.Dir, p.Selector)
		}
		delete(policies, p.PolicyKey)
		for _, t := range p.Templates {
			if p.Dir != dirOut {
				t.Src, t.Dst = t.Dst, t.Src
			}
			found := out[dataplane.Template{Src: t.Src, Dst: t.Dst, ReqID: t.ReqID}]
			if !t.Src.IsValid() && !t.Dst.IsValid() { // transport mode: the addresses of the packet, or of the template before
				for have := range out {
					found = found || have.ReqID == t.ReqID
				}
			}
			if !found {
				s.failf("%s: policy %s %s has no SA from %s to %s with request id %d", g.name, p.Dir, p.Selector, t.Src, t.Dst, t.ReqID)
			}
		}
	}
	for _, t := range g.traps {
		up := slices.ContainsFunc(g.sessions, func(x *session) bool {
			return slices.ContainsFunc(x.m.State().Children, func(c sa.Child) bool { return c.Name == t.child })
		})
		if up && trapped[t] > 0 || !up && trapped[t] != t.size {
			s.failf("%s: child %s is up: %v, and %d of the %d policies of its trap stand", g.name, t.child, up, trapped[t], t.size)
		}
	}
	for k := range policies {
		s.failf("%s: the kernel lacks policy %s %s", g.name, k.Dir, k.Selector)
	}
}
