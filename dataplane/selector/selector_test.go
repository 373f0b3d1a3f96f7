package selector

import (
	"math/rand/v2"
	"net/netip"
	"strings"
	"testing"
)

func mustParse(t *testing.T, s string) Spec {
	t.Helper()
	spec, err := Parse(s)
	if err != nil {
		t.Fatalf("Parse(%q): %v", s, err)
	}
	return spec
}

func TestParseString(t *testing.T) {
	for _, c := range []struct {
		in, out  string
		from, to uint16
		proto    uint8
	}{
		{"10.1.0.0/16", "10.1.0.0/16", 0, 65535, 0},
		{"10.1.2.3/16", "10.1.0.0/16", 0, 65535, 0},
		{"192.0.2.1", "192.0.2.1/32", 0, 65535, 0},
		{"0.0.0.0/0", "0.0.0.0/0", 0, 65535, 0},
		{"::/0", "::/0", 0, 65535, 0},
		{"2001:db8::1", "2001:db8::1/128", 0, 65535, 0},
		{"2001:db8:0:8000::/49[udp]", "2001:db8:0:8000::/49[udp]", 0, 65535, 17},
		{"10.0.0.1-10.0.0.9", "10.0.0.1-10.0.0.9", 0, 65535, 0},
		{"10.0.0.0-10.0.0.255", "10.0.0.0/24", 0, 65535, 0},
		{"10.0.0.1-10.0.0.9[tcp/80]", "10.0.0.1-10.0.0.9[tcp/80]", 80, 80, 6},
		{"10.3.0.0/16[tcp/http]", "10.3.0.0/16[tcp/80]", 80, 80, 6},
		{"10.3.0.0/16[6/1024-2047]", "10.3.0.0/16[tcp/1024-2047]", 1024, 2047, 6},
		{"dynamic", "dynamic", 0, 65535, 0},
		{"dynamic[gre]", "dynamic[gre]", 0, 65535, 47},
		{"dynamic[udp/l2tp]", "dynamic[udp/1701]", 1701, 1701, 17},
		{"dynamic[udp/netbios-ns]", "dynamic[udp/137]", 137, 137, 17},
		{"dynamic[udp/opaque]", "dynamic[udp/opaque]", 65535, 0, 17},
		{"dynamic[udp/any]", "dynamic[udp]", 0, 65535, 17},
		{"dynamic[]", "dynamic", 0, 65535, 0},
		{"dynamic[/53]", "dynamic[any/53]", 53, 53, 0},
		{"dynamic[253]", "dynamic[253]", 0, 65535, 253},
		{"10.0.0.1[icmp/8]", "10.0.0.1/32[icmp/8]", 0x800, 0x8ff, 1},
		{"10.0.0.1[icmp/2048]", "10.0.0.1/32[icmp/8(0)]", 0x800, 0x800, 1},
		{"10.0.0.1[icmp/3(4)]", "10.0.0.1/32[icmp/3(4)]", 0x304, 0x304, 1},
		{"10.0.0.1[icmp/3(1)-3(4)]", "10.0.0.1/32[icmp/3(1)-3(4)]", 0x301, 0x304, 1},
		{"::1[ipv6-icmp/128-129]", "::1/128[icmpv6/128-129]", 0x8000, 0x81ff, 58},
	} {
		spec := mustParse(t, c.in)
		if got := spec.String(); got != c.out {
			t.Errorf("Parse(%q).String() = %q, want %q", c.in, got, c.out)
		}
		if spec.TS.StartPort != c.from || spec.TS.EndPort != c.to || spec.TS.Proto != c.proto {
			t.Errorf("Parse(%q) = proto %d ports %d-%d", c.in, spec.TS.Proto, spec.TS.StartPort, spec.TS.EndPort)
		}
		if again := mustParse(t, spec.String()); again != spec {
			t.Errorf("%q does not survive String and Parse: %+v, %+v", c.in, spec, again)
		}
	}
}

