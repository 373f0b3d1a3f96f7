package xfrm

import (
	"time"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"espalier/dataplane"
)

// rawSA is an SA as the kernel dumps it: xfrm_usersa_info and attributes, keys
// among them. It is enough to install the same SA again. wipe it after use.
type rawSA struct{ b []byte }

func (r *rawSA) wipe() {
	if r != nil {
		clear(r.b)
	}
}

func (r *rawSA) attrs() []byte { return r.b[sizeSAInfo:] }

func (r *rawSA) key() dataplane.SAKey {
	fam := native.Uint16(r.b[saFamily:])
	k := dataplane.SAKey{
		Dst:   getAddr(r.b[saDst:], fam),
		Proto: dataplane.Proto(r.b[saProto]),
		SPI:   network.Uint32(r.b[saSPI:]),
	}
	k.Mark = getMark(r.attrs())
	return k
}

func getMark(attrs []byte) dataplane.Mark {
	if b := find(attrs, nl.XFRMA_MARK, 8); b != nil {
		return dataplane.Mark{Value: native.Uint32(b), Mask: native.Uint32(b[4:])}
	}
	return dataplane.Mark{}
}

// reserved: the kernel holds an SPI, no SA; it has no algorithm yet.
func (r *rawSA) reserved() bool {
	for _, typ := range []int{nl.XFRMA_ALG_AEAD, nl.XFRMA_ALG_AUTH, nl.XFRMA_ALG_AUTH_TRUNC, nl.XFRMA_ALG_CRYPT, nl.XFRMA_ALG_COMP} {
		if find(r.attrs(), typ, 0) != nil {
			return false
		}
	}
	return true
}

func (r *rawSA) algorithmName(typ int) string {
	if b := find(r.attrs(), typ, algoName); b != nil {
		return unix.ByteSliceToString(b[:algoName])
	}
	return ""
}

func (r *rawSA) algs() string {
	if aead := r.algorithmName(nl.XFRMA_ALG_AEAD); aead != "" {
		return aead
	}
	crypt, auth := r.algorithmName(nl.XFRMA_ALG_CRYPT), r.algorithmName(nl.XFRMA_ALG_AUTH)
	if auth == "" {
		auth = r.algorithmName(nl.XFRMA_ALG_AUTH_TRUNC)
	}
	if crypt != "" && auth != "" {
		crypt += "/"
	}
	return crypt + auth + r.algorithmName(nl.XFRMA_ALG_COMP)
}

func (r *rawSA) encap() *dataplane.Encap {
	b := find(r.attrs(), nl.XFRMA_ENCAP, sizeEncap)
	if b == nil {
		return nil
	}
	return &dataplane.Encap{
		SrcPort: network.Uint16(b[2:]), DstPort: network.Uint16(b[4:]),
		OrigAddr:  getTunnelAddr(b[8:], native.Uint16(r.b[saFamily:])),
		Keepalive: time.Duration(r.uint32(nl.XFRMA_NAT_KEEPALIVE_INTERVAL)) * time.Second,
	}
}

func (r *rawSA) uint32(typ int) uint32 {
	if b := find(r.attrs(), typ, 4); b != nil {
		return native.Uint32(b)
	}
	return 0
}

func (r *rawSA) installed() dataplane.InstalledSA {
	return dataplane.InstalledSA{
		SAKey: r.key(), Src: getAddr(r.b[saSrc:], native.Uint16(r.b[saFamily:])),
		ReqID: native.Uint32(r.b[saReqID:]), IfID: r.uint32(nl.XFRMA_IF_ID),
		Mode: modeOf(r.b[saMode]), Encap: r.encap(), Reserved: r.reserved(), Algs: r.algs(),
	}
}

func (r *rawSA) esn() bool { return r.b[saFl]&stateESN != 0 }

// added is when the kernel got the SA.
func (r *rawSA) added() time.Time { return time.Unix(int64(native.Uint64(r.b[saCurrent+16:])), 0) }

