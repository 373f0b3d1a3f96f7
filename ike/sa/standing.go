package sa

import (
	"fmt"
	"math"
	"net/netip"
	"slices"

	"espalier/dataplane"
	"espalier/dataplane/selector"
)

// What a child's configuration alone asks of the data plane, without any CHILD
// SA: traps, shunts and guards. All are the policies that the CHILD SA would
// have; the engine installs them.

// Shunt says that a child is not negotiated: its traffic passes in clear, or is
// dropped.
type Shunt uint8

// The shunts.
const (
	NoShunt   Shunt = iota
	ShuntPass       // mode = pass
	ShuntDrop       // mode = drop
)

// Priorities of policies without SA. A shunt that passes comes before every tunnel
// whose priority is chosen by the selectors' size, one that drops after all of
// them, as in strongSwan; the narrower shunt comes first. A guard comes after
// everything.
const (
	shuntAway     = 200_000 // how far a shunt's priority lies from a tunnel's of the same size
	guardPriority = math.MaxUint32
)

// Resolved are a child's selectors with what "dynamic" stands for in its place;
// Unknown counts the selectors of which nobody knows that.
type Resolved struct {
	Local, Remote []selector.TS
	Unknown       int
}

// Resolve puts what "dynamic" stands for on either side in its place, which may
// be several addresses or ranges; none: nobody knows.
func (c *ChildConfig) Resolve(local, remote []selector.TS) Resolved {
	var r Resolved
	side := func(specs []selector.Spec, stands []selector.TS) (out []selector.TS) {
		for _, s := range specs {
			switch {
			case !s.Dynamic:
				out = append(out, s.TS)
			case len(stands) == 0:
				r.Unknown++
			}
			for i := range stands {
				if ts := s.TS; s.Dynamic {
					ts.Start, ts.End = stands[i].Start, stands[i].End
					out = append(out, ts)
				}
			}
		}
		return selector.Compact(out)
	}
	r.Local, r.Remote = side(c.LocalTS, local), side(c.RemoteTS, remote)
	return r
}

// Trap is a child's policies between two addresses, which report a packet that
// has no SA.
type Trap struct {
	Ask           AskChild // for the ids: a CHILD SA with the same selectors shares the request id
	Local, Remote netip.Addr

	cfg *ChildConfig
	r   Resolved
}

// NewTrap makes the trap of a connection's child. sources are the addresses of
// the box that "dynamic" stands for: packets come from them. Errors: the kernel
// can't express the selectors with at most limit policies a direction.
func NewTrap(conn string, cfg *ChildConfig, local, remote netip.Addr, sources []netip.Addr, limit int) (*Trap, error) {
	own := make([]selector.TS, len(sources))
	for i, a := range sources {
		own[i] = selector.Host(a)
	}
	r := cfg.Resolve(own, []selector.TS{selector.Host(remote)})
	if _, err := expand(r.Local, r.Remote, limit); err != nil {
		return nil, err
	}
	return &Trap{
		Ask: AskChild{ReqID: cfg.ReqID, Conn: conn, Child: cfg.Name, Remote: remote, LocalTS: identity(r.Local), PeerTS: identity(r.Remote), Interface: cfg.Interface},
		cfg: cfg, r: r, Local: local, Remote: remote,
	}, nil
}

// Selectors are the trap's, with what "dynamic" stands for in its place.
func (t *Trap) Selectors() Resolved { return t.r }

// Policies are the trap's, with the ids that the registry gave.
func (t *Trap) Policies(ids ChildIDs) []dataplane.Policy {
	ps := t.cfg.policies(t.r, Child{UniqueID: ids.UniqueID, ReqID: ids.ReqID, IfIndex: ids.IfIndex, Local: t.Local, Remote: t.Remote})
	for i := range ps {
		ps[i].Layer = dataplane.LayerStanding
	}
	return ps
}

