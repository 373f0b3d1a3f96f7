package dataplane

import (
	"errors"
	"math/rand/v2"
	"net/netip"
	"testing"
)

func v4(n uint32) netip.Addr {
	return netip.AddrFrom4([4]byte{byte(n >> 24), byte(n >> 16), byte(n >> 8), byte(n)})
}

// matches is the kernel's comparison (xfrm_selector_match), written anew.
func (s *Selector) matches(src, dst netip.Addr, proto uint8, sport, dport uint16) bool {
	return s.Src.Contains(src) && s.Dst.Contains(dst) &&
		(s.Proto == 0 || s.Proto == proto) &&
		(sport^s.SrcPort)&s.SrcPortMask == 0 && (dport^s.DstPort)&s.DstPortMask == 0
}

func (r *Range) has(a netip.Addr, port uint16) bool {
	return !a.Less(r.Start) && !r.End.Less(a) && port >= r.StartPort && port <= r.EndPort
}

// TestMaskRangeExact tries every number against many ranges: covered once or not at all.
func TestMaskRangeExact(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	ranges := [][2]uint16{{0, 65535}, {0, 0}, {65535, 65535}, {1, 65534}, {0, 65534}, {1, 65535}, {1024, 65535}, {32768, 32768}}
	for range 200 {
		a, b := uint16(rnd.Uint32()), uint16(rnd.Uint32())
		ranges = append(ranges, [2]uint16{min(a, b), max(a, b)})
	}
	for _, r := range ranges {
		ms := maskRange(r[0], r[1])
		for n := range 1 << 16 {
			hits := 0
			for _, m := range ms {
				if uint16(n)&m.mask == m.value {
					hits++
				}
			}
			want := 0
			if n >= int(r[0]) && n <= int(r[1]) {
				want = 1
			}
			if hits != want {
				t.Fatalf("range %d-%d: %d is matched %d times by %v, expected %d", r[0], r[1], n, hits, ms, want)
			}
		}
	}
}

// optimal is the least number of prefixes for lo to hi out of the 2^bits
// numbers from at, by definition: a block is one prefix when the range
// contains it, none when it misses it, else what both halves need.
func optimal(lo, hi, at uint64, bits int) int {
	last := at + 1<<bits - 1
	switch {
	case hi < at || lo > last:
		return 0
	case lo <= at && hi >= last:
		return 1
	}
	return optimal(lo, hi, at, bits-1) + optimal(lo, hi, at+1<<(bits-1), bits-1)
}

func TestMinimal(t *testing.T) {
	rnd := rand.New(rand.NewPCG(3, 4))
	for range 2000 {
		a, b := rnd.Uint32()>>(rnd.Uint32()%32), rnd.Uint32()>>(rnd.Uint32()%32)
		a, b = min(a, b), max(a, b)
		if got, want := len(Prefixes(v4(a), v4(b))), optimal(uint64(a), uint64(b), 0, 32); got != want {
			t.Fatalf("%s-%s: %d prefixes, expected %d", v4(a), v4(b), got, want)
		}
		if got, want := len(maskRange(uint16(a), max(uint16(a), uint16(b)))), optimal(uint64(uint16(a)), uint64(max(uint16(a), uint16(b))), 0, 16); got != want {
			t.Fatalf("%d-%d: %d masks, expected %d", uint16(a), uint16(b), got, want)
		}
	}
}

func TestPrefixesCoverTheRangeInOrder(t *testing.T) {
	rnd := rand.New(rand.NewPCG(5, 6))
	for i := range 2000 {
		var start, end netip.Addr
		if i%2 == 0 {
			a, b := rnd.Uint32(), rnd.Uint32()
			start, end = v4(min(a, b)), v4(max(a, b))
		} else {
			var a, b [16]byte
			n := rnd.IntN(16)
			for j := n; j < 16; j++ {
				a[j], b[j] = byte(rnd.Uint32()), byte(rnd.Uint32())
			}
			start, end = netip.AddrFrom16(a), netip.AddrFrom16(b)
			if end.Less(start) {
				start, end = end, start
			}
		}
		next := start
		for _, p := range Prefixes(start, end) {
			if p.Addr() != next || p != p.Masked() {
				t.Fatalf("%s-%s: prefix %s, expected one that starts at %s", start, end, p, next)
			}
			next = lastAddr(p).Next()
		}
		if want := end.Next(); next != want {
			t.Fatalf("%s-%s: covered up to %s", start, end, next)
		}
	}
}

