package xfrm

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"espalier/dataplane"
)

// seqMargin is how far the outbound sequence number jumps when an SA is taken
// out and installed again: far more packets than the kernel sends between the
// reading and the removal, so that no number is used twice with one key.
const seqMargin = 1 << 20

// change is what differs in an SA that is installed again; zero fields stay.
type change struct {
	src, dst netip.Addr
	limits   *dataplane.Limits
	encap    *encapChange
	flags    *flagChange
}

type encapChange struct{ to *dataplane.Encap }

type flagChange struct {
	flags byte
	extra uint32
}

// again builds a request that installs or updates a dumped SA with a change; what
// the change says nothing of stays, keepalives among it.
func (x *XFRM) again(r *rawSA, typ nl.XfrmMsgType, c change, rec *ownSA) *message {
	m := newMessage(uint16(typ), unix.NLM_F_CREATE|unix.NLM_F_EXCL, sizeSAInfo)
	b := m.fixed()
	copy(b, r.b[:sizeSAInfo])
	if c.dst.IsValid() {
		clear(b[saDst : saDst+16])
		putAddr(b[saDst:], c.dst)
		native.PutUint16(b[saFamily:], family(c.dst))
	}
	if c.src.IsValid() {
		clear(b[saSrc : saSrc+16])
		putAddr(b[saSrc:], c.src)
	}
	if c.limits != nil {
		with := dataplane.SA{ESN: r.esn(), Limits: *c.limits}
		if seq, n := r.replay().Out, r.packets(); rec.dir == dataplane.Out && seq > n {
			with.Seq.Out = seq - n // where it started
		}
		l := dataplane.EffectiveLimits(&with)
		putLimits(b[saLimits:], &l)
	}
	trunc := find(r.attrs(), nl.XFRMA_ALG_AUTH_TRUNC, 0) != nil
	for t, v := range attributes(r.attrs()) {
		switch {
		case t == nl.XFRMA_LASTUSED,
			t == nl.XFRMA_ALG_AUTH && trunc, // the same again, without the length
			(t == nl.XFRMA_ENCAP || t == nl.XFRMA_NAT_KEEPALIVE_INTERVAL || t == nl.XFRMA_MTIMER_THRESH) && c.encap != nil,
			t == nl.XFRMA_SA_EXTRA_FLAGS && c.flags != nil:
		default:
			m.attrBytes(t, v)
		}
	}
	if c.encap != nil && c.encap.to != nil {
		x.putEncap(m, c.encap.to, rec.dir)
	}
	if c.flags != nil {
		b = m.fixed()
		b[saFl] = c.flags.flags
		if c.flags.extra != 0 {
			m.attrUint32(nl.XFRMA_SA_EXTRA_FLAGS, c.flags.extra)
		}
	}
	if typ == nl.XFRM_MSG_NEWSA { // counters and age go on
		copy(m.attr(nl.XFRMA_LTIME_VAL, sizeLifetime), r.b[saCurrent:saCurrent+sizeLifetime])
	}
	return m
}

// skipAhead moves the outbound sequence number of a request by the margin, and
// the packet limit down by as much. Errors: the numbers are used up.
func (m *message) skipAhead(esn bool) error {
	b := m.fixed()
	attrs := b[sizeSAInfo:]
	if v := find(attrs, nl.XFRMA_REPLAY_ESN_VAL, sizeReplayESN); v != nil {
		lo, hi := native.Uint32(v[4:]), native.Uint32(v[12:])
		next := (uint64(hi)<<32 | uint64(lo)) + seqMargin // only ESN has this form outbound
		native.PutUint32(v[4:], uint32(next))
		native.PutUint32(v[12:], uint32(next>>32))
	} else if v := find(attrs, nl.XFRMA_REPLAY_VAL, sizeReplay); v != nil {
		next := uint64(native.Uint32(v)) + seqMargin
		if next >= 1<<32 {
			return errSequence
		}
		native.PutUint32(v, uint32(next))
	} else {
		native.PutUint32(m.attr(nl.XFRMA_REPLAY_VAL, sizeReplay), seqMargin)
		b = m.fixed()
	}
	if !esn {
		for _, at := range []int{saLimits + 16, saLimits + 24} { // soft, hard packets
			if n := native.Uint64(b[at:]); n != infinity {
				native.PutUint64(b[at:], max(1, n-min(n, seqMargin)))
			}
		}
	}
	return nil
}

