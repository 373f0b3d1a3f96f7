package xfrm

import (
	"errors"
	"sync"

	"github.com/vishvananda/netlink/nl"

	"espalier/dataplane"
)

var _ dataplane.SAWatcher = (*XFRM)(nil)

// watchRoom is how many changes wait for the reader of a watch; while it is
// full, the kernel's own buffer fills.
const watchRoom = 1024

// WatchSAs implements dataplane.SAWatcher.
func (x *XFRM) WatchSAs() (<-chan dataplane.SAChange, func(), error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.closed {
		return nil, nil, dataplane.ErrClosed
	}
	var r *notices
	err := inNamespace(x.ns, func() (err error) {
		r, err = openNotices(groupSA, groupExpire, groupMigrate)
		return err
	})
	if err != nil {
		return nil, nil, explainOpen(err)
	}
	ch, quit := make(chan dataplane.SAChange, watchRoom), make(chan struct{})
	put := func(c dataplane.SAChange) {
		select {
		case ch <- c:
		case <-quit:
		}
	}
	r.handle = func(typ nl.XfrmMsgType, body []byte) {
		if c, ok := decodeChange(typ, body); ok {
			put(c)
		}
	}
	r.lost = func() { put(dataplane.SAChange{Lost: true}) }
	r.failed = func(err error) {
		x.log.Error().Err(err).Msg("the kernel's notifications of SAs ended")
		put(dataplane.SAChange{Lost: true})
	}
	var once sync.Once
	end := func() {
		once.Do(func() {
			close(quit)
			r.stop()
			close(ch)
		})
	}
	if x.watches == nil {
		x.watches = map[*notices]func(){}
	}
	x.watches[r] = end
	r.start()
	return ch, func() {
		x.mu.Lock()
		delete(x.watches, r)
		x.mu.Unlock()
		end()
	}, nil
}

// HasSA implements dataplane.SAWatcher.
func (x *XFRM) HasSA(k dataplane.SAKey) (bool, error) {
	if x.isClosed() {
		return false, dataplane.ErrClosed
	}
	raw, err := x.getSA(&k)
	raw.wipe()
	if errors.Is(err, dataplane.ErrNotFound) {
		return false, nil
	}
	return err == nil, err
}

// decodeChange reads a notification about SAs. SPI 0, under which the kernel
// waits for the answer to an acquire, is passed over.
func decodeChange(typ nl.XfrmMsgType, b []byte) (c dataplane.SAChange, ok bool) {
	switch typ {
	case nl.XFRM_MSG_NEWSA, nl.XFRM_MSG_UPDSA:
		if len(b) < sizeSAInfo {
			return c, false
		}
		c.SA = (&rawSA{b: b}).installed()
	case nl.XFRM_MSG_DELSA:
		if len(b) < sizeSAID {
			return c, false
		}
		c.SA.SAKey, c.Gone = getSAID(b), true
	case nl.XFRM_MSG_EXPIRE:
		e, ok := decodeExpire(b)
		if !ok || !e.Hard {
			return c, false
		}
		c.SA.SAKey, c.Gone = e.Key, true
	case nl.XFRM_MSG_FLUSHSA, nl.XFRM_MSG_MIGRATE, msgMigrateState:
		return dataplane.SAChange{Lost: true}, true
	default:
		return c, false
	}
	return c, c.SA.SPI != 0
}

// getSAID reads xfrm_usersa_id and the mark behind it.
func getSAID(b []byte) dataplane.SAKey {
	return dataplane.SAKey{
		Dst: getAddr(b, native.Uint16(b[20:])), SPI: network.Uint32(b[16:]), Proto: dataplane.Proto(b[22]),
		Mark: getMark(b[sizeSAID:]),
	}
}
