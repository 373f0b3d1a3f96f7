package sa

import (
	"cmp"
	"hash/fnv"
	"math"
	"net/netip"
	"slices"

	"espalier/dataplane"
	"espalier/dataplane/selector"
	"espalier/ike/wire"
	"espalier/internal/event"
)

// maxNameServers bounds what is kept of a CFG_REPLY's name servers.
const maxNameServers = 8

// AskFor makes an initiator ask for these virtual addresses, of the families
// that its connection wants any of: those of the session that it replaces.
func (m *Machine) AskFor(addrs []netip.Addr) {
	if m.s.Setup != nil {
		m.s.Setup.Wished = slices.Clone(addrs)
	}
}

// wishes are the addresses that our CFG_REQUEST asks for; an unspecified one
// stands for any of its family.
func (m *Machine) wishes() []netip.Addr {
	out := slices.Clone(m.conn.VIPs)
	taken := make([]bool, len(m.s.Setup.Wished))
	for i, a := range out {
		for j, w := range m.s.Setup.Wished {
			if a.IsUnspecified() && !taken[j] && w.Is4() == a.Is4() {
				out[i], taken[j] = w, true
				break
			}
		}
	}
	return out
}

// appendConfigRequest asks for virtual addresses and name servers.
func (m *Machine) appendConfigRequest(ps []wire.Payload) []wire.Payload {
	if len(m.conn.VIPs) == 0 {
		return ps
	}
	cp := &wire.CP{CfgType: wire.CfgRequest}
	var v4, v6 bool
	for _, a := range m.wishes() {
		cp.Attributes = append(cp.Attributes, addressAttribute(a, true))
		v4, v6 = v4 || a.Is4(), v6 || a.Is6()
	}
	if v4 {
		cp.Attributes = append(cp.Attributes, wire.CfgAttribute{Type: wire.CfgAttrInternalIP4DNS})
	}
	if v6 {
		cp.Attributes = append(cp.Attributes, wire.CfgAttribute{Type: wire.CfgAttrInternalIP6DNS})
	}
	return append(ps, cp)
}

// readConfigReply takes what the peer gives us: at most as many addresses of a
// family as we asked for.
func (m *Machine) readConfigReply(ps []wire.Payload) {
	cp := configOf(ps, wire.CfgReply)
	if cp == nil || len(m.conn.VIPs) == 0 {
		return
	}
	room := map[bool]int{}
	for _, a := range m.conn.VIPs {
		room[a.Is4()]++
	}
	l := &Lease{}
	for _, x := range cp.Attributes {
		if a, ok := configAddr(x); ok {
			if room[a.Is4()] > 0 && isHostAddr(a) && !slices.Contains(l.Addrs, a) {
				room[a.Is4()]--
				l.Addrs = append(l.Addrs, a)
			}
			continue
		}
		v4 := x.Type == wire.CfgAttrInternalIP4DNS && len(x.Value) == 4
		if v4 || x.Type == wire.CfgAttrInternalIP6DNS && len(x.Value) == 16 {
			if a, _ := netip.AddrFromSlice(x.Value); len(l.DNS) < maxNameServers && isHostAddr(a) {
				l.DNS = append(l.DNS, a)
			}
		}
	}
	if len(l.Addrs) == 0 {
		return
	}
	m.s.Lease = l
	m.publish(event.VirtualAddresses{IKE: m.eventIKE(), Addrs: l.Addrs, DNS: l.DNS})
}

// isHostAddr reports whether a peer may give us the address, or name it as
// server: nothing that means many hosts, none, or ourselves.
func isHostAddr(a netip.Addr) bool {
	return a.IsValid() && !a.IsUnspecified() && !a.IsLoopback() && !a.IsMulticast() && !a.IsLinkLocalUnicast() && !a.Is4In6() &&
		a != netip.AddrFrom4([4]byte{255, 255, 255, 255})
}

// offered are the selectors that our IKE_AUTH proposes. Before we know our
// virtual address, "dynamic" is every address: the peer narrows it to the one it
// gives us (RFC 7296 2.19).
func (m *Machine) offered(c *ChildConfig) (local, remote []selector.TS) {
	local, remote = m.resolve(c)
	if len(m.conn.VIPs) == 0 {
		return local, remote
	}
	local = nil
	for _, s := range c.LocalTS {
		if !s.Dynamic {
			local = append(local, s.TS)
			continue
		}
		for _, v4 := range []bool{true, false} {
			if slices.ContainsFunc(m.conn.VIPs, func(a netip.Addr) bool { return a.Is4() == v4 }) {
				all := selector.FromPrefix(netip.PrefixFrom(netip.IPv6Unspecified(), 0))
				if v4 {
					all = selector.FromPrefix(netip.PrefixFrom(netip.IPv4Unspecified(), 0))
				}
				ts := s.TS
				ts.Start, ts.End = all.Start, all.End
				local = append(local, ts)
			}
		}
	}
	return local, remote
}

