package xfrm

import (
	"encoding/binary"
	"net/netip"

	"espalier/dataplane"
)

// Sizes of the keys in records. All fields have fixed places; numbers are
// little-endian.
const (
	saKeySize     = 1 + 16 + 1 + 4 + 8
	saSize        = saKeySize + 17 + 4 + 4 + 8 + 3
	policyKeySize = 1 + 32 + 3 + 8 + 1 + 8 + 4
	policySize    = policyKeySize + 8
)

func flag(b bool) byte {
	if b {
		return 1
	}
	return 0
}

func appendSAKey(b []byte, k *dataplane.SAKey) []byte {
	dst := packAddr(k.Dst)
	b = append(b, flag(dst.v6))
	b = append(b, dst.b[:]...)
	b = append(b, byte(k.Proto))
	b = binary.LittleEndian.AppendUint32(b, k.SPI)
	b = binary.LittleEndian.AppendUint32(b, k.Mark.Value)
	return binary.LittleEndian.AppendUint32(b, k.Mark.Mask)
}

func appendSA(b []byte, r *ownSA) []byte {
	b = append(b, flag(r.src.v6))
	b = append(b, r.src.b[:]...)
	b = binary.LittleEndian.AppendUint32(b, r.reqID)
	b = binary.LittleEndian.AppendUint32(b, r.ifID)
	b = binary.LittleEndian.AppendUint64(b, uint64(r.added))
	return append(b, byte(r.dir), byte(r.mode), flag(r.reserved))
}

// readSA reads the payload of an addition of an SA.
func readSA(p []byte) (k dataplane.SAKey, r ownSA, ok bool) {
	if len(p) != 1+saSize || p[0] != kindAddSA {
		return k, r, false
	}
	p = p[1:]
	k.Dst = addr{[16]byte(p[1:17]), p[0] != 0}.addr()
	k.Proto = dataplane.Proto(p[17])
	k.SPI = binary.LittleEndian.Uint32(p[18:])
	k.Mark = dataplane.Mark{Value: binary.LittleEndian.Uint32(p[22:]), Mask: binary.LittleEndian.Uint32(p[26:])}
	p = p[saKeySize:]
	r.src = addr{[16]byte(p[1:17]), p[0] != 0}
	r.reqID, r.ifID = binary.LittleEndian.Uint32(p[17:]), binary.LittleEndian.Uint32(p[21:])
	r.added = int64(binary.LittleEndian.Uint64(p[25:]))
	r.dir, r.mode, r.reserved = dataplane.Direction(p[33]), dataplane.Mode(p[34]), p[35] != 0
	return k, r, true
}

// appendPolicyKey begins a record; of is its kind when the policy is for one
// network interface.
func appendPolicyKey(kind, of byte, k *dataplane.PolicyKey) []byte {
	b := []byte{kind}
	s := &k.Selector
	src, dst := s.Src.Addr().As16(), s.Dst.Addr().As16()
	b = append(b, flag(!s.Src.Addr().Is4()))
	b = append(b, src[:]...)
	b = append(b, dst[:]...)
	b = append(b, byte(s.Src.Bits()), byte(s.Dst.Bits()), s.Proto)
	for _, n := range [4]uint16{s.SrcPort, s.SrcPortMask, s.DstPort, s.DstPortMask} {
		b = binary.LittleEndian.AppendUint16(b, n)
	}
	b = append(b, byte(k.Dir))
	for _, n := range [3]uint32{k.Mark.Value, k.Mark.Mask, k.IfID} {
		b = binary.LittleEndian.AppendUint32(b, n)
	}
	if k.IfIndex != 0 {
		b[0] = of
		b = binary.LittleEndian.AppendUint32(b, k.IfIndex)
	}
	return b
}

// readPolicy reads the payload of an addition of a policy.
func readPolicy(p []byte) (k dataplane.PolicyKey, added int64, ok bool) {
	of := p[0] == kindAddPolicyOf && len(p) == 1+policySize+4
	if !of && (len(p) != 1+policySize || p[0] != kindAddPolicy) {
		return k, 0, false
	}
	p = p[1:]
	v6 := p[0] != 0
	k.Selector.Src = netip.PrefixFrom(addr{[16]byte(p[1:17]), v6}.addr(), int(p[33]))
	k.Selector.Dst = netip.PrefixFrom(addr{[16]byte(p[17:33]), v6}.addr(), int(p[34]))
	k.Selector.Proto = p[35]
	k.Selector.SrcPort, k.Selector.SrcPortMask = binary.LittleEndian.Uint16(p[36:]), binary.LittleEndian.Uint16(p[38:])
	k.Selector.DstPort, k.Selector.DstPortMask = binary.LittleEndian.Uint16(p[40:]), binary.LittleEndian.Uint16(p[42:])
	k.Dir = dataplane.Direction(p[44])
	k.Mark = dataplane.Mark{Value: binary.LittleEndian.Uint32(p[45:]), Mask: binary.LittleEndian.Uint32(p[49:])}
	k.IfID = binary.LittleEndian.Uint32(p[53:])
	p = p[policyKeySize:]
	if of {
		k.IfIndex, p = binary.LittleEndian.Uint32(p), p[4:]
	}
	return k, int64(binary.LittleEndian.Uint64(p)), true
}
