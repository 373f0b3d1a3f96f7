package suite

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"math"

	"golang.org/x/crypto/chacha20poly1305"

	"espalier/ike/wire"
	"espalier/internal/secret"
)

// Sealer is a wire.Sealer that counts its messages, so that no IV is used twice under a key, not even by a sealer that
// was made again after a restart. It is for one goroutine at a time.
type Sealer interface {
	wire.Sealer
	// Counter is the number of the next message: to be persisted before a sealed message is sent, and given to
	// [NewSealer].
	Counter() uint64
}

// NewSealer protects an IKE SA's messages of one direction. encKey and integKey are SK_e and SK_a of that direction, as
// [DeriveIKE] gave them; counter is 0 for fresh keys and Counter of the last sealer otherwise. AES-GCM, AES-CTR and
// ChaCha20-Poly1305 use the counter as IV (RFC 5282 3.1); AES-CBC encrypts it under a key of its own, derived from both,
// into an unpredictable IV (NIST SP 800-38A, appendix C). So a sealer is a function of its arguments, and needs no
// randomness. It fails for algorithms that are not supported and for keys of a wrong length.
func NewSealer(c Choice, encKey, integKey secret.Bytes, counter uint64) (Sealer, error) {
	k, err := newCipher(c, encKey, integKey)
	if err != nil {
		return nil, err
	}
	switch s := k.(type) {
	case *aeadCipher:
		s.counter = counter
		return s, nil
	case *classicCipher:
		s.counter = counter
		if s.cbc {
			s.ivBlock, err = ivCipher(encKey, integKey)
		}
		return s, err
	}
	return nil, fmt.Errorf("%w: encryption %s", ErrUnsupported, c.name(wire.TransformENCR))
}

// NewOpener opens an IKE SA's messages of one direction. Keys and errors as for [NewSealer]; what does not
// authenticate is wire.ErrIntegrity. It is for one goroutine at a time.
func NewOpener(c Choice, encKey, integKey secret.Bytes) (wire.Opener, error) {
	return newCipher(c, encKey, integKey)
}

// errExhausted can't come about within the message ids of an IKE SA (RFC 7296 2.2).
var errExhausted = errors.New("all IVs of this key are used: the IKE SA must be rekeyed")

