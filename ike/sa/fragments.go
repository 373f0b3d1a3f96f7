package sa

import (
	"encoding/binary"
	"iter"
	"net/netip"
	"slices"
	"time"

	"espalier/ike/wire"
)

// FragmentMode is what a connection does about IKE fragmentation (RFC 7383). Its
// numbers are not part of the encoding.
type FragmentMode uint8

// The modes. Fragments of a peer are put together in all of them, as strongSwan does.
const (
	FragmentYes    FragmentMode = 0 // announce it, and send long messages in fragments to a peer that announces it
	FragmentAccept FragmentMode = 1 // announce it, send no fragments
	FragmentNo     FragmentMode = 2 // neither
)

// Bounds on the fragments that wait for the rest of their message.
const (
	maxFragments    = 256              // of a message
	maxReassembled  = 1 << 16          // octets of a message, decrypted
	fragmentsWait   = 30 * time.Second // from a message's first fragment to its last
	ipv4UDPHeaders  = 20 + 8
	ipv6UDPHeaders  = 40 + 8
	nonESPMarkerLen = 4
)

// Fragments are those of one message that waits for the rest (RFC 7383 2.6).
// There is at most one such message an IKE SA and direction.
type Fragments struct {
	On        wire.SPI // our SPI of the IKE SA
	Response  bool
	MessageID uint32
	Parts     [][]byte // decrypted, by fragment number less 1; empty: not there yet
	// First is fragment 1 as it came, but for its content: its header and the
	// type of the first payload. Digest is the SHA-256 of that datagram, by
	// which a repetition of the message is known.
	First  []byte
	Digest [32]byte
	Until  time.Time // when they are dropped
}

func (c *coder) fragments(f *Fragments) {
	num(c, &f.On)
	boolean(c, &f.Response)
	num(c, &f.MessageID)
	list(c, &f.Parts, raw[[]byte])
	raw(c, &f.First)
	fixed(c, f.Digest[:])
	instant(c, &f.Until)
}

// appendFragmentation announces it. A responder does so to who has (RFC 7383 2.3).
func (m *Machine) appendFragmentation(ps []wire.Payload) []wire.Payload {
	if k := &m.s.IKE; m.conn.Fragmentation != FragmentNo && (k.Initiator || k.Peer.has(CanFragment)) {
		ps = append(ps, &wire.Notify{NotifyType: wire.NotifyIKEv2FragmentationSupported})
	}
	return ps
}

// readFragmentation notes that both sides announce it, which it takes to send
// fragments (RFC 7383 2.3).
func (m *Machine) readFragmentation(ps []wire.Payload) {
	if _, ok := wire.FindNotify(ps, wire.NotifyIKEv2FragmentationSupported); ok && m.conn.Fragmentation != FragmentNo {
		m.s.IKE.Peer |= CanFragment
	}
}

// fragmentsDeadline is when fragmentsDue has something to do; zero: never.
func (m *Machine) fragmentsDeadline() time.Time {
	var d time.Time
	for i := range m.s.Fragments {
		if t := m.s.Fragments[i].Until; d.IsZero() || t.Before(d) {
			d = t
		}
	}
	return d
}

// fragmentsDue drops what has waited too long.
func (m *Machine) fragmentsDue(now time.Time) {
	m.s.Fragments = slices.DeleteFunc(m.s.Fragments, func(f Fragments) bool {
		late := !now.Before(f.Until)
		if late {
			m.discard("fragments of a message whose rest did not come within " + fragmentsWait.String())
		}
		return late
	})
	m.tidyFragments()
}

// dropFragments forgets what waits on an IKE SA in one direction.
func (m *Machine) dropFragments(on wire.SPI, response bool) {
	m.s.Fragments = slices.DeleteFunc(m.s.Fragments, func(f Fragments) bool { return f.On == on && f.Response == response })
	m.tidyFragments()
}

// tidyFragments gives the memory back.
func (m *Machine) tidyFragments() {
	if len(m.s.Fragments) == 0 {
		m.s.Fragments = nil
	}
}

// whole is a message after decryption, put together if it came in fragments.
type whole struct {
	first  wire.PayloadType // of the chain
	inner  []byte           // the chain of payloads
	raw    []byte           // the datagram, or that of fragment 1
	msg    *wire.Message    // raw parsed
	digest [32]byte         // of raw as it came
}

