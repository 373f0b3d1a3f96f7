package esp

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/binary"
	"fmt"
	"hash"
	"math"

	"espalier/dataplane"
)

// Sizes of what ESP adds (RFC 4303 2, RFC 4106, RFC 3602), in bytes.
const (
	headerLen  = 8 // SPI and sequence number
	trailerLen = 2 // pad length and next header
	gcmIVLen   = 8
	gcmSaltLen = 4
)

// Numbers of protocols in IP headers and in ESP's next header field.
const (
	protoIPv4 = 4
	protoUDP  = 17
	protoIPv6 = 41
	protoESP  = 50
)

// Sealer makes the packets of one outbound SA. It is for one goroutine at a time.
type Sealer struct {
	sa    dataplane.SA
	outer []byte // IP header and, encapsulated, UDP header of every packet, lengths and checksums still to come
	next  uint64 // sequence number of the next packet

	aead  cipher.AEAD // one of aead and block
	nonce [12]byte    // salt and IV

	block  cipher.Block
	mac    hash.Hash
	macLen int
}

// NewSealer takes an SA as the data plane does. Its mode is Tunnel, or Transport,
// which takes the inner packet's headers off; its algorithms "rfc4106(gcm(aes))" with 16 bytes of ICV, or "cbc(aes)" with
// "hmac(sha256)", "hmac(sha384)" or "hmac(sha512)", whose ICVBits are set. The
// first sequence number is the one after sa.Seq.Out.
func NewSealer(sa dataplane.SA) (*Sealer, error) {
	if sa.Proto != dataplane.ESP || sa.Mode != dataplane.Tunnel && sa.Mode != dataplane.Transport {
		return nil, fmt.Errorf("%s: expected ESP in tunnel or transport mode, got %s in %s", sa.SAKey, sa.Proto, sa.Mode)
	}
	if !sa.Src.IsValid() || sa.Src.Is4() != sa.Dst.Is4() {
		return nil, fmt.Errorf("%s: expected outer addresses of one family, got %s and %s", sa.SAKey, sa.Src, sa.Dst)
	}
	s := &Sealer{sa: sa, next: sa.Seq.Out + 1, outer: outerHeaders(&sa)}
	if sa.AEAD.Name != "" {
		return s, s.useGCM()
	}
	return s, s.useCBC()
}

func (s *Sealer) useGCM() error {
	a := &s.sa.AEAD
	if a.Name != "rfc4106(gcm(aes))" || a.ICVBits != 128 {
		return fmt.Errorf("%s: expected rfc4106(gcm(aes)) with 128 bits of ICV, got %s with %d", s.sa.SAKey, a.Name, a.ICVBits)
	}
	n := len(a.Key) - gcmSaltLen
	if n < 0 {
		return fmt.Errorf("%s: expected a key with %d bytes of salt, got %d bytes", s.sa.SAKey, gcmSaltLen, len(a.Key))
	}
	block, err := aes.NewCipher(a.Key[:n])
	if err != nil {
		return fmt.Errorf("%s: %w", s.sa.SAKey, err)
	}
	copy(s.nonce[:], a.Key[n:])
	s.aead, err = cipher.NewGCM(block)
	return err
}

func (s *Sealer) useCBC() (err error) {
	if s.sa.Crypt.Name != "cbc(aes)" {
		return fmt.Errorf("%s: expected cbc(aes), got %q", s.sa.SAKey, s.sa.Crypt.Name)
	}
	if s.block, err = aes.NewCipher(s.sa.Crypt.Key); err != nil {
		return fmt.Errorf("%s: %w", s.sa.SAKey, err)
	}
	var h func() hash.Hash
	switch s.sa.Auth.Name {
	case "hmac(sha256)":
		h = sha256.New
	case "hmac(sha384)":
		h = sha512.New384
	case "hmac(sha512)":
		h = sha512.New
	default:
		return fmt.Errorf("%s: expected hmac(sha256), hmac(sha384) or hmac(sha512), got %q", s.sa.SAKey, s.sa.Auth.Name)
	}
	s.mac, s.macLen = hmac.New(h, s.sa.Auth.Key), s.sa.Auth.ICVBits/8
	if s.macLen <= 0 || s.macLen > s.mac.Size() {
		return fmt.Errorf("%s: expected an ICV of 8 to %d bits, got %d", s.sa.SAKey, s.mac.Size()*8, s.sa.Auth.ICVBits)
	}
	return nil
}

