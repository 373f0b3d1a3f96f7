package sa

import (
	"net/netip"
	"slices"

	"espalier/ike/wire"
	"espalier/internal/event"
)

// Lease are the virtual addresses that go with a session: those that we gave
// the peer from a pool, or those that the peer gave us (RFC 7296 2.19). They
// are what "dynamic" stands for on their side, over every rekeying.
type Lease struct {
	Given bool // by us; else by the peer
	Addrs []netip.Addr
	DNS   []netip.Addr // name servers that came with what the peer gave
}

func (c *coder) lease(l *Lease) {
	boolean(c, &l.Given)
	list(c, &l.Addrs, addr)
	list(c, &l.DNS, addr)
}

// maxConfigAttributes bounds what a CFG_REPLY of ours carries beside addresses.
const maxConfigAttributes = 64

// leased are the addresses that "dynamic" stands for on one side; nil: the
// outer address.
func (m *Machine) leased(given bool) []netip.Addr {
	if l := m.s.Lease; l != nil && l.Given == given {
		return l.Addrs
	}
	return nil
}

// configOf is the configuration payload of a type; nil when there is none.
func configOf(ps []wire.Payload, t wire.CfgType) *wire.CP {
	for p := range wire.All[*wire.CP](ps) {
		if p.CfgType == t {
			return p
		}
	}
	return nil
}

// asksAddress reports which families of virtual addresses the peer's CFG_REQUEST
// asks for.
func (m *Machine) asksAddress() (v4, v6 bool) {
	cp := configOf(m.kept(), wire.CfgRequest)
	if cp == nil {
		return false, false
	}
	for _, x := range cp.Attributes {
		v4 = v4 || x.Type == wire.CfgAttrInternalIP4Address
		v6 = v6 || x.Type == wire.CfgAttrInternalIP6Address
	}
	return v4, v6
}

// askLease describes what the peer's CFG_REQUEST wants of our pools.
func (m *Machine) askLease() AskLease {
	ps, id := m.kept(), m.s.IKE.RemoteID
	var a AskLease
	if m.conn != nil {
		a.Pools = m.conn.Pools
		// What other sessions the peer had are gone, or will be.
		_, initial := wire.FindNotify(ps, wire.NotifyInitialContact)
		a.Takeover = initial && m.conn.Unique != UniquenessNever || m.conn.Unique == UniquenessReplace
	}
	a.V4, a.V6 = m.asksAddress()
	a.Key, a.Identity = string([]byte{byte(id.Type)})+string(id.Data), id.String()
	if cp := configOf(ps, wire.CfgRequest); cp != nil {
		for _, x := range cp.Attributes {
			if w, ok := configAddr(x); ok && len(a.Wished) < 2 {
				a.Wished = append(a.Wished, w)
			}
		}
	}
	return a
}

// configAddr is the address of an INTERNAL_IP4_ADDRESS or INTERNAL_IP6_ADDRESS,
// whose value in IPv6 has the prefix length behind (RFC 7296 3.15.1); some
// leave it out.
func configAddr(x wire.CfgAttribute) (netip.Addr, bool) {
	v := x.Value
	switch {
	case x.Type == wire.CfgAttrInternalIP4Address && len(v) == 4:
	case x.Type == wire.CfgAttrInternalIP6Address && (len(v) == 17 || len(v) == 16):
		v = v[:16]
	default:
		return netip.Addr{}, false
	}
	return netip.AddrFromSlice(v)
}

// authorised continues a responder whose peer is authenticated: with the
// addresses that it asks for, if we have pools for it, then with its child.
func (m *Machine) authorised() {
	if v4, v6 := m.asksAddress(); (v4 || v6) && m.conn != nil && len(m.conn.Pools) > 0 {
		m.job(jobLease)
		return
	}
	m.answerOffer()
}

// granted continues with what the pools gave.
func (m *Machine) granted(r Leases) {
	if len(r.Addrs) > 0 {
		m.s.Lease = &Lease{Given: true, Addrs: r.Addrs}
		m.publish(event.VirtualAddresses{IKE: m.eventIKE(), Given: true, Addrs: r.Addrs})
	}
	m.answerOffer()
}

