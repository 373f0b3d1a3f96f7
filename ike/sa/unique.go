package sa

import "espalier/dataplane"

// Unique says whether a mark or an interface id is chosen anew, and for what.
type Unique uint8

// The ways to choose. A rekeyed CHILD SA keeps what its predecessor had.
const (
	NotUnique      Unique = iota
	UniqueChild           // %unique: one number for each CHILD SA, the same both ways
	UniqueChildDir        // %unique-dir: another number for each direction
	UniqueIKE             // the connection's %unique: one for all CHILD SAs of an IKE SA
	UniqueIKEDir          // the connection's %unique-dir
)

// sessionNumbers keeps the numbers of sessions apart from those of CHILD SAs;
// both count from 1.
const sessionNumbers = 1 << 31

// number is the value for a direction: two in a row for each id, the odd one for
// inbound and where one serves both.
func (u Unique) number(session, child uint64, dir dataplane.Direction) uint32 {
	id, base := child, uint32(0)
	if u == UniqueIKE || u == UniqueIKEDir {
		id, base = session, sessionNumbers
	}
	n := uint32(id)*2 - 1
	if dir == dataplane.Out && (u == UniqueChildDir || u == UniqueIKEDir) {
		n++
	}
	return n | base
}

// inherit gives a child the CPU and the numbers of the one that it replaces, or
// beside which it stands.
func (c *Child) inherit(cfg *ChildConfig, old *Child) {
	if old == nil {
		return
	}
	c.CPU = old.CPU
	c.Options |= old.Options & (ChildBound | ChildPerCPU)
	if old.Options&ChildNumbered == 0 {
		return
	}
	c.Options |= ChildNumbered
	for _, v := range c.numbers(cfg) {
		if v.unique != NotUnique {
			*v.value = *v.of(old)
		}
	}
}

// identify gives a child its ids, and the numbers that follow from them.
func (m *Machine) identify(c *Child, ids ChildIDs) {
	c.UniqueID, c.ReqID, c.IfIndex = ids.UniqueID, ids.ReqID, ids.IfIndex
	cfg := m.conn.Child(c.Name)
	if cfg == nil || c.Options&ChildNumbered != 0 {
		return
	}
	for _, v := range c.numbers(cfg) {
		if v.unique != NotUnique {
			*v.value = v.unique.number(m.s.ID, ids.UniqueID, v.dir) & v.mask
			c.Options |= ChildNumbered
		}
	}
}

// numbered is one value of a child that may be unique.
type numbered struct {
	unique Unique
	dir    dataplane.Direction
	mask   uint32
	value  *uint32
	of     func(*Child) *uint32
}

func (c *Child) numbers(cfg *ChildConfig) [4]numbered {
	all := [4]numbered{
		{unique: cfg.UniqueMarkIn, dir: dataplane.In, mask: cfg.MarkIn.Mask, of: func(c *Child) *uint32 { return &c.MarkIn.Value }},
		{unique: cfg.UniqueMarkOut, dir: dataplane.Out, mask: cfg.MarkOut.Mask, of: func(c *Child) *uint32 { return &c.MarkOut.Value }},
		{unique: cfg.UniqueIfIDIn, dir: dataplane.In, mask: 1<<32 - 1, of: func(c *Child) *uint32 { return &c.IfIDIn }},
		{unique: cfg.UniqueIfIDOut, dir: dataplane.Out, mask: 1<<32 - 1, of: func(c *Child) *uint32 { return &c.IfIDOut }},
	}
	for i := range all {
		all[i].value = all[i].of(c)
	}
	return all
}

// setMarks are the marks that packets get after processing; %same takes the
// value of the child's own mark.
func (c *Child) setMarks(cfg *ChildConfig) (in, out dataplane.Mark) {
	in, out = cfg.SetMarkIn, cfg.SetMarkOut
	if cfg.SetMarkInSame {
		in.Value = c.MarkIn.Value & in.Mask
	}
	if cfg.SetMarkOutSame {
		out.Value = c.MarkOut.Value & out.Mask
	}
	return in, out
}
