package programs

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"testing"

	"espalier/bpf"
)

// Options of TCP.
var (
	nop       = []byte{1}
	end       = []byte{0}
	sackOK    = []byte{4, 2}
	wscale    = []byte{3, 3, 7}
	timestamp = []byte{8, 10, 0, 1, 2, 3, 4, 5, 6, 7}
)

func mss(v uint16) []byte { return []byte{2, 4, byte(v >> 8), byte(v)} }

func options(parts ...[]byte) []byte {
	out := bytes.Join(parts, nil)
	for len(out)%4 != 0 {
		out = append(out, 0)
	}
	return out
}

// segment is a TCP packet from inside (10.1.0.1) to the peer's network (10.2.0.1) with a right checksum, and where TCP begins after the link
// header, if there is one.
type segment struct {
	b    []byte
	link int
	tcp  int // from the beginning
}

func segment4(link packet, ipOptions []byte, flags uint8, opts []byte, payload int) segment {
	l := []layer{tcp(flags, opts), data(payload)}
	p := link.add(ip4opt("10.1.0.1", "10.2.0.1", 6, 0, ipOptions, l...)).add(l...)
	return finish(p, length(link), length(p)-length(l))
}

func segment6(link packet, exts []layer, flags uint8, opts []byte, payload int) segment {
	l := []layer{tcp(flags, opts), data(payload)}
	next := uint8(6)
	if len(exts) > 0 {
		next = 60
	}
	p := link.add(ip6("fd00:1::1", "fd00:2::1", next, append(exts, l...)...)).add(exts...).add(l...)
	return finish(p, length(link), length(p)-length(l))
}

func finish(p packet, link, at int) segment {
	b := p.bytes()
	sumTCP(b[link:], at-link)
	return segment{b: b, link: link, tcp: at}
}

// with is the segment with another MSS in the option at a place among the options, and a checksum computed anew.
func (s segment) with(t *testing.T, at int, v uint16) segment {
	t.Helper()
	out := segment{b: bytes.Clone(s.b), link: s.link, tcp: s.tcp}
	binary.BigEndian.PutUint16(out.b[s.tcp+20+at+2:], v)
	sumTCP(out.b[s.link:], s.tcp-s.link)
	return out
}

const limit4, limit6 = 1360, 1340

func mssBox(t *testing.T) *box {
	b := newBox(t)
	b.table.Programs().Mss = 1
	v := bpf.MSS{Mss4: limit4, Mss6: limit6}
	for _, p := range []string{"10.2.0.0/24", "fd00:2::/32"} {
		b.put("mss_prefixes", bpf.MakeLPMKey(netip.MustParsePrefix(p)), v)
	}
	b.put("mss_prefixes", bpf.MakeLPMKey(netip.MustParsePrefix("10.2.0.128/25")), bpf.MSS{}) // leave alone
	return b
}

func ethernet4() packet { return packet{eth(ethIP4)} }
func ethernet6() packet { return packet{eth(ethIP6)} }

