package sa

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"slices"
	"time"

	"espalier/ike/wire"
	"espalier/internal/event"
)

// Per-CPU CHILD SAs (RFC 9611). The first CHILD SA, the fallback, serves every
// CPU. When both sides have said SA_RESOURCE_INFO with it, either may make
// further ones with the same selectors, each bound to a CPU of its own:
//
//	fallback ─ SplitChild ─► queued ─► CREATE_CHILD_SA ─► bound to its CPU
//	                              TS_MAX_QUEUE: no further one is asked for
//
// The peer's number of a CPU means nothing to us: what it asks for goes to the CPU
// of ours that has the fewest. A bound one is rekeyed and deleted on its own and
// keeps its CPU; when it goes, its CPU sends on the fallback again. Without their
// fallback they go, too.

// PerCPU says whether a child may have one CHILD SA a CPU.
type PerCPU uint8

// The values, strongSwan's names and auto.
const (
	PerCPUNo    PerCPU = iota
	PerCPUYes          // when the peer agrees
	PerCPUEncap        // likewise, each with a UDP source port of its own where ESP is encapsulated
	PerCPUAuto         // when there is more than one CPU and the peer agrees
)

var perCPUNames = [...]string{"no", "yes", "encap", "auto"}

func (p PerCPU) String() string {
	if int(p) < len(perCPUNames) {
		return perCPUNames[p]
	}
	return fmt.Sprintf("PerCPU(%d)", uint8(p))
}

// ParsePerCPU reads what String writes.
func ParsePerCPU(s string) (PerCPU, bool) {
	i := slices.Index(perCPUNames[:], s)
	return PerCPU(max(i, 0)), i >= 0
}

// perCPUIdle is how long a bound child may be without traffic when the
// configuration sets no inactivity: its fallback does its work as well.
const perCPUIdle = 5 * time.Minute

// SplitChild asks for a CHILD SA beside the fallback ChildID that is bound to a
// CPU. What there is already, or can't be, is not asked for.
type SplitChild struct {
	ChildID uint64
	CPU     uint32
	// Acquired: a packet was sent there, and the kernel waits; else somebody
	// foresees it.
	Acquired bool
}

func (SplitChild) isEvent() {}

// bound reports whether the child is one CPU's.
func (c *Child) bound() bool { return c.Options&ChildBound != 0 }

// cpu is the data plane's form of the CPU; nil: any.
func (c *Child) cpu() *uint32 {
	if !c.bound() {
		return nil
	}
	n := c.CPU
	return &n
}

// offersPerCPU reports whether we say SA_RESOURCE_INFO for a child, and heed the
// peer's. An IPComp SA is looked up for each CPU, too, and there is none.
func (m *Machine) offersPerCPU(cfg *ChildConfig) bool {
	switch {
	case cfg == nil || m.env.Lacks.PerCPU || cfg.IPComp:
		return false
	case cfg.PerCPU == PerCPUAuto:
		return m.env.Settings.CPUs > 1
	}
	return cfg.PerCPU != PerCPUNo
}

// appendResource adds SA_RESOURCE_INFO (RFC 9611 6.1): our CPU's number for people
// who look for faults, or nothing for a fallback.
func appendResource(ps []wire.Payload, cpu *uint32) []wire.Payload {
	n := &wire.Notify{NotifyType: wire.NotifySAResourceInfo}
	if cpu != nil {
		n.Data = binary.BigEndian.AppendUint32(nil, *cpu)
	}
	return append(ps, n)
}

// appendOfferResource adds it to the request of an exchange of ours.
func (m *Machine) appendOfferResource(ps []wire.Payload, c *Create, cfg *ChildConfig) []wire.Payload {
	old := m.child(c.Old)
	switch {
	case c.Fallback != 0:
		return appendResource(ps, &c.CPU)
	case old != nil && old.bound():
		return appendResource(ps, old.cpu())
	case m.offersPerCPU(cfg):
		return appendResource(ps, nil)
	}
	return ps
}

// appendAnswerResource adds it to our answer about a child.
func appendAnswerResource(ps []wire.Payload, c *Child) []wire.Payload {
	if c.bound() || c.Options&ChildPerCPU != 0 {
		return appendResource(ps, c.cpu())
	}
	return ps
}

// settleResource puts into a new child whether it may have bound ones beside it,
// or what it is bound to; t is the peer's offer or answer.
func (m *Machine) settleResource(c *Child, cfg *ChildConfig, t terms) {
	if !c.bound() && t.resource && m.offersPerCPU(cfg) {
		c.Options |= ChildPerCPU
	}
	c.Armed = c.Options&ChildPerCPU != 0 && !c.bound() && m.lacksCPU(c)
}

// inGroup reports whether both have the same name and selectors, whatever CPU.
func inGroup(a, b *Child) bool {
	return a.Name == b.Name && sameTS(a.LocalTS, b.LocalTS) && sameTS(a.PeerTS, b.PeerTS)
}

