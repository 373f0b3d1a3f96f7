package suite

import (
	"crypto/hmac"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/subtle"
	"fmt"
	"hash"

	"espalier/ike/wire"
)

// integrityMAC is a keyed integrity algorithm. sum is valid until the next call, and longer than the ICV or as long;
// the ICV is its start.
type integrityMAC interface {
	sum(msg []byte) []byte
}

// newIntegrity keys an algorithm; the key has its length.
func newIntegrity(id wire.IntegID, key []byte) (integrityMAC, error) {
	switch id {
	case wire.IntegHMACSHA1_96:
		return &hmacIntegrity{h: hmac.New(sha1.New, key)}, nil
	case wire.IntegHMACSHA2_256_128:
		return &hmacIntegrity{h: hmac.New(sha256.New, key)}, nil
	case wire.IntegHMACSHA2_384_192:
		return &hmacIntegrity{h: hmac.New(sha512.New384, key)}, nil
	case wire.IntegHMACSHA2_512_256:
		return &hmacIntegrity{h: hmac.New(sha512.New, key)}, nil
	case wire.IntegAESXCBC_96:
		m, err := newXCBC(key)
		return &aesIntegrity{m: m}, err
	case wire.IntegAESCMAC_96:
		m, err := newCMAC(key)
		return &aesIntegrity{m: m}, err
	}
	return nil, fmt.Errorf("%w: integrity %s", ErrUnsupported, id)
}

// hmacIntegrity keeps the keyed state between messages; crypto/hmac's Reset goes back to it.
type hmacIntegrity struct {
	h   hash.Hash
	out [sha512.Size]byte
}

func (m *hmacIntegrity) sum(msg []byte) []byte {
	m.h.Reset()
	m.h.Write(msg)
	return m.h.Sum(m.out[:0])
}

type aesIntegrity struct {
	m   *aesMAC
	out [16]byte
}

func (m *aesIntegrity) sum(msg []byte) []byte {
	m.m.reset()
	m.m.write(msg)
	return m.m.sum(m.out[:0])
}

// equalMAC compares in constant time.
func equalMAC(a, b []byte) bool { return subtle.ConstantTimeCompare(a, b) == 1 }
