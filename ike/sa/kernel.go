package sa

import (
	"fmt"
	"math"

	"espalier/dataplane"
	"espalier/dataplane/selector"
	"espalier/ike/suite"
	"espalier/ike/wire"
	"espalier/internal/secret"
)

// pair is one kernel selector with our side as source.
type pair = dataplane.Selector

// expand turns the negotiated selectors into the kernel's, our side as source.
// The limit counts all of them; the error says how many they would be.
func expand(local, remote []selector.TS, limit int) ([]pair, error) {
	var out []pair
	for _, l := range local {
		for _, r := range remote {
			s, err := expandPair(l, r, limit-len(out))
			if err != nil {
				return nil, err
			}
			if out == nil {
				out = s // mostly there is one pair
			} else {
				out = append(out, s...)
			}
		}
	}
	if len(out) == 0 {
		return nil, errMissing("no pair of local and remote selectors has one address family and protocol")
	}
	return out, nil
}

// expandPair is expand for one selector of either side; nothing when they have
// no family or protocol in common.
func expandPair(l, r selector.TS, limit int) ([]pair, error) {
	if l.Start.Is4() != r.Start.Is4() || l.Proto != 0 && r.Proto != 0 && l.Proto != r.Proto {
		return nil, nil
	}
	lr, rr := asRange(l), asRange(r)
	if lr.Proto == 0 {
		lr.Proto = rr.Proto
	}
	rr.Proto = lr.Proto
	s, err := dataplane.Expand(lr, rr, limit)
	if err != nil {
		return nil, fmt.Errorf("%s === %s: %w", l, r, err)
	}
	return s, nil
}

func asRange(t selector.TS) dataplane.Range {
	return dataplane.Range{Proto: t.Proto, StartPort: t.StartPort, EndPort: t.EndPort, Start: t.Start, End: t.End}
}

// keyIn and keyOut are the kernel's names of a child's two SAs.
func (c *Child) keyIn() dataplane.SAKey {
	k := dataplane.SAKey{Dst: c.Local, Proto: dataplane.ESP, SPI: c.SPIIn}
	if c.MarkInSA {
		k.Mark = c.MarkIn
	}
	return k
}

func (c *Child) keyOut() dataplane.SAKey {
	return dataplane.SAKey{Dst: c.Remote, Proto: dataplane.ESP, SPI: c.SPIOut, Mark: c.MarkOut}
}

// reserveRequest asks for an inbound SPI before the child is agreed.
func (m *Machine) reserveRequest() dataplane.SPIRequest {
	return m.reserveFor(m.childConfig(), m.s.IKE.place())
}

func (m *Machine) reserveFor(cfg *ChildConfig, at Place) dataplane.SPIRequest {
	r := dataplane.SPIRequest{Src: at.Remote.Addr(), Dst: at.Local.Addr(), Proto: dataplane.ESP, Mode: dataplane.Tunnel}
	if cfg != nil {
		r.Mode, r.IfID = cfg.Mode, cfg.IfIDIn
		if cfg.MarkInSA {
			r.Mark = cfg.MarkIn
		}
	}
	return r
}

// reserveMark is the mark that the inbound SA of a child carries.
func (m *Machine) reserveMark(child string) dataplane.Mark {
	if cfg := m.conn.Child(child); cfg != nil && cfg.MarkInSA {
		return cfg.MarkIn
	}
	return dataplane.Mark{}
}

// orphan adds a reserved SPI, of the request, to what has to be released.
func (m *Machine) orphan(s SPIs, r dataplane.SPIRequest) {
	if s.SPI != 0 {
		m.s.Orphans = append(m.s.Orphans, Orphan{Dst: r.Dst, SPI: s.SPI, Mark: r.Mark, Proto: dataplane.ESP})
	}
	m.orphanCPI(s.CPI, r.Dst, r.Mark)
}

// key is the kernel's name of the reserved SPI.
func (o Orphan) key() dataplane.SAKey {
	if o.Proto == 0 {
		o.Proto = dataplane.ESP
	}
	return dataplane.SAKey{Dst: o.Dst, Proto: o.Proto, SPI: o.SPI, Mark: o.Mark}
}

// childConfig is the configuration of the child that IKE_AUTH negotiates.
func (m *Machine) childConfig() *ChildConfig {
	if m.conn == nil {
		return nil
	}
	if c := m.negotiated(); c != nil {
		return m.conn.Child(c.Name)
	}
	return m.conn.Child(m.s.ChildName)
}

// installOps are the two SAs and the policies of the negotiated child.
func (m *Machine) installOps(c *Child) []dataplane.Op {
	cfg := m.conn.Child(c.Name)
	in, out := m.pairOf(c, cfg)
	ops := make([]dataplane.Op, 0, 5)
	if !m.isExpected(c) { // else it is there already
		if m.s.Setup != nil && m.s.Setup.Expected != nil && m.s.Setup.Expected.Installed {
			ops = append(ops, dataplane.DeleteSA{Key: c.keyIn()})
		}
		ops = c.appendInstall(ops, in)
	}
	if !c.InboundOnly {
		ops = c.appendInstall(ops, out)
	}
	if !cfg.Policies {
		return ops
	}
	return appendPolicies(ops, c, cfg, true)
}

