package suite

import (
	"crypto/aes"
	"crypto/cipher"
	"encoding/binary"
	"errors"
)

// gcm8 is AES-GCM with 8 octets of tag (RFC 4106 6), which the standard library refuses. It is made of the library's
// parts: sealing cuts the full tag; opening decrypts with CTR, seals the result again, and compares the tag. That costs
// a second pass, and doesn't matter for a few IKE messages.
type gcm8 struct {
	block cipher.Block
	full  cipher.AEAD
}

const gcm8Tag = 8

var errGCM8 = errors.New("AES-GCM with 8 octets of tag: message authentication failed")

func newGCM8(block cipher.Block) (gcm8, error) {
	full, err := cipher.NewGCM(block)
	return gcm8{block, full}, err
}

func (g gcm8) NonceSize() int { return g.full.NonceSize() }
func (g gcm8) Overhead() int  { return gcm8Tag }

// Seal appends ciphertext and tag to dst, which may be plaintext[:0].
func (g gcm8) Seal(dst, nonce, plaintext, aad []byte) []byte {
	sealed := g.full.Seal(nil, nonce, plaintext, aad)
	return append(dst, sealed[:len(plaintext)+gcm8Tag]...)
}

// Open appends the plaintext to dst, which may be sealed[:0]; nothing is written if the tag is wrong.
func (g gcm8) Open(dst, nonce, sealed, aad []byte) ([]byte, error) {
	if len(sealed) < gcm8Tag {
		return nil, errGCM8
	}
	n := len(sealed) - gcm8Tag
	// NIST SP 800-38D 7.2: with a nonce of 12 octets, block counter 1 masks the tag and the text begins at 2.
	var counter [aes.BlockSize]byte
	copy(counter[:], nonce)
	binary.BigEndian.PutUint32(counter[12:], 2)
	plain := make([]byte, n, n+g.full.Overhead())
	cipher.NewCTR(g.block, counter[:]).XORKeyStream(plain, sealed[:n])
	again := g.full.Seal(nil, nonce, plain, aad)
	if !equalMAC(again[n:n+gcm8Tag], sealed[n:]) {
		clear(plain)
		return nil, errGCM8
	}
	return append(dst, plain...), nil
}
