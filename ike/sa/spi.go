package sa

import (
	"crypto/hmac"
	"crypto/sha1" // NAT detection is SHA-1 by RFC 7296 2.23; nothing secret depends on it
	"crypto/sha256"
	"encoding/binary"
	"io"
	"net/netip"

	"espalier/ike/wire"
)

// Buckets is the fixed number of buckets that SPIs carry; shards and boxes are
// mapped to buckets, so their number may change while SPIs live.
const Buckets = 256

// NewSPI makes an IKE SPI: the bucket in its most significant byte, the node id
// in the next, 48 random bits below; never zero.
func NewSPI(bucket, node uint8, rnd io.Reader) wire.SPI {
	var b [8]byte
	for {
		// A reader that fails would end in a guessable SPI; the process's
		// source never fails, a simulator's neither.
		if _, err := io.ReadFull(rnd, b[2:]); err != nil {
			panic("sa: source of randomness failed: " + err.Error())
		}
		b[0], b[1] = bucket, node
		if spi := wire.SPI(binary.BigEndian.Uint64(b[:])); spi&(1<<48-1) != 0 {
			return spi
		}
	}
}

// BucketOf is the bucket of one of our own IKE SPIs.
func BucketOf(spi wire.SPI) uint8 { return uint8(spi >> 56) }

// nodeOf is the node id of one of our own IKE SPIs.
func nodeOf(spi wire.SPI) uint8 { return uint8(spi >> 48) }

// ChildSPIRange is the inclusive range of inbound ESP SPIs of a bucket: bits 31
// to 24 are the bucket, 23 to 20 the low bits of the node id, 20 are free.
// SPIs up to 255 are reserved (RFC 4303 2.1).
func ChildSPIRange(bucket, node uint8) (lo, hi uint32) {
	lo = uint32(bucket)<<24 | uint32(node&0xf)<<20
	return max(lo, 256), lo | 1<<20 - 1
}

// BucketOfChild is the bucket of one of our own inbound ESP SPIs.
func BucketOfChild(spi uint32) uint8 { return uint8(spi >> 24) }

// Cookie is the stateless cookie of RFC 7296 2.6: a version of the secret, then
// a MAC over what the initiator must repeat from the same address.
func Cookie(key []byte, version byte, ni []byte, remote netip.Addr, spii wire.SPI) []byte {
	h := hmac.New(sha256.New, key)
	h.Write([]byte{version})
	a := remote.As16()
	h.Write(a[:])
	h.Write(binary.BigEndian.AppendUint64(nil, uint64(spii)))
	h.Write(ni)
	return h.Sum([]byte{version})[:17]
}

// CookieOf is the data of the request's COOKIE notify; nil if there is none.
func CookieOf(request *wire.Message) []byte {
	if n, ok := wire.FindNotify(request.Payloads, wire.NotifyCookie); ok {
		return n.Data
	}
	return nil
}

// CookieReply is the IKE_SA_INIT response that asks for the cookie.
func CookieReply(request *wire.Message, cookie []byte) []byte {
	return initReply(request, 0, &wire.Notify{NotifyType: wire.NotifyCookie, Data: cookie})
}

// initReply is an IKE_SA_INIT response in clear.
func initReply(request *wire.Message, spir wire.SPI, payloads ...wire.Payload) []byte {
	return wire.AppendMessage(nil, wire.Header{
		SPIi: request.SPIi, SPIr: spir, Exchange: request.Exchange,
		Flags: wire.FlagResponse, MessageID: request.MessageID,
	}, payloads)
}

// natHash is the NAT detection hash of RFC 7296 2.23.
func natHash(spii, spir wire.SPI, ep netip.AddrPort) [sha1.Size]byte {
	var buf [8 + 8 + 16 + 2]byte
	b := binary.BigEndian.AppendUint64(buf[:0], uint64(spii))
	b = binary.BigEndian.AppendUint64(b, uint64(spir))
	b = append(b, ep.Addr().AsSlice()...)
	b = binary.BigEndian.AppendUint16(b, ep.Port())
	return sha1.Sum(b)
}
