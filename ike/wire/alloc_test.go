package wire

import (
	"runtime"
	"strings"
	"testing"
)

// allocFactor and allocBase bound what parsing may allocate: octets an octet of input, and octets at all. The densest
// input is a row of unknown traffic selectors, whose 4 octets each become an 80-octet TrafficSelector.
const (
	allocFactor = 24
	allocBase   = 1024
)

// allocated is what f allocates on the heap, in octets. The runtime may allocate beside it, so a result above limit is
// measured again, and the least counts.
func allocated(limit uint64, f func()) uint64 {
	least := ^uint64(0)
	var before, after runtime.MemStats
	for range 10 {
		runtime.ReadMemStats(&before)
		f()
		runtime.ReadMemStats(&after)
		if least = min(least, after.TotalAlloc-before.TotalAlloc); least <= limit {
			break
		}
	}
	return least
}

// checkAlloc wants parsing b, as a message and as the given chain, to stay within the bound.
func checkAlloc(t *testing.T, name string, first PayloadType, b []byte) {
	t.Helper()
	limit := uint64(allocFactor*len(b) + allocBase)
	if n := allocated(limit, func() { _, _ = ParsePayloads(first, b) }); n > limit {
		t.Errorf("%s: chain of %d octets: %d allocated, at most %d allowed", name, len(b), n, limit)
	}
	if n := allocated(limit, func() { _, _ = ParseMessage(b) }); n > limit {
		t.Errorf("%s: message of %d octets: %d allocated, at most %d allowed", name, len(b), n, limit)
	}
}

func TestAllocationBound(t *testing.T) {
	repeat := func(s string, n int) []byte { return unhex(t, strings.Repeat(s, n)) }
	prefix := func(p string, b []byte) []byte { return append(unhex(t, p), b...) }
	proposal := func(transforms int, b []byte) []byte { // one proposal that holds b
		n := len(b) + 8
		return append([]byte{0, 0, byte(n >> 8), byte(n), 1, 1, 0, byte(transforms)}, b...)
	}
	transforms := append(repeat(`03 00 00 08 01 00 00 0c`, 254), repeat(`00 00 00 08 01 00 00 0c`, 1)...)
	attributes := append(prefix(`03 00 00 48 01 00 00 0c`, repeat(`80 0e 01 00`, 16)), prefix(`00 00 00 48 01 00 00 0c`, repeat(`80 0e 01 00`, 16))...)
	for _, tt := range []struct {
		name  string
		first PayloadType
		b     []byte
	}{
		{"selectors", PayloadTSi, chain(typedBody{PayloadTSi, prefix(`ff 00 00 00`, repeat(`63 00 00 04`, 255))})},
		{"few octets, many selectors said", PayloadTSi, chain(typedBody{PayloadTSi, unhex(t, `ff 00 00 00 07 00 00 10`)})},
		{"notifies", PayloadNotify, repeat(`29 00 00 08 00 00 40 00`, 64)},
		{"vendor ids", PayloadVendorID, repeat(`2b 00 00 04`, 64)},
		{"far too many payloads", PayloadVendorID, repeat(`2b 00 00 04`, 10000)},
		{"proposals", PayloadSA, chain(typedBody{PayloadSA, append(repeat(`02 00 00 08 01 01 00 00`, 63), repeat(`00 00 00 08 01 01 00 00`, 1)...)})},
		{"far too many proposals", PayloadSA, chain(typedBody{PayloadSA, repeat(`02 00 00 08 01 01 00 00`, 5000)})},
		{"transforms", PayloadSA, chain(typedBody{PayloadSA, proposal(255, transforms)})},
		{"attributes", PayloadSA, chain(typedBody{PayloadSA, proposal(2, attributes)})},
		{"transforms said, none there", PayloadSA, chain(typedBody{PayloadSA, proposal(255, nil)})},
		{"configuration attributes", PayloadCP, chain(typedBody{PayloadCP, prefix(`01 00 00 00`, repeat(`00 01 00 00`, 256))})},
		{"far too many configuration attributes", PayloadCP, chain(typedBody{PayloadCP, prefix(`01 00 00 00`, repeat(`00 01 00 00`, 9000))})},
		{"64 KB of certificate", PayloadCert, chain(typedBody{PayloadCert, make([]byte, 65000)})},
		{"nothing", PayloadSA, nil},
	} {
		checkAlloc(t, tt.name, tt.first, tt.b)
		whole := Header{Next: tt.first, Exchange: ExchangeIKEAuth, Length: uint32(HeaderLen + len(tt.b))}.Append(nil)
		checkAlloc(t, tt.name, tt.first, append(whole, tt.b...))
	}
	for _, name := range messageSeeds(t) {
		_, b := seed(t, name)
		checkAlloc(t, name, PayloadSA, b)
	}
}

// TestParseAllocs counts allocations on the path of a set-up. A rise is a loss of speed, and wants a reason.
func TestParseAllocs(t *testing.T) {
	_, init := seed(t, "FuzzParseMessage/psk-01")
	first, auth := seed(t, "FuzzParsePayloads/psk-03")
	c := noCipher()
	inner, err := ParsePayloads(first, auth)
	if err != nil {
		t.Fatal(err)
	}
	m, err := ParseMessage(init)
	if err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 0, 2000)
	for _, tt := range []struct {
		name string
		most float64
		f    func()
	}{
		// message, payload list, notifies; SA: payload, proposals, transforms, attributes; KE; nonce
		{"parse IKE_SA_INIT", 9, func() { _, _ = ParseMessage(init) }},
		// payload list, notifies; IDi, CERTREQ, IDr, AUTH; SA 4; TSi and TSr 2 each
		{"parse IKE_AUTH", 14, func() { _, _ = ParsePayloads(first, auth) }},
		{"append IKE_SA_INIT", 0, func() { AppendMessage(buf, m.Header, m.Payloads) }},
		{"append IKE_SA_INIT into nothing", 1, func() { AppendMessage(nil, m.Header, m.Payloads) }},
		{"seal IKE_AUTH", 0, func() { _, _ = AppendEncrypted(buf, testHeader, inner, c) }},
	} {
		if n := testing.AllocsPerRun(100, tt.f); n > tt.most {
			t.Errorf("%s: %v allocations, at most %v wanted", tt.name, n, tt.most)
		}
	}
}

func BenchmarkParseInit(b *testing.B) {
	_, raw := seed(b, "FuzzParseMessage/psk-01")
	b.ReportAllocs()
	for b.Loop() {
		if _, err := ParseMessage(raw); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkAppendInit(b *testing.B) {
	_, raw := seed(b, "FuzzParseMessage/psk-01")
	m, err := ParseMessage(raw)
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		AppendMessage(nil, m.Header, m.Payloads)
	}
}
