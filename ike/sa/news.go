package sa

import (
	"slices"
	"time"
)

// News is the CHILD SA that our last answer on an IKE SA told the peer of. Until
// the peer asks for something else nobody knows whether it has that answer.
type News struct {
	Child uint64 // unique id
	SPI   uint32 // our inbound one
	Until time.Time
}

func (c *coder) news(n *News) {
	num(c, &n.Child)
	num(c, &n.SPI)
	instant(c, &n.Until)
}

// tell notes what an answer tells.
func (m *Machine) tell(k *IKE, h *Child) {
	k.News = &News{h.UniqueID, h.SPIIn, m.env.Now.Add(replacedTime)}
}

// isNews reports whether the peer may not know the child yet: a rekeying of it
// would be refused, and the child taken for lost.
func (m *Machine) isNews(c *Child) bool {
	for k := range m.ikes() {
		if n := k.News; n != nil && n.Child == c.UniqueID && m.env.Now.Before(n.Until) {
			return true
		}
	}
	return false
}

// retell follows an answer that the peer had to ask for again: of a CHILD SA that
// we have deleted meanwhile it has just learned, so it is deleted once more.
func (m *Machine) retell(k *IKE) {
	n := k.News
	if n == nil || m.s.Phase != Established || !m.env.Now.Before(n.Until) {
		return
	}
	if c := m.child(n.Child); c != nil && (c.Status == ChildInstalled || m.hasTask(n.Child)) {
		return
	}
	t := Task{Kind: taskDeleteSPI, Child: uint64(n.SPI)}
	if r := m.s.IKE.Request; !slices.Contains(m.s.Tasks, t) && (r == nil || r.For != t) {
		m.queue(t)
	}
}

// maxDeleted bounds the SPIs that are kept for what comes late.
const maxDeleted = 8

// deletedEarly notes a delete that may be about the CHILD SA which we are making:
// the peer has it from its answer on, we only when that is here and installed.
func (m *Machine) deletedEarly(spi uint32) {
	c := m.s.Own
	if c == nil || c.Kind == RekeyIKESA || len(c.Deleted) >= maxDeleted {
		return
	}
	if !slices.ContainsFunc(m.s.Children, func(h Child) bool { return h.SPIOut == spi }) {
		c.Deleted = append(c.Deleted, spi)
		m.persist = true
	}
}
