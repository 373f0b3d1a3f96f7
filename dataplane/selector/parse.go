package selector

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"
)

// Spec is a traffic selector as configured: addresses, or "dynamic", which
// stands for an address that is known only when a connection comes up (the
// tunnel's outer address or a virtual IP). It is comparable.
type Spec struct {
	Dynamic bool
	TS      TS // without addresses when Dynamic
}

// Fixed returns the Spec of a selector whose addresses are known.
func Fixed(ts TS) Spec { return Spec{TS: ts} }

// Resolve returns the selector, with addr in place of "dynamic".
func (s Spec) Resolve(addr netip.Addr) TS {
	if !s.Dynamic {
		return s.TS
	}
	ts := s.TS
	ts.Start = addr.Unmap().WithZone("")
	ts.End = ts.Start
	return ts
}

// String writes the Spec as Parse reads it.
func (s Spec) String() string {
	if s.Dynamic {
		return "dynamic" + s.TS.protoPort()
	}
	return s.TS.String()
}

// Parse reads swanctl.conf's traffic selector: "dynamic", an address, a prefix
// or a range "a-b", each optionally followed by "[protocol/port]". Protocol and
// port are numbers, names or "any"; a port is also a range "a-b" or "opaque".
// For ICMP the port is a type ("8"), a type with a code ("3(4)"), or, from 256
// on, type*256 + code. Host bits of a prefix are dropped, as charon does it.
func Parse(s string) (Spec, error) {
	s = strings.TrimSpace(s)
	addr, rest, bracket := strings.Cut(s, "[")
	spec := Spec{TS: TS{EndPort: 65535}}
	if bracket {
		inner, ok := strings.CutSuffix(rest, "]")
		if !ok {
			return Spec{}, fmt.Errorf("expected \"]\" at the end of %q", s)
		}
		if err := spec.TS.parseProtoPort(inner); err != nil {
			return Spec{}, err
		}
	}
	addr = strings.TrimSpace(addr)
	if addr == "dynamic" {
		spec.Dynamic = true
		return spec, nil
	}
	var err error
	spec.TS.Start, spec.TS.End, err = ParseAddrs(addr)
	return spec, err
}

// ParseAddrs reads an address, a prefix (host bits are dropped) or a range
// "a-b" and returns its first and last address.
func ParseAddrs(s string) (start, end netip.Addr, err error) {
	if a, b, ok := strings.Cut(s, "-"); ok {
		if start, err = parseAddr(a); err != nil {
			return start, end, err
		}
		if end, err = parseAddr(b); err != nil {
			return start, end, err
		}
		if start.Is4() != end.Is4() {
			return start, end, fmt.Errorf("expected a range within one address family, found %q", s)
		}
		if end.Less(start) {
			return start, end, fmt.Errorf("expected a range whose end is not below its start, found %q", s)
		}
		return start, end, nil
	}
	if strings.Contains(s, "/") {
		p, err := netip.ParsePrefix(s)
		if err != nil || p.Addr().Is4In6() {
			return start, end, fmt.Errorf("expected a prefix such as 10.1.0.0/16, found %q", s)
		}
		start, end = prefixRange(p)
		return start, end, nil
	}
	start, err = parseAddr(s)
	return start, start, err
}

// parseAddr reads one address without zone.
func parseAddr(s string) (netip.Addr, error) {
	a, err := netip.ParseAddr(strings.TrimSpace(s))
	if err != nil || a.Zone() != "" || a.Is4In6() {
		return netip.Addr{}, fmt.Errorf("expected an IP address, prefix or range, found %q", s)
	}
	return a, nil
}

// parseProtoPort reads what stands between the brackets.
func (t *TS) parseProtoPort(s string) error {
	proto, port, _ := strings.Cut(s, "/")
	proto, port = strings.TrimSpace(proto), strings.TrimSpace(port)
	if proto != "" && proto != "any" {
		n, ok := protoNumber(proto)
		if !ok {
			return fmt.Errorf("expected an IP protocol's name or number from 0 to 255, found %q", proto)
		}
		t.Proto = n
	}
	switch {
	case port == "" || port == "any":
		return nil
	case port == "opaque":
		t.StartPort, t.EndPort = opaqueStart, opaqueEnd
		return nil
	case t.Proto == ProtoICMP || t.Proto == ProtoICMPv6:
		return t.parsePorts(port, icmpType)
	}
	return t.parsePorts(port, portNumber)
}

// parsePorts reads one port or a range of them; one maps a port's text to the
// range of values it stands for.
func (t *TS) parsePorts(s string, one func(string) (lo, hi uint16, ok bool)) error {
	if lo, hi, ok := one(s); ok { // first: service names may hold a dash
		t.StartPort, t.EndPort = lo, hi
		return nil
	}
	a, b, isRange := strings.Cut(s, "-")
	lo, _, ok := one(strings.TrimSpace(a))
	_, hi, ok2 := one(strings.TrimSpace(b))
	if !isRange || !ok || !ok2 {
		return fmt.Errorf("expected a port, a range of ports or \"opaque\", found %q", s)
	}
	if hi < lo {
		return fmt.Errorf("expected a range of ports whose end is not below its start, found %q", s)
	}
	t.StartPort, t.EndPort = lo, hi
	return nil
}

// portNumber reads a port or the name of a service.
func portNumber(s string) (lo, hi uint16, ok bool) {
	n, err := strconv.ParseUint(s, 0, 16)
	if err != nil {
		p, ok := servicePort(s)
		return p, p, ok
	}
	return uint16(n), uint16(n), true
}

// icmpType reads "type", "type(code)", or the packed value from 256 on.
func icmpType(s string) (lo, hi uint16, ok bool) {
	if typ, rest, withCode := strings.Cut(s, "("); withCode {
		code, closed := strings.CutSuffix(rest, ")")
		n, err := strconv.ParseUint(typ, 0, 8)
		c, err2 := strconv.ParseUint(code, 0, 8)
		v := uint16(n<<8 | c)
		return v, v, closed && err == nil && err2 == nil
	}
	n, err := strconv.ParseUint(s, 0, 16)
	if err != nil {
		return 0, 0, false
	}
	if n < 256 {
		return uint16(n << 8), uint16(n<<8 | 0xff), true
	}
	return uint16(n), uint16(n), true
}
