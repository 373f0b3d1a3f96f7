package xfrm

import (
	"crypto/rand"
	"encoding/binary"
	"errors"
	"time"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"espalier/dataplane"
)

// ReserveSPI implements dataplane.DataPlane. The kernel chooses at random and
// gives up by chance in a crowded range; then the unused numbers are looked up.
func (x *XFRM) ReserveSPI(r dataplane.SPIRequest) (uint32, error) {
	if err := dataplane.CheckRequest(&r); err != nil {
		return 0, err
	}
	r.Src, r.Dst = r.Src.Unmap(), r.Dst.Unmap()
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.closed {
		return 0, dataplane.ErrClosed
	}
	spi, err := x.allocSPI(&r)
	if errors.Is(err, dataplane.ErrNoSPI) && r.Min != r.Max {
		spi, err = x.searchSPI(&r)
	}
	if err != nil {
		return 0, err
	}
	key := dataplane.SAKey{Dst: r.Dst, Proto: r.Proto, SPI: spi, Mark: r.Mark}
	rec := ownSA{
		src: packAddr(r.Src), reqID: r.ReqID, ifID: r.IfID, dir: dataplane.In, mode: r.Mode,
		added: time.Now().Unix(), reserved: true,
	}
	// Only now is the SPI known. A crash before this line leaves a reservation
	// that the kernel ends itself.
	if err := x.journal.addSA(&key, &rec); err != nil {
		return 0, errors.Join(err, x.conn.request(encodeSAID(nl.XFRM_MSG_DELSA, &key), nil))
	}
	x.own[key] = rec
	return spi, nil
}

// allocSPI asks the kernel for an SPI of the range.
func (x *XFRM) allocSPI(r *dataplane.SPIRequest) (uint32, error) {
	m := newMessage(uint16(nl.XFRM_MSG_ALLOCSPI), 0, sizeSPIInfo)
	b := m.fixed()
	putAddr(b[saDst:], r.Dst)
	putAddr(b[saSrc:], r.Src)
	b[saProto] = byte(r.Proto)
	native.PutUint32(b[saReqID:], r.ReqID)
	native.PutUint16(b[saFamily:], family(r.Dst))
	b[saMode] = modeNumber(r.Mode)
	native.PutUint32(b[sizeSAInfo:], r.Min)
	native.PutUint32(b[sizeSAInfo+4:], r.Max)
	putMark(m, r.Mark)
	if r.IfID != 0 {
		m.attrUint32(nl.XFRMA_IF_ID, r.IfID)
	}
	if x.features.SADir {
		m.attr(nl.XFRMA_SA_DIR, 1)[0] = dirIn
	}
	if r.CPU != nil && x.features.PerCPU {
		m.attrUint32(nl.XFRMA_SA_PCPU, *r.CPU)
	}
	var spi uint32
	err := x.conn.request(m, func(typ uint16, body []byte) {
		if len(body) >= sizeSAInfo {
			spi = network.Uint32(body[saSPI:])
		}
	})
	if isErrno(err, unix.ENOENT) {
		return 0, dataplane.ErrNoSPI
	}
	if err == nil && spi == 0 {
		return 0, errors.New("the kernel reserved an SPI and did not say which")
	}
	return spi, err
}

// searchSPI looks for an unused SPI in a range where the kernel found none by
// chance, from a random place on.
func (x *XFRM) searchSPI(r *dataplane.SPIRequest) (uint32, error) {
	used := map[uint32]bool{}
	err := x.eachSA(func() { clear(used) }, func(raw *rawSA) {
		if k := raw.key(); k.Dst == r.Dst && k.Proto == r.Proto {
			used[k.SPI] = true
		}
	})
	if err != nil {
		return 0, err
	}
	var seed [8]byte
	_, _ = rand.Read(seed[:]) // never fails
	n := uint64(r.Max-r.Min) + 1
	at := binary.NativeEndian.Uint64(seed[:]) % n
	for i := range n {
		spi := r.Min + uint32((at+i)%n)
		if used[spi] {
			continue
		}
		one := *r
		one.Min, one.Max = spi, spi
		if got, err := x.allocSPI(&one); !errors.Is(err, dataplane.ErrNoSPI) {
			return got, err
		}
	}
	return 0, dataplane.ErrNoSPI
}

// reserveAgain puts a reservation back that an undone operation had taken.
func (x *XFRM) reserveAgain(k *dataplane.SAKey, rec *ownSA) error {
	r := dataplane.SPIRequest{
		Src: rec.src.addr(), Dst: k.Dst, Proto: k.Proto, Mode: rec.mode,
		ReqID: rec.reqID, IfID: rec.ifID, Mark: k.Mark, Min: k.SPI, Max: k.SPI,
	}
	again := *rec
	again.added = time.Now().Unix()
	if err := x.journal.addSA(k, &again); err != nil {
		return err
	}
	if _, err := x.allocSPI(&r); err != nil {
		return errors.Join(err, x.journal.deleteSA(k))
	}
	x.own[*k] = again
	return nil
}