// TestExpandIsExact compares the selectors with the ranges at random points and
// at all the edges, and counts matches: exactly one inside, none outside.
func TestExpandIsExact(t *testing.T) {
	rnd := rand.New(rand.NewPCG(7, 8))
	randRange := func(proto uint8) Range {
		base := rnd.Uint32()
		r := Range{Start: v4(base &^ 0xff), End: v4(base&^0xff + rnd.Uint32()%1024), Proto: proto, EndPort: 65535}
		if r.End.Less(r.Start) {
			r.End = r.Start
		}
		if proto != 0 && rnd.IntN(2) == 0 {
			a, b := uint16(rnd.Uint32()), uint16(rnd.Uint32())
			r.StartPort, r.EndPort = min(a, b), max(a, b)
		}
		return r
	}
	inside, outside := 0, 0
	for range 300 {
		proto := []uint8{0, protoTCP, protoUDP, protoSCTP}[rnd.IntN(4)]
		l, r := randRange(proto), randRange(proto)
		if proto != 0 && rnd.IntN(4) == 0 && l.anyPort() {
			l.Proto = 0
		}
		sels, err := Expand(l, r, 1<<20)
		if err != nil {
			t.Fatal(err)
		}
		as := []netip.Addr{l.Start, l.End, l.Start.Prev(), l.End.Next(), v4(rnd.Uint32())}
		bs := []netip.Addr{r.Start, r.End, r.Start.Prev(), r.End.Next()}
		ps := []uint16{l.StartPort, l.EndPort, l.StartPort - 1, l.EndPort + 1, uint16(rnd.Uint32())}
		qs := []uint16{r.StartPort, r.EndPort, r.StartPort - 1, r.EndPort + 1, uint16(rnd.Uint32())}
		for _, a := range as {
			for _, b := range bs {
				for _, p := range ps {
					q := qs[rnd.IntN(len(qs))]
					if !a.IsValid() || !b.IsValid() {
						continue
					}
					hits, want := 0, 0
					for i := range sels {
						if sels[i].matches(a, b, max(proto, 1), p, q) {
							hits++
						}
					}
					if l.has(a, p) && r.has(b, q) {
						want = 1
						inside++
					} else {
						outside++
					}
					if hits != want {
						t.Fatalf("%s %s: packet %s:%d -> %s:%d matched %d times, expected %d", l, r, a, p, b, q, hits, want)
					}
				}
			}
		}
	}
	if inside < 100 || outside < 100 {
		t.Fatalf("%d points inside, %d outside: the test tests nothing", inside, outside)
	}
}

// TestExpandICMP tries all types and codes: RFC 7296 3.13.1 on one side, the
// kernel's type as source port and code as destination port on the other.
func TestExpandICMP(t *testing.T) {
	all := Range{Start: v4(0), End: v4(1<<32 - 1), EndPort: 65535}
	for _, c := range []struct{ l, r [2]uint16 }{
		{[2]uint16{0x0800, 0x08ff}, [2]uint16{0, 0xffff}}, // echo request, any code
		{[2]uint16{0, 0xffff}, [2]uint16{0x0301, 0x0304}},
		{[2]uint16{0x0301, 0x0510}, [2]uint16{0x0301, 0x0510}},
		{[2]uint16{0x0000, 0x04ff}, [2]uint16{0x0300, 0xffff}},
	} {
		l, r := all, all
		l.Proto, r.Proto = protoICMP, protoICMP
		l.StartPort, l.EndPort, r.StartPort, r.EndPort = c.l[0], c.l[1], c.r[0], c.r[1]
		sels, err := Expand(l, r, 1<<20)
		if err != nil {
			t.Fatal(err)
		}
		for n := range 1 << 16 {
			hits, want := 0, 0
			for i := range sels {
				if sels[i].matches(v4(1), v4(2), protoICMP, uint16(n>>8), uint16(n&0xff)) {
					hits++
				}
			}
			if uint16(n) >= max(c.l[0], c.r[0]) && uint16(n) <= min(c.l[1], c.r[1]) {
				want = 1
			}
			if hits != want {
				t.Fatalf("%v: type %d code %d matched %d times by %v, expected %d", c, n>>8, n&0xff, hits, sels, want)
			}
		}
	}
	l, r := all, all
	l.Proto, l.StartPort, l.EndPort = protoICMPv6, 0x8000, 0x80ff
	if sels, err := Expand(l, r, 1); err != nil || len(sels) != 1 || sels[0].SrcPort != 128 || sels[0].SrcPortMask != 0xffff || sels[0].DstPortMask != 0 {
		t.Errorf("type 128, any code: %v, %v, expected one selector with source port 128", sels, err)
	}
}

