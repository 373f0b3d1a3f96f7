package config

import (
	"encoding/hex"
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"espalier/dataplane/selector"
	"espalier/ike/lease"
	"espalier/ike/sa"
	"espalier/ike/wire"
)

// Bounds on what one pool hands out and on what one client asks for.
const (
	maxPoolAttributes = 64
	maxVIPs           = 8
	maxAttributeLen   = 1024 // octets of one value
)

func poolSpec() *sectionSpec {
	s := &sectionSpec{name: "<pool>", doc: "A pool. Its attributes are handed out together with its addresses.", keys: []keySpec{
		{name: "addrs", typ: poolRange(), doc: "Addresses to lease. Of a prefix, the first and the last are left out."},
	}}
	for _, a := range poolAttributes {
		s.keys = append(s.keys, keySpec{name: a.key, typ: configAttributes(a), doc: a.doc})
	}
	s.keys = append(s.keys, keySpec{name: "address", typ: configAttributes(poolAttribute{v4: wire.CfgAttrInternalIP4Address, v6: wire.CfgAttrInternalIP6Address}), sup: later,
		doc: "A further address, which no lease is for."},
		keySpec{name: "<number>", typ: otherAttribute(), doc: "The attribute of this number: addresses, prefixes, 0x and hexadecimal digits, or text."})
	return s
}

// poolAttribute is a named attribute of pools with its codes; 0: not in this family.
type poolAttribute struct {
	key    string
	v4, v6 wire.CfgAttr
	subnet bool // prefixes, or addresses as such
	unity  bool // also, or only, as Cisco's attribute of 14 octets
	doc    string
}

// Attributes beyond RFC 7296: Microsoft's and Cisco's, which some clients know.
const (
	attrIP4Server    wire.CfgAttr = 23456
	attrIP6Server    wire.CfgAttr = 23457
	attrIP6NBNS      wire.CfgAttr = 11
	attrSplitInclude wire.CfgAttr = 28676
	attrLocalLAN     wire.CfgAttr = 28678
)

var poolAttributes = []poolAttribute{
	{key: "dns", v4: wire.CfgAttrInternalIP4DNS, v6: wire.CfgAttrInternalIP6DNS, doc: "DNS servers."},
	{key: "nbns", v4: wire.CfgAttrInternalIP4NBNS, v6: attrIP6NBNS, doc: "NetBIOS name servers."},
	{key: "dhcp", v4: wire.CfgAttrInternalIP4DHCP, v6: wire.CfgAttrInternalIP6DHCP, doc: "DHCP servers."},
	{key: "netmask", v4: wire.CfgAttrInternalIP4Netmask, doc: "Netmask, IPv4."},
	{key: "server", v4: attrIP4Server, v6: attrIP6Server, doc: "The gateway's own addresses inside."},
	{key: "subnet", v4: wire.CfgAttrInternalIP4Subnet, v6: wire.CfgAttrInternalIP6Subnet, subnet: true, doc: "Networks that the gateway protects."},
	{key: "split_include", v4: wire.CfgAttrInternalIP4Subnet, v6: wire.CfgAttrInternalIP6Subnet, subnet: true, unity: true, doc: "Networks that the client should send into the tunnel: as subnet, and in IPv4 also as Cisco's attribute."},
	{key: "split_exclude", subnet: true, unity: true, doc: "Networks that the client should not send into the tunnel, IPv4: Cisco's attribute."},
}

// addrRange is the value of addrs.
type addrRange struct{ start, end netip.Addr }

// poolRange reads an addrRange.
func poolRange() valueType {
	return only("prefix or range", "a prefix such as 10.3.0.0/24 or a range such as 10.3.0.10-10.3.0.99", func(s string) (addrRange, bool) {
		start, end, err := selector.ParseAddrs(s)
		if err != nil {
			return addrRange{}, false
		}
		if strings.Contains(s, "/") {
			// As charon does: the network's and the broadcast address are nobody's.
			if first, last := start.Next(), end.Prev(); first.IsValid() && last.IsValid() && first.Less(last) {
				start, end = first, last
			}
		}
		return addrRange{start, end}, true
	})
}

// configAttributes reads the []wire.CfgAttribute of a named attribute.
func configAttributes(a poolAttribute) valueType {
	what := "addresses"
	if a.subnet {
		what = "prefixes"
	}
	if a.v6 == 0 {
		what = "IPv4 " + what
	}
	return only(what, what+" with commas between them", func(s string) ([]wire.CfgAttribute, bool) {
		list, ok := commas(s)
		var out []wire.CfgAttribute
		for _, one := range list {
			p, valid := hostOrPrefix(one)
			if !ok || !valid || !a.subnet && !p.IsSingleIP() || a.v6 == 0 && !p.Addr().Is4() {
				return nil, false
			}
			out = append(out, a.encode(p)...)
		}
		return out, ok
	})
}

func hostOrPrefix(s string) (netip.Prefix, bool) {
	if a, err := netip.ParseAddr(s); err == nil {
		return netip.PrefixFrom(a, a.BitLen()), a.Zone() == "" && !a.Is4In6()
	}
	p, err := netip.ParsePrefix(s)
	return p.Masked(), err == nil && !p.Addr().Is4In6()
}