func TestParseErrors(t *testing.T) {
	for in, want := range map[string]string{
		"":                      `expected an IP address, prefix or range, found ""`,
		"10.0.0":                `expected an IP address, prefix or range, found "10.0.0"`,
		"10.0.0.0/33":           `expected a prefix such as 10.1.0.0/16, found "10.0.0.0/33"`,
		"::ffff:10.0.0.1":       `expected an IP address`,
		"fe80::1%eth0":          `expected an IP address`,
		"10.0.0.9-10.0.0.1":     `expected a range whose end is not below its start`,
		"10.0.0.1-::1":          `expected a range within one address family`,
		"10.0.0.1-":             `expected an IP address`,
		"dynamic[tcp":           `expected "]"`,
		"dynamic[tpc]":          `expected an IP protocol's name or number from 0 to 255, found "tpc"`,
		"dynamic[256]":          `expected an IP protocol's name or number`,
		"dynamic[tcp/65536]":    `expected a port, a range of ports or "opaque", found "65536"`,
		"dynamic[tcp/90-80]":    `expected a range of ports whose end is not below its start`,
		"dynamic[tcp/80-]":      `expected a port`,
		"dynamic[icmp/8(256)]":  `expected a port`,
		"dynamic[icmp/8(0]":     `expected a port`,
		"10.0.0.1[tcp/80]extra": `expected "]"`,
	} {
		_, err := Parse(in)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("Parse(%q) error = %v, want %q", in, err, want)
		}
	}
}

func TestResolve(t *testing.T) {
	addr := netip.MustParseAddr("::ffff:192.0.2.7")
	if got := mustParse(t, "dynamic[tcp/22]").Resolve(addr).String(); got != "192.0.2.7/32[tcp/22]" {
		t.Errorf("Resolve = %s", got)
	}
	if got := mustParse(t, "10.0.0.0/8").Resolve(addr).String(); got != "10.0.0.0/8" {
		t.Errorf("Resolve of a fixed selector = %s", got)
	}
}

func TestPacket(t *testing.T) {
	a := netip.MustParseAddr("10.0.0.1")
	if got := Packet(a, 6, 443).String(); got != "10.0.0.1/32[tcp/443]" {
		t.Error(got)
	}
	if got := Packet(a, ProtoICMP, 8<<8).String(); got != "10.0.0.1/32[icmp/8(0)]" {
		t.Error(got)
	}
	if got := Packet(a, 47, 0).String(); got != "10.0.0.1/32[gre]" {
		t.Error(got)
	}
}

func TestValid(t *testing.T) {
	a4, b4, a6 := netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("10.0.0.2"), netip.MustParseAddr("2001:db8::1")
	for _, c := range []struct {
		ts   TS
		want bool
	}{
		{TS{0, 0, 65535, a4, b4}, true},
		{TS{0, 65535, 0, a4, b4}, true},
		{TS{0, 2, 1, a4, b4}, false},
		{TS{0, 65535, 1, a4, b4}, false},
		{TS{0, 0, 65535, b4, a4}, false},
		{TS{0, 0, 65535, a4, a6}, false},
		{TS{}, false},
		{TS{EndPort: 65535, Start: netip.MustParseAddr("::ffff:10.0.0.1"), End: netip.MustParseAddr("::ffff:10.0.0.1")}, false},
		{TS{EndPort: 65535, Start: netip.MustParseAddr("fe80::1%x"), End: netip.MustParseAddr("fe80::1%x")}, false},
	} {
		if c.ts.Valid() != c.want {
			t.Errorf("Valid(%+v) = %v", c.ts, !c.want)
		}
	}
}

// point is one packet as a selector sees it.
type point struct {
	addr   netip.Addr
	proto  uint8
	port   uint16
	hidden bool // ports can't be seen
}

// matches is the definition of what a selector means, independent of Contains
// and Intersect.
func (p point) matches(t TS) bool {
	if p.addr.Is4() != t.Start.Is4() || p.addr.Compare(t.Start) < 0 || p.addr.Compare(t.End) > 0 {
		return false
	}
	if t.Proto != 0 && t.Proto != p.proto {
		return false
	}
	if p.hidden {
		return t.StartPort == 65535 && t.EndPort == 0 || t.StartPort == 0 && t.EndPort == 65535
	}
	return p.port >= t.StartPort && p.port <= t.EndPort
}