// answerOffer settles the child that the peer's IKE_AUTH offers.
func (m *Machine) answerOffer() {
	if m.configured() && m.chooseChild() {
		m.to(Reserving)
		m.job(jobReserve)
		return
	}
	m.to(Signing)
	m.job(jobSign)
}

// configured reports whether the peer has got the configuration that it wants,
// or that we want it to have. Otherwise the IKE SA stands, and there is no CHILD
// SA (RFC 7296 2.19 and 3.15.4).
func (m *Machine) configured() bool {
	v4, v6 := m.asksAddress()
	var pools []string
	if m.conn != nil {
		pools = m.conn.Pools
	}
	_, child := wire.First[*wire.SA](m.kept())
	switch {
	case (v4 || v6) && m.s.Lease == nil:
		m.s.Setup.ChildError = wire.NotifyInternalAddressFailure
		fix := "enlarge the connection's pools: every address is in use"
		if len(pools) == 0 {
			fix = "give the connection pools, or let the peer ask for no virtual address"
		}
		m.failed(event.AddressFailure, false, "", fix, event.Fact{Name: "peer_id", Value: m.s.IKE.RemoteID.String()},
			event.Fact{Name: "asked_for", Value: familiesText(v4, v6)}, event.Fact{Name: "pools", Value: listText(pools)})
		return false
	case child && !v4 && !v6 && len(pools) > 0:
		m.s.Setup.ChildError = wire.NotifyFailedCPRequired
		m.failed(event.AddressFailure, false, "", "let the peer ask for a virtual address (vips), or take pools out of the connection",
			event.Fact{Name: "detail", Value: "the peer asks for no virtual address, and the connection has pools"})
		return false
	}
	return true
}

func familiesText(v4, v6 bool) string {
	switch {
	case v4 && v6:
		return "IPv4 and IPv6"
	case v4:
		return "IPv4"
	}
	return "IPv6"
}

func listText(s []string) string {
	if len(s) == 0 {
		return "none"
	}
	out := s[0]
	for _, x := range s[1:] {
		out += ", " + x
	}
	return out
}

// appendConfigReply answers the peer's CFG_REQUEST: its addresses, then the
// attributes of our pools, first of those that the addresses are from. The peer
// gets them whether it asks for each or not, for it must ignore what it does not
// know (RFC 7296 3.15.1).
func (m *Machine) appendConfigReply(ps []wire.Payload) []wire.Payload {
	if configOf(m.kept(), wire.CfgRequest) == nil {
		return ps
	}
	reply := &wire.CP{CfgType: wire.CfgReply}
	own := m.leased(true)
	for _, a := range own {
		reply.Attributes = append(reply.Attributes, addressAttribute(a, false))
	}
	for _, first := range []bool{true, false} {
		for _, name := range m.conn.Pools {
			p := m.env.Conns.Pool(name)
			if p == nil || first != slices.ContainsFunc(own, p.Contains) {
				continue
			}
			for _, x := range p.Attrs {
				if len(reply.Attributes) < len(own)+maxConfigAttributes && !slices.ContainsFunc(reply.Attributes, func(y wire.CfgAttribute) bool {
					return x.Type == y.Type && string(x.Value) == string(y.Value)
				}) {
					reply.Attributes = append(reply.Attributes, x)
				}
			}
		}
	}
	if len(reply.Attributes) == 0 {
		return ps
	}
	return append(ps, reply)
}

// addressAttribute asks for an address or grants it; an unspecified one asks for
// any.
func addressAttribute(a netip.Addr, asks bool) wire.CfgAttribute {
	x := wire.CfgAttribute{Type: wire.CfgAttrInternalIP4Address}
	if a.Is6() {
		x.Type = wire.CfgAttrInternalIP6Address
	}
	if asks && a.IsUnspecified() {
		return x
	}
	x.Value = a.AsSlice()
	if a.Is6() {
		x.Value = append(x.Value, 128)
	}
	return x
}