// fallback is the child, or the one that took its place by rekeying, when bound
// ones may be made beside it; nil: it is gone, or they may not.
func (m *Machine) fallback(id uint64) *Child {
	for range len(m.s.Children) + 1 {
		c := m.child(id)
		switch {
		case c == nil || c.bound():
			return nil
		case m.child(c.PeerNew) != nil && m.child(c.PeerNew).Status <= ChildInstalled:
			id = c.PeerNew
		case m.child(c.OwnNew) != nil && m.child(c.OwnNew).Status <= ChildInstalled:
			id = c.OwnNew
		case c.Status == ChildInstalled && c.Options&ChildPerCPU != 0:
			return c
		default:
			return nil
		}
	}
	return nil
}

// fallbackLike is the group's fallback that stands, or will; nil: there is none.
func (m *Machine) fallbackLike(name string, o *Child) *Child {
	for i := range m.s.Children {
		c := &m.s.Children[i]
		if c.Name == name && !c.bound() && c.Status == ChildInstalled && c.OwnNew == 0 && c.PeerNew == 0 && inGroup(c, o) {
			return c
		}
	}
	return nil
}

// onCPUs counts the group's bound children by their CPU, those that are being
// made among them; what replaces another is one with it.
func (m *Machine) onCPUs(f *Child) map[uint32]int {
	n := map[uint32]int{}
	for i := range m.s.Children {
		c := &m.s.Children[i]
		if c.bound() && c.Status <= ChildInstalled && c.OwnNew == 0 && c.PeerNew == 0 && inGroup(c, f) {
			n[c.CPU]++
		}
	}
	if c := m.s.Own; c != nil && c.Fallback != 0 {
		if o := m.child(c.Fallback); o == nil || inGroup(o, f) {
			n[c.CPU]++
		}
	}
	if c := m.s.Peer; c != nil && c.Old == 0 && c.Candidate != nil && c.Candidate.bound() && inGroup(c.Candidate, f) {
		n[c.Candidate.CPU]++
	}
	return n
}

// maxPerCPU is how many bound children a group may have.
func (m *Machine) maxPerCPU() int { return max(m.env.Settings.MaxPerCPU, 0) }

// leastCPU is the CPU of ours that a peer's bound child goes to (RFC 9611 5).
func (m *Machine) leastCPU(on map[uint32]int) (cpu uint32) {
	for n := range uint32(max(m.env.Settings.CPUs, 1)) {
		if on[n] < on[cpu] {
			cpu = n
		}
	}
	return cpu
}

// mayBind reports whether a child bound to the CPU is wanted beside the fallback.
func (m *Machine) mayBind(f *Child, cpu uint32) bool {
	if f.Options&ChildMaxQueue != 0 || cpu >= uint32(max(m.env.Settings.CPUs, 1)) {
		return false
	}
	on, all := m.onCPUs(f), 0
	for _, n := range on {
		all += n
	}
	return on[cpu] == 0 && all < m.maxPerCPU()
}

// split handles SplitChild.
func (m *Machine) split(e SplitChild) {
	if m.s.Phase != Established {
		return
	}
	f := m.fallback(e.ChildID)
	if c := cmp.Or(f, m.child(e.ChildID)); c != nil && e.Acquired {
		m.acquired(c, e.CPU)
	}
	if f == nil || !m.mayBind(f, e.CPU) {
		return
	}
	t := Task{Kind: taskCreateBound, Child: f.UniqueID, CPU: e.CPU}
	if !slices.Contains(m.s.Tasks, t) && !m.hasLater(t) {
		m.queue(t)
	}
}

// boundTask begins the exchange of a taskCreateBound, if it is still wanted.
func (m *Machine) boundTask(t Task) {
	if f := m.fallback(t.Child); f != nil && m.conn.Child(f.Name) != nil && m.mayBind(f, t.CPU) {
		m.beginCreate(&Create{Kind: CreateChild, Child: f.Name, Fallback: f.UniqueID, CPU: t.CPU})
	}
}

// bindOwn makes the candidate of our exchange what we asked for, and reports
// whether the peer's answer is that: the same selectors as the fallback's
// (RFC 9611 4), if that is still there.
func (m *Machine) bindOwn(c *Create, cfg *ChildConfig) bool {
	h := c.Candidate
	f := m.child(c.Fallback)
	if f == nil || f.Status > ChildInstalled {
		return false // it went meanwhile, and all beside it go, too
	}
	if !inGroup(h, f) {
		m.failed(event.TSUnacceptable, false, c.Child, "", event.Fact{Name: "cpu", Value: itoa(int(c.CPU))},
			event.Fact{Name: "detail", Value: "the peer's answer about a per-CPU CHILD SA has other selectors than the one beside which it was to stand"})
		return false
	}
	h.inherit(cfg, f)
	h.bind(c.CPU)
	return true
}

func (c *Child) bind(cpu uint32) {
	c.Options |= ChildBound
	c.CPU = cpu
}