func TestMSS(t *testing.T) {
	here(t)
	b := mssBox(t)
	rewritten, malformed := []bpf.Total{bpf.TotalMSSRewritten}, []bpf.Total{bpf.TotalMSSMalformed}
	usual := options(mss(1460), sackOK, timestamp, nop, wscale)
	usual4, usual6 := segment4(ethernet4(), nil, syn, usual, 0), segment6(ethernet6(), nil, syn, usual, 0)
	four := func(opts []byte) segment { return segment4(ethernet4(), nil, syn, opts, 0) }
	wrong := four(usual)
	wrong.b[wrong.tcp+4] ^= 0x55 // in the sequence number, after the checksum was made
	wrongOut := usual4.with(t, 0, limit4)
	wrongOut.b[wrongOut.tcp+4] ^= 0x55
	twice := four(options(mss(1460), mss(1400)))
	tagged := packet{eth(ethVLAN), vlan(5, ethIP4)}
	opts6 := []layer{ext(6, 1)}
	full := bytes.Join([][]byte{nop, nop, nop, bytes.Repeat(sackOK, 16), nop, mss(9000)}, nil) // 40 bytes, the MSS at the very end
	shorter := segment4(ethernet4(), []byte{1, 1, 1, 1}, syn, usual, 0)
	type row struct {
		name string
		in   segment
		out  *segment // nil: unchanged
		want []bpf.Total
	}
	same := func(name string, s segment, want []bpf.Total) row { return row{name, s, nil, want} }
	to := func(name string, in segment, at int, v uint16) row {
		out := in.with(t, at, v)
		return row{name, in, &out, rewritten}
	}
	raw := func(s segment) segment { return segment{b: s.b[s.link:], tcp: s.tcp - s.link} }
	rows := []row{
		to("IPv4", usual4, 0, limit4),
		to("IPv6", usual6, 0, limit6),
		to("SYN-ACK", segment4(ethernet4(), nil, syn|ack, usual, 0), 0, limit4),
		to("SYN with data", segment4(ethernet4(), nil, syn, usual, 11), 0, limit4),
		to("IPv4 options", shorter, 0, limit4),
		to("IPv6 extension", segment6(ethernet6(), opts6, syn, usual, 0), 0, limit6),
		to("VLAN", segment4(tagged, nil, syn, usual, 0), 0, limit4),
		to("after one NOP, so that it lies across words", four(options(nop, mss(1460))), 1, limit4),
		to("after a window scale, across words", four(options(wscale, mss(65535))), 3, limit4),
		to("last option, up to the end", four(options(nop, nop, sackOK, mss(1460))), 4, limit4),
		to("last of 40 bytes", four(full), 36, limit4),
		to("only option", four(mss(1361)), 0, limit4),
		{"checksum wrong stays as wrong", wrong, &wrongOut, rewritten},
		same("equal", four(options(mss(limit4))), nil),
		same("lower is never raised", four(options(mss(536))), nil),
		same("zero", four(options(mss(0))), nil),
		same("absent", four(options(sackOK, timestamp)), nil),
		same("no options", four(nil), nil),
		same("behind the end of the options", four(options(sackOK, end, mss(1460))), nil),
		same("not a SYN", segment4(ethernet4(), nil, ack, usual, 0), nil),
		same("RST with SYN", segment4(ethernet4(), nil, syn|rst, usual, 0), nil),
		same("option of length 0", four([]byte{3, 0, 2, 4, 5, 0xb4, 0, 0}), malformed),
		same("option of length 1", four([]byte{3, 1, 2, 4, 5, 0xb4, 0, 0}), malformed),
		same("option beyond the end", four([]byte{2, 4, 5, 0xb4, 8, 10, 0, 0}), malformed),
		same("option cut before its length", four([]byte{2, 4, 5, 0xb4, 1, 1, 1, 8}), malformed),
		same("MSS of length 3", four([]byte{2, 3, 5, 1}), malformed),
		same("MSS of length 6", four([]byte{2, 6, 5, 0xb4, 0, 0, 1, 1}), malformed),
		same("MSS cut off", four([]byte{1, 1, 2, 4}), malformed),
		same("a good one, then a malformed one", four([]byte{2, 4, 5, 0xb4, 2, 3, 1, 1}), malformed),
		same("first fragment", finish(fragment(usual), 14, 34), nil),
		same("UDP", segment{b: packet{eth(ethIP4), ip4("10.1.0.1", "10.2.0.1", 17, udp(1, 2), data(40)), udp(1, 2), data(40)}.bytes()}, nil),
		same("prefix without a limit", finish(elsewhere("10.2.0.200", usual), 14, 34), nil),
		same("elsewhere", finish(elsewhere("10.3.0.1", usual), 14, 34), nil),
	}
	twiceOut := twice.with(t, 0, limit4).with(t, 4, limit4)
	rows = append(rows, row{"twice", twice, &twiceOut, rewritten})
	once := four(options(mss(1460), mss(1200)))
	onceOut := once.with(t, 0, limit4)
	rows = append(rows, row{"twice, one low", once, &onceOut, rewritten})
	for _, r := range rows {
		t.Run(r.name, func(t *testing.T) {
			c := testCase{program: "mss_in", packet: r.in.b, action: tcNext, counts: counts{totals: r.want}}
			if r.out != nil {
				c.out = r.out.b
			}
			b.run(t, c)
			if r.in.link != 14 {
				return
			}
			// The same without Ethernet.
			c.program, c.packet = "mss_in_raw", raw(r.in).b
			if r.out != nil {
				c.out = raw(*r.out).b
			}
			b.run(t, c)
		})
	}
	// Cut off at every byte: read as far as it goes, never changed, unless all options are there.
	for n := 34; n < len(usual4.b); n++ { // the kernel's test run wants an IP header
		t.Run(fmt.Sprintf("cut to %d bytes", n), func(t *testing.T) {
			c := testCase{program: "mss_in", packet: usual4.b[:n], action: tcNext}
			if n >= 34+20 {
				c.totals = malformed
			}
			b.run(t, c)
		})
	}
}