// SA is what the packets are made for.
func (s *Sealer) SA() dataplane.SA { return s.sa }

// Append appends the outer IP packet around an inner one and takes the SA's next
// sequence number. It fails when those are used up, and for what is no IP packet.
func (s *Sealer) Append(dst, inner []byte) ([]byte, error) {
	if !s.sa.ESN && s.next > math.MaxUint32 || s.next == 0 {
		return nil, fmt.Errorf("%s: its sequence numbers are used up", s.sa.SAKey)
	}
	next := byte(protoIPv4)
	switch {
	case len(inner) >= ipv4Len && inner[0]>>4 == 4 && int(binary.BigEndian.Uint16(inner[2:])) == len(inner):
	case len(inner) >= ipv6Len && inner[0]>>4 == 6 && int(binary.BigEndian.Uint16(inner[4:])) == len(inner)-ipv6Len:
		next = protoIPv6
	default:
		return nil, fmt.Errorf("%s: expected an inner IPv4 or IPv6 packet, got %d bytes of something else", s.sa.SAKey, len(inner))
	}
	if s.sa.Mode == dataplane.Transport {
		next, inner = payload(inner)
	}
	start := len(dst)
	dst = append(dst, s.outer...)
	esp := len(dst)
	dst = binary.BigEndian.AppendUint32(dst, s.sa.SPI)
	dst = binary.BigEndian.AppendUint32(dst, uint32(s.next))
	if s.aead != nil {
		dst = s.sealGCM(dst, esp, inner, next)
	} else {
		dst = s.sealCBC(dst, esp, inner, next)
	}
	s.next++
	finishOuter(dst[start:], s.sa.Encap != nil)
	return dst, nil
}

// payload is what follows an IP header without options or extensions, and its protocol.
func payload(ip []byte) (proto byte, rest []byte) {
	if ip[0]>>4 == 6 {
		return ip[6], ip[ipv6Len:]
	}
	return ip[9], ip[ipv4Len:]
}

// sealGCM appends IV, ciphertext and ICV (RFC 4106); the IV is the sequence number.
func (s *Sealer) sealGCM(dst []byte, esp int, inner []byte, next byte) []byte {
	binary.BigEndian.PutUint64(s.nonce[gcmSaltLen:], s.next)
	aad := make([]byte, 0, 12)
	aad = append(aad, dst[esp:esp+4]...)
	if s.sa.ESN {
		aad = binary.BigEndian.AppendUint32(aad, uint32(s.next>>32))
	}
	aad = append(aad, dst[esp+4:esp+8]...)
	dst = append(dst, s.nonce[gcmSaltLen:]...)
	plain := len(dst)
	dst = appendPadded(dst, inner, 4, next)
	return s.aead.Seal(dst[:plain], s.nonce[:], dst[plain:], aad)
}

// sealCBC appends IV, ciphertext and ICV (RFC 3602, RFC 4868). The IV is the
// encrypted sequence number: good enough for packets that hide nothing.
func (s *Sealer) sealCBC(dst []byte, esp int, inner []byte, next byte) []byte {
	var iv [aes.BlockSize]byte
	binary.BigEndian.PutUint64(iv[:], s.next)
	s.block.Encrypt(iv[:], iv[:])
	dst = append(dst, iv[:]...)
	plain := len(dst)
	dst = appendPadded(dst, inner, aes.BlockSize, next)
	cipher.NewCBCEncrypter(s.block, iv[:]).CryptBlocks(dst[plain:], dst[plain:])
	s.mac.Reset()
	s.mac.Write(dst[esp:])
	if s.sa.ESN {
		s.mac.Write(binary.BigEndian.AppendUint32(nil, uint32(s.next>>32)))
	}
	var sum [sha512.Size]byte
	return append(dst, s.mac.Sum(sum[:0])[:s.macLen]...)
}

// appendPadded appends the inner packet and ESP's trailer, padded to whole blocks
// with 1, 2, 3 ... (RFC 4303 2.4).
func appendPadded(dst, inner []byte, block int, next byte) []byte {
	dst = append(dst, inner...)
	pad := (block - (len(inner)+trailerLen)%block) % block
	for i := range pad {
		dst = append(dst, byte(i+1))
	}
	return append(dst, byte(pad), next)
}
