package dataplane

import (
	"net/netip"
	"slices"
	"sync"
)

// PolicyTable is the stack of owners behind each policy key: the newest one of
// the highest layer stands in the kernel, and when its owner deletes it the one
// beneath it comes back. Both data planes keep one. It knows nothing of a kernel: a change says
// what must be done there, and Undo takes it back when that fails. Safe for
// concurrent use; changes of one key must be made one after the other.
type PolicyTable struct {
	mu     sync.Mutex
	stacks map[policyID]*policyEntry
}

// NewPolicyTable returns an empty table.
func NewPolicyTable() *PolicyTable {
	return &PolicyTable{stacks: make(map[policyID]*policyEntry)}
}

// policyID is a PolicyKey without pointers: large tables cost the garbage
// collector nothing and a third of the memory.
type policyID struct {
	src, dst             [16]byte
	sport, smask         uint16
	dport, dmask         uint16
	mark, markMask, ifID uint32
	ifIndex              uint32
	srcBits, dstBits     uint8
	proto                uint8
	dir                  Direction
	v6                   bool
}

func idOf(k *PolicyKey) policyID {
	s := &k.Selector
	return policyID{
		src: s.Src.Addr().As16(), dst: s.Dst.Addr().As16(),
		srcBits: uint8(s.Src.Bits()), dstBits: uint8(s.Dst.Bits()),
		sport: s.SrcPort, smask: s.SrcPortMask, dport: s.DstPort, dmask: s.DstPortMask,
		proto: s.Proto, dir: k.Dir, v6: !s.Src.Addr().Is4(),
		mark: k.Mark.Value, markMask: k.Mark.Mask, ifID: k.IfID, ifIndex: k.IfIndex,
	}
}

func (id *policyID) key() PolicyKey {
	return PolicyKey{
		Selector: Selector{
			Src:   netip.PrefixFrom(unpackAddr(id.src, id.v6), int(id.srcBits)),
			Dst:   netip.PrefixFrom(unpackAddr(id.dst, id.v6), int(id.dstBits)),
			Proto: id.proto, SrcPort: id.sport, SrcPortMask: id.smask,
			DstPort: id.dport, DstPortMask: id.dmask,
		},
		Dir: id.dir, Mark: Mark{id.mark, id.markMask}, IfID: id.ifID, IfIndex: id.ifIndex,
	}
}

func unpackAddr(b [16]byte, v6 bool) netip.Addr {
	a := netip.AddrFrom16(b)
	if v6 {
		return a
	}
	return a.Unmap()
}

// policyEntry is one owner's policy, without its key. Entries never change:
// a stack is a list whose older part is shared by the stacks before and after
// a change, so undoing one is putting the old head back.
type policyEntry struct {
	older    *policyEntry
	owner    uint64
	priority uint32
	verdict  Verdict
	flags    PolicyFlags
	layer    Layer
	single   bool // one template, in first
	first    packedTemplate
	more     []Template // when there is not exactly one
}

type packedTemplate struct {
	src, dst       [16]byte
	reqID, spi     uint32
	proto          Proto
	mode           Mode
	optional, v6   bool
	hasSrc, hasDst bool
}

func packTemplate(t *Template) packedTemplate {
	p := packedTemplate{
		reqID: t.ReqID, spi: t.SPI, proto: t.Proto, mode: t.Mode, optional: t.Optional,
		hasSrc: t.Src.IsValid(), hasDst: t.Dst.IsValid(),
	}
	if p.hasSrc {
		p.src, p.v6 = t.Src.As16(), !t.Src.Is4()
	}
	if p.hasDst {
		p.dst, p.v6 = t.Dst.As16(), !t.Dst.Is4()
	}
	return p
}

func (p *packedTemplate) template() Template {
	t := Template{ReqID: p.reqID, SPI: p.spi, Proto: p.proto, Mode: p.mode, Optional: p.optional}
	if p.hasSrc {
		t.Src = unpackAddr(p.src, p.v6)
	}
	if p.hasDst {
		t.Dst = unpackAddr(p.dst, p.v6)
	}
	return t
}

func newEntry(p *Policy) *policyEntry {
	e := &policyEntry{owner: p.Owner, priority: p.Priority, verdict: p.Verdict, flags: p.Flags, layer: p.Layer}
	if len(p.Templates) == 1 {
		e.single, e.first = true, packTemplate(&p.Templates[0])
	} else if len(p.Templates) > 1 {
		e.more = append([]Template(nil), p.Templates...)
	}
	return e
}

func (e *policyEntry) policy(id *policyID) Policy {
	p := Policy{PolicyKey: id.key(), Owner: e.owner, Priority: e.priority, Verdict: e.verdict, Flags: e.flags}
	if e.single {
		p.Templates = []Template{e.first.template()}
	} else {
		p.Templates = append([]Template(nil), e.more...)
	}
	return p
}