// fragment is a first fragment with a SYN in it.
func fragment(opts []byte) packet {
	l := tcp(syn, opts)
	return packet{eth(ethIP4), ip4opt("10.1.0.1", "10.2.0.1", 6, 0x2000, nil, l), l}
}

// elsewhere is a SYN to another address.
func elsewhere(dst string, opts []byte) packet {
	l := tcp(syn, opts)
	return packet{eth(ethIP4), ip4("10.1.0.1", dst, 6, l), l}
}

// Which program looks at which address, and at which device.
func TestMSSByWhat(t *testing.T) {
	here(t)
	b := mssBox(t)
	usual := options(mss(1460), sackOK, timestamp, nop, wscale)
	l := tcp(syn|ack, usual)
	back := finish(packet{eth(ethIP4), ip4("10.2.0.1", "10.1.0.1", 6, l), l}, 14, 34)
	toPeer := segment4(ethernet4(), nil, syn, usual, 0)
	rewritten := counts{totals: []bpf.Total{bpf.TotalMSSRewritten}}
	b.run(t, testCase{program: "mss_out", packet: back.b, out: back.with(t, 0, limit4).b, action: tcNext, counts: rewritten})
	b.run(t, testCase{program: "mss_out_raw", packet: back.b[14:], out: back.with(t, 0, limit4).b[14:], action: tcNext, counts: rewritten})
	b.run(t, testCase{program: "mss_out", packet: toPeer.b, action: tcNext})
	b.run(t, testCase{program: "mss_in", packet: back.b, action: tcNext})
	off := func(c *bpf.Config) { c.Mss = 0 }
	b.run(t, testCase{program: "mss_in", packet: toPeer.b, action: tcNext, set: off})
	// The test run's packets come from device 1, the loopback.
	b.run(t, testCase{program: "mss_xfrm", packet: toPeer.b[14:], action: tcNext})
	b.put("mss_ifs", uint32(1), bpf.MSS{Mss4: 1300})
	b.run(t, testCase{program: "mss_xfrm", packet: toPeer.b[14:], out: toPeer.with(t, 0, 1300).b[14:], action: tcNext, counts: rewritten})
	six := segment6(ethernet6(), nil, syn, usual, 0)
	b.run(t, testCase{program: "mss_xfrm", packet: six.b[14:], action: tcNext}) // no limit for IPv6
}

// The checksum after rewriting is that of a whole computation.
func TestMSSChecksum(t *testing.T) {
	here(t)
	b := mssBox(t)
	r := rand.New(rand.NewPCG(7, 8))
	p := b.programs["mss_in"]
	for i := range 100_000 {
		// Any options around the MSS, at even and odd places.
		var parts [][]byte
		at, room := 0, 36
		for r.IntN(4) != 0 {
			o := [][]byte{nop, sackOK, wscale, timestamp}[r.IntN(4)]
			if len(o) > room {
				break
			}
			parts, at, room = append(parts, o), at+len(o), room-len(o)
		}
		v := uint16(r.Uint32N(1 << 16))
		parts = append(parts, mss(v))
		if room >= 3 && r.IntN(2) == 0 {
			parts = append(parts, wscale)
		}
		s, limit := segment4(ethernet4(), nil, syn, options(parts...), r.IntN(4)), uint16(limit4)
		if i%2 == 1 {
			s, limit = segment6(ethernet6(), nil, syn|ack, options(parts...), r.IntN(4)), limit6
		}
		for j := range 12 { // ports, numbers
			s.b[s.tcp+j] = byte(r.Uint32())
		}
		sumTCP(s.b[s.link:], s.tcp-s.link)
		want := s.b
		if v > limit {
			want = s.with(t, at, limit).b
		}
		_, out, err := p.Test(s.b)
		if err != nil {
			t.Fatal(err)
		}
		// 0 and 0xffff are the same sum (RFC 1624 3); all else must be equal.
		if got := tcpSum(out[s.link:], s.tcp-s.link); got != 0xffff {
			t.Fatalf("%d: checksum adds up to %#x; expected 0xffff:\n% x", i, got, out)
		}
		copy(want[s.tcp+16:], out[s.tcp+16:s.tcp+18])
		if !bytes.Equal(out, want) {
			t.Fatalf("%d:\n% x\nexpected:\n% x", i, out, want)
		}
	}
}