var errSequence = errors.New("the SA's sequence numbers are used up: expected a rekey before it is moved")

// reinstall takes a dumped SA out, if it is still there, and installs it with a
// change under the same or another key. When the kernel refuses, the old one is
// put back.
func (x *XFRM) reinstall(raw *rawSA, key *dataplane.SAKey, rec *ownSA, c change) error {
	to, changed := *key, *rec
	if c.dst.IsValid() {
		to.Dst = c.dst
	}
	if c.src.IsValid() {
		changed.src = packAddr(c.src)
	}
	changed.added = raw.added().Unix()
	m := x.again(raw, nl.XFRM_MSG_NEWSA, c, rec)
	defer func() { m.wipe() }()
	if rec.dir == dataplane.Out {
		if err := m.skipAhead(raw.esn()); err != nil {
			return err
		}
	}
	if err := x.journal.addSA(&to, &changed); err != nil {
		return err
	}
	err := x.conn.request(encodeSAID(nl.XFRM_MSG_DELSA, key), nil)
	if err != nil && !isErrno(err, unix.ESRCH) {
		return err
	}
	if err := x.conn.request(m, nil); err != nil {
		return errors.Join(err, x.putBack(raw, key, rec, &to))
	}
	if to != *key {
		delete(x.own, *key)
		if err := x.journal.deleteSA(key); err != nil {
			return err
		}
	}
	x.own[to] = changed
	return nil
}

// putBack installs a dumped SA where it was, after its successor was refused.
func (x *XFRM) putBack(raw *rawSA, key *dataplane.SAKey, rec *ownSA, refused *dataplane.SAKey) error {
	m := x.again(raw, nl.XFRM_MSG_NEWSA, change{}, rec)
	defer func() { m.wipe() }()
	if rec.dir == dataplane.Out {
		if err := m.skipAhead(raw.esn()); err != nil {
			return err
		}
	}
	if err := x.conn.request(m, nil); err != nil {
		delete(x.own, *key)
		return errors.Join(err, x.journal.deleteSA(key), x.journal.deleteSA(refused))
	}
	if *refused != *key {
		return x.journal.deleteSA(refused)
	}
	return nil
}

// installed finds an SA of ours that is more than a reservation.
func (x *XFRM) installed(k dataplane.SAKey) (dataplane.SAKey, ownSA, *rawSA, error) {
	key := canonical(k)
	rec, ours := x.own[key]
	if !ours || rec.reserved {
		return key, rec, nil, dataplane.ErrNotFound
	}
	raw, err := x.getSA(&key)
	return key, rec, raw, err
}

// updateSA changes limits and ports in place; the kernel keeps flags, the presence
// of encapsulation and its keepalives for ever, so for those the SA is installed again.
func (x *XFRM) updateSA(sa *dataplane.SA) (undo, error) {
	if err := dataplane.CheckLimits(&sa.Limits); err != nil {
		return nil, err
	}
	key, rec, raw, err := x.installed(sa.SAKey)
	if err != nil {
		return nil, err
	}
	if err := dataplane.CheckEncap(sa.Encap, rec.dir); err != nil {
		raw.wipe()
		return nil, err
	}
	with := dataplane.SA{Flags: sa.Flags, ESN: raw.esn(), Dir: rec.dir, Mode: rec.mode}
	var want flagChange
	want.flags, want.extra = flagBits(&with)
	want.flags = want.flags&^stateAFUnspec | raw.b[saFl]&stateAFUnspec // part of how it was installed
	had := flagChange{raw.b[saFl], raw.uint32(nl.XFRMA_SA_EXTRA_FLAGS)}
	c := change{limits: &sa.Limits, encap: &encapChange{sa.Encap}, flags: &want}
	if want == had && (sa.Encap != nil) == (raw.encap() != nil) && x.keepalive(sa.Encap) == raw.uint32(nl.XFRMA_NAT_KEEPALIVE_INTERVAL) {
		return x.updateInPlace(raw, &key, &rec, c)
	}
	if err := x.reinstall(raw, &key, &rec, c); err != nil {
		raw.wipe()
		return nil, err
	}
	return func() error {
		defer raw.wipe()
		return x.restore(raw, &key, &key)
	}, nil
}