// pairOf describes a child's two SAs.
func (m *Machine) pairOf(c *Child, cfg *ChildConfig) (in, out dataplane.SA) {
	encrIn, authIn, encrOut, authOut := c.Keys.Er, c.Keys.Ar, c.Keys.Ei, c.Keys.Ai
	if !c.Initiator {
		encrIn, authIn, encrOut, authOut = encrOut, authOut, encrIn, authIn
	}
	in = dataplane.SA{SAKey: c.keyIn(), Src: c.Remote, Dir: dataplane.In, IfID: c.IfIDIn, ReplayWindow: cfg.ReplayWindow}
	out = dataplane.SA{SAKey: c.keyOut(), Src: c.Local, Dir: dataplane.Out, IfID: c.IfIDOut}
	in.SetMark, out.SetMark = c.setMarks(cfg)
	in.AEAD, in.Crypt, in.Auth = algorithms(c.Chosen, encrIn, authIn)
	out.AEAD, out.Crypt, out.Auth = algorithms(c.Chosen, encrOut, authOut)
	for _, s := range []*dataplane.SA{&in, &out} {
		s.Mode, s.ReqID, s.ESN = c.Mode, c.ReqID, c.Chosen.ESN()
		s.Limits = c.limits(cfg)
		s.Flags = saFlags(c.Mode, cfg)
		s.CPU = c.cpu()
	}
	if cfg.SHA256By96 && c.Chosen.Integ() == wire.IntegHMACSHA2_256_128 {
		in.Auth.ICVBits, out.Auth.ICVBits = 96, 96
	}
	if c.Options&ChildNoTFC == 0 {
		out.TFCPad = cfg.TFCPad
	}
	out.NoFragment = c.Options&ChildNoFragment != 0
	if o := c.saSelector(); o != nil {
		i := o.Reverse()
		in.Selector, out.Selector = &i, o
	}
	in.Encap, out.Encap = m.encaps(c, c.place())
	return in, out
}

// saSelector is the selector of a child's outbound SA, without protocol and ports,
// which further SAs between the same addresses may have others of. In BEET mode the
// kernel takes the inner addresses from it, in transport mode it keeps the SA to
// the two hosts that it is for. Nil: any, for tunnels and where the addresses are
// not one pair.
func (c *Child) saSelector() *dataplane.Selector {
	if c.Mode != dataplane.BEET && c.Mode != dataplane.Transport {
		return nil
	}
	ps, err := expand(c.LocalTS, c.PeerTS, math.MaxInt)
	if err != nil || len(ps) == 0 {
		return nil
	}
	for _, p := range ps[1:] {
		if p.Src != ps[0].Src || p.Dst != ps[0].Dst {
			return nil
		}
	}
	return &dataplane.Selector{Src: ps[0].Src, Dst: ps[0].Dst}
}

func saFlags(mode dataplane.Mode, cfg *ChildConfig) dataplane.SAFlags {
	var f dataplane.SAFlags
	if mode == dataplane.Tunnel || mode == dataplane.IPTFS {
		f |= dataplane.AnyFamily
	}
	if cfg.ICMP {
		f |= dataplane.ICMP
	}
	if !cfg.CopyDF {
		f |= dataplane.NoPMTUDisc
	}
	if !cfg.CopyECN {
		f |= dataplane.NoECN
	}
	if !cfg.CopyDSCPOut {
		f |= dataplane.DontEncapDSCP
	}
	if cfg.CopyDSCPIn {
		f |= dataplane.DecapDSCP
	}
	return f
}

