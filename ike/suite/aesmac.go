package suite

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/subtle"
)

// aesMAC is AES-XCBC (RFC 3566 4) or AES-CMAC (RFC 4493 2), both with all 16 octets. They differ only in their subkeys.
type aesMAC struct {
	block cipher.Block
	full  [aes.BlockSize]byte // added to a last block that is whole
	part  [aes.BlockSize]byte // added to a last block that is padded
	x     [aes.BlockSize]byte // CBC state
	last  [aes.BlockSize]byte // the block that may be the last
	n     int                 // octets in last
}

// newXCBC takes a key of 16 octets.
func newXCBC(key []byte) (*aesMAC, error) {
	k, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	m := &aesMAC{}
	var k1 [aes.BlockSize]byte
	for i, to := range [][]byte{k1[:], m.full[:], m.part[:]} {
		for j := range to {
			to[j] = byte(i + 1)
		}
		k.Encrypt(to, to)
	}
	m.block, err = aes.NewCipher(k1[:])
	return m, err
}

// newCMAC takes a key of 16 octets.
func newCMAC(key []byte) (*aesMAC, error) {
	k, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	m := &aesMAC{block: k}
	k.Encrypt(m.full[:], m.full[:])
	m.full = double(m.full)
	m.part = double(m.full)
	return m, nil
}

// double multiplies by x in GF(2^128) (RFC 4493 2.3), without a branch on the key.
func double(b [aes.BlockSize]byte) [aes.BlockSize]byte {
	var out [aes.BlockSize]byte
	carry := byte(0)
	for i := len(b) - 1; i >= 0; i-- {
		out[i] = b[i]<<1 | carry
		carry = b[i] >> 7
	}
	out[len(out)-1] ^= 0x87 & -carry
	return out
}

// reset begins a message.
func (m *aesMAC) reset() { m.x, m.n = [aes.BlockSize]byte{}, 0 }

// write adds to the message.
func (m *aesMAC) write(b []byte) {
	for len(b) > 0 {
		if m.n == aes.BlockSize { // more follows, so it wasn't the last
			subtle.XORBytes(m.x[:], m.x[:], m.last[:])
			m.block.Encrypt(m.x[:], m.x[:])
			m.n = 0
		}
		c := copy(m.last[m.n:], b)
		m.n += c
		b = b[c:]
	}
}

// sum ends the message and appends its 16 octets of MAC to dst.
func (m *aesMAC) sum(dst []byte) []byte {
	sub := &m.full
	if m.n < aes.BlockSize {
		m.last[m.n] = 0x80
		clear(m.last[m.n+1:])
		sub = &m.part
	}
	subtle.XORBytes(m.x[:], m.x[:], m.last[:])
	subtle.XORBytes(m.x[:], m.x[:], sub[:])
	m.block.Encrypt(m.x[:], m.x[:])
	return append(dst, m.x[:]...)
}
