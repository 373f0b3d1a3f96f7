package sa

import (
	"encoding/binary"
	"net/netip"

	"espalier/dataplane"
	"espalier/dataplane/selector"
	"espalier/ike/wire"
	"espalier/internal/event"
)

// terms are what one side says of a CHILD SA by notifies beside SA, TSi and TSr.
type terms struct {
	mode    dataplane.Mode // asked for or agreed to; without a notify Tunnel
	noFrag  bool           // IPTFS: the sender takes no fragments (RFC 9347 5.1)
	noTFC   bool           // ESP_TFC_PADDING_NOT_SUPPORTED (RFC 7296 1.3.1)
	cpi     uint16         // the sender's CPI for DEFLATE (RFC 7296 2.22); 0: no IPComp
	unknown bool           // the sender demands of IPTFS what we can't do
	// resource: SA_RESOURCE_INFO, the sender would have one SA a CPU (RFC 9611 6.1);
	// named: it says for which.
	resource, named bool
	i, r            netip.Addr // the one host of the first TSi and TSr, before any NAT
}

// Requirement flags of USE_AGGFRAG (RFC 9347 5.1).
const (
	aggfragNoFragment = 1 << 0
	aggfragCongestion = 1 << 1 // wants reports for congestion control
)

// CPIs that are neither assigned nor for private use (RFC 3173 3.3).
const (
	MinCPI = 256
	MaxCPI = 61439
)

// terms reads the notifies of an offer or of its answer.
func (m *Machine) terms(ps []wire.Payload) terms {
	t := terms{mode: dataplane.Tunnel}
	for n := range wire.All[*wire.Notify](ps) {
		switch n.NotifyType {
		case wire.NotifyUseTransportMode:
			t.mode = dataplane.Transport
		case useBEETMode:
			if m.s.IKE.Peer.has(CanBEET) { // of private use: others mean something else
				t.mode = dataplane.BEET
			}
		case wire.NotifyUseAGGFRAG:
			t.mode = dataplane.IPTFS
			if len(n.Data) > 0 {
				t.noFrag = n.Data[0]&aggfragNoFragment != 0
				t.unknown = n.Data[0]&^aggfragNoFragment != 0
			}
		case wire.NotifyESPTFCPaddingNotSupported:
			t.noTFC = true
		case wire.NotifySAResourceInfo:
			t.resource, t.named = true, len(n.Data) > 0
		case wire.NotifyIPCompSupported: // CPI and transform
			if len(n.Data) == 3 && wire.IPCompTransform(n.Data[2]) == wire.IPCompDeflate {
				t.cpi = binary.BigEndian.Uint16(n.Data)
			}
		}
	}
	if t.cpi < MinCPI {
		t.cpi = 0
	}
	t.i, t.r = firstHost(ps, true), firstHost(ps, false)
	return t
}

// appendTerms adds the notifies for a mode and, unless 0, our CPI.
func appendTerms(ps []wire.Payload, mode dataplane.Mode, cpi uint16) []wire.Payload {
	if cpi != 0 {
		data := append(binary.BigEndian.AppendUint16(nil, cpi), byte(wire.IPCompDeflate))
		ps = append(ps, &wire.Notify{NotifyType: wire.NotifyIPCompSupported, Data: data})
	}
	switch mode {
	case dataplane.Transport:
		ps = append(ps, &wire.Notify{NotifyType: wire.NotifyUseTransportMode})
	case dataplane.BEET:
		ps = append(ps, &wire.Notify{NotifyType: useBEETMode})
	case dataplane.IPTFS:
		ps = append(ps, &wire.Notify{NotifyType: wire.NotifyUseAGGFRAG, Data: []byte{0}})
	}
	return ps
}

// wish is the mode that we ask for.
func (m *Machine) wish(cfg *ChildConfig) dataplane.Mode {
	switch {
	case cfg.Mode == dataplane.IPTFS && m.env.Lacks.IPTFS,
		cfg.Mode == dataplane.BEET && !m.s.IKE.Peer.has(CanBEET):
		return dataplane.Tunnel
	}
	return cfg.Mode
}

// wishCPI reports whether a CPI is reserved beside the SPI: as initiator for the
// offer, as responder, with a candidate, when that compresses.
func (m *Machine) wishCPI(cfg *ChildConfig, candidate *Child) bool {
	if candidate != nil {
		return candidate.CPIOut != 0
	}
	return cfg != nil && cfg.IPComp && !m.env.Lacks.IPComp && (cfg.Mode == dataplane.Tunnel || cfg.Mode == dataplane.Transport)
}