// lacksAddress reports whether we asked for a virtual address and got none; a
// child without it would carry nothing of what it is for.
func (m *Machine) lacksAddress(cfg *ChildConfig) bool {
	if len(m.conn.VIPs) == 0 || m.s.Lease != nil {
		return false
	}
	m.failed(event.AddressFailure, true, cfg.Name, "let the peer serve virtual addresses (pools), or take vips out of the connection",
		event.Fact{Name: "detail", Value: "the peer's answer has no virtual address"})
	return true
}

// hostWish is what the box should have for this session: the virtual addresses
// that the peer gave us, and routes for what its CHILD SAs protect.
func (m *Machine) hostWish() dataplane.Wish {
	var w dataplane.Wish
	own := m.leased(false)
	if m.s.Phase >= Cleaning || m.conn == nil || own == nil && !m.env.Settings.InstallRoutes {
		return w
	}
	w.Addrs, w.Local, w.Peer = slices.Clone(own), m.s.IKE.Local.Addr(), m.s.IKE.Remote.Addr()
	if !m.env.Settings.InstallRoutes {
		return w
	}
	for i := range m.s.Children {
		if c := &m.s.Children[i]; c.Status == ChildInstalled || c.Status == ChildDeleting {
			w.Routes = c.appendRoutes(w.Routes, m.conn.Child(c.Name))
		}
	}
	w.Routes = inOrder(w.Routes)
	return w
}

// appendRoutes appends the routes that lead the box's own traffic into the child.
// What interfaces and marks select has routes of its own.
func (c *Child) appendRoutes(rs []dataplane.Route, cfg *ChildConfig) []dataplane.Route {
	if c.Mode == dataplane.Transport || c.IfIDOut != 0 || c.MarkOut != (dataplane.Mark{}) || cfg == nil || !cfg.Policies {
		return rs
	}
	pairs, _ := expand(c.LocalTS, c.PeerTS, math.MaxInt) // the limit was checked when it was agreed
	for _, p := range pairs {
		if p.Proto != 0 && slices.ContainsFunc(pairs, func(q pair) bool { return q.Proto == 0 && q.Dst == p.Dst }) {
			continue
		}
		rs = append(rs, dataplane.Route{Dst: p.Dst, Within: p.Src})
	}
	return rs
}

// inOrder sorts routes and leaves each once.
func inOrder(rs []dataplane.Route) []dataplane.Route {
	slices.SortFunc(rs, func(a, b dataplane.Route) int {
		return cmp.Or(a.Dst.Addr().Compare(b.Dst.Addr()), a.Dst.Bits()-b.Dst.Bits(), a.Within.Addr().Compare(b.Within.Addr()),
			a.Within.Bits()-b.Within.Bits())
	})
	return slices.Compact(rs)
}

// digest tells one wish from another; 0 is the empty one.
func digest(w *dataplane.Wish) uint64 {
	if w.Empty() {
		return 0
	}
	h := fnv.New64a()
	put := func(a netip.Addr, bits int) {
		b := a.As16()
		h.Write(append(b[:], byte(bits), byte(a.BitLen())))
	}
	put(w.Local, -1)
	put(w.Peer, -1)
	for _, a := range w.Addrs {
		put(a, -1)
	}
	for _, r := range w.Routes {
		put(r.Dst.Addr(), r.Dst.Bits())
		put(r.Within.Addr(), r.Within.Bits())
	}
	return min(max(h.Sum64(), 1), math.MaxUint64-1)
}

// network brings the box's addresses and routes up to date with the session,
// and reports whether there is anything to do.
func (m *Machine) network() bool {
	w := m.hostWish()
	d := digest(&w)
	if d == m.s.Network || m.s.Phase > Cleaning {
		return false
	}
	m.s.Network = d
	m.job(jobNetwork)
	return true
}

// renetwork has the box look its addresses and routes for the session over: the
// way to the peer may be another now.
func (m *Machine) renetwork() {
	if m.s.Phase == Established && m.s.Network != 0 {
		m.s.Network = math.MaxUint64
		m.network()
	}
}

// networked continues when the box has what network asked for, or err says what
// is missing: the session goes on without.
func (m *Machine) networked(err error) {
	if err != nil {
		if m.s.Phase < Cleaning {
			m.s.Network = math.MaxUint64 // the next occasion tries again
		}
		m.failed(event.KernelRefused, false, "", "", event.Fact{Name: "step", Value: "virtual addresses and routes"}, event.Fact{Name: "detail", Value: err.Error()})
	}
	switch {
	case m.s.Phase == Cleaning:
		m.clean()
	case m.s.Phase == Installing && m.s.IKE.Initiator:
		m.finishInitiator()
	}
}
