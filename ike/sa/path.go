package sa

import (
	"net/netip"
	"slices"
	"time"

	"espalier/ike/wire"
	"espalier/internal/event"
)

// Path is what fits through to the peer. It is found without ICMP, by padded
// INFORMATIONAL requests that routers may not fragment (RFC 8899's idea):
//
//	pathDue ─► jobLink ─► probe of the link's MTU ─► probes between what fits
//	   ▲                                             and what does not ──┐
//	   └──────────── Settings.PathMTUInterval ◄── the result is published┘
//
// An answer to the first transmission shows that the size fits. One that comes
// only after a repetition, which may be fragmented, shows that it does not, or
// that something was lost: it takes two such in a row.
type Path struct {
	MTU           uint16     // octets of the outer IP packet; 0: not known
	Local, Remote netip.Addr // the ends that it holds for
	At            time.Time  // when the next probe, or the next search, is due; zero: never
	// The search under way: Link is the MTU of the link that packets leave by, 0
	// when there is none. Low has been seen to fit, 0: nothing has. High may fit.
	Link, Low, High uint16
	Failed          uint8 // probes in a row, of the size that is tried, that did not fit
}

func (c *coder) path(p *Path) {
	num(c, &p.MTU)
	addr(c, &p.Local)
	addr(c, &p.Remote)
	instant(c, &p.At)
	num(c, &p.Link)
	num(c, &p.Low)
	num(c, &p.High)
	num(c, &p.Failed)
}

// The kinds of task and job of the search.
const (
	taskProbe TaskKind = 30 // Task.Child is the size of the IP packet
	jobLink   JobKind  = 35 // the MTU of the link towards the peer
)

// notifyProbe pads a probe. It is a status type for private use, which a peer
// that does not know it ignores (RFC 7296 3.10.1).
const notifyProbe wire.NotifyType = 0xe5b1

const (
	searchDelay = time.Second     // from the SA's set-up, whose traffic goes first
	probeWait   = time.Second     // for an answer to a probe that may well be lost
	probeLost   = 2 * time.Minute // after which a probe or job that never came back is given up
	probeWhole  = 2               // transmissions before an empty request goes with it
	probeTries  = 2               // failures that show a size not to fit
	// maxProbe is the largest size tried: peers have bounds on IKE messages, and
	// the larger links end before the internet begins.
	maxProbe  = 9216
	floorIPv4 = 576  // what every path takes (RFC 791)
	floorIPv6 = 1280 // (RFC 8200 5)
)

// probes reports whether this session looks for its path MTU.
func (m *Machine) probes() bool {
	return m.s.Phase == Established && m.conn != nil && m.conn.PathMTU
}

// pathDeadline is when pathDue has something to do; zero: never.
func (m *Machine) pathDeadline() time.Time {
	p := m.s.Path
	switch {
	case !m.probes():
		return time.Time{}
	case p == nil:
		return m.s.Since.Add(searchDelay)
	case !p.holds(&m.s.IKE):
		return m.s.Since // at once
	}
	return p.At
}

// holds reports whether the path is still the IKE SA's.
func (p *Path) holds(k *IKE) bool {
	return p.Local == k.Local.Addr() && p.Remote == k.Remote.Addr()
}

// pathDue begins a search, or goes on with one whose probe got lost with its
// IKE SA.
func (m *Machine) pathDue(now time.Time) {
	if at := m.pathDeadline(); at.IsZero() || now.Before(at) {
		return
	}
	m.persist = true
	k := &m.s.IKE
	if p := m.s.Path; p == nil || !p.holds(k) {
		m.foundMTU(0)
		m.s.Path = &Path{Local: k.Local.Addr(), Remote: k.Remote.Addr()}
	}
	p := m.s.Path
	p.At = now.Add(probeLost)
	switch {
	case m.hasJob(jobLink):
	case p.Link == 0:
		m.job(jobLink)
	default:
		m.probe()
	}
}

// pathChanged begins a search soon, for routes have changed: not all sessions at
// the same moment.
func (m *Machine) pathChanged() {
	if r := m.s.IKE.Request; r != nil && r.For.Kind == taskProbe {
		r.Sent = max(r.Sent, probeWhole) // it is repeated now: its answer says nothing
	}
	if p := m.s.Path; p != nil && m.probes() {
		p.Link, p.At = 0, m.env.Now.Add(time.Duration(m.fraction()*float64(5*searchDelay)))
		m.persist = true
	}
}

// linked continues with the MTU of the link, 0 when it is not known.
func (m *Machine) linked(mtu int) {
	p := m.s.Path
	if p == nil || !m.probes() {
		return
	}
	if mtu < p.floor() {
		m.restPath()
		return
	}
	p.Link = uint16(min(mtu, maxProbe))
	p.Low, p.High, p.Failed = 0, p.Link, 0
	m.probe()
}

// floor is what every path takes.
func (p *Path) floor() int {
	if p.Remote.Is4() {
		return floorIPv4
	}
	return floorIPv6
}

