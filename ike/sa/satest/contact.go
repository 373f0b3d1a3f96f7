package satest

import (
	"time"

	"espalier/dataplane"
	"espalier/ike/sa"
)

// contact reports whether another IKE SA with the peer of c stands; without up,
// whether one is going to be, too.
func (n *Node) contact(c sa.Contact, up bool) bool {
	if n.known == nil {
		n.known = map[uint64]sa.Contact{}
	}
	n.known[c.ID] = c
	for id, o := range n.known {
		if id != c.ID && n.living(id) && o.Local.Equal(c.Local) && o.Remote.Equal(c.Remote) && (!up || !o.Since.IsZero() && o.Refuses(c)) {
			return true
		}
	}
	return false
}

// living reports whether the session has not begun to end.
func (n *Node) living(id uint64) bool {
	for _, m := range n.Sessions {
		if m != nil && m.ID() == id {
			return m.Phase() <= sa.Established
		}
	}
	return false
}

// displace tells the sessions what an established one means for them, once the
// step is over.
func (n *Node) displace(d sa.Displace) {
	n.contact(d.Contact, true)
	for _, m := range n.Sessions {
		if m == nil || m.ID() == d.ID || !n.living(m.ID()) {
			continue
		}
		o, ok := n.known[m.ID()]
		if !ok || o.Since.IsZero() || !o.Local.Equal(d.Local) || !o.Remote.Equal(d.Remote) {
			continue
		}
		switch d.Against(o) {
		case sa.OtherDies:
			n.later = append(n.later, later{o.ID, sa.Displaced{Dead: true}})
		case sa.OtherEnds:
			n.later = append(n.later, later{o.ID, sa.Displaced{}})
		case sa.NewOneEnds:
			n.later = append(n.later, later{d.ID, sa.Displaced{}})
		}
	}
}

// Crash makes the node forget its sessions and what they have in the data plane,
// as a box does whose power fails.
func (n *Node) Crash() {
	n.Sessions, n.known, n.later = nil, nil, nil
	n.DP = dataplane.NewFake(dataplane.FakeOptions{Seed: n.w.rnd.Uint64(), Now: func() time.Time { return n.w.Now }})
}