func (x *XFRM) updateInPlace(raw *rawSA, key *dataplane.SAKey, rec *ownSA, c change) (undo, error) {
	send := func(c change) error {
		m := x.again(raw, nl.XFRM_MSG_UPDSA, c, rec)
		defer m.wipe()
		return x.conn.request(m, nil)
	}
	if err := send(c); err != nil {
		raw.wipe()
		return nil, err
	}
	return func() error {
		defer raw.wipe()
		return send(change{})
	}, nil
}

// restore gives the SA that now stands under key the addresses, encapsulation,
// limits and flags of the dumped one, with its own counters and numbers.
func (x *XFRM) restore(old *rawSA, now, was *dataplane.SAKey) error {
	rec, ours := x.own[*now]
	if !ours {
		return dataplane.ErrNotFound
	}
	raw, err := x.getSA(now)
	if err != nil {
		return err
	}
	defer raw.wipe()
	copy(raw.b[saLimits:saCurrent], old.b[saLimits:saCurrent])
	return x.reinstall(raw, now, &rec, change{
		src: getAddr(old.b[saSrc:], native.Uint16(old.b[saFamily:])), dst: was.Dst,
		encap: &encapChange{old.encap()},
		flags: &flagChange{old.b[saFl], old.uint32(nl.XFRMA_SA_EXTRA_FLAGS)},
	})
}

// moveSA gives an SA new addresses and ports: by the kernel in one step where
// it can, else by taking it out and installing it with its numbers moved ahead.
func (x *XFRM) moveSA(o *dataplane.MoveSA) (undo, error) {
	key, rec, raw, err := x.installed(o.Key)
	if errors.Is(err, dataplane.ErrNotFound) && o.NewDst.IsValid() { // moved already?
		there := o.Key
		there.Dst = o.NewDst
		key, rec, raw, err = x.installed(there)
	}
	if err != nil {
		return nil, err
	}
	c := change{src: rec.src.addr(), dst: key.Dst, encap: &encapChange{o.Encap}}
	if o.NewSrc.IsValid() {
		c.src = o.NewSrc.Unmap()
	}
	if o.NewDst.IsValid() {
		c.dst = o.NewDst.Unmap()
	}
	to := key
	to.Dst = c.dst
	if err := dataplane.CheckEncap(o.Encap, rec.dir); err != nil {
		raw.wipe()
		return nil, err
	}
	if err := x.checkMove(&key, &to, &c); err != nil {
		raw.wipe()
		return nil, err
	}
	if x.features.Migrate {
		err = x.migrate(raw, &key, &to, &rec, c)
	} else {
		err = x.reinstall(raw, &key, &rec, c)
	}
	if err != nil {
		raw.wipe()
		return nil, err
	}
	return func() error {
		defer raw.wipe()
		return x.restore(raw, &to, &key)
	}, nil
}

func (x *XFRM) checkMove(from, to *dataplane.SAKey, c *change) error {
	if c.src.Is4() != c.dst.Is4() {
		return fmt.Errorf("outer addresses %s -> %s: expected one family", c.src, c.dst)
	}
	if *from == *to {
		return nil
	}
	other, err := x.getSA(to)
	if errors.Is(err, dataplane.ErrNotFound) {
		return nil
	}
	other.wipe()
	if err != nil {
		return err
	}
	return dataplane.ErrExists
}

