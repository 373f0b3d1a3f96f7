package sa_test

import (
	"fmt"
	"testing"
	"time"
	"unsafe"

	"espalier/ike/sa"
	"espalier/ike/sa/satest"
	"espalier/ike/wire"
)

// TestCiphersRest: an established session has ciphers during a step only, and
// no IV comes again when they are made anew.
func TestCiphersRest(t *testing.T) {
	for _, suite := range []string{"aes128gcm16-prfsha256-x25519", "aes128-sha256-x25519", "chacha20poly1305-prfsha256-x25519"} {
		w, moon, sun := established(t, 1, false, satest.IKE(suite))
		seen := map[string]string{}
		w.Mangle = func(p satest.Packet) []satest.Packet {
			h, err := wire.ParseHeader(p.Data)
			if err != nil {
				t.Fatal(err)
			}
			key := fmt.Sprintf("%x %v %x", uint64(h.SPIi), h.IsInitiator(), p.Data[32:40])
			if was, ok := seen[key]; ok && was != string(p.Data) {
				t.Errorf("%s: an IV comes twice, the second time in message %d", suite, h.MessageID)
			}
			seen[key] = string(p.Data)
			return []satest.Packet{p}
		}
		for i := range 6 {
			n := []*satest.Node{moon, sun}[i%2]
			n.Do(0, sa.Rekey{ChildID: n.Live()[0].Info().Children[0].UniqueID})
			w.Advance(20 * time.Second)
			if i == 3 {
				n.Do(0, sa.Rekey{})
				w.Advance(20 * time.Second)
			}
			for _, n := range []*satest.Node{moon, sun} {
				if n.Live()[0].HasCiphers() {
					t.Fatalf("%s: ciphers are kept between steps", suite)
				}
			}
		}
		if len(seen) < 20 {
			t.Errorf("%s: %d messages, expected more", suite, len(seen))
		}
		noErrors(t, moon, sun)
	}
}

// TestSize: what every session takes, whatever it does. The allocator has sizes
// of 1280, 1408 and 704 octets for them, 8 of which are its own; what a few
// sessions need now and then stands behind a pointer.
func TestSize(t *testing.T) {
	if n := unsafe.Sizeof(sa.Machine{}); n > 1400 {
		t.Errorf("a machine takes %d octets, expected at most 1400", n)
	}
	if n := unsafe.Sizeof(sa.Child{}); n > 696 {
		t.Errorf("a child takes %d octets, expected at most 696", n)
	}
}