func (r *rawSA) packets() uint64 { return native.Uint64(r.b[saCurrent+8:]) }

// replay reads the sequence numbers and the window, from whichever of the two
// forms the SA has.
func (r *rawSA) replay() dataplane.Replay {
	var out dataplane.Replay
	if b := find(r.attrs(), nl.XFRMA_REPLAY_ESN_VAL, sizeReplayESN); b != nil {
		out.Out = uint64(native.Uint32(b[4:])) | uint64(native.Uint32(b[12:]))<<32
		out.In = uint64(native.Uint32(b[8:])) | uint64(native.Uint32(b[16:]))<<32
		words := min(int(native.Uint32(b)), (len(b)-sizeReplayESN)/4)
		for i := range words {
			out.Window = append(out.Window, native.Uint32(b[sizeReplayESN+i*4:]))
		}
		return out
	}
	if b := find(r.attrs(), nl.XFRMA_REPLAY_VAL, sizeReplay); b != nil {
		out.Out, out.In = uint64(native.Uint32(b)), uint64(native.Uint32(b[4:]))
		if r.b[saWin] != 0 {
			out.Window = []uint32{native.Uint32(b[8:])}
		}
	}
	return out
}

// window is the size of the replay window in packets.
func (r *rawSA) window() uint32 {
	if b := find(r.attrs(), nl.XFRMA_REPLAY_ESN_VAL, sizeReplayESN); b != nil {
		return native.Uint32(b[20:])
	}
	return uint32(r.b[saWin])
}

func (r *rawSA) status() dataplane.SAStatus {
	st := dataplane.SAStatus{
		Bytes: native.Uint64(r.b[saCurrent:]), Packets: r.packets(), Installed: r.added(),
		Replay:              r.replay(),
		ReplayWindowDropped: native.Uint32(r.b[saStats:]),
		ReplayDropped:       native.Uint32(r.b[saStats+4:]),
		IntegrityFailed:     native.Uint32(r.b[saStats+8:]),
	}
	used := native.Uint64(r.b[saCurrent+24:]) // the first use
	if b := find(r.attrs(), nl.XFRMA_LASTUSED, 8); b != nil {
		used = max(used, native.Uint64(b))
	}
	if used != 0 {
		st.LastUsed = time.Unix(int64(used), 0)
	}
	return st
}

// decodePolicy reads a dumped policy; ok is false for a malformed one and for
// those of sockets.
func decodePolicy(b []byte) (p dataplane.Policy, added time.Time, ok bool) {
	if len(b) < sizePolicyInfo || b[160] > byte(dataplane.Fwd) {
		return p, added, false
	}
	attrs := b[sizePolicyInfo:]
	p.Selector = getSelector(b)
	p.IfIndex = native.Uint32(b[selIfIndex:])
	p.Dir = dataplane.Direction(b[160])
	p.Priority = native.Uint32(b[152:])
	p.Flags = dataplane.PolicyFlags(b[162])
	if b[161] == policyBlock {
		p.Verdict = dataplane.Block
	}
	p.Mark = getMark(attrs)
	if v := find(attrs, nl.XFRMA_IF_ID, 4); v != nil {
		p.IfID = native.Uint32(v)
	}
	tmpls := find(attrs, nl.XFRMA_TMPL, sizeTemplate)
	for ; len(tmpls) >= sizeTemplate; tmpls = tmpls[sizeTemplate:] {
		p.Templates = append(p.Templates, getTemplate(tmpls))
	}
	return p, time.Unix(int64(native.Uint64(b[120+16:])), 0), p.Selector.Src.IsValid()
}

func getTemplate(b []byte) dataplane.Template {
	fam := native.Uint16(b[24:])
	return dataplane.Template{
		Dst: getTunnelAddr(b, fam), Src: getTunnelAddr(b[28:], fam),
		SPI: network.Uint32(b[16:]), Proto: dataplane.Proto(b[20]),
		ReqID: native.Uint32(b[44:]), Mode: modeOf(b[48]), Optional: b[50] != 0,
	}
}
