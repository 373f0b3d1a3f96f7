package suite

import (
	"crypto/aes"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/sha512"
	"fmt"

	"espalier/ike/wire"
)

// PRF is a pseudo-random function (RFC 7296 2.13). It is a value without state: copies and concurrent use are free. The
// zero PRF is not usable; take one from [NewPRF] or [Choice.PRF].
type PRF struct {
	id wire.PRFID
}

// NewPRF gives the function with number id; ErrUnsupported if there is none.
func NewPRF(id wire.PRFID) (PRF, error) {
	p := PRF{id}
	if p.Size() == 0 {
		return PRF{}, fmt.Errorf("%w: PRF %s", ErrUnsupported, id)
	}
	return p, nil
}

// ID is the transform ID.
func (p PRF) ID() wire.PRFID { return p.id }

// KeyLen is the preferred key length in octets (RFC 7296 2.13): that of SK_d, SK_pi and SK_pr.
func (p PRF) KeyLen() int { return p.Size() }

// Size is the output length in octets, 0 for a PRF that is not supported.
func (p PRF) Size() int {
	switch p.id {
	case wire.PRFHMACSHA1:
		return sha1.Size
	case wire.PRFHMACSHA2_256:
		return sha256.Size
	case wire.PRFHMACSHA2_384:
		return sha512.Size384
	case wire.PRFHMACSHA2_512:
		return sha512.Size
	case wire.PRFAES128XCBC, wire.PRFAES128CMAC:
		return aes.BlockSize
	}
	return 0
}

// Sum appends prf(key, data[0] | data[1] | …) to dst. key may have any length (RFC 4434 2, RFC 4615 3). A PRF that is not
// supported is a programming error and panics.
func (p PRF) Sum(dst, key []byte, data ...[]byte) []byte {
	switch p.id {
	case wire.PRFHMACSHA1:
		return hmacSHA1(dst, key, data)
	case wire.PRFHMACSHA2_256:
		return hmacSHA256(dst, key, data)
	case wire.PRFHMACSHA2_384:
		return hmacSHA384(dst, key, data)
	case wire.PRFHMACSHA2_512:
		return hmacSHA512(dst, key, data)
	case wire.PRFAES128XCBC, wire.PRFAES128CMAC:
		m := p.aesMAC(key)
		m.reset()
		for _, d := range data {
			m.write(d)
		}
		return m.sum(dst)
	}
	panic("suite: PRF " + p.id.String() + " is not supported")
}

// Plus gives n octets of prf+(key, seed[0] | seed[1] | …) (RFC 7296 2.13). n is at most 255 times Size and there are at
// most 13 seeds; more is a programming error and panics.
func (p PRF) Plus(n int, key []byte, seed ...[]byte) []byte {
	size := p.Size()
	if n > 255*size || len(seed) > 13 {
		panic("suite: prf+ of more than 255 blocks or 13 seeds")
	}
	blocks := (n + size - 1) / size
	out := make([]byte, 0, blocks*size)
	var parts [15][]byte // T(i-1) | S | i
	var count [1]byte
	k := 1 + copy(parts[1:], seed)
	parts[k] = count[:]
	for i := range blocks {
		count[0] = byte(i + 1)
		parts[0] = out[max(0, len(out)-size):]
		out = p.Sum(out, key, parts[:k+1]...)
	}
	return out[:n:n]
}

// aesMAC is the MAC with the fixed-length key that RFC 4434 2 and RFC 4615 3 make of a key of any length.
func (p PRF) aesMAC(key []byte) *aesMAC {
	const size = aes.BlockSize
	var fixed [size]byte
	switch {
	case len(key) == size || len(key) < size && p.id == wire.PRFAES128XCBC:
		copy(fixed[:], key)
	default:
		m := newAESMAC(p.id, fixed[:])
		m.write(key)
		m.sum(fixed[:0])
	}
	return newAESMAC(p.id, fixed[:])
}

// newAESMAC takes a key of 16 octets, which no cipher refuses.
func newAESMAC(id wire.PRFID, key []byte) *aesMAC {
	build := newCMAC
	if id == wire.PRFAES128XCBC {
		build = newXCBC
	}
	m, err := build(key)
	if err != nil {
		panic(err)
	}
	return m
}

// What follows is HMAC (RFC 2104) in one go over short data, on the stack: two hashes without allocation, which is what
// key derivation and AUTH consist of. crypto/hmac allocates a few hundred octets for each key.

// room is what fits behind the key block without allocation: nonces, SPIs, a PRF block or an IKE_SA_INIT message.
const room = 704

// pads fills inner with the key exclusive-or ipad and outer with the key exclusive-or opad.
func pads(inner, outer, key []byte) {
	copy(inner, key)
	copy(outer, key)
	for i := range inner {
		inner[i] ^= 0x36
		outer[i] ^= 0x5c
	}
}

func hmacSHA1(dst, key []byte, data [][]byte) []byte {
	if len(key) > sha1.BlockSize {
		h := sha1.Sum(key)
		key = h[:]
	}
	var buf [sha1.BlockSize + room]byte
	var outer [sha1.BlockSize + sha1.Size]byte
	inner := buf[:sha1.BlockSize]
	pads(inner, outer[:sha1.BlockSize], key)
	for _, d := range data {
		inner = append(inner, d...)
	}
	h := sha1.Sum(inner)
	copy(outer[sha1.BlockSize:], h[:])
	h = sha1.Sum(outer[:])
	return append(dst, h[:]...)
}

func hmacSHA256(dst, key []byte, data [][]byte) []byte {
	if len(key) > sha256.BlockSize {
		h := sha256.Sum256(key)
		key = h[:]
	}
	var buf [sha256.BlockSize + room]byte
	var outer [sha256.BlockSize + sha256.Size]byte
	inner := buf[:sha256.BlockSize]
	pads(inner, outer[:sha256.BlockSize], key)
	for _, d := range data {
		inner = append(inner, d...)
	}
	h := sha256.Sum256(inner)
	copy(outer[sha256.BlockSize:], h[:])
	h = sha256.Sum256(outer[:])
	return append(dst, h[:]...)
}

func hmacSHA384(dst, key []byte, data [][]byte) []byte {
	if len(key) > sha512.BlockSize {
		h := sha512.Sum384(key)
		key = h[:]
	}
	var buf [sha512.BlockSize + room]byte
	var outer [sha512.BlockSize + sha512.Size384]byte
	inner := buf[:sha512.BlockSize]
	pads(inner, outer[:sha512.BlockSize], key)
	for _, d := range data {
		inner = append(inner, d...)
	}
	h := sha512.Sum384(inner)
	copy(outer[sha512.BlockSize:], h[:])
	h = sha512.Sum384(outer[:])
	return append(dst, h[:]...)
}

func hmacSHA512(dst, key []byte, data [][]byte) []byte {
	if len(key) > sha512.BlockSize {
		h := sha512.Sum512(key)
		key = h[:]
	}
	var buf [sha512.BlockSize + room]byte
	var outer [sha512.BlockSize + sha512.Size]byte
	inner := buf[:sha512.BlockSize]
	pads(inner, outer[:sha512.BlockSize], key)
	for _, d := range data {
		inner = append(inner, d...)
	}
	h := sha512.Sum512(inner)
	copy(outer[sha512.BlockSize:], h[:])
	h = sha512.Sum512(outer[:])
	return append(dst, h[:]...)
}