var portValues = []uint16{0, 1, 2, 65534, 65535}

// universe is every point over a handful of addresses, protocols and ports; the
// random selectors have their borders there, so agreement on it is agreement
// everywhere.
func universe() []point {
	var ps []point
	for _, base := range []string{"10.0.0.0", "2001:db8::"} {
		a := netip.MustParseAddr(base)
		for range 6 {
			for _, proto := range []uint8{1, 6, 17} {
				for _, port := range portValues {
					ps = append(ps, point{a, proto, port, false})
				}
				ps = append(ps, point{a, proto, 0, true})
			}
			a = a.Next()
		}
	}
	return ps
}

func randomTS(r *rand.Rand) TS {
	base := netip.MustParseAddr([]string{"10.0.0.0", "10.0.0.0", "2001:db8::"}[r.IntN(3)])
	ts := TS{Proto: []uint8{0, 0, 6, 17}[r.IntN(4)], Start: base}
	lo := r.IntN(6)
	for range lo {
		ts.Start = ts.Start.Next()
	}
	ts.End = ts.Start
	for range r.IntN(6 - lo) {
		ts.End = ts.End.Next()
	}
	switch r.IntN(4) {
	case 0:
		ts.StartPort, ts.EndPort = 65535, 0
	case 1:
		ts.EndPort = 65535
	default:
		i := r.IntN(len(portValues))
		j := i + r.IntN(len(portValues)-i)
		ts.StartPort, ts.EndPort = portValues[i], portValues[j]
	}
	return ts
}

func TestIntersectAndContainsAgainstPoints(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	ps := universe()
	for range 20000 {
		a, b := randomTS(r), randomTS(r)
		got, ok := Intersect(a, b)
		subset, met := true, false
		for _, p := range ps {
			both := p.matches(a) && p.matches(b)
			met = met || both
			if both != (ok && p.matches(got)) {
				t.Fatalf("Intersect(%s, %s) = %s, %v: wrong about %+v", a, b, got, ok, p)
			}
			if p.matches(b) && !p.matches(a) {
				subset = false
			}
		}
		if ok && !got.Valid() || ok != met {
			t.Fatalf("Intersect(%s, %s) = %+v, %v", a, b, got, ok)
		}
		// Protocol 0 covers more protocols than the universe has points for; the
		// sets agree because no random selector lists them all one by one.
		if a.Contains(b) != subset {
			t.Fatalf("(%s).Contains(%s) = %v, the points say %v", a, b, !subset, subset)
		}
		if back, ok2 := Intersect(b, a); ok2 != ok || back != got {
			t.Fatalf("Intersect is not symmetric for %s, %s", a, b)
		}
		if again, err := Parse(a.String()); err != nil || again.TS != a {
			t.Fatalf("%s does not survive String and Parse: %v, %v", a, again, err)
		}
	}
}

func TestNarrowAgainstPoints(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	ps := universe()
	for range 3000 {
		ours, theirs := randomList(r), randomList(r)
		got := Narrow(ours, theirs)
		for _, p := range ps {
			want := p.in(ours) && p.in(theirs)
			if p.in(got) != want {
				t.Fatalf("Narrow(%v, %v) = %v: wrong about %+v", ours, theirs, got, p)
			}
		}
		for i, a := range got {
			for j, b := range got {
				if i != j && a.Contains(b) {
					t.Fatalf("Narrow(%v, %v) = %v: %s is contained in %s", ours, theirs, got, b, a)
				}
			}
		}
	}
}

func (p point) in(list []TS) bool {
	for _, t := range list {
		if p.matches(t) {
			return true
		}
	}
	return false
}

func randomList(r *rand.Rand) []TS {
	list := make([]TS, 1+r.IntN(4))
	for i := range list {
		list[i] = randomTS(r)
	}
	return list
}