// PolicyChange is one change of a PolicyTable and what it means for the kernel.
type PolicyChange struct {
	id            policyID
	before, after *policyEntry
	top           bool // the standing policy changed, not one below it
}

// KernelOp is what a PolicyChange asks of the kernel.
type KernelOp uint8

// What a change asks of the kernel.
const (
	// KernelNone: another owner's policy stands, or none does, or only the owner
	// changed. While the kernel replaces a policy, a packet may meet neither.
	KernelNone   KernelOp = iota
	KernelAdd             // no policy stood
	KernelUpdate          // one of ours stood: replace it
	KernelRemove          // the last owner is gone
)

// Kernel says what must be done in the kernel for the change.
func (c *PolicyChange) Kernel() KernelOp {
	switch {
	case !c.top, c.before.same(c.after):
		return KernelNone
	case c.before == nil:
		return KernelAdd
	case c.after == nil:
		return KernelRemove
	}
	return KernelUpdate
}

// Key is the key of the policy that changed.
func (c *PolicyChange) Key() PolicyKey { return c.id.key() }

// Policy is the one that must stand after the change; only after KernelAdd and KernelUpdate.
func (c *PolicyChange) Policy() Policy { return c.after.policy(&c.id) }

// Reverse is the change that takes this one back.
func (c PolicyChange) Reverse() PolicyChange {
	c.before, c.after = c.after, c.before
	return c
}

// Install puts an owner's policy on top of its layer in its key's stack, or
// replaces that owner's where it is: replacing does not overtake a newer owner.
func (t *PolicyTable) Install(p *Policy) PolicyChange {
	t.mu.Lock()
	defer t.mu.Unlock()
	c := PolicyChange{id: idOf(&p.PolicyKey)}
	c.before = t.stacks[c.id]
	e := newEntry(p)
	if c.before.holds(p.Owner) {
		c.top = c.before.owner == p.Owner
		c.after = c.before.replace(p.Owner, e)
	} else {
		c.after = c.before.insert(e)
		c.top = c.after == e
	}
	t.stacks[c.id] = c.after
	return c
}

// Delete takes an owner's policy out of its key's stack. When it is not there,
// the change asks nothing.
func (t *PolicyTable) Delete(k *PolicyKey, owner uint64) PolicyChange {
	t.mu.Lock()
	defer t.mu.Unlock()
	c := PolicyChange{id: idOf(k)}
	c.before = t.stacks[c.id]
	c.after = c.before
	if c.before.holds(owner) {
		c.top = c.before.owner == owner
		c.after = c.before.replace(owner, nil)
		t.set(c.id, c.after)
	}
	return c
}

// Undo takes a change back; the caller does the same in the kernel with
// Reverse when it had done the change there. It must be the last change of its key.
func (t *PolicyTable) Undo(c PolicyChange) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.set(c.id, c.before)
}

// Standing lists the policies that stand in the kernel, in no order.
func (t *PolicyTable) Standing() []Policy {
	t.mu.Lock()
	defer t.mu.Unlock()
	out := make([]Policy, 0, len(t.stacks))
	for id, e := range t.stacks {
		out = append(out, e.policy(&id))
	}
	return out
}

// Owner is the owner of the standing policy with the key; 0 when none of ours stands.
func (t *PolicyTable) Owner(k *PolicyKey) uint64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	if e := t.stacks[idOf(k)]; e != nil {
		return e.owner
	}
	return 0
}

// Len is the number of keys that have a policy.
func (t *PolicyTable) Len() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.stacks)
}

func (t *PolicyTable) set(id policyID, e *policyEntry) {
	if e == nil {
		delete(t.stacks, id)
	} else {
		t.stacks[id] = e
	}
}

// same reports whether two policies of one key are the same to the kernel.
func (e *policyEntry) same(o *policyEntry) bool {
	return e != nil && o != nil && e.priority == o.priority && e.verdict == o.verdict && e.flags == o.flags &&
		e.single == o.single && e.first == o.first && slices.Equal(e.more, o.more)
}

func (e *policyEntry) holds(owner uint64) bool {
	for ; e != nil; e = e.older {
		if e.owner == owner {
			return true
		}
	}
	return false
}

// insert returns the stack with a new entry on top of its layer. Entries above
// it are copied, those below shared.
func (e *policyEntry) insert(n *policyEntry) *policyEntry {
	if e == nil || e.layer >= n.layer {
		n.older = e
		return n
	}
	above := *e
	above.older = e.older.insert(n)
	return &above
}

// replace returns the stack with the owner's entry exchanged for with, or
// removed when with is nil. Entries above it are copied, those below shared.
func (e *policyEntry) replace(owner uint64, with *policyEntry) *policyEntry {
	if e.owner != owner {
		above := *e
		above.older = e.older.replace(owner, with)
		return &above
	}
	if with == nil {
		return e.older
	}
	with.older, with.layer = e.older, e.layer
	return with
}
