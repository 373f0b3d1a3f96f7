package xfrm

import (
	"math"
	"net/netip"
	"time"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"espalier/dataplane"
)

// seconds rounds up: a limit of half a second must not become none.
func seconds(d time.Duration) uint64 { return uint64((d + time.Second - 1) / time.Second) }

// encodeSA builds XFRM_MSG_NEWSA or XFRM_MSG_UPDSA for an SA.
func (x *XFRM) encodeSA(typ uint16, sa *dataplane.SA) *message {
	m := newMessage(typ, unix.NLM_F_CREATE|unix.NLM_F_EXCL, sizeSAInfo)
	b := m.fixed()
	putAddr(b[saDst:], sa.Dst)
	putAddr(b[saSrc:], sa.Src)
	network.PutUint32(b[saSPI:], sa.SPI)
	b[saProto] = byte(sa.Proto)
	limits := dataplane.EffectiveLimits(sa)
	putLimits(b[saLimits:], &limits)
	native.PutUint32(b[saReqID:], sa.ReqID)
	native.PutUint16(b[saFamily:], family(sa.Dst))
	b[saMode] = modeNumber(sa.Mode)
	var extra uint32
	b[saFl], extra = flagBits(sa)
	if sa.Selector != nil {
		putSelector(b[saSel:], sa.Selector)
	}
	encodeAlgorithms(m, sa)
	if sa.Encap != nil {
		x.putEncap(m, sa.Encap, sa.Dir)
	}
	if extra != 0 {
		m.attrUint32(nl.XFRMA_SA_EXTRA_FLAGS, extra)
	}
	putMark(m, sa.Mark)
	if sa.IfID != 0 {
		m.attrUint32(nl.XFRMA_IF_ID, sa.IfID)
	}
	if sa.SetMark != (dataplane.Mark{}) {
		m.attrUint32(nl.XFRMA_SET_MARK, sa.SetMark.Value)
		m.attrUint32(nl.XFRMA_SET_MARK_MASK, sa.SetMark.Mask)
	}
	if sa.TFCPad != 0 && sa.Dir == dataplane.Out && sa.Mode == dataplane.Tunnel { // others refuse it
		m.attrUint32(nl.XFRMA_TFCPAD, sa.TFCPad)
	}
	if sa.NoFragment && sa.Dir == dataplane.Out && sa.Mode == dataplane.IPTFS && x.features.IPTFS {
		m.attr(attrIPTFSDontFrag, 0)
	}
	if x.features.SADir {
		m.attr(nl.XFRMA_SA_DIR, 1)[0] = dirNumber(sa.Dir)
	}
	if sa.CPU != nil && x.features.PerCPU {
		m.attrUint32(nl.XFRMA_SA_PCPU, *sa.CPU)
	}
	x.encodeReplay(m, sa)
	return m
}

func dirNumber(d dataplane.Direction) byte {
	if d == dataplane.In {
		return dirIn
	}
	return dirOut
}

// flagBits gives the flags of xfrm_usersa_info and the extra ones. Those that
// say something about the other direction are left out: kernels that know the
// SA's direction refuse them.
func flagBits(sa *dataplane.SA) (flags byte, extra uint32) {
	set := func(f dataplane.SAFlags, bit byte, dirs ...dataplane.Direction) {
		for _, d := range dirs {
			if d == sa.Dir && sa.Flags&f != 0 {
				flags |= bit
			}
		}
	}
	set(dataplane.NoECN, stateNoECN, dataplane.In, dataplane.Out)
	set(dataplane.DecapDSCP, stateDecapDSCP, dataplane.In)
	set(dataplane.NoPMTUDisc, stateNoPMTUDisc, dataplane.Out)
	set(dataplane.ICMP, stateICMP, dataplane.In)
	set(dataplane.AnyFamily, stateAFUnspec, dataplane.In, dataplane.Out)
	if (sa.Mode == dataplane.Tunnel || sa.Mode == dataplane.IPTFS) && sa.Selector == nil {
		flags |= stateAFUnspec // IPv4 and IPv6 both may go through one tunnel
	}
	if sa.ESN {
		flags |= stateESN
	}
	if sa.Flags&dataplane.DontEncapDSCP != 0 && sa.Dir == dataplane.Out {
		extra = extraDontEncapDSCP
	}
	return flags, extra
}