// appendPolicies installs or deletes a child's policies: out, in, and for tunnels
// fwd. The kernel matches prefixes and port masks, so ranges become several.
func appendPolicies(ops []dataplane.Op, c *Child, cfg *ChildConfig, install bool) []dataplane.Op {
	if c.bound() {
		return ops // its fallback's are enough
	}
	// The limit was checked when the child was agreed, and may be lower by now.
	pairs, err := expand(c.LocalTS, c.PeerTS, math.MaxInt)
	if err != nil {
		return ops
	}
	var out, in []dataplane.Template
	if install {
		out, in = c.templates(dataplane.Out), c.templates(dataplane.In) // the policies share them: nobody changes them
	}
	add := func(sel pair, dir dataplane.Direction, t []dataplane.Template, mark dataplane.Mark, ifID uint32) {
		key := dataplane.PolicyKey{Selector: sel, Dir: dir, Mark: mark, IfID: ifID}
		if dir == dataplane.Out {
			key.IfIndex = c.IfIndex
		}
		if !install {
			ops = append(ops, dataplane.DeletePolicy{Key: key, Owner: c.UniqueID})
			return
		}
		prio := dataplane.Priority(sel)
		if key.IfIndex != 0 {
			prio -= dataplane.PriorityInterface
		}
		if cfg != nil && cfg.Priority != 0 {
			prio = cfg.Priority
		}
		var flags dataplane.PolicyFlags
		if cfg != nil && cfg.ICMP {
			flags = dataplane.PolicyICMP
		}
		if dir == dataplane.Out && c.Armed {
			flags |= dataplane.PolicyCPUAcquire
		}
		ops = append(ops, dataplane.InstallPolicy{Policy: dataplane.Policy{PolicyKey: key, Owner: c.UniqueID, Priority: prio, Flags: flags, Templates: t}})
	}
	for _, p := range pairs {
		add(p, dataplane.Out, out, c.MarkOut, c.IfIDOut)
		add(p.Reverse(), dataplane.In, in, c.MarkIn, c.IfIDIn)
		if c.Mode == dataplane.Transport {
			continue
		}
		if fwdOut := c.Options&ChildFwdOut != 0; !fwdOut {
			add(p.Reverse(), dataplane.Fwd, in, c.MarkIn, c.IfIDIn)
		} else if p == p.Reverse() && c.MarkIn == c.MarkOut && c.IfIDIn == c.IfIDOut {
			add(p, dataplane.Fwd, orClear(in), c.MarkIn, c.IfIDIn) // both in one
		} else {
			add(p.Reverse(), dataplane.Fwd, in, c.MarkIn, c.IfIDIn)
			// In clear, as the packets are that are about to be protected: a policy
			// that drops what is forwarded must not catch them.
			add(p, dataplane.Fwd, nil, c.MarkOut, c.IfIDOut)
		}
	}
	return ops
}

// appendRemove takes a child out of the kernel; policies first, so that no packet
// meets a policy whose SA is gone.
func (c *Child) appendRemove(ops []dataplane.Op) []dataplane.Op {
	if c.Status == ChildNegotiated {
		// Only its SPI is ours: an outbound SA under its key is another session's,
		// for outbound SPIs are the peers' choice.
		if c.SPIIn == 0 {
			return ops
		}
		return c.appendDeleteIn(ops)
	}
	ops = c.appendDeleteOut(appendPolicies(ops, c, nil, false))
	if c.Fade {
		return ops
	}
	return c.appendDeleteIn(ops)
}

// cleanOps are everything that the session has in the kernel.
func (m *Machine) cleanOps() []dataplane.Op {
	var ops []dataplane.Op
	for _, c := range m.s.Children {
		c.Fade = false // what stays of it for a moment is there as well
		ops = c.appendRemove(ops)
	}
	for _, o := range m.s.Orphans {
		ops = append(ops, dataplane.DeleteSA{Key: o.key()})
	}
	return ops
}

// algorithms names a chosen ESP proposal as the kernel does.
func algorithms(c suite.Choice, encr, integ secret.Bytes) (aead, crypt, auth dataplane.Algorithm) {
	switch e := c.Encr(); e {
	case wire.EncrAESGCM16, wire.EncrAESGCM12, wire.EncrAESGCM8:
		bits := map[wire.EncrID]int{wire.EncrAESGCM16: 128, wire.EncrAESGCM12: 96, wire.EncrAESGCM8: 64}
		return dataplane.Algorithm{Name: "rfc4106(gcm(aes))", Key: encr, ICVBits: bits[e]}, crypt, auth
	case wire.EncrChaCha20Poly1305:
		return dataplane.Algorithm{Name: "rfc7539esp(chacha20,poly1305)", Key: encr, ICVBits: 128}, crypt, auth
	case wire.EncrAESCBC:
		crypt = dataplane.Algorithm{Name: "cbc(aes)", Key: encr}
	case wire.EncrAESCTR:
		crypt = dataplane.Algorithm{Name: "rfc3686(ctr(aes))", Key: encr}
	case wire.EncrNull:
		crypt = dataplane.Algorithm{Name: "ecb(cipher_null)"}
	}
	switch c.Integ() {
	case wire.IntegHMACSHA1_96:
		auth = dataplane.Algorithm{Name: "hmac(sha1)", ICVBits: 96}
	case wire.IntegHMACSHA2_256_128:
		auth = dataplane.Algorithm{Name: "hmac(sha256)", ICVBits: 128}
	case wire.IntegHMACSHA2_384_192:
		auth = dataplane.Algorithm{Name: "hmac(sha384)", ICVBits: 192}
	case wire.IntegHMACSHA2_512_256:
		auth = dataplane.Algorithm{Name: "hmac(sha512)", ICVBits: 256}
	case wire.IntegAESXCBC_96:
		auth = dataplane.Algorithm{Name: "xcbc(aes)", ICVBits: 96}
	case wire.IntegAESCMAC_96:
		auth = dataplane.Algorithm{Name: "cmac(aes)", ICVBits: 96}
	}
	auth.Key = integ
	return aead, crypt, auth
}