// bindPeer settles whether a further child that the peer asks for is one CPU's:
// the peer says so, and there is a fallback already. refusal is what else the
// answer says, 0: nothing. The resource's name is for people (RFC 9611 6.1); that
// there is one tells two requests apart which have crossed ours.
func (m *Machine) bindPeer(c *Create, cfg *ChildConfig, t terms) (refusal wire.NotifyType) {
	h := c.Candidate
	if !t.resource || c.Old != 0 {
		return 0
	}
	f := m.fallbackLike(cfg.Name, h)
	switch {
	case f == nil && t.named && m.fallbackChanges(h):
		return wire.NotifyTemporaryFailure
	case f == nil:
		return 0 // it becomes the fallback
	case !t.named && f.Initiator && m.env.Now.Sub(f.InstalledAt) < replacedTime:
		return 0 // both sides have asked for the fallback at once
	}
	on, all := m.onCPUs(f), 0
	for _, n := range on {
		all += n
	}
	if f.Options&ChildPerCPU == 0 || all >= m.maxPerCPU() {
		return wire.NotifyTSMaxQueue
	}
	h.inherit(cfg, f)
	h.bind(m.leastCPU(on))
	return 0
}

// fallbackChanges reports whether the fallback beside which a child would stand is
// on its way in or out.
func (m *Machine) fallbackChanges(h *Child) bool {
	if own := m.s.Own; own != nil && own.Kind == CreateChild && own.Fallback == 0 && own.Child == h.Name {
		return true
	}
	return slices.ContainsFunc(m.s.Children, func(o Child) bool { return !o.bound() && inGroup(&o, h) })
}

// maxQueue follows the peer's TS_MAX_QUEUE: it takes no further bound child. We
// ask again when one of them is gone, or the fallback has been rekeyed.
func (m *Machine) maxQueue(c *Create) {
	f := m.fallback(c.Fallback)
	if f == nil {
		return
	}
	f.Options |= ChildMaxQueue
	isBound := func(t Task) bool {
		return t.Kind == taskCreateBound && m.fallback(t.Child) == f
	}
	m.s.Tasks = slices.DeleteFunc(m.s.Tasks, isBound)
	m.s.Later = slices.DeleteFunc(m.s.Later, func(l Later) bool { return isBound(l.Task) })
	m.persist = true
	m.publish(event.FellBack{IKE: m.eventIKE(), ChildName: f.Name, Wanted: "a CHILD SA for CPU " + itoa(int(c.CPU)), Instead: "those there are: the peer answered " + wire.NotifyTSMaxQueue.String()})
}

// release ends a child that the fallback stands in for: first we stop sending
// on it, so that nothing is under way when the peer hears of its end.
func (m *Machine) release(c *Child, reason string) {
	c.Status, c.EndReason, c.Stop, c.IdleAt = ChildDeleting, reason, StopDue, time.Time{}
	m.persist = true
}

// ungroup follows when a child is gone that none has replaced: without their
// fallback the bound ones go, and a bound one leaves room for another.
func (m *Machine) ungroup(gone *Child) {
	if m.s.Phase != Established || m.child(gone.OwnNew) != nil || m.child(gone.PeerNew) != nil {
		return
	}
	f := m.fallbackLike(gone.Name, gone)
	if gone.bound() {
		if f != nil {
			f.Options &^= ChildMaxQueue
		}
		// What our exchange makes in its place is that CPU's as well, and comes without a
		// child to inherit that from.
		if own := m.s.Own; own != nil && own.Kind == RekeyChildSA && own.Old == gone.UniqueID && own.Candidate == nil {
			if f == nil {
				own.Lost = true
			} else {
				own.Fallback, own.CPU = f.UniqueID, gone.CPU
			}
		}
		return
	}
	if f != nil || gone.Options&ChildPerCPU == 0 {
		return
	}
	for i := range m.s.Children {
		if c := &m.s.Children[i]; c.bound() && c.Status == ChildInstalled && inGroup(c, gone) {
			m.release(c, "the CHILD SA beside which it stood is gone")
		}
	}
}

// hasBound reports whether a bound child stands beside the fallback.
func (m *Machine) hasBound(f *Child) bool {
	return slices.ContainsFunc(m.s.Children, func(c Child) bool { return c.bound() && c.Status == ChildInstalled && inGroup(&c, f) })
}

// inactivity is the time without traffic after which a child goes; 0: never.
func (m *Machine) inactivity(c *Child, cfg *ChildConfig) time.Duration {
	switch {
	case cfg == nil:
		return 0
	case c.bound() && cfg.Inactivity <= 0:
		return perCPUIdle
	}
	return cfg.Inactivity
}

// perCPU tells whether there may be an SA of each CPU of it, or it is one. The peer may
// send on each of these from a UDP port of its own, strongSwan on the fallback, too,
// which is not negotiated (RFC 9611) and no other mapping of a NAT: such a child follows
// the IKE SA alone.
func (c *Child) perCPU() bool { return c.Options&(ChildPerCPU|ChildBound) != 0 }

// ownPort is the UDP source port of what a bound child sends that is to have one of its
// own, for network cards and NATs that tell flows by ports: one of the dynamic ports
// (RFC 6335 6), always the same for an SPI, which the peer has drawn.
func (c *Child) ownPort() uint16 {
	const first, count = 49152, 16384
	return first + uint16((c.SPIOut*0x9e3779b1)>>18)%count
}