// newCipher builds the cipher of a choice, for either direction of use.
func newCipher(c Choice, encKey, integKey secret.Bytes) (wire.Opener, error) {
	encr, integ, err := c.keyLengths()
	if err != nil {
		return nil, err
	}
	if len(encKey) != encr || len(integKey) != integ {
		return nil, fmt.Errorf("keys of %s: expected %d and %d octets, got %d and %d",
			c.Proposal, encr, integ, len(encKey), len(integKey))
	}
	facts := encryption(c.Encr())
	key, salt := encKey[:encr-facts.salt], encKey[encr-facts.salt:]
	if c.Encr() == wire.EncrChaCha20Poly1305 {
		a, err := chacha20poly1305.New(key)
		if err != nil {
			return nil, err
		}
		return newAEAD(a, facts.icv, salt), nil
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	switch c.Encr() {
	case wire.EncrAESGCM16, wire.EncrAESGCM12:
		a, err := cipher.NewGCMWithTagSize(block, facts.icv)
		if err != nil {
			return nil, err
		}
		return newAEAD(a, facts.icv, salt), nil
	case wire.EncrAESGCM8:
		a, err := newGCM8(block)
		if err != nil {
			return nil, err
		}
		return newAEAD(a, facts.icv, salt), nil
	case wire.EncrAESCBC, wire.EncrAESCTR:
		m, err := newIntegrity(c.Integ(), integKey)
		if err != nil {
			return nil, err
		}
		s := &classicCipher{block: block, mac: m, cbc: c.Encr() == wire.EncrAESCBC, ivLen: facts.iv, blockLen: facts.block,
			icvLen: integrity(c.Integ()).icv}
		copy(s.ctr[:4], salt)
		return s, nil
	}
	return nil, fmt.Errorf("%w: encryption %s", ErrUnsupported, c.name(wire.TransformENCR))
}

// aeadCipher is an AEAD with a nonce of 4 octets of salt and 8 of IV, without padding (RFC 5282, RFC 7634 3).
type aeadCipher struct {
	aead    cipher.AEAD
	icvLen  int
	nonce   [12]byte
	counter uint64
}

const aeadIVLen = 8

func newAEAD(a cipher.AEAD, icvLen int, salt []byte) *aeadCipher {
	s := &aeadCipher{aead: a, icvLen: icvLen}
	copy(s.nonce[:4], salt)
	return s
}

func (s *aeadCipher) IVLen() int      { return aeadIVLen }
func (s *aeadCipher) ICVLen() int     { return s.icvLen }
func (s *aeadCipher) BlockLen() int   { return 1 }
func (s *aeadCipher) Counter() uint64 { return s.counter }

func (s *aeadCipher) Seal(msg []byte, aadLen int) error {
	if err := checkLayout(msg, aadLen, aeadIVLen, s.icvLen); err != nil {
		return err
	}
	if s.counter == math.MaxUint64 {
		return errExhausted
	}
	binary.BigEndian.PutUint64(s.nonce[4:], s.counter)
	s.counter++
	body := msg[aadLen:]
	copy(body, s.nonce[4:])
	plain := body[aeadIVLen : len(body)-s.icvLen]
	s.aead.Seal(plain[:0:len(plain)+s.icvLen], s.nonce[:], plain, msg[:aadLen])
	return nil
}

func (s *aeadCipher) Open(msg []byte, aadLen int) ([]byte, error) {
	if checkLayout(msg, aadLen, aeadIVLen, s.icvLen) != nil {
		return nil, wire.ErrIntegrity
	}
	body := msg[aadLen:]
	copy(s.nonce[4:], body[:aeadIVLen])
	sealed := body[aeadIVLen:]
	plain, err := s.aead.Open(sealed[:0], s.nonce[:], sealed, msg[:aadLen])
	if err != nil {
		return nil, wire.ErrIntegrity
	}
	return plain, nil
}

// classicCipher encrypts with AES-CBC or AES-CTR and then authenticates all before the ICV (RFC 7296 3.14).
type classicCipher struct {
	block    cipher.Block
	mac      integrityMAC
	cbc      bool
	ivLen    int
	icvLen   int
	blockLen int
	ctr      [aes.BlockSize]byte // of AES-CTR: nonce, IV, block counter (RFC 3686 4)
	ivBlock  cipher.Block        // of AES-CBC: makes IVs out of counter; nil in an Opener
	counter  uint64
}

func (s *classicCipher) IVLen() int      { return s.ivLen }
func (s *classicCipher) ICVLen() int     { return s.icvLen }
func (s *classicCipher) BlockLen() int   { return s.blockLen }
func (s *classicCipher) Counter() uint64 { return s.counter }

func (s *classicCipher) Seal(msg []byte, aadLen int) error {
	if err := checkLayout(msg, aadLen, s.ivLen, s.icvLen); err != nil {
		return err
	}
	end := len(msg) - s.icvLen
	iv, plain := msg[aadLen:aadLen+s.ivLen], msg[aadLen+s.ivLen:end]
	if len(plain)%s.blockLen != 0 {
		return fmt.Errorf("plaintext: expected a multiple of %d octets, got %d", s.blockLen, len(plain))
	}
	if s.counter == math.MaxUint64 {
		return errExhausted
	}
	clear(iv)
	binary.BigEndian.PutUint64(iv[s.ivLen-8:], s.counter)
	s.counter++
	if s.cbc {
		s.ivBlock.Encrypt(iv, iv)
		cipher.NewCBCEncrypter(s.block, iv).CryptBlocks(plain, plain)
	} else {
		s.stream(iv, plain)
	}
	copy(msg[end:], s.mac.sum(msg[:end]))
	return nil
}

func (s *classicCipher) Open(msg []byte, aadLen int) ([]byte, error) {
	if checkLayout(msg, aadLen, s.ivLen, s.icvLen) != nil {
		return nil, wire.ErrIntegrity
	}
	end := len(msg) - s.icvLen
	if !equalMAC(s.mac.sum(msg[:end])[:s.icvLen], msg[end:]) {
		return nil, wire.ErrIntegrity
	}
	iv, plain := msg[aadLen:aadLen+s.ivLen], msg[aadLen+s.ivLen:end]
	if len(plain)%s.blockLen != 0 {
		return nil, fmt.Errorf("%w: ciphertext: expected a multiple of %d octets, got %d", wire.ErrIntegrity, s.blockLen, len(plain))
	}
	if s.cbc {
		cipher.NewCBCDecrypter(s.block, iv).CryptBlocks(plain, plain)
	} else {
		s.stream(iv, plain)
	}
	return plain, nil
}

// stream is AES-CTR in place; the block counter begins at 1 (RFC 3686 4).
func (s *classicCipher) stream(iv, b []byte) {
	copy(s.ctr[4:12], iv)
	binary.BigEndian.PutUint32(s.ctr[12:], 1)
	cipher.NewCTR(s.block, s.ctr[:]).XORKeyStream(b, b)
}

// ivCipher is the block cipher that makes AES-CBC's IVs, under a key that is used for nothing else.
func ivCipher(encKey, integKey secret.Bytes) (cipher.Block, error) {
	h := sha256.New()
	h.Write([]byte("espalier AES-CBC IV"))
	h.Write(encKey)
	h.Write(integKey)
	var sum [sha256.Size]byte
	return aes.NewCipher(h.Sum(sum[:0])[:16])
}

// checkLayout guards what wire promises of a message: room for IV and ICV behind the associated data.
func checkLayout(msg []byte, aadLen, iv, icv int) error {
	if aadLen < 0 || len(msg)-aadLen < iv+icv {
		return fmt.Errorf("sealed message: expected at least %d octets behind %d of associated data, got %d",
			iv+icv, aadLen, len(msg)-aadLen)
	}
	return nil
}