func encodeAlgorithms(m *message, sa *dataplane.SA) {
	long := func(typ int, a *dataplane.Algorithm) { // xfrm_algo_aead, xfrm_algo_auth
		b := m.attr(typ, sizeAlgoLong+len(a.Key))
		copy(b[:algoName-1], a.Name)
		native.PutUint32(b[algoName:], uint32(len(a.Key)*8))
		native.PutUint32(b[algoName+4:], uint32(a.ICVBits))
		copy(b[sizeAlgoLong:], a.Key)
	}
	short := func(typ int, a *dataplane.Algorithm) { // xfrm_algo
		b := m.attr(typ, sizeAlgo+len(a.Key))
		copy(b[:algoName-1], a.Name)
		native.PutUint32(b[algoName:], uint32(len(a.Key)*8))
		copy(b[sizeAlgo:], a.Key)
	}
	if sa.AEAD.Name != "" {
		long(nl.XFRMA_ALG_AEAD, &sa.AEAD)
		return
	}
	if sa.Proto == dataplane.IPComp {
		short(nl.XFRMA_ALG_COMP, &sa.Crypt)
		return
	}
	if sa.Crypt.Name != "" {
		short(nl.XFRMA_ALG_CRYPT, &sa.Crypt)
	}
	if sa.Auth.Name != "" && sa.Auth.ICVBits == 0 {
		short(nl.XFRMA_ALG_AUTH, &sa.Auth) // the kernel's own default length
	} else if sa.Auth.Name != "" {
		long(nl.XFRMA_ALG_AUTH_TRUNC, &sa.Auth)
	}
}

// putEncap adds the encapsulation, and the keepalives with it.
func (x *XFRM) putEncap(m *message, e *dataplane.Encap, dir dataplane.Direction) {
	if dir == dataplane.In && e.SrcPort == 0 {
		// Each packet comes from another port than that: the kernel would report it as a new mapping.
		m.attrUint32(nl.XFRMA_MTIMER_THRESH, math.MaxUint32)
	}
	if n := x.keepalive(e); n != 0 {
		m.attrUint32(nl.XFRMA_NAT_KEEPALIVE_INTERVAL, n)
	}
	b := m.attr(nl.XFRMA_ENCAP, sizeEncap)
	native.PutUint16(b, encapESPinUDP)
	network.PutUint16(b[2:], e.SrcPort)
	network.PutUint16(b[4:], e.DstPort)
	putAddr(b[8:], e.OrigAddr)
}

// keepalive is the time between NAT keepalives in seconds; 0: none, or none that the
// kernel could send.
func (x *XFRM) keepalive(e *dataplane.Encap) uint32 {
	if e == nil || !x.features.NATKeepalive {
		return 0
	}
	return uint32(seconds(e.Keepalive))
}

func putMark(m *message, mark dataplane.Mark) {
	if mark != (dataplane.Mark{}) {
		b := m.attr(nl.XFRMA_MARK, 8)
		native.PutUint32(b, mark.Value)
		native.PutUint32(b[4:], mark.Mask)
	}
}

// encodeReplay adds the window and the starting sequence numbers. Windows above
// 32 packets and extended sequence numbers need the longer state.
func (x *XFRM) encodeReplay(m *message, sa *dataplane.SA) {
	window := sa.ReplayWindow
	if sa.Dir == dataplane.Out {
		window = 0
		if sa.ESN && !x.features.SADir {
			window = 32 // without a direction the kernel wants one for ESN
		}
	}
	if !sa.ESN && window <= 32 {
		m.fixed()[saWin] = byte(window)
		if sa.Seq.Out != 0 || sa.Seq.In != 0 {
			putReplay(m, &sa.Seq, sa.Dir, window)
		}
		return
	}
	putReplayESN(m, &sa.Seq, sa.Dir, window)
}

// putReplay adds xfrm_replay_state. Packets up to the number count as seen
// unless the window says otherwise.
func putReplay(m *message, r *dataplane.Replay, dir dataplane.Direction, window uint32) {
	b := m.attr(nl.XFRMA_REPLAY_VAL, sizeReplay)
	if dir == dataplane.Out {
		native.PutUint32(b, uint32(r.Out))
		return
	}
	native.PutUint32(b[4:], uint32(r.In))
	switch {
	case len(r.Window) > 0:
		native.PutUint32(b[8:], r.Window[0])
	case r.In != 0 && window != 0:
		native.PutUint32(b[8:], 1<<32-1)
	}
}