func TestExpandRefuses(t *testing.T) {
	ok := Range{Start: v4(1), End: v4(2), Proto: protoTCP, EndPort: 65535}
	v6 := netip.MustParseAddr("2001:db8::1")
	for name, change := range map[string]func(l, r *Range){
		"OPAQUE ports":         func(l, r *Range) { l.StartPort, l.EndPort = 65535, 0 },
		"addresses reversed":   func(l, r *Range) { l.Start, l.End = l.End, l.Start },
		"two families":         func(l, r *Range) { l.Start, l.End = v6, v6 },
		"family in one range":  func(l, r *Range) { l.End = v6 },
		"no address":           func(l, r *Range) { l.Start = netip.Addr{} },
		"two protocols":        func(l, r *Range) { r.Proto = protoUDP },
		"ports of GRE":         func(l, r *Range) { l.Proto, r.Proto, l.StartPort = 47, 47, 1 },
		"ports, no protocol":   func(l, r *Range) { l.Proto, r.Proto, l.StartPort = 0, 0, 1 },
		"ICMP that is nothing": func(l, r *Range) { l.Proto, r.Proto, l.EndPort, r.StartPort = 1, 1, 5, 6 },
	} {
		l, r := ok, ok
		change(&l, &r)
		if sels, err := Expand(l, r, 1000); err == nil {
			t.Errorf("%s: %v, expected an error", name, sels)
		}
	}
	l, r := ok, ok
	l.Start, l.End = v4(1), v4(14) // 1 2-3 4-7 8-11 12-13 14
	_, err := Expand(l, r, 11)
	var many *TooManyError
	if !errors.As(err, &many) || many.Need != 12 || many.Limit != 11 {
		t.Errorf("6 times 2 prefixes with a limit of 11: %v, expected a TooManyError of 12", err)
	}
	if sels, err := Expand(l, r, 12); err != nil || len(sels) != 12 {
		t.Errorf("6 times 2 prefixes with a limit of 12: %d, %v", len(sels), err)
	}
}

// TestPriority: whenever one selector includes another, the inner comes first.
func TestPriority(t *testing.T) {
	rnd := rand.New(rand.NewPCG(9, 10))
	random := func() Selector {
		p := func() netip.Prefix {
			if rnd.IntN(2) == 0 {
				return netip.PrefixFrom(v4(rnd.Uint32()), rnd.IntN(33)).Masked()
			}
			return netip.PrefixFrom(netip.AddrFrom16([16]byte{byte(rnd.Uint32()), 15: byte(rnd.Uint32())}), rnd.IntN(129)).Masked()
		}
		mask := func() uint16 { return uint16(0xffff) << rnd.IntN(17) }
		s := Selector{Src: p(), Dst: p(), SrcPortMask: mask(), DstPortMask: mask()}
		if rnd.IntN(2) == 0 {
			s.Proto = protoTCP
		}
		return s
	}
	for range 20000 {
		inner := random()
		pi := Priority(inner)
		if pi < PriorityNarrowest || pi > PriorityWidest {
			t.Fatalf("%s: priority %d, expected %d-%d", inner, pi, PriorityNarrowest, PriorityWidest)
		}
		outer := inner
		for range 1 + rnd.IntN(3) {
			switch rnd.IntN(5) {
			case 0:
				outer.Src = netip.PrefixFrom(outer.Src.Addr(), rnd.IntN(outer.Src.Bits()+1)).Masked()
			case 1:
				outer.Dst = netip.PrefixFrom(outer.Dst.Addr(), rnd.IntN(outer.Dst.Bits()+1)).Masked()
			case 2:
				outer.Proto = 0
			case 3:
				outer.SrcPortMask <<= rnd.IntN(17)
			case 4:
				outer.DstPortMask <<= rnd.IntN(17)
			}
		}
		if po := Priority(outer); outer != inner && po <= pi || outer == inner && po != pi {
			t.Fatalf("%s has %d, %s that includes it has %d: expected a larger number", inner, pi, outer, po)
		}
	}
}

