package esp

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/binary"
	"fmt"
	"hash"
	"net"
	"net/netip"
	"strings"
	"testing"

	"espalier/dataplane"
)

var link = Link{Src: net.HardwareAddr{2, 0, 0, 0, 0, 1}, Dst: net.HardwareAddr{2, 0, 0, 0, 0, 2}}

func key(n int) []byte {
	k := make([]byte, n)
	for i := range k {
		k[i] = byte(i*7 + n)
	}
	return k
}

// testSA is an SA between documentation addresses.
func testSA(spi uint32, v6 bool, change func(*dataplane.SA)) dataplane.SA {
	sa := dataplane.SA{
		SAKey: dataplane.SAKey{Dst: netip.MustParseAddr("192.0.2.1"), Proto: dataplane.ESP, SPI: spi},
		Src:   netip.MustParseAddr("192.0.2.2"), Dir: dataplane.Out, Mode: dataplane.Tunnel,
		AEAD: dataplane.Algorithm{Name: "rfc4106(gcm(aes))", Key: key(20), ICVBits: 128},
	}
	if v6 {
		sa.Dst, sa.Src = netip.MustParseAddr("2001:db8::1"), netip.MustParseAddr("2001:db8::2")
	}
	if change != nil {
		change(&sa)
	}
	return sa
}

func cbc(mac string, keyLen, bits int) func(*dataplane.SA) {
	return func(sa *dataplane.SA) {
		sa.AEAD = dataplane.Algorithm{}
		sa.Crypt = dataplane.Algorithm{Name: "cbc(aes)", Key: key(32)}
		sa.Auth = dataplane.Algorithm{Name: mac, Key: key(keyLen), ICVBits: bits}
	}
}

// open takes an outer packet apart as a receiver would and returns the inner one and the sequence number.
func open(p []byte, sa *dataplane.SA) (inner []byte, seq uint32, err error) {
	proto, n := p[9], ipv4Len
	if sa.Dst.Is6() {
		proto, n = p[6], ipv6Len
		if int(binary.BigEndian.Uint16(p[4:])) != len(p)-n {
			return nil, 0, fmt.Errorf("payload length %d of %d bytes", binary.BigEndian.Uint16(p[4:]), len(p))
		}
	} else if int(binary.BigEndian.Uint16(p[2:])) != len(p) || fold(sum(0, p[:n])) != 0xffff {
		return nil, 0, fmt.Errorf("IPv4 header % x of %d bytes", p[:n], len(p))
	}
	if sa.Encap != nil {
		u := p[n:]
		if proto != protoUDP || binary.BigEndian.Uint16(u) != sa.Encap.SrcPort || binary.BigEndian.Uint16(u[2:]) != sa.Encap.DstPort ||
			int(binary.BigEndian.Uint16(u[4:])) != len(u) {
			return nil, 0, fmt.Errorf("UDP header % x of %d bytes", u[:8], len(u))
		}
		if sa.Dst.Is6() && fold(sum(sum(uint32(len(u))+protoUDP, p[8:40]), u)) != 0xffff {
			return nil, 0, fmt.Errorf("UDP checksum %x", u[6:8])
		}
		proto, n = protoESP, n+udpLen
	}
	if proto != protoESP || binary.BigEndian.Uint32(p[n:]) != sa.SPI {
		return nil, 0, fmt.Errorf("protocol %d, SPI % x", proto, p[n:n+4])
	}
	e := p[n:]
	plain, err := decrypt(e, sa)
	if err != nil {
		return nil, 0, err
	}
	pad := int(plain[len(plain)-2])
	for i := range pad {
		if plain[len(plain)-2-pad+i] != byte(i+1) {
			return nil, 0, fmt.Errorf("padding % x", plain[len(plain)-2-pad:])
		}
	}
	inner = plain[:len(plain)-2-pad]
	if want := map[byte]byte{4: 4, 6: 41}[inner[0]>>4]; plain[len(plain)-1] != want {
		return nil, 0, fmt.Errorf("next header %d of version %d", plain[len(plain)-1], inner[0]>>4)
	}
	return inner, binary.BigEndian.Uint32(e[4:]), nil
}

func decrypt(e []byte, sa *dataplane.SA) ([]byte, error) {
	if sa.AEAD.Name != "" {
		block, err := aes.NewCipher(sa.AEAD.Key[:len(sa.AEAD.Key)-4])
		if err != nil {
			return nil, err
		}
		a, err := cipher.NewGCM(block)
		if err != nil {
			return nil, err
		}
		nonce := append(bytes.Clone(sa.AEAD.Key[len(sa.AEAD.Key)-4:]), e[8:16]...)
		aad := bytes.Clone(e[:8])
		if sa.ESN {
			aad = append(append(bytes.Clone(e[:4]), 0, 0, 0, 0), e[4:8]...)
		}
		return a.Open(nil, nonce, e[16:], aad)
	}
	h := map[string]func() hash.Hash{"hmac(sha256)": sha256.New, "hmac(sha384)": sha512.New384, "hmac(sha512)": sha512.New}[sa.Auth.Name]
	m := hmac.New(h, sa.Auth.Key)
	body := e[:len(e)-sa.Auth.ICVBits/8]
	m.Write(body)
	if sa.ESN {
		m.Write([]byte{0, 0, 0, 0})
	}
	if !hmac.Equal(m.Sum(nil)[:sa.Auth.ICVBits/8], e[len(body):]) {
		return nil, fmt.Errorf("ICV % x", e[len(body):])
	}
	block, err := aes.NewCipher(sa.Crypt.Key)
	if err != nil {
		return nil, err
	}
	plain := bytes.Clone(body[24:])
	cipher.NewCBCDecrypter(block, body[8:24]).CryptBlocks(plain, plain)
	return plain, nil
}