// putReplayESN adds xfrm_replay_state_esn with a bitmap for window packets.
func putReplayESN(m *message, r *dataplane.Replay, dir dataplane.Direction, window uint32) {
	words := (window + 31) / 32
	b := m.attr(nl.XFRMA_REPLAY_ESN_VAL, sizeReplayESN+int(words)*4)
	native.PutUint32(b, words)
	native.PutUint32(b[20:], window)
	if dir == dataplane.Out {
		native.PutUint32(b[4:], uint32(r.Out))
		native.PutUint32(b[12:], uint32(r.Out>>32))
		return
	}
	native.PutUint32(b[8:], uint32(r.In))
	native.PutUint32(b[16:], uint32(r.In>>32))
	for i := range words {
		w := uint32(0)
		switch {
		case int(i) < len(r.Window):
			w = r.Window[i]
		case len(r.Window) == 0 && r.In != 0:
			w = 1<<32 - 1
		}
		native.PutUint32(b[sizeReplayESN+i*4:], w)
	}
}

// encodePolicy builds XFRM_MSG_NEWPOLICY or XFRM_MSG_UPDPOLICY.
func encodePolicy(typ uint16, p *dataplane.Policy) *message {
	m := newMessage(typ, unix.NLM_F_CREATE, sizePolicyInfo)
	b := m.fixed()
	putSelector(b, &p.Selector)
	native.PutUint32(b[selIfIndex:], p.IfIndex)
	putLimits(b[56:], &dataplane.Limits{})
	native.PutUint32(b[152:], p.Priority)
	b[160] = byte(p.Dir)
	b[161] = policyAllow
	if p.Verdict == dataplane.Block {
		b[161] = policyBlock
	}
	b[162] = byte(p.Flags) // the same bits
	if len(p.Templates) > 0 {
		t := m.attr(nl.XFRMA_TMPL, sizeTemplate*len(p.Templates))
		for i := range p.Templates {
			putTemplate(t[i*sizeTemplate:], &p.Templates[i], p.Selector.Src.Addr())
		}
	}
	putMark(m, p.Mark)
	if p.IfID != 0 {
		m.attrUint32(nl.XFRMA_IF_ID, p.IfID)
	}
	return m
}

// putTemplate writes an xfrm_user_tmpl; inner gives the family of one without
// addresses.
func putTemplate(b []byte, t *dataplane.Template, inner netip.Addr) {
	fam := family(inner)
	if t.Dst.IsValid() {
		fam = family(t.Dst)
	}
	putAddr(b, t.Dst)
	network.PutUint32(b[16:], t.SPI)
	b[20] = byte(t.Proto)
	native.PutUint16(b[24:], fam)
	putAddr(b[28:], t.Src)
	native.PutUint32(b[44:], t.ReqID)
	b[48] = modeNumber(t.Mode)
	if t.Optional {
		b[50] = 1
	}
	for i := range 3 { // authentication, encryption, compression
		native.PutUint32(b[52+i*4:], anyAlgorithm)
	}
}

// encodePolicyID builds a message that names a policy: XFRM_MSG_DELPOLICY, XFRM_MSG_GETPOLICY.
func encodePolicyID(typ uint16, k *dataplane.PolicyKey) *message {
	m := newMessage(typ, 0, sizePolicyID)
	b := m.fixed()
	putSelector(b, &k.Selector)
	native.PutUint32(b[selIfIndex:], k.IfIndex)
	b[60] = byte(k.Dir)
	putMark(m, k.Mark)
	if k.IfID != 0 {
		m.attrUint32(nl.XFRMA_IF_ID, k.IfID)
	}
	return m
}

// encodeSAID builds a message that names an SA: XFRM_MSG_GETSA, XFRM_MSG_DELSA.
func encodeSAID(typ uint16, k *dataplane.SAKey) *message {
	m := newMessage(typ, 0, sizeSAID)
	putSAID(m.fixed(), k)
	putMark(m, k.Mark)
	return m
}
