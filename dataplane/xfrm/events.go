package xfrm

import (
	"errors"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"espalier/dataplane"
)

// notices reads a multicast socket of the kernel's notifications. It owns the
// socket and one goroutine, and calls handle and lost from there.
type notices struct {
	file    *os.File
	closing atomic.Bool
	done    sync.WaitGroup
	handle  func(typ nl.XfrmMsgType, body []byte) // the body is gone when it returns
	lost    func()                                // the kernel could not keep all
	failed  func(error)                           // there will be no more
}

func openNotices(groups ...uint) (*notices, error) {
	f, err := openSocket(unix.NETLINK_XFRM, groups...)
	if err != nil {
		return nil, err
	}
	// With CAP_NET_ADMIN the system's limit does not bind; without it, what the
	// kernel grants has to do, and overruns are reported anyway.
	if setOption(f, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, eventBuffer) != nil {
		_ = setOption(f, unix.SOL_SOCKET, unix.SO_RCVBUF, eventBuffer)
	}
	return &notices{file: f}, nil
}

func (r *notices) start() {
	r.done.Add(1)
	go func() {
		defer r.done.Done()
		buf := make([]byte, recvSize)
		for {
			n, err := receive(r.file, buf)
			switch {
			case err == nil:
				r.datagram(buf[:n])
				clear(buf[:n]) // an SA has its keys in it
			case errors.Is(err, unix.ENOBUFS):
				r.lost()
			default:
				if !r.closing.Load() {
					r.failed(err)
				}
				return
			}
		}
	}()
}

func (r *notices) stop() {
	r.closing.Store(true)
	_ = r.file.Close()
	r.done.Wait()
}

func (r *notices) datagram(b []byte) {
	for len(b) >= unix.NLMSG_HDRLEN {
		size := int(native.Uint32(b))
		if size < unix.NLMSG_HDRLEN || size > len(b) {
			return
		}
		r.handle(nl.XfrmMsgType(native.Uint16(b[4:])), b[unix.NLMSG_HDRLEN:size])
		b = b[min(align(size), len(b)):]
	}
}

// openEvents opens the reader that turns the kernel's notifications into events.
func openEvents(x *XFRM) (*notices, error) {
	r, err := openNotices(groupAcquire, groupExpire, groupMapping)
	if err != nil {
		return nil, err
	}
	r.handle = x.event
	r.lost = func() { x.events.Push(dataplane.Overrun{}) }
	r.failed = func(err error) {
		x.log.Error().Err(err).Msg("the kernel's XFRM events ended")
		x.events.Push(dataplane.Overrun{})
	}
	return r, nil
}

func (x *XFRM) event(typ nl.XfrmMsgType, body []byte) {
	switch typ {
	case nl.XFRM_MSG_ACQUIRE:
		if e, ok := decodeAcquire(body); ok && x.policies.Owner(&e.Policy) != 0 {
			x.events.Push(e)
		}
	case nl.XFRM_MSG_EXPIRE:
		if e, ok := decodeExpire(body); ok && x.expired(&e) {
			x.events.Push(e)
		}
	case nl.XFRM_MSG_MAPPING:
		if e, ok := decodeMapping(body); ok && x.isOwn(&e.Key) {
			x.events.Push(e)
		}
	}
}

func (x *XFRM) isOwn(k *dataplane.SAKey) bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	rec, ours := x.own[*k]
	return ours && !rec.reserved
}

// expired notes that an SA of ours has gone, and says whether to report it. A
// reservation that has expired is forgotten without a word: the SA that takes
// its place is installed all the same.
func (x *XFRM) expired(e *dataplane.Expire) bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.closed {
		return false
	}
	rec, ours := x.own[e.Key]
	if !ours || !e.Hard {
		return ours && !rec.reserved
	}
	if raw, err := x.getSA(&e.Key); err == nil {
		raw.wipe()
		return false // old news: another SA has its place already
	}
	delete(x.own, e.Key)
	if err := x.journal.deleteSA(&e.Key); err != nil {
		x.log.Error().Err(err).Msg("expired SA stays in the journal")
	}
	return !rec.reserved
}

// decodeAcquire reads xfrm_user_acquire.
func decodeAcquire(b []byte) (e dataplane.Acquire, ok bool) {
	if len(b) < sizeAcquire {
		return e, false
	}
	attrs := b[sizeAcquire:]
	p, _, ok := decodePolicy(append(append([]byte(nil), b[96:96+sizePolicyInfo]...), attrs...))
	if !ok {
		return e, false
	}
	e.Policy = p.PolicyKey
	e.Packet = getSelector(b[40:])
	if !e.Packet.Src.IsValid() {
		return e, false
	}
	fam := native.Uint16(b[40+40:]) // the inner one, unless a template says better
	if len(p.Templates) > 0 {
		e.ReqID = p.Templates[0].ReqID
		if t := find(attrs, nl.XFRMA_TMPL, sizeTemplate); t != nil {
			fam = native.Uint16(t[24:])
		}
	}
	e.Dst, e.Src = getAddr(b, fam), getAddr(b[24:], fam)
	if v := find(attrs, nl.XFRMA_SA_PCPU, 4); v != nil {
		cpu := native.Uint32(v)
		e.CPU = &cpu
	}
	return e, true
}

// decodeExpire reads xfrm_user_expire.
func decodeExpire(b []byte) (e dataplane.Expire, ok bool) {
	if len(b) < sizeExpire {
		return e, false
	}
	// Its attributes come after a longer structure than an SA's.
	raw := rawSA{b: append(append([]byte(nil), b[:sizeSAInfo]...), b[sizeExpire:]...)}
	return dataplane.Expire{Key: raw.key(), ReqID: native.Uint32(b[saReqID:]), Hard: b[sizeSAInfo] != 0}, true
}

// decodeMapping reads xfrm_user_mapping.
func decodeMapping(b []byte) (e dataplane.Mapping, ok bool) {
	if len(b) < sizeMapping {
		return e, false
	}
	fam := native.Uint16(b[20:])
	e.Key = dataplane.SAKey{
		Dst: getAddr(b, fam), Proto: dataplane.Proto(b[22]), SPI: network.Uint32(b[16:]),
		Mark: getMark(b[sizeMapping:]),
	}
	e.ReqID = native.Uint32(b[24:])
	e.OldAddr = netip.AddrPortFrom(getAddr(b[28:], fam), network.Uint16(b[60:]))
	e.NewAddr = netip.AddrPortFrom(getAddr(b[44:], fam), network.Uint16(b[62:]))
	return e, true
}
