package xfrm

import (
	"encoding/binary"
	"net/netip"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"espalier/dataplane"
)

// What the netlink library does not name (include/uapi/linux/xfrm.h).
const (
	msgMigrateState = 0x29 // XFRM_MSG_MIGRATE_STATE, 7.2

	groupAcquire, groupExpire, groupMapping = nl.XFRMNLGRP_ACQUIRE, nl.XFRMNLGRP_EXPIRE, nl.XFRMNLGRP_MAPPING
	groupSA, groupMigrate                   = nl.XFRMNLGRP_SA, nl.XFRMNLGRP_MIGRATE

	dirIn, dirOut = 1, 2 // values of XFRMA_SA_DIR

	attrIPTFSReorder  = 37 // XFRMA_IPTFS_REORDER_WINDOW, of inbound SAs
	attrIPTFSDontFrag = 38 // XFRMA_IPTFS_DONT_FRAG, a flag of outbound ones

	modeTransport, modeTunnel, modeBEET, modeIPTFS = 0, 1, 4, 5

	stateNoECN, stateDecapDSCP, stateNoPMTUDisc        = 1, 2, 4
	stateICMP, stateAFUnspec, stateESN                 = 16, 32, 128
	extraDontEncapDSCP                                 = 1
	policyAllow, policyBlock                           = 0, 1
	policyLocalOK, policyICMP, policyCPUAcquire        = 1, 2, 4
	encapESPinUDP                                      = 2 // UDP_ENCAP_ESPINUDP
	encapNone                                          = 0
	infinity                                    uint64 = 1<<64 - 1
	anyAlgorithm                                uint32 = 1<<32 - 1
	aeReplay                                           = 2 // XFRM_AE_RVAL
)

// Sizes of the kernel's structures; all are padded to their alignment.
const (
	sizeSelector   = 56
	sizeSAInfo     = 224 // xfrm_usersa_info
	sizeSAID       = 24  // xfrm_usersa_id
	sizeSPIInfo    = 232 // xfrm_userspi_info
	sizePolicyInfo = 168 // xfrm_userpolicy_info
	sizePolicyID   = 64  // xfrm_userpolicy_id
	sizeTemplate   = 64  // xfrm_user_tmpl
	sizeEncap      = 24  // xfrm_encap_tmpl
	sizeAEvent     = 48  // xfrm_aevent_id
	sizeAcquire    = 280 // xfrm_user_acquire
	sizeExpire     = 232 // xfrm_user_expire
	sizeMapping    = 64  // xfrm_user_mapping
	sizeMigrate    = 132 // xfrm_user_migrate_state
	sizeReplay     = 12  // xfrm_replay_state
	sizeReplayESN  = 24  // xfrm_replay_state_esn, without its bitmap
	sizeLifetime   = 32  // xfrm_lifetime_cur
	sizeAlgo       = 68  // xfrm_algo, without its key
	sizeAlgoLong   = 72  // xfrm_algo_auth and xfrm_algo_aead
	algoName       = 64
)

// Offsets within xfrm_usersa_info.
const (
	saSel, saDst, saSPI, saProto, saSrc    = 0, 56, 72, 76, 80
	saLimits, saCurrent, saStats           = 96, 160, 192
	saReqID, saFamily, saMode, saWin, saFl = 208, 212, 214, 215, 216
)

// selIfIndex is where a selector has the network interface.
const selIfIndex = 48

var native = binary.NativeEndian
var network = binary.BigEndian

func family(a netip.Addr) uint16 {
	if a.Is4() {
		return unix.AF_INET
	}
	return unix.AF_INET6
}

// putAddr writes an xfrm_address_t of 16 bytes.
func putAddr(b []byte, a netip.Addr) {
	if !a.IsValid() {
		return
	}
	if a.Is4() {
		v := a.As4()
		copy(b, v[:])
		return
	}
	v := a.As16()
	copy(b, v[:])
}

func getAddr(b []byte, fam uint16) netip.Addr {
	if fam == unix.AF_INET {
		return netip.AddrFrom4([4]byte(b))
	}
	return netip.AddrFrom16([16]byte(b))
}

// getTunnelAddr reads an address whose absence is written as all zeros.
func getTunnelAddr(b []byte, fam uint16) netip.Addr {
	if a := getAddr(b, fam); !a.IsUnspecified() {
		return a
	}
	return netip.Addr{}
}

// putSelector writes an xfrm_selector.
func putSelector(b []byte, s *dataplane.Selector) {
	putAddr(b, s.Dst.Addr())
	putAddr(b[16:], s.Src.Addr())
	network.PutUint16(b[32:], s.DstPort)
	network.PutUint16(b[34:], s.DstPortMask)
	network.PutUint16(b[36:], s.SrcPort)
	network.PutUint16(b[38:], s.SrcPortMask)
	native.PutUint16(b[40:], family(s.Src.Addr()))
	b[42], b[43], b[44] = byte(s.Dst.Bits()), byte(s.Src.Bits()), s.Proto
}

func getSelector(b []byte) dataplane.Selector {
	fam := native.Uint16(b[40:])
	return dataplane.Selector{
		Dst:     netip.PrefixFrom(getAddr(b, fam), int(b[42])),
		Src:     netip.PrefixFrom(getAddr(b[16:], fam), int(b[43])),
		DstPort: network.Uint16(b[32:]), DstPortMask: network.Uint16(b[34:]),
		SrcPort: network.Uint16(b[36:]), SrcPortMask: network.Uint16(b[38:]),
		Proto: b[44],
	}
}

// putLimits writes an xfrm_lifetime_cfg; no limit is all ones for bytes and
// packets and zero for times.
func putLimits(b []byte, l *dataplane.Limits) {
	for i, v := range [4]uint64{l.SoftBytes, l.HardBytes, l.SoftPackets, l.HardPackets} {
		if v == 0 {
			v = infinity
		}
		native.PutUint64(b[i*8:], v)
	}
	native.PutUint64(b[32:], seconds(l.SoftTime))
	native.PutUint64(b[40:], seconds(l.HardTime))
}

// putSAID writes an xfrm_usersa_id.
func putSAID(b []byte, k *dataplane.SAKey) {
	putAddr(b, k.Dst)
	network.PutUint32(b[16:], k.SPI)
	native.PutUint16(b[20:], family(k.Dst))
	b[22] = byte(k.Proto)
}

func modeNumber(m dataplane.Mode) byte {
	return [...]byte{modeTransport, modeTunnel, modeBEET, modeIPTFS}[m&3]
}

func modeOf(b byte) dataplane.Mode {
	switch b {
	case modeTunnel:
		return dataplane.Tunnel
	case modeBEET:
		return dataplane.BEET
	case modeIPTFS:
		return dataplane.IPTFS
	}
	return dataplane.Transport
}