// Wish are the routes that lead the box's own traffic to the trap: its source
// address is one that the CHILD SA will protect, too.
func (t *Trap) Wish() dataplane.Wish {
	ch := t.cfg.standIn(t.r, Child{})
	return dataplane.Wish{Local: t.Local, Peer: t.Remote, Routes: inOrder(ch.appendRoutes(nil, t.cfg))}
}

// Larval is the SPI request that takes over the kernel's record of a packet that
// waits for the trap's SA; while that stands no further packet is reported.
func (t *Trap) Larval(ids ChildIDs) dataplane.SPIRequest {
	return dataplane.SPIRequest{
		Src: t.Local, Dst: t.Remote, Proto: dataplane.ESP, Mode: t.cfg.Mode, ReqID: ids.ReqID,
		Mark: t.cfg.MarkOut, IfID: t.cfg.IfIDOut, Min: 256, Max: math.MaxUint32,
	}
}

// Packet are the selectors of the packet that met a trap: the very first in TSi
// and TSr (RFC 7296 2.9).
type Packet struct{ Local, Remote selector.TS }

// PacketOf reads the selector that the data plane reports of an outbound packet.
func PacketOf(s dataplane.Selector) *Packet {
	lport, rport := s.SrcPort, s.DstPort
	switch s.Proto {
	case selector.ProtoICMP, selector.ProtoICMPv6: // the kernel has the type first, the code second
		lport = s.SrcPort<<8 | s.DstPort&0xff
		rport = lport
	}
	p := &Packet{selector.Packet(s.Src.Addr(), s.Proto, lport), selector.Packet(s.Dst.Addr(), s.Proto, rport)}
	if s.SrcPortMask == 0 && s.DstPortMask == 0 {
		p.Local.StartPort, p.Local.EndPort, p.Remote.StartPort, p.Remote.EndPort = 0, math.MaxUint16, 0, math.MaxUint16
	}
	return p
}

// first puts the packet's own selectors before the configured ones, when those
// contain them.
func (p *Packet) first(local, remote []selector.TS) (l, r []selector.TS) {
	if !within(p.Local, local) || !within(p.Remote, remote) {
		return local, remote
	}
	return before(p.Local, local), before(p.Remote, remote)
}

func within(t selector.TS, list []selector.TS) bool {
	for _, o := range list {
		if o.Valid() && t.Valid() && o.Contains(t) {
			return true
		}
	}
	return false
}

func before(t selector.TS, list []selector.TS) []selector.TS {
	out := append(make([]selector.TS, 0, len(list)+1), t)
	for _, o := range list {
		if o != t {
			out = append(out, o)
		}
	}
	return out
}

// ChildPacket is a packet that asked for a child.
type ChildPacket struct {
	Child string
	Packet
}

// maxPackets bounds the packets that a session keeps; a child has one at most.
const maxPackets = 64

func (c *coder) childPacket(p *ChildPacket) {
	raw(c, &p.Child)
	c.ts(&p.Local)
	c.ts(&p.Remote)
}

// wantPacket remembers the packet that asked for a child until that is up; nil
// forgets it.
func (m *Machine) wantPacket(child string, p *Packet) {
	m.s.Packets = slices.DeleteFunc(m.s.Packets, func(c ChildPacket) bool { return c.Child == child })
	if p != nil && len(m.s.Packets) < maxPackets {
		m.s.Packets = append(m.s.Packets, ChildPacket{child, *p})
	}
	if len(m.s.Packets) == 0 {
		m.s.Packets = nil
	}
}

// packetFirst puts the selectors of the packet that asked for a child, if one did,
// before those that we propose for it.
func (m *Machine) packetFirst(child string, local, remote []selector.TS) (l, r []selector.TS) {
	for i := range m.s.Packets {
		if p := &m.s.Packets[i]; p.Child == child {
			return p.first(local, remote)
		}
	}
	return local, remote
}

