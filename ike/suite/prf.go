package suite

import (
	"espalier/ike/wire"
)

// PRF is a pseudo-random function (RFC 7296 2.13). It is a value without state: copies and concurrent use are free. The
// zero PRF is not usable; take one from [NewPRF].
type PRF struct {
	id wire.PRFID
}

// NewPRF gives the function with number id; ErrUnsupported if there is none.
func NewPRF(id wire.PRFID) (PRF, error) { return PRF{id}, nil }

// ID is the transform ID.
func (p PRF) ID() wire.PRFID { return p.id }

// KeyLen is the preferred key length in octets (RFC 7296 2.13): that of SK_d, SK_pi and SK_pr.
func (p PRF) KeyLen() int { return 0 }

// Size is the output length in octets.
func (p PRF) Size() int { return 0 }

// Sum appends prf(key, data[0] | data[1] | …) to dst. key may have any length (RFC 4434 2, RFC 4615 3).
func (p PRF) Sum(dst, key []byte, data ...[]byte) []byte { return dst }

// Plus gives n octets of prf+(key, seed[0] | seed[1] | …) (RFC 7296 2.13). n is at most 255 times Size; more is a
// programming error and panics.
func (p PRF) Plus(n int, key []byte, seed ...[]byte) []byte { return nil }