// migrate moves an SA with XFRM_MSG_MIGRATE_STATE, which copies the sequence
// numbers while the old SA is locked and dying.
func (x *XFRM) migrate(raw *rawSA, key, to *dataplane.SAKey, rec *ownSA, c change) error {
	moved := *rec
	moved.src, moved.added = packAddr(c.src), raw.added().Unix()
	if err := x.journal.addSA(to, &moved); err != nil {
		return err
	}
	m := newMessage(msgMigrateState, 0, sizeMigrate)
	b := m.fixed()
	putSAID(b, key)
	putAddr(b[24:], c.dst)
	putAddr(b[40:], c.src)
	native.PutUint32(b[56:], key.Mark.Value)
	native.PutUint32(b[60:], key.Mark.Mask)
	copy(b[64:], raw.b[saSel:saSel+sizeSelector])
	native.PutUint32(b[120:], rec.reqID)
	native.PutUint16(b[128:], family(c.dst))
	if c.encap.to != nil {
		x.putEncap(m, c.encap.to, dataplane.Out) // the timer of mappings is not asked for, and stays
		if rec.dir == dataplane.Out && x.keepalive(c.encap.to) == 0 && x.features.NATKeepalive {
			m.attrUint32(nl.XFRMA_NAT_KEEPALIVE_INTERVAL, 0) // or the old ones stay
		}
	} else {
		m.attr(nl.XFRMA_ENCAP, sizeEncap) // type 0: none
	}
	if err := x.conn.request(m, nil); err != nil {
		if isErrno(err, unix.EEXIST) { // both are gone: no number may be used twice
			delete(x.own, *key)
			return errors.Join(&explained{words: "another SA took the place at this moment; both were lost", is: dataplane.ErrExists, cause: err},
				x.journal.deleteSA(key), x.journal.deleteSA(to))
		}
		if *to != *key {
			return errors.Join(err, x.journal.deleteSA(to))
		}
		return err
	}
	if *to != *key {
		delete(x.own, *key)
		if err := x.journal.deleteSA(key); err != nil {
			return err
		}
	}
	x.own[*to] = moved
	return nil
}

// AdvanceReplay implements dataplane.DataPlane. Inbound, without a window in
// the new state, everything up to the new number counts as seen.
func (x *XFRM) AdvanceReplay(k dataplane.SAKey, r dataplane.Replay) error {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.closed {
		return dataplane.ErrClosed
	}
	key, rec, raw, err := x.installed(k)
	if err != nil {
		return err
	}
	defer raw.wipe()
	if !raw.esn() && (r.Out >= 1<<32 || r.In >= 1<<32) {
		return fmt.Errorf("sequence numbers %d out, %d in: expected below 2^32 without ESN", r.Out, r.In)
	}
	now := raw.replay()
	if r.Out <= now.Out && r.In <= now.In {
		return nil
	}
	next := dataplane.Replay{Out: max(r.Out, now.Out), In: max(r.In, now.In), Window: r.Window}
	if r.In <= now.In {
		next.Window = now.Window
	}
	m := newMessage(uint16(nl.XFRM_MSG_NEWAE), unix.NLM_F_REPLACE, sizeAEvent)
	b := m.fixed()
	putSAID(b, &key)
	putAddr(b[24:], rec.src.addr())
	native.PutUint32(b[40:], aeReplay)
	native.PutUint32(b[44:], rec.reqID)
	putMark(m, key.Mark)
	if find(raw.attrs(), nl.XFRMA_REPLAY_ESN_VAL, sizeReplayESN) != nil {
		putReplayESN(m, &next, rec.dir, raw.window())
	} else {
		putReplay(m, &next, rec.dir, raw.window())
	}
	err = x.conn.request(m, nil)
	if isErrno(err, unix.ESRCH) {
		return dataplane.ErrNotFound
	}
	return err
}
