package flow

import (
	"net/netip"
	"testing"

	"espalier/dataplane"
)

// overheadSA is an outbound SA for the table.
func overheadSA(dst string, mode dataplane.Mode, udp bool, aead, crypt string, icv int) *dataplane.SA {
	sa := &dataplane.SA{SAKey: dataplane.SAKey{Dst: netip.MustParseAddr(dst), Proto: dataplane.ESP, SPI: 0x1000}, Mode: mode, Dir: dataplane.Out}
	if udp {
		sa.Encap = &dataplane.Encap{SrcPort: 4500, DstPort: 4500}
	}
	if aead != "" {
		sa.AEAD = dataplane.Algorithm{Name: aead, ICVBits: icv}
	} else {
		sa.Crypt, sa.Auth = dataplane.Algorithm{Name: crypt}, dataplane.Algorithm{Name: "hmac", ICVBits: icv}
	}
	return sa
}

const (
	gcm    = "rfc4106(gcm(aes))"
	chacha = "rfc7539esp(chacha20,poly1305)"
	v4     = "192.0.2.1"
	v6     = "2001:db8::1"
)

// The arithmetic stands beside each row: MTU less outer IP, UDP, ESP header, IV
// and ICV, rounded down to the block, less the two bytes of the trailer.
func TestMSS(t *testing.T) {
	tun, tra, beet := dataplane.Tunnel, dataplane.Transport, dataplane.BEET
	for _, c := range []struct {
		name       string
		sa         *dataplane.SA
		mtu        int
		inner      int // of IPv4
		mss4, mss6 uint16
	}{
		// 1500-20-8-8-16 = 1448, a multiple of 4; -2 = 1446.
		{"GCM", overheadSA(v4, tun, false, gcm, "", 128), 1500, 1446, 1406, 1386},
		// 1448-8 = 1440; -2.
		{"GCM NAT-T", overheadSA(v4, tun, true, gcm, "", 128), 1500, 1438, 1398, 1378},
		// 1500-40-32 = 1428; -2.
		{"GCM IPv6 outer", overheadSA(v6, tun, false, gcm, "", 128), 1500, 1426, 1386, 1366},
		// 1428-8 = 1420; -2.
		{"GCM IPv6 outer NAT-T", overheadSA(v6, tun, true, gcm, "", 128), 1500, 1418, 1378, 1358},
		// ICV of 8: 1456; -2.
		{"GCM8", overheadSA(v4, tun, false, gcm, "", 64), 1500, 1454, 1414, 1394},
		// 1500-20-8-16-32 = 1424 = 89*16; -2.
		{"CBC SHA2-512", overheadSA(v4, tun, false, "", "cbc(aes)", 256), 1500, 1422, 1382, 1362},
		// 1424-8 = 1416 -> 88*16 = 1408; -2.
		{"CBC SHA2-512 NAT-T", overheadSA(v4, tun, true, "", "cbc(aes)", 256), 1500, 1406, 1366, 1346},
		// 1500-40-56 = 1404 -> 87*16 = 1392; -2.
		{"CBC SHA2-512 IPv6 outer", overheadSA(v6, tun, false, "", "cbc(aes)", 256), 1500, 1390, 1350, 1330},
		// 1500-20-8-16-16 = 1440 = 90*16; -2: the 1438 of many a vendor's table.
		{"CBC SHA2-256", overheadSA(v4, tun, false, "", "cbc(aes)", 128), 1500, 1438, 1398, 1378},
		// 1500-20-8-16-12 = 1444 -> 90*16 = 1440; -2.
		{"CBC SHA1", overheadSA(v4, tun, false, "", "cbc(aes)", 96), 1500, 1438, 1398, 1378},
		// 1500-20-8-8-12 = 1452 -> 181*8 = 1448; -2.
		{"3DES SHA1", overheadSA(v4, tun, false, "", "cbc(des3_ede)", 96), 1500, 1446, 1406, 1386},
		// as GCM: IV of 8, ICV of 16.
		{"ChaCha20", overheadSA(v4, tun, false, chacha, "", 128), 1500, 1446, 1406, 1386},
		{"ChaCha20 NAT-T", overheadSA(v4, tun, true, chacha, "", 128), 1500, 1438, 1398, 1378},
		// 1500-20-8-8-32 = 1432; -2.
		{"CTR SHA2-512", overheadSA(v4, tun, false, "", "rfc3686(ctr(aes))", 256), 1500, 1430, 1390, 1370},
		// 1500-20-8-0-16 = 1456; -2.
		{"NULL SHA2-256", overheadSA(v4, tun, false, "", "ecb(cipher_null)", 128), 1500, 1454, 1414, 1394},
		// 1280-20-32 = 1228; -2.
		{"GCM path of 1280", overheadSA(v4, tun, false, gcm, "", 128), 1280, 1226, 1186, 1166},
		// 1280-40-8-56 = 1176 -> 73*16 = 1168; -2.
		{"CBC SHA2-512 IPv6 NAT-T path of 1280", overheadSA(v6, tun, true, "", "cbc(aes)", 256), 1280, 1166, 1126, 1106},
		// A padding that a whole block decides: 1423 leaves 1347 -> 1344.
		{"CBC SHA2-512 odd path", overheadSA(v4, tun, false, "", "cbc(aes)", 256), 1423, 1342, 1302, 1282},
		// 1446 bytes of TCP; the IP header is the outer one.
		{"GCM transport", overheadSA(v4, tra, false, gcm, "", 128), 1500, 1466, 1426, 1426},
		{"GCM transport IPv6", overheadSA(v6, tra, false, gcm, "", 128), 1500, 1446, 1406, 1406},
		{"CBC SHA2-512 transport NAT-T", overheadSA(v4, tra, true, "", "cbc(aes)", 256), 1500, 1426, 1386, 1386},
		{"GCM BEET", overheadSA(v4, beet, false, gcm, "", 128), 1500, 1466, 1426, 1426},
		{"GCM BEET IPv6 outer", overheadSA(v6, beet, false, gcm, "", 128), 1500, 1446, 1406, 1406},
		// 9000-52 = 8948; -2.
		{"GCM jumbo", overheadSA(v4, tun, false, gcm, "", 128), 9000, 8946, 8906, 8886},
		{"GCM loopback", overheadSA(v4, tun, false, gcm, "", 128), 65536, 65482, 65442, 65422},
		{"nothing fits", overheadSA(v4, tun, false, gcm, "", 128), 68, 14, 0, 0},
		{"no MTU", overheadSA(v4, tun, false, gcm, "", 128), 0, 0, 0, 0},
	} {
		o, err := OverheadOf(c.sa)
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		mss4, mss6 := o.MSS(c.mtu)
		if got := o.Inner(c.mtu, false); got != c.inner || mss4 != c.mss4 || mss6 != c.mss6 {
			t.Errorf("%s: expected an inner packet of %d, MSS %d and %d, got %d, %d and %d", c.name, c.inner, c.mss4, c.mss6, got, mss4, mss6)
		}
	}
}