func texts(list []TS) string {
	var s []string
	for _, t := range list {
		s = append(s, t.String())
	}
	return strings.Join(s, " ")
}

func parseList(t *testing.T, s string) (list []TS) {
	t.Helper()
	for f := range strings.FieldsSeq(s) {
		list = append(list, mustParse(t, f).TS)
	}
	return list
}

func TestNarrow(t *testing.T) {
	for _, c := range []struct{ ours, theirs, want string }{
		{"10.1.0.0/16", "0.0.0.0/0", "10.1.0.0/16"},
		{"10.1.0.0/16 ::/0", "0.0.0.0/0 2001:db8::/32", "10.1.0.0/16 2001:db8::/32"},
		// The packet's own selector is part of a wider one, which takes its place.
		{"10.1.0.0/16 10.2.0.0/16", "10.2.0.5[tcp/80] 10.0.0.0/8", "10.2.0.0/16 10.1.0.0/16"},
		// Where the policy is narrower than the second, the packet's own stays first.
		{"10.2.0.0/16[tcp/80] 10.1.0.0/16", "10.2.0.5[tcp/80] 10.1.0.0/17", "10.2.0.5/32[tcp/80] 10.1.0.0/17"},
		{"10.1.0.0/16", "10.2.0.0/16", ""},
		{"10.0.0.5-10.0.0.20", "10.0.0.16/28", "10.0.0.16-10.0.0.20"},
		{"10.0.0.0/8[icmp/8]", "10.0.0.0/8[icmp]", "10.0.0.0/8[icmp/8]"},
		{"", "0.0.0.0/0", ""},
	} {
		if got := texts(Narrow(parseList(t, c.ours), parseList(t, c.theirs))); got != c.want {
			t.Errorf("Narrow(%s; %s) = %s, want %s", c.ours, c.theirs, got, c.want)
		}
	}
}

func TestNarrowIsBounded(t *testing.T) {
	// Alternate addresses: nothing contains anything else.
	var many []TS
	a := netip.MustParseAddr("10.0.0.0")
	for range 2000 {
		many = append(many, Host(a))
		a = a.Next().Next()
	}
	all := []TS{FromPrefix(netip.MustParsePrefix("0.0.0.0/0"))}
	if got := Narrow(all, many); len(got) != MaxNarrowed || got[0] != many[0] {
		t.Errorf("%d selectors, first %s", len(got), got[0])
	}
	bad := TS{EndPort: 65535, Start: a, End: netip.MustParseAddr("10.0.0.0")}
	if got := Narrow(all, []TS{bad, {}}); len(got) != 0 {
		t.Errorf("invalid selectors were accepted: %v", got)
	}
}

func TestPrefix(t *testing.T) {
	for in, want := range map[string]string{
		"10.0.0.0-10.0.0.255":       "10.0.0.0/24",
		"10.0.0.0-10.0.0.254":       "",
		"10.0.0.1-10.0.1.0":         "",
		"0.0.0.0-255.255.255.255":   "0.0.0.0/0",
		"128.0.0.0-255.255.255.255": "128.0.0.0/1",
		"2001:db8::-2001:db8::1":    "2001:db8::/127",
		"2001:db8::1-2001:db8::2":   "",
	} {
		got, ok := mustParse(t, in).TS.Prefix()
		if ok != (want != "") || ok && got.String() != want {
			t.Errorf("Prefix of %s = %v, %v, want %q", in, got, ok, want)
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{"dynamic[udp/opaque]", "10.0.0.1-10.0.0.9[icmp/3(1)-4]", "::/0[58/128]"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		spec, err := Parse(s)
		if err != nil {
			return
		}
		if !spec.Dynamic && !spec.TS.Valid() {
			t.Fatalf("Parse(%q) = %+v: not valid", s, spec)
		}
		again, err := Parse(spec.String())
		if err != nil || again != spec {
			t.Fatalf("Parse(%q).String() = %q parses to %+v, %v", s, spec.String(), again, err)
		}
	})
}