// Shunted are the policies of a child that is a shunt.
func (c *ChildConfig) Shunted(r Resolved, owner uint64, limit int) ([]dataplane.Policy, error) {
	if _, err := expand(r.Local, r.Remote, limit); err != nil {
		return nil, err
	}
	ps := c.policies(r, Child{UniqueID: owner})
	for i := range ps {
		p := &ps[i]
		p.Layer, p.Templates, p.Verdict = dataplane.LayerStanding, nil, dataplane.Protect
		switch {
		case c.Priority != 0: // policies has it
		case c.Shunt == ShuntDrop:
			p.Priority += shuntAway
		default:
			p.Priority -= shuntAway
		}
		if c.Shunt == ShuntDrop {
			p.Verdict = dataplane.Block
		}
	}
	return ps, nil
}

// Guards block what the child's policies would protect, behind everything else.
// The kernel replaces a policy by another of the same key in a way that a packet
// under way may see neither, so a guard's key is not its tunnel's: it is split by
// a bit of the mark that no one uses, where there is one.
func (c *ChildConfig) Guards(r Resolved, owner uint64, limit int) ([]dataplane.Policy, error) {
	if _, err := expand(r.Local, r.Remote, limit); err != nil {
		return nil, err
	}
	var out []dataplane.Policy
	for _, p := range c.policies(r, Child{UniqueID: owner}) {
		p.Layer, p.Templates, p.Verdict, p.Priority = dataplane.LayerGuard, nil, dataplane.Block, guardPriority
		bit := highestUnset(p.Mark.Mask)
		if bit == 0 {
			out = append(out, p)
			continue
		}
		p.Mark.Mask |= bit
		set := p
		set.Mark.Value |= bit
		out = append(out, p, set)
	}
	return out, nil
}

// Neighbours are the policies that let IPv6 find its neighbours where only guards
// stand: without them IKE would not reach a peer on the link whose address is
// guarded. A tunnel or trap for that address comes before.
func Neighbours(owner uint64) []dataplane.Policy {
	all := netip.PrefixFrom(netip.IPv6Unspecified(), 0)
	var out []dataplane.Policy
	for _, icmp := range [2]uint16{135, 136} { // neighbour solicitation and advertisement (RFC 4861 4.3, 4.4)
		sel := dataplane.Selector{Src: all, Dst: all, Proto: selector.ProtoICMPv6, SrcPort: icmp, SrcPortMask: math.MaxUint16}
		for _, dir := range [2]dataplane.Direction{dataplane.Out, dataplane.In} {
			out = append(out, dataplane.Policy{
				PolicyKey: dataplane.PolicyKey{Selector: sel, Dir: dir}, Owner: owner,
				Layer: dataplane.LayerGuard, Priority: guardPriority - 1,
			})
		}
	}
	return out
}

// highestUnset is the highest bit that the mask does not have; 0: it has all.
func highestUnset(mask uint32) uint32 {
	for bit := uint32(1) << 31; bit != 0; bit >>= 1 {
		if mask&bit == 0 {
			return bit
		}
	}
	return 0
}

// standIn makes ch the CHILD SA that the configuration and the selectors would have.
func (c *ChildConfig) standIn(r Resolved, ch Child) Child {
	ch.Name, ch.Mode, ch.LocalTS, ch.PeerTS = c.Name, c.Mode, r.Local, r.Remote
	ch.MarkIn, ch.MarkOut, ch.IfIDIn, ch.IfIDOut = c.MarkIn, c.MarkOut, c.IfIDIn, c.IfIDOut
	if c.PoliciesFwdOut {
		ch.Options = ChildFwdOut
	}
	return ch
}

// policies are those that a CHILD SA like ch would have for the selectors.
func (c *ChildConfig) policies(r Resolved, ch Child) []dataplane.Policy {
	ch = c.standIn(r, ch)
	var out []dataplane.Policy
	for _, op := range appendPolicies(nil, &ch, c, true) {
		out = append(out, op.(dataplane.InstallPolicy).Policy)
	}
	return out
}

// String names the trap for people.
func (t *Trap) String() string {
	return fmt.Sprintf("%s === %s", tsText(t.r.Local), tsText(t.r.Remote))
}