// restPath ends a search and sets the time of the next.
func (m *Machine) restPath() {
	p := m.s.Path
	p.Link, p.Failed, p.At = 0, 0, time.Time{}
	if every := m.env.Settings.PathMTUInterval; every > 0 {
		p.At = m.env.Now.Add(every - time.Duration(m.fraction()*float64(every)/10))
	}
}

// foundMTU publishes what a search has found.
func (m *Machine) foundMTU(mtu uint16) {
	if p := m.s.Path; p != nil && p.MTU != mtu {
		p.MTU = mtu
		m.publish(event.PathMTU{IKE: m.eventIKE(), MTU: mtu})
	}
}

// probe tries the next size, or ends the search.
func (m *Machine) probe() {
	p := m.s.Path
	size := m.probeSize()
	if size == 0 {
		m.foundMTU(p.Low)
		m.restPath()
		return
	}
	p.At = m.env.Now.Add(probeLost)
	if !slices.ContainsFunc(m.s.Tasks, func(t Task) bool { return t.Kind == taskProbe }) {
		m.queue(Task{Kind: taskProbe, Child: uint64(size)})
	}
}

// probeSize is the size to try next, 0 when there is none.
func (m *Machine) probeSize() uint16 {
	p, k := m.s.Path, &m.s.IKE
	low, high, step := int(p.Low), int(p.High), max(k.sealer().BlockLen(), 1)
	want := (max(low, p.floor()) + high + 1) / 2
	switch was := int(p.MTU); {
	case p.High == p.Link:
		want = high // most paths take what the link takes
	case was > low && was <= high:
		want = was // else they take what they took
	case was == low && low > 0:
		want = low + step // and no more than that
	}
	size := m.reach(k, want)
	if size <= low {
		size = m.reach(k, low+step)
	}
	if size <= low || size > high || size <= p.floor()-step {
		return 0
	}
	return uint16(size)
}

// reach is the largest size of a probe that is not above the wanted one:
// ciphers with blocks do not reach each.
func (m *Machine) reach(k *IKE, want int) int {
	if n := m.padding(k, want); n >= 0 {
		return m.probeLen(k, n)
	}
	return 0
}

// padding is how many octets a probe of at most this size has, negative when
// even none are too many.
func (m *Machine) padding(k *IKE, size int) int {
	n := size - m.probeLen(k, 0)
	for n > 0 && m.probeLen(k, n) > size {
		n--
	}
	return n
}

// probeLen is the size of the IP packet with a probe that has n octets of padding.
func (m *Machine) probeLen(k *IKE, n int) int {
	return wire.EncryptedLen(probePayload(n), k.sealer()) + m.headers(k)
}

func probePayload(n int) []wire.Payload {
	return []wire.Payload{&wire.Notify{NotifyType: notifyProbe, Data: make([]byte, n)}}
}

// beginProbe sends the probe of a task.
func (m *Machine) beginProbe(k *IKE, t Task) {
	if !m.probes() {
		return
	}
	if n := m.padding(k, int(t.Child)); n >= 0 && t.Child <= maxProbe {
		m.inform(k, t, probePayload(n)...)
	}
}

// trials is how many transmissions of a request may well be lost on a good
// network. They do not count when it comes to giving the peer up.
func (r *Request) trials() int {
	if r.For.Kind == taskProbe {
		return probeWhole
	}
	return 0
}

// sendProbe transmits a probe: in one packet at first, then the same bytes in as
// many as it takes. There are networks that drop fragments of IP, where the peer
// would never see it. So from the third time on an empty request with the same
// message id goes with it: of the two the peer takes the one that it can get,
// and the other, should it come, for a repetition. A probe would cost the
// session otherwise, which is worse than a repetition with other bytes than
// RFC 7296 2.1 wants. (IKE fragments would do, but strongSwan 6.0 takes those of
// an INFORMATIONAL for a message without protection.)
func (m *Machine) sendProbe(k *IKE, local, remote netip.AddrPort) {
	r := k.Request
	if r.Sent == probeWhole {
		if short, err := k.sealWhole(k.header(r.Exchange, r.MessageID, false), nil); err == nil {
			r.Data = append(short, firstDatagram(r.Data)...)
		}
	}
	if r.Sent < probeWhole {
		m.act(Send{Local: local, Remote: remote, Data: r.Data, DF: r.Sent == 0})
		return
	}
	m.send(local, remote, r.Data)
}

// probed continues when a probe was answered.
func (m *Machine) probed(r *Request) {
	p := m.s.Path
	if p == nil || p.Link == 0 || !p.holds(&m.s.IKE) {
		return
	}
	size := uint16(r.For.Child)
	if r.Sent == 1 {
		p.Low, p.Failed = max(p.Low, size), 0
	} else if p.Failed++; p.Failed >= probeTries {
		p.High, p.Failed = min(p.High, size-1), 0
	}
	m.probe()
}