func (a *poolAttribute) encode(p netip.Prefix) []wire.CfgAttribute {
	v4 := p.Addr().Is4()
	if !a.subnet {
		code := a.v6
		if v4 {
			code = a.v4
		}
		return []wire.CfgAttribute{{Type: code, Value: p.Addr().AsSlice()}}
	}
	var out []wire.CfgAttribute
	switch {
	case v4 && a.v4 != 0:
		out = append(out, wire.CfgAttribute{Type: a.v4, Value: subnetValue(p)})
	case !v4:
		out = append(out, wire.CfgAttribute{Type: a.v6, Value: subnetValue(p)})
	}
	if v4 && a.unity {
		code := attrSplitInclude
		if a.v4 == 0 {
			code = attrLocalLAN
		}
		// Address, mask, and six octets that nobody uses.
		out = append(out, wire.CfgAttribute{Type: code, Value: append(subnetValue(p), 0, 0, 0, 0, 0, 0)})
	}
	return out
}

// subnetValue is an address with mask (IPv4) or prefix length (IPv6), RFC 7296
// 3.15.1.
func subnetValue(p netip.Prefix) []byte {
	b := p.Addr().AsSlice()
	if p.Addr().Is6() {
		return append(b, byte(p.Bits()))
	}
	m := ^uint32(0) << (32 - p.Bits())
	return append(b, byte(m>>24), byte(m>>16), byte(m>>8), byte(m))
}

// otherAttribute reads the values, [][]byte, of an attribute with a number.
func otherAttribute() valueType {
	return only("values", "addresses, prefixes, hexadecimal digits after 0x, or text, of at most 1024 octets", func(s string) ([][]byte, bool) {
		list, ok := commas(s)
		if !ok {
			return nil, false
		}
		var out [][]byte
		for _, one := range list {
			var v []byte
			digits, isHex := strings.CutPrefix(one, "0x")
			switch p, isPrefix := hostOrPrefix(one); {
			case isPrefix && strings.Contains(one, "/"):
				v = subnetValue(p)
			case isPrefix:
				v = p.Addr().AsSlice()
			case isHex:
				var err error
				if v, err = hex.DecodeString(digits); err != nil {
					return nil, false
				}
			default:
				v = []byte(one)
			}
			if len(v) > maxAttributeLen {
				return nil, false
			}
			out = append(out, v)
		}
		return out, true
	})
}

// pools compiles section pools and checks that the connections name only those.
func (c *compiler) pools(n *node, conns []*sa.Connection, conf *node) []*lease.Pool {
	var out []*lease.Pool
	known := map[string]bool{}
	if n != nil {
		for _, s := range n.subs {
			if s.spec == nil {
				continue
			}
			known[s.name] = true
			if p := c.pool(s); p != nil {
				c.overlap(s, p, out)
				out = append(out, p)
			}
		}
	}
	for _, conn := range conns {
		for _, name := range conn.Pools {
			if !known[name] {
				c.rep.add(conf.sub(conn.Name).at("pools"), "a pool of section pools", quote(name), "")
			}
		}
	}
	return out
}

func (c *compiler) pool(n *node) *lease.Pool {
	if !n.has("addrs") {
		if !n.bad {
			c.rep.add(n.pos, "addrs in "+n.path, "none", "")
		}
		return nil
	}
	r := get[addrRange](n, "addrs")
	p := &lease.Pool{Name: n.name, Origin: c.origin, Start: r.start, End: r.end}
	for _, key := range n.order {
		e := n.keys[key]
		switch v := e.val.(type) {
		case []wire.CfgAttribute:
			p.Attrs = append(p.Attrs, v...)
		case [][]byte:
			num, err := strconv.ParseUint(key, 10, 16)
			if err != nil || num == 0 || num > 32767 {
				c.rep.add(e.Pos, "an attribute's number from 1 to 32767", quote(key), "")
				continue
			}
			for _, x := range v {
				p.Attrs = append(p.Attrs, wire.CfgAttribute{Type: wire.CfgAttr(num), Value: x})
			}
		}
	}
	if len(p.Attrs) > maxPoolAttributes {
		c.rep.add(n.pos, fmt.Sprintf("at most %d attributes in %s", maxPoolAttributes, n.path), strconv.Itoa(len(p.Attrs)), "")
	}
	return p
}

// overlap refuses an address in two pools: it could be leased twice.
func (c *compiler) overlap(n *node, p *lease.Pool, others []*lease.Pool) {
	for _, o := range others {
		if o.Overlaps(p) {
			c.rep.add(n.at("addrs"), "addresses that no other pool has", fmt.Sprintf("some of %s", o.Name), "")
		}
	}
}

// vips checks the virtual addresses that a connection asks for.
func (c *compiler) vips(n *node) []netip.Addr {
	list := get[[]netip.Addr](n, "vips")
	if len(list) > maxVIPs {
		c.rep.add(n.at("vips"), fmt.Sprintf("at most %d vips", maxVIPs), strconv.Itoa(len(list)), "")
	}
	return list
}
