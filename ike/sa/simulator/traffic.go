package simulator

import (
	"cmp"
	"net/netip"
	"slices"
	"time"

	"espalier/dataplane"
	"espalier/ike/sa"
)

const (
	dirIn  = dataplane.In
	dirOut = dataplane.Out
)

// esp is a packet of a tunnel on the network.
type esp struct {
	from, to netip.AddrPort // ports with UDP only
	udp      bool
	spi      uint32
	reqID    uint32
	secret   string
}

// packets sends one packet through every tunnel of a gateway, as its kernel
// would, and sees whether the other one can take it.
func (k *kernelWatch) packets() {
	s := k.g.s
	for _, t := range k.ways() {
		o := k.newest(t)
		if o == nil {
			s.res.Features["packet without SA"]++
			k.g.acquired(t.ReqID)
			if s.strict && (k.works[t.ReqID] || s.probing && !s.traps) {
				s.failf("%s has no outbound SA for a policy with request id %d", k.g.name, t.ReqID)
			}
			continue
		}
		k.count(o)
		p := esp{from: netip.AddrPortFrom(o.sa.Src, 0), to: netip.AddrPortFrom(o.sa.Dst, 0), udp: o.sa.Encap != nil,
			spi: o.sa.SPI, reqID: o.sa.ReqID, secret: string(o.sa.AEAD.Key)}
		if e := o.sa.Encap; e != nil {
			p.from, p.to = netip.AddrPortFrom(o.sa.Src, e.SrcPort), netip.AddrPortFrom(o.sa.Dst, e.DstPort)
		}
		if !k.g.has(o.sa.Src) || s.churn > 0 && s.now.Before(s.cut) {
			continue
		}
		if p.udp {
			p.from = s.outward(p.from)
		} else if s.hides(o.sa.Src) != nil {
			continue // ESP as such has no ports to translate
		}
		late := time.Duration(uint64(p.spi) % uint64(s.jitter+1))
		if s.probing {
			late = 0 // no message overtakes it
		}
		s.after(s.latency+late, func() { s.packet(k, p) })
	}
}

// ways are the templates of the outbound policies that stand, those of transport
// mode and the like with addresses of their SAs, each request id once.
func (k *kernelWatch) ways() []dataplane.Template {
	if k.policies == nil {
		snap, err := k.g.dp.List()
		if err != nil {
			k.g.s.failf("%s: list: %v", k.g.name, err)
		}
		k.policies = []dataplane.Template{}
		for _, p := range snap.Policies {
			if p.Dir == dirOut && p.Verdict != dataplane.Block {
				k.policies = append(k.policies, p.Templates...)
			}
		}
		slices.SortFunc(k.policies, func(a, b dataplane.Template) int { return cmp.Compare(a.ReqID, b.ReqID) })
		k.policies = slices.CompactFunc(k.policies, func(a, b dataplane.Template) bool { return a == b })
	}
	return k.policies
}

// newest is the SA that the kernel takes for a template.
func (k *kernelWatch) newest(t dataplane.Template) (n *kernelSA) {
	for _, o := range k.sas {
		if o.sa.Dir == dirOut && o.sa.ReqID == t.ReqID && (n == nil || n.order < o.order) &&
			(!t.Dst.IsValid() || t.Dst == o.sa.Dst) && (!t.Src.IsValid() || t.Src == o.sa.Src) {
			n = o
		}
	}
	return n
}

// count sends a packet with an SA. No key may ever see a sequence number twice.
func (k *kernelWatch) count(o *kernelSA) {
	_ = k.g.dp.Count(o.sa.SAKey, 1, 100)
	st, err := k.g.dp.QuerySA(o.sa.SAKey)
	key := string(o.sa.AEAD.Key)
	if err == nil && st.Replay.Out <= k.sent[key] {
		k.g.s.failf("%s: SA %s sends with sequence number %d, after %d", k.g.name, o.sa.SAKey, st.Replay.Out, k.sent[key])
	}
	k.sent[key] = max(st.Replay.Out, k.sent[key]+1)
	k.expired()
}

// packet arrives at the other gateway.
func (s *sim) packet(k *kernelWatch, p esp) {
	from := k.g
	to, ok := p.to, s.hides(p.to.Addr()) == nil
	if p.udp {
		to, ok = s.inward(p.to)
	}
	g := s.holder(to.Addr())
	if !ok || g == nil || g == from {
		s.res.Features["packet lost"]++
		return
	}
	key := dataplane.SAKey{Dst: to.Addr(), Proto: dataplane.ESP, SPI: p.spi}
	in := g.kernel.sas[key]
	switch {
	case in == nil || in.sa.Dir != dirIn || (in.sa.Encap != nil) != p.udp:
		s.res.Features["packet lost"]++
		// The first child's first packets may be faster than IKE_AUTH's answer.
		if s.strict && k.works[p.reqID] {
			s.failf("%s has no inbound SA for a packet of %s on %s", g.name, from.name, key)
		}
	case string(in.sa.AEAD.Key) != p.secret:
		s.failf("%s: a packet of %s on %s meets another key", g.name, from.name, key)
	default:
		_ = g.dp.Count(key, 1, 100)
		g.kernel.expired()
		if !s.probing { // what is new then is not what is renewed
			k.works[p.reqID] = true
		}
		s.res.Features["packet"]++
		if p.udp && (p.from.Addr() != in.sa.Src || p.from.Port() != in.sa.Encap.SrcPort) {
			s.after(s.between(0, s.jobs), func() { g.mapped(p.spi, p.from) })
		}
	}
}

// mapped reports a packet from elsewhere to the session, as the engine does.
func (g *gateway) mapped(spi uint32, from netip.AddrPort) {
	if !g.up {
		return
	}
	for _, x := range g.sessions {
		st := x.m.State()
		for i := range st.Children {
			if c := &st.Children[i]; c.SPIIn == spi && c.Status != sa.ChildNegotiated {
				g.s.res.Features["mapping event"]++
				g.answered[from.Addr()] = true // its packets are authentic
				x.step(sa.Mapped{SPI: spi, Remote: from})
				return
			}
		}
	}
}