// What Inner says fits, and one byte more does not: against the size of the
// packet as RFC 4303 builds it, for every MTU and cipher.
func TestInnerIsExact(t *testing.T) {
	built := func(sa *dataplane.SA, o Overhead, payload int) int {
		n := payload + espTrailer
		for n%4 != 0 || n%o.Block != 0 {
			n++
		}
		n += espHeader + o.IV + o.ICV + map[bool]int{true: 40, false: 20}[!sa.Dst.Is4()]
		if sa.Encap != nil {
			n += 8
		}
		return n
	}
	for name := range ciphers {
		for _, dst := range []string{v4, v6} {
			for _, udp := range []bool{false, true} {
				sa := overheadSA(dst, dataplane.Tunnel, udp, name, "", 128)
				o, err := OverheadOf(sa)
				if err != nil {
					t.Fatal(err)
				}
				for mtu := 576; mtu <= 1600; mtu++ {
					n := o.Inner(mtu, false)
					if got := built(sa, o, n); got > mtu {
						t.Fatalf("%s to %s: an inner packet of %d makes %d bytes, expected at most %d", name, dst, n, got, mtu)
					}
					if got := built(sa, o, n+1); got <= mtu {
						t.Fatalf("%s to %s: %d bytes fit into %d as well", name, dst, n+1, mtu)
					}
				}
			}
		}
	}
}

func TestOverheadOddities(t *testing.T) {
	tfs := overheadSA(v4, dataplane.IPTFS, false, gcm, "", 128)
	if o, err := OverheadOf(tfs); err != nil || !o.Unbounded || o.Inner(1500, false) != 65535 {
		t.Errorf("IPTFS that spreads packets: expected no limit, got %+v, %v", o, err)
	}
	tfs.NoFragment = true
	if o, err := OverheadOf(tfs); err != nil || o.Inner(1500, false) != 1442 {
		t.Errorf("IPTFS without: expected 1442, got %d, %v", o.Inner(1500, false), err)
	}
	ah := overheadSA(v4, dataplane.Tunnel, false, "", "", 128)
	ah.Proto = dataplane.AH
	// 1500-20-32 (12 + 16, padded to 8) = 1448.
	if o, err := OverheadOf(ah); err != nil || o.Inner(1500, false) != 1448 {
		t.Errorf("AH: expected 1448, got %d, %v", o.Inner(1500, false), err)
	}
	if _, err := OverheadOf(overheadSA(v4, dataplane.Tunnel, false, "gcm(unheard)", "", 128)); err == nil {
		t.Error("an unknown cipher: expected an error")
	}
}
