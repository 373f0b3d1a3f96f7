package topo

import (
	"encoding/binary"
	"slices"
	"testing"
)

// ipv4 is an Ethernet frame with an IPv4 packet.
func ipv4(proto byte, fragment uint16, payload ...byte) []byte {
	b := make([]byte, 14+20, 14+20+len(payload))
	binary.BigEndian.PutUint16(b[12:], 0x0800)
	b[14] = 0x45
	binary.BigEndian.PutUint16(b[16:], uint16(20+len(payload)))
	binary.BigEndian.PutUint16(b[20:], fragment)
	b[23] = proto
	return append(b, payload...)
}

// ipv6 is an Ethernet frame with an IPv6 packet; payload begins with extension headers, if any.
func ipv6(next byte, payload ...byte) []byte {
	b := make([]byte, 14+40, 14+40+len(payload))
	binary.BigEndian.PutUint16(b[12:], 0x86dd)
	b[14] = 0x60
	binary.BigEndian.PutUint16(b[18:], uint16(len(payload)))
	b[20] = next
	return append(b, payload...)
}

// udp is a UDP datagram.
func udp(src, dst uint16, body ...byte) []byte {
	b := binary.BigEndian.AppendUint16(nil, src)
	b = binary.BigEndian.AppendUint16(b, dst)
	b = binary.BigEndian.AppendUint16(b, uint16(8+len(body)))
	return append(append(b, 0, 0), body...)
}

func TestRepeatedSequence(t *testing.T) {
	var c Counts
	for i, seq := range []byte{1, 2, 1, 3, 3} {
		c.add(ipv4(50, 0, 0, 0, 0x10, 1, 0, 0, 0, seq, byte(i)))
		c.add(ipv4(17, 0, udp(4500, 4500, 0, 0, 0x20, 1, 0, 0, 0, seq, byte(i))...))
	}
	if want := []uint32{0x1001, 0x2001, 0x1001, 0x2001}; c.Repeated != 4 || !slices.Equal(c.RepeatedSPIs, want) {
		t.Errorf("%d repeated, of SPIs %x, expected %x", c.Repeated, c.RepeatedSPIs, want)
	}
}

// TestReflected: the same packet once more has lost a hop; the same octets that have not are a number used twice.
func TestReflected(t *testing.T) {
	v4 := func(hops, seq, body byte) []byte {
		f := ipv4(50, 0, 0, 0, 0x10, 1, 0, 0, 0, seq, body)
		f[14+8] = hops
		return f
	}
	v6 := func(hops, seq, body byte) []byte {
		f := ipv6(17, udp(4500, 4500, 0, 0, 0x20, 1, 0, 0, 0, seq, body)...)
		f[14+7] = hops
		return f
	}
	for name, frame := range map[string]func(hops, seq, body byte) []byte{"IPv4": v4, "IPv6, in UDP": v6} {
		for _, c := range []struct {
			what                string
			frames              [][]byte
			reflected, repeated int
		}{
			{"routed back, and back again", [][]byte{frame(64, 1, 7), frame(63, 1, 7), frame(62, 1, 7)}, 2, 0},
			{"the same octets made twice", [][]byte{frame(64, 1, 7), frame(64, 1, 7)}, 0, 1},
			{"made twice, routed back in between", [][]byte{frame(64, 1, 7), frame(63, 1, 7), frame(64, 1, 7)}, 1, 1},
			{"other octets", [][]byte{frame(64, 1, 7), frame(63, 1, 8)}, 0, 1},
			{"another number", [][]byte{frame(64, 1, 7), frame(63, 2, 7)}, 0, 0},
		} {
			var got Counts
			for _, f := range c.frames {
				got.add(f)
			}
			if got.Reflected != c.reflected || got.Repeated != c.repeated {
				t.Errorf("%s, %s: %d reflected, %d repeated, expected %d and %d", name, c.what, got.Reflected, got.Repeated, c.reflected, c.repeated)
			}
		}
	}
}

func TestClassify(t *testing.T) {
	natIKE := udp(4500, 4500, slices.Concat(make([]byte, 4), make([]byte, 28))...)
	natESP := udp(4500, 40000, 0, 0, 0, 1, 0, 0, 0, 1)
	arp := make([]byte, 60)
	binary.BigEndian.PutUint16(arp[12:], 0x0806)
	for _, c := range []struct {
		name  string
		frame []byte
		want  Counts
	}{
		{"ESP", ipv4(50, 0, 1, 2, 3, 4), Counts{ESP: 1, Bytes: 24}},
		{"ESP, later fragment", ipv4(50, 100, 1, 2, 3, 4), Counts{ESP: 1, Bytes: 24}},
		{"ESP in IPv6", ipv6(50, 1, 2, 3, 4), Counts{ESP: 1, Bytes: 44}},
		{"ESP after a fragment header", ipv6(44, 50, 0, 0, 9, 0, 0, 0, 1, 1, 2, 3, 4), Counts{ESP: 1, Bytes: 52}},
		{"IKE", ipv4(17, 0, udp(500, 500, make([]byte, 28)...)...), Counts{IKE: 1}},
		{"IKE behind NAT", ipv4(17, 0, natIKE...), Counts{IKE: 1}},
		{"IKE from a mapped port", ipv6(17, udp(1025, 500, make([]byte, 28)...)...), Counts{IKE: 1}},
		{"ESP in UDP", ipv4(17, 0, natESP...), Counts{UDPESP: 1, Bytes: 36}},
		{"keepalive", ipv4(17, 0, udp(4500, 4500, 0xff)...), Counts{Keepalive: 1}},
		{"keepalive, padded by Ethernet", append(ipv4(17, 0, udp(4500, 4500, 0xff)...), 0, 0, 0, 0), Counts{Keepalive: 1}},
		{"other UDP", ipv4(17, 0, udp(53, 1025, 1, 2, 3, 4)...), Counts{Clear: 1}},
		{"TCP", ipv4(6, 0, make([]byte, 20)...), Counts{Clear: 1}},
		{"echo request", ipv4(1, 0, 8, 0, 0, 0), Counts{Clear: 1}},
		{"ICMP error", ipv4(1, 0, 3, 4, 0, 0), Counts{Control: 1}},
		{"IPv6 echo reply", ipv6(58, 129, 0, 0, 0), Counts{Clear: 1}},
		{"neighbour solicitation", ipv6(58, 135, 0, 0, 0), Counts{Control: 1}},
		{"listener report", ipv6(0, 58, 0, 5, 2, 0, 0, 0, 0, 143, 0, 0, 0), Counts{Control: 1}},
		{"later fragment of anything", ipv4(17, 100, 1, 2, 3, 4), Counts{Fragments: 1}},
		{"IP in IP", ipv4(4, 0, make([]byte, 20)...), Counts{Clear: 1}},
		{"ARP", arp, Counts{Control: 1}},
		{"too short for IPv4", ipv4(50, 0)[:20], Counts{Clear: 1}},
		{"too short for Ethernet", []byte{1, 2, 3}, Counts{Control: 1}},
	} {
		var got Counts
		got.add(c.frame)
		got.ClearSamples = nil
		if got.ESP != c.want.ESP || got.UDPESP != c.want.UDPESP || got.IKE != c.want.IKE || got.Keepalive != c.want.Keepalive || got.Clear != c.want.Clear ||
			got.Fragments != c.want.Fragments || got.Control != c.want.Control || got.Bytes != c.want.Bytes {
			t.Errorf("%s: expected %+v, got %+v", c.name, c.want, got)
		}
	}
}