// gather authenticates a fragment (RFC 7383 2.6) and stores it. It returns the
// message when it is whole; not ok: more is to come, or the fragment counts for
// nothing. The caller has checked that the message id is the one expected.
func (m *Machine) gather(k *IKE, msg *wire.Message, skf *wire.SKF, data []byte, digest [32]byte) (w whole, ok bool) {
	at := slices.IndexFunc(m.s.Fragments, func(f Fragments) bool { return f.On == k.LocalSPI() && f.Response == msg.IsResponse() })
	number, total := int(skf.FragmentNumber), int(skf.TotalFragments)
	var old *Fragments // of the same message
	if at >= 0 && m.s.Fragments[at].MessageID == msg.MessageID {
		old = &m.s.Fragments[at]
	}
	switch {
	case total > maxFragments:
		m.discard("message of more than " + itoa(maxFragments) + " fragments")
		return w, false
	case old != nil && total < len(old.Parts):
		m.discard("fragment of fewer than those that wait") // RFC 7383 2.6: only more of them begin anew
		return w, false
	case old != nil && total == len(old.Parts) && len(old.Parts[number-1]) > 0:
		m.discard("repeated fragment")
		return w, false
	}
	part, err := wire.OpenFragment(data, msg, k.opener())
	switch {
	case err != nil:
		m.discard(err.Error())
		return w, false
	case len(part) == 0:
		m.discard("empty fragment")
		return w, false
	}
	// Older ones of the same message or of another count for nothing now.
	if old == nil || total > len(old.Parts) {
		m.dropFragments(k.LocalSPI(), msg.IsResponse())
		m.s.Fragments = append(m.s.Fragments, Fragments{On: k.LocalSPI(), Response: msg.IsResponse(), MessageID: msg.MessageID,
			Parts: make([][]byte, total), Until: m.env.Now.Add(fragmentsWait)})
		old = &m.s.Fragments[len(m.s.Fragments)-1]
	}
	old.Parts[number-1] = slices.Clone(part)
	if number == 1 {
		old.First, old.Digest = slices.Clone(data), digest
	}
	return m.join(old)
}

// join puts a message together when all of it is there.
func (m *Machine) join(f *Fragments) (w whole, ok bool) {
	octets, there := 0, 0
	for _, p := range f.Parts {
		octets += len(p)
		if len(p) > 0 {
			there++
		}
	}
	if octets+len(f.First) > maxReassembled {
		m.discard("fragments of more than " + itoa(maxReassembled) + " octets")
		m.dropFragments(f.On, f.Response)
		return w, false
	}
	if there < len(f.Parts) {
		return w, false
	}
	w.raw, w.digest, w.inner = f.First, f.Digest, slices.Concat(f.Parts...)
	m.dropFragments(f.On, f.Response)
	msg, err := wire.ParseMessage(w.raw)
	if err != nil { // it parsed when it came
		m.discard(err.Error())
		return w, false
	}
	skf, ok := msg.SKF()
	if !ok {
		return w, false
	}
	w.msg, w.first = msg, skf.First
	return w, true
}

// repeatedFragment says whether a fragment of a request that was answered asks
// for the answer once more: only number 1 does (RFC 7383 2.6.1). The peer may
// have cut the message anew, so that other bytes are not a sign of a forgery,
// but then it has to be authentic.
func (m *Machine) repeatedFragment(k *IKE, msg *wire.Message, data []byte) bool {
	skf, ok := msg.SKF()
	if !ok || skf.FragmentNumber != 1 || k.Answer == nil || !k.keyed() {
		return false
	}
	_, err := wire.OpenFragment(data, msg, k.opener())
	return err == nil
}

// maxMessage is how many octets an IKE message to the peer may have from its
// header on, by the configured size of the IP packets that carry fragments.
func (m *Machine) maxMessage(k *IKE) int {
	size := m.env.Settings.FragmentSize
	if m.s.Path != nil && m.s.Path.MTU != 0 {
		size = min(size, int(m.s.Path.MTU))
	}
	return size - m.headers(k)
}

// headers are the octets of an IP packet before the IKE header.
func (m *Machine) headers(k *IKE) int {
	n := ipv6UDPHeaders
	if k.Remote.Addr().Is4() {
		n = ipv4UDPHeaders
	}
	if k.Local.Port() == m.env.Settings.NATTPort {
		n += nonESPMarkerLen
	}
	return n
}

// fragments reports whether we send fragments to the peer.
func (m *Machine) fragments(k *IKE) bool {
	return m.conn != nil && m.conn.Fragmentation == FragmentYes && k.Peer.has(CanFragment)
}

// seal makes the datagrams of a protected message: one, or its fragments one
// after the other.
func (m *Machine) seal(k *IKE, h wire.Header, payloads []wire.Payload) ([]byte, error) {
	if m.fragments(k) {
		if limit := m.maxMessage(k); wire.EncryptedLen(payloads, k.sealer()) > limit {
			fragments, err := wire.AppendFragments(h, payloads, k.sealer(), limit)
			return slices.Concat(fragments...), err
		}
	}
	return k.sealWhole(h, payloads)
}

// sealWhole makes one datagram, however long.
func (k *IKE) sealWhole(h wire.Header, payloads []wire.Payload) ([]byte, error) {
	return wire.AppendEncrypted(nil, h, payloads, k.sealer())
}

// send transmits a message of ours: each of its datagrams.
func (m *Machine) send(local, remote netip.AddrPort, data []byte) {
	for d := range datagrams(data) {
		m.act(Send{Local: local, Remote: remote, Data: d})
	}
}

// datagrams are the IKE messages that stand one after the other in data, each
// as long as its header says. What a header does not describe is one.
func datagrams(data []byte) iter.Seq[[]byte] {
	return func(yield func([]byte) bool) {
		for len(data) > 0 {
			n := uint64(len(data))
			if len(data) >= wire.HeaderLen {
				if l := uint64(binary.BigEndian.Uint32(data[24:])); l >= wire.HeaderLen && l < n {
					n = l
				}
			}
			if !yield(data[:n:n]) {
				return
			}
			data = data[n:]
		}
	}
}

// firstDatagram is the message, or its fragment 1.
func firstDatagram(data []byte) []byte {
	for d := range datagrams(data) {
		return d
	}
	return nil
}