// kinds are the SAs that the sealer knows, by name.
var kinds = []struct {
	name   string
	change func(*dataplane.SA)
}{
	{"AES-128-GCM", nil},
	{"AES-256-GCM", func(sa *dataplane.SA) { sa.AEAD.Key = key(36) }},
	{"AES-GCM ESN", func(sa *dataplane.SA) { sa.ESN = true }},
	{"AES-CBC SHA2-256", cbc("hmac(sha256)", 32, 128)},
	{"AES-CBC SHA2-384", cbc("hmac(sha384)", 48, 192)},
	{"AES-CBC SHA2-512", cbc("hmac(sha512)", 64, 256)},
	{"AES-CBC SHA2-512 ESN", func(sa *dataplane.SA) { cbc("hmac(sha512)", 64, 256)(sa); sa.ESN = true }},
	{"AES-GCM in UDP", func(sa *dataplane.SA) { sa.Encap = &dataplane.Encap{SrcPort: 4501, DstPort: 4500} }},
}

func TestSealer(t *testing.T) {
	for _, k := range kinds {
		for _, outer6 := range []bool{false, true} {
			for _, inner6 := range []bool{false, true} {
				t.Run(fmt.Sprintf("%s outer6=%v inner6=%v", k.name, outer6, inner6), func(t *testing.T) {
					sa := testSA(0x1234abcd, outer6, k.change)
					s, err := NewSealer(sa)
					if err != nil {
						t.Fatal(err)
					}
					for size := 60; size < 100; size++ {
						inner := innerUDP(t, inner6, size)
						p, err := s.Append(nil, inner)
						if err != nil {
							t.Fatal(err)
						}
						got, seq, err := open(p, &sa)
						if err != nil || !bytes.Equal(got, inner) || int(seq) != size-59 {
							t.Fatalf("inner packet of %d bytes: expected it with number %d, got %d bytes, number %d, %v", size, size-59, len(got), seq, err)
						}
					}
				})
			}
		}
	}
}

// TestTransport: the inner header goes, its protocol stands in the trailer.
func TestTransport(t *testing.T) {
	sa := testSA(1000, false, func(sa *dataplane.SA) { sa.Mode = dataplane.Transport })
	s, err := NewSealer(sa)
	if err != nil {
		t.Fatal(err)
	}
	inner := innerUDP(t, false, 100)
	p, err := s.Append(nil, inner)
	if err != nil {
		t.Fatal(err)
	}
	plain, err := decrypt(p[ipv4Len:], &sa)
	if err != nil || !bytes.HasPrefix(plain, inner[ipv4Len:]) || plain[len(plain)-1] != protoUDP {
		t.Errorf("expected the datagram and protocol 17, got % x, %v", plain, err)
	}
}

func innerUDP(t *testing.T, v6 bool, size int) []byte {
	t.Helper()
	src, dst := "10.2.0.10:4000", "10.1.0.10:4000"
	if v6 {
		src, dst = "[2001:db8:2::10]:4000", "[2001:db8:1::10]:4000"
	}
	p, err := UDP(netip.MustParseAddrPort(src), netip.MustParseAddrPort(dst), size)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// TestUDP: the inner packets' checksums are right, over odd lengths too.
func TestUDP(t *testing.T) {
	for _, v6 := range []bool{false, true} {
		for _, size := range []int{60, 61, 1400, 1401} {
			p := innerUDP(t, v6, size)
			n, addrs := ipv4Len, []byte(nil)
			if v6 {
				n, addrs = ipv6Len, p[8:40]
			} else {
				addrs = p[12:20]
				if fold(sum(0, p[:n])) != 0xffff {
					t.Errorf("IPv4 header % x: checksum is wrong", p[:n])
				}
			}
			if fold(sum(sum(uint32(len(p)-n)+protoUDP, addrs), p[n:])) != 0xffff || len(p) != size {
				t.Errorf("IPv6 %v, %d bytes: expected a right checksum, got % x of %d bytes", v6, size, p[n:n+8], len(p))
			}
		}
	}
}

func TestSealerRefuses(t *testing.T) {
	for want, change := range map[string]func(*dataplane.SA){
		"transport mode":      func(sa *dataplane.SA) { sa.Mode = dataplane.BEET },
		"one family":          func(sa *dataplane.SA) { sa.Src = netip.MustParseAddr("2001:db8::2") },
		"bits of ICV":         func(sa *dataplane.SA) { sa.AEAD.ICVBits = 64 },
		"bytes of salt":       func(sa *dataplane.SA) { sa.AEAD.Key = key(3) },
		"invalid key size":    func(sa *dataplane.SA) { sa.AEAD.Key = key(10) },
		"cbc(aes)":            func(sa *dataplane.SA) { sa.AEAD.Name = "" },
		"hmac(sha512)":        cbc("hmac(md5)", 16, 96),
		"expected an ICV of ": cbc("hmac(sha256)", 32, 0),
	} {
		if _, err := NewSealer(testSA(1000, false, change)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("expected an error with %q, got %v", want, err)
		}
	}
	s, err := NewSealer(testSA(1000, false, func(sa *dataplane.SA) { sa.Seq.Out = 1<<32 - 2 }))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Append(nil, []byte("not a packet at all, but long")); err == nil {
		t.Error("something that is no IP packet was sealed")
	}
	inner := innerUDP(t, false, 100)
	if _, err := s.Append(nil, inner); err != nil {
		t.Errorf("the last sequence number: %v", err)
	}
	if _, err := s.Append(nil, inner); err == nil || !strings.Contains(err.Error(), "used up") {
		t.Errorf("expected no sequence number to be left, got %v", err)
	}
}