// TestPriorityWeights: a bit of a prefix counts more than protocol and ports
// together, and those count in this order.
func TestPriorityWeights(t *testing.T) {
	wide := Selector{Src: netip.MustParsePrefix("10.0.0.0/24"), Dst: netip.MustParsePrefix("11.0.0.0/24")}
	longer, ports, proto := wide, wide, wide
	longer.Src = netip.MustParsePrefix("10.0.0.0/25")
	ports.SrcPortMask, ports.DstPortMask = 0xffff, 0xffff
	proto.Proto = protoTCP
	both := ports
	both.Proto = protoTCP
	order := []Selector{longer, both, proto, ports, wide}
	for i := range order[1:] {
		if a, b := Priority(order[i]), Priority(order[i+1]); a >= b {
			t.Errorf("%s has %d, %s has %d: expected the first to come first", order[i], a, order[i+1], b)
		}
	}
}

func TestEffectiveLimits(t *testing.T) {
	for name, c := range map[string]struct {
		sa   SA
		want Limits
	}{
		"none given":    {SA{}, Limits{SoftPackets: 1<<32 - 1<<28, HardPackets: 1<<32 - 1<<20}},
		"above":         {SA{Limits: Limits{SoftPackets: 5, HardPackets: 1 << 40}}, Limits{SoftPackets: 5, HardPackets: 1<<32 - 1<<20}},
		"below":         {SA{Limits: Limits{HardPackets: 9}}, Limits{HardPackets: 9}},
		"ESN":           {SA{ESN: true}, Limits{}},
		"ESN above":     {SA{ESN: true, Limits: Limits{HardPackets: 1 << 40}}, Limits{HardPackets: 1 << 40}},
		"continued":     {SA{Seq: Replay{Out: 1 << 31}}, Limits{SoftPackets: 1<<31 - 1<<28, HardPackets: 1<<31 - 1<<20}},
		"at the end":    {SA{Seq: Replay{Out: 1<<32 - 1}}, Limits{SoftPackets: 1, HardPackets: 1}},
		"others remain": {SA{Limits: Limits{SoftBytes: 1, HardBytes: 2, SoftTime: 3, HardTime: 4, HardPackets: 9}}, Limits{SoftBytes: 1, HardBytes: 2, SoftTime: 3, HardTime: 4, HardPackets: 9}},
	} {
		if got := EffectiveLimits(&c.sa); got != c.want {
			t.Errorf("%s: %+v, expected %+v", name, got, c.want)
		}
	}
}

func TestReverse(t *testing.T) {
	s := Selector{Src: netip.MustParsePrefix("10.0.0.0/8"), Dst: netip.MustParsePrefix("11.0.0.0/8"), Proto: protoTCP, SrcPort: 1, SrcPortMask: 2, DstPort: 3, DstPortMask: 4}
	if r := s.Reverse(); r.Src != s.Dst || r.Dst != s.Src || r.SrcPort != 3 || r.SrcPortMask != 4 || r.DstPort != 1 || r.DstPortMask != 2 || r.Reverse() != s {
		t.Errorf("reversed: %s", r)
	}
	for _, proto := range []uint8{protoICMPv6, protoMH} {
		s.Proto = proto
		if r := s.Reverse(); r.Src != s.Dst || r.SrcPort != 1 || r.DstPort != 3 {
			t.Errorf("reversed protocol %d: %s, expected type and code where they were", proto, r)
		}
	}
	s.Proto = protoICMP
	if r := s.Reverse(); r.Src != s.Dst || r.SrcPort != 1 || r.DstPort != 3 || r.Reverse() != s {
		t.Errorf("reversed ICMP: %s, expected type and code where they were", r)
	}
}