// settleTerms puts into a new child what both sides want: of the modes the wished one
// or tunnel (RFC 7296 1.3.1), compression, padding. t is the peer's offer or
// answer; ok is false when an answer goes beyond our offer.
func (m *Machine) settleTerms(c *Child, cfg *ChildConfig, t terms) (ok bool) {
	wish := m.wish(cfg)
	c.Mode = dataplane.Tunnel
	switch {
	case t.mode == dataplane.Tunnel:
	case t.mode != wish || t.unknown:
		if c.Initiator {
			m.failed(event.PeerError, false, cfg.Name, "", event.Fact{Name: "detail", Value: "the peer answered with mode " + t.mode.String() + ", which we did not ask for"})
			return false
		}
	case t.mode == dataplane.BEET && !(oneHost(c.LocalTS) && oneHost(c.PeerTS)):
		if c.Initiator {
			m.failed(event.PeerError, false, cfg.Name, "use one host on either side with mode = beet", event.Fact{Name: "detail", Value: "the peer agreed to BEET mode for more than two hosts"})
			return false
		}
	default:
		c.Mode = t.mode
	}
	if c.Mode == dataplane.Transport && c.Encap {
		if c.Orig = t.i; c.Initiator {
			c.Orig = t.r
		}
	}
	if t.noTFC {
		c.Options |= ChildNoTFC
	}
	if t.noFrag && c.Mode == dataplane.IPTFS {
		c.Options |= ChildNoFragment
	}
	if cfg.PoliciesFwdOut {
		c.Options |= ChildFwdOut
	}
	if m.wishCPI(cfg, nil) && c.canCompress() {
		c.CPIOut = t.cpi
	}
	m.settleResource(c, cfg, t)
	return true
}

// sayFallback tells which wishes a new child, that replaces none, is without.
func (m *Machine) sayFallback(c *Child) {
	cfg := m.conn.Child(c.Name)
	if cfg == nil {
		return
	}
	say := func(wanted, instead string) {
		m.publish(event.FellBack{IKE: m.eventIKE(), ChildName: c.Name, Wanted: wanted, Instead: instead})
	}
	if cfg.Mode != c.Mode {
		say("mode "+cfg.Mode.String(), "mode "+c.Mode.String())
	}
	if cfg.IPComp && !c.compressed() {
		say("IPComp", "no compression")
	}
	if cfg.TFCPad != 0 && c.Options&ChildNoTFC != 0 {
		say("padding", "no padding")
	}
	if (cfg.PerCPU == PerCPUYes || cfg.PerCPU == PerCPUEncap) && c.Options&(ChildPerCPU|ChildBound) == 0 {
		say("one SA a CPU", "one SA for all CPUs")
	}
	if cfg.PerCPU == PerCPUEncap && c.Options&ChildPerCPU != 0 && !c.Encap {
		say("a UDP port for the SA of each CPU", "ESP without UDP (encap = no, and no NAT)")
	}
}

// takeCPI gives a child the CPI that was reserved for it, or back when there is
// no compression.
func (m *Machine) takeCPI(c *Child, cpi uint16) {
	if c.CPIOut == 0 {
		m.orphanCPI(cpi, c.Local, c.keyIn().Mark)
		return
	}
	c.CPIIn = cpi
	if cpi == 0 {
		c.CPIOut = 0
	}
}

// compressed reports whether IPComp is around what ESP carries.
func (c *Child) compressed() bool { return c.CPIIn != 0 && c.CPIOut != 0 }

// orphanCPI adds a reserved CPI to what has to be released.
func (m *Machine) orphanCPI(cpi uint16, dst netip.Addr, mark dataplane.Mark) {
	if cpi != 0 {
		m.s.Orphans = append(m.s.Orphans, Orphan{Dst: dst, SPI: uint32(cpi), Mark: mark, Proto: dataplane.IPComp})
	}
}

// canCompress: the kernel has IPComp for transport mode, and for tunnels whose
// inside is of the outer family, since ESP around it is in transport mode.
func (c *Child) canCompress() bool {
	switch c.Mode {
	case dataplane.Transport:
		return true
	case dataplane.Tunnel:
		for _, list := range [][]selector.TS{c.LocalTS, c.PeerTS} {
			for _, t := range list {
				if t.Start.Is4() != c.Local.Is4() {
					return false
				}
			}
		}
		return true
	}
	return false
}

func oneHost(ts []selector.TS) bool { return len(ts) == 1 && ts[0].Start == ts[0].End }

// useBEETMode is strongSwan's notify for BEET mode, of private use.
const useBEETMode wire.NotifyType = 40961

// strongSwanID is the vendor id under which BEET mode's notify, a number of
// private use, is understood: MD5 of "strongSwan" (RFC 7296 3.12).
var strongSwanID = []byte{0x88, 0x2f, 0xe5, 0x6d, 0x6f, 0xd2, 0x0d, 0xbc, 0x22, 0x51, 0x61, 0x3b, 0x2e, 0xbe, 0x5b, 0xeb}

// wantsBEET reports whether a child of the connection is of that mode; then the
// vendor id is sent in any case.
func (c *Connection) wantsBEET() bool {
	for _, ch := range c.Children {
		if ch.Mode == dataplane.BEET {
			return true
		}
	}
	return false
}
