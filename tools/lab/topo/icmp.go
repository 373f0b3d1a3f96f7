package topo

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net/netip"
)

// The types of ICMP (RFC 792) and ICMPv6 (RFC 4443) that matter to echoes.
type icmpTypes struct {
	request, reply byte
	refusals       []byte // unreachable, too big, time exceeded, parameter problem
	header         int    // of the IP packet that a refusal quotes, without options
}

var (
	icmp4 = icmpTypes{request: 8, reply: 0, refusals: []byte{3, 11, 12}, header: 20}
	icmp6 = icmpTypes{request: 128, reply: 129, refusals: []byte{1, 2, 3, 4}, header: 40}
)

func icmpOf(a netip.Addr) icmpTypes {
	if a.Is6() {
		return icmp6
	}
	return icmp4
}

const (
	icmpHeader = 8
	// echoName is what the data begins with: eight random bytes that tell these requests from all others, and the number, of which the header has place for
	// a part only.
	echoName = 8 + 4
)

// echoRequest is the nth request, counted from 1, with size bytes of data, which are zeros but for the name.
func echoRequest(types icmpTypes, nonce [8]byte, n, size int) []byte {
	b := make([]byte, icmpHeader+size)
	b[0] = types.request
	copy(b[4:6], nonce[:])
	binary.BigEndian.PutUint16(b[6:], uint16(n))
	copy(b[icmpHeader:], nonce[:])
	binary.BigEndian.PutUint32(b[icmpHeader+8:], uint32(n))
	if types.request == icmp4.request { // of ICMPv6 the kernel makes it
		binary.BigEndian.PutUint16(b[2:], ^sum16(b))
	}
	return b
}

// sum16 is the sum of the 16-bit words, as RFC 1071 has it.
func sum16(b []byte) uint16 {
	var sum uint32
	for i := 0; i < len(b); i += 2 {
		sum += uint32(b[i]) << 8
		if i+1 < len(b) {
			sum += uint32(b[i+1])
		}
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return uint16(sum)
}

// answered reads a message as the answer to a request, and tells its number and whether it is what was sent, to the last byte.
func answered(types icmpTypes, nonce [8]byte, b []byte, size int) (n int, whole, ok bool) {
	if len(b) < icmpHeader+echoName || b[0] != types.reply || !bytes.Equal(b[icmpHeader:icmpHeader+8], nonce[:]) {
		return 0, false, false
	}
	n = int(binary.BigEndian.Uint32(b[icmpHeader+8:]))
	want := echoRequest(types, nonce, n, size)
	return n, b[1] == 0 && bytes.Equal(b[4:], want[4:]), true
}

// refused reads a message as one that a request cannot be delivered, and tells the part of its number that is quoted, and why.
func refused(types icmpTypes, nonce [8]byte, to netip.Addr, b []byte) (low uint16, why string, ok bool) {
	if len(b) < icmpHeader+types.header || bytes.IndexByte(types.refusals, b[0]) < 0 {
		return 0, "", false
	}
	quoted := b[icmpHeader:]
	header, dst := types.header, quoted[24:40]
	if !to.Is6() {
		header, dst = int(quoted[0]&0xf)*4, quoted[16:20]
	}
	if len(quoted) < header+icmpHeader || !bytes.Equal(dst, to.AsSlice()) {
		return 0, "", false
	}
	quoted = quoted[header:]
	if quoted[0] != types.request || !bytes.Equal(quoted[4:6], nonce[:2]) {
		return 0, "", false
	}
	return binary.BigEndian.Uint16(quoted[6:]), fmt.Sprintf("ICMP type %d code %d", b[0], b[1]), true
}
