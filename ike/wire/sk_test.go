package wire

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"
)

// testCipher is a Sealer and Opener with any sizes: a hash for a key stream and for the ICV. It serves to test framing.
type testCipher struct {
	iv, icv, block int
	plain          bool  // leave the content in clear
	aadLen         int   // of the last Seal or Open
	err            error // what Seal and Open give instead of working
}

func (c *testCipher) IVLen() int    { return c.iv }
func (c *testCipher) ICVLen() int   { return c.icv }
func (c *testCipher) BlockLen() int { return c.block }

func (c *testCipher) Seal(msg []byte, aadLen int) error {
	if c.err != nil {
		return c.err
	}
	c.aadLen = aadLen
	for i := range c.iv {
		msg[aadLen+i] = byte(0xa0 + i)
	}
	end := len(msg) - c.icv
	if plain := msg[aadLen+c.iv : end]; len(plain)%max(c.block, 1) != 0 {
		return fmt.Errorf("%d octets are not a multiple of %d", len(plain), c.block)
	}
	c.xor(msg[aadLen+c.iv : end])
	copy(msg[end:], c.mac(msg[:end]))
	return nil
}

func (c *testCipher) Open(msg []byte, aadLen int) ([]byte, error) {
	c.aadLen = aadLen
	end := len(msg) - c.icv
	if c.err != nil {
		return nil, c.err
	}
	if !hmac.Equal(msg[end:], c.mac(msg[:end])) {
		return nil, errors.New("test cipher: other ICV")
	}
	c.xor(msg[aadLen+c.iv : end])
	return msg[aadLen+c.iv : end], nil
}

func (c *testCipher) xor(b []byte) {
	if c.plain {
		return
	}
	for i := range b {
		b[i] ^= byte(i*7 + 3)
	}
}

func (c *testCipher) mac(b []byte) []byte {
	if c.icv == 0 {
		return nil
	}
	m := hmac.New(sha256.New, []byte("k"))
	m.Write(b)
	return m.Sum(nil)[:c.icv]
}

// noCipher leaves the content in clear and adds nothing to it.
func noCipher() *testCipher { return &testCipher{block: 1, plain: true} }

var testHeader = Header{SPIi: 1, SPIr: 2, Exchange: ExchangeIKEAuth, Flags: FlagInitiator, MessageID: 1}

func someInner() []Payload {
	return []Payload{
		&ID{Initiator: true, IDType: IDFQDN, Data: []byte("a.example.org")},
		&Auth{Method: AuthSharedKey, Data: bytes.Repeat([]byte{5}, 32)},
		&Notify{NotifyType: NotifyMOBIKESupported, Data: []byte{}},
	}
}

// TestAppendEncryptedLayout checks the octets of a sealed message by hand (RFC 7296 3.14).
func TestAppendEncryptedLayout(t *testing.T) {
	c := &testCipher{iv: 2, icv: 3, block: 8}
	got, err := AppendEncrypted([]byte("pre"), testHeader, []Payload{&VendorID{Data: []byte("abc")}}, c)
	if err != nil {
		t.Fatal(err)
	}
	// 7 octets of payload and the pad length fill a block: no padding.
	want := unhex(t, `0000000000000001 0000000000000002 2e 20 23 08 00000001 0000002d
		2b 00 00 11  a0 a1  00 00 00 07 61 62 63 00`)
	c.xor(want[34:])
	want = append(want, c.mac(want)...)
	if !bytes.Equal(got, append([]byte("pre"), want...)) {
		t.Errorf("got  %x\nwant %x", got[3:], want)
	}
	if c.aadLen != 32 {
		t.Errorf("associated data of %d octets, want header and SK header, 32", c.aadLen)
	}
}

func TestPadding(t *testing.T) {
	for _, tt := range []struct{ n, block, want int }{
		{0, 1, 0}, {5, 1, 0}, {5, 0, 0}, {0, 16, 15}, {14, 16, 1}, {15, 16, 0}, {16, 16, 15}, {2, 4, 1}, {3, 4, 0},
	} {
		if got := padLen(tt.n, tt.block); got != tt.want {
			t.Errorf("padLen(%d, %d) is %d, want %d", tt.n, tt.block, got, tt.want)
		}
	}
}

func TestEncryptedRoundTrip(t *testing.T) {
	for _, block := range []int{0, 1, 4, 8, 16} {
		for n := range 40 {
			c := &testCipher{iv: 16, icv: 12, block: block}
			inner := []Payload{&Nonce{Data: make([]byte, 16)}, &VendorID{Data: bytes.Repeat([]byte{7}, n)}}
			raw, err := AppendEncrypted(nil, testHeader, inner, c)
			if err != nil {
				t.Fatal(err)
			}
			if want := HeaderLen + genericLen + sealedLen(chainLen(inner), c); len(raw) != want || cap(raw) > 2*want {
				t.Errorf("message of %d octets, cap %d, foreseen %d", len(raw), cap(raw), want)
			}
			m, err := ParseMessage(raw)
			if err != nil {
				t.Fatal(err)
			}
			if sk, ok := m.SK(); !ok || sk.First != PayloadNonce || len(m.Clear()) != 0 {
				t.Fatalf("got payloads %+v", m.Payloads)
			}
			got, err := OpenEncrypted(raw, m, c)
			if err != nil {
				t.Fatal(err)
			}
			if !reflect.DeepEqual(got, inner) {
				t.Errorf("got %+v, want %+v", got, inner)
			}
		}
	}
}

// TestEncryptedEmpty is the empty INFORMATIONAL, RFC 7296's liveness check.
func TestEncryptedEmpty(t *testing.T) {
	c := &testCipher{iv: 8, icv: 16, block: 1}
	raw, err := AppendEncrypted(nil, testHeader, nil, c)
	if err != nil {
		t.Fatal(err)
	}
	m, err := ParseMessage(raw)
	if err != nil {
		t.Fatal(err)
	}
	ps, err := OpenEncrypted(raw, m, c)
	if err != nil || len(ps) != 0 {
		t.Errorf("got %v, %v", ps, err)
	}
}

// TestIntegrity changes every octet of a sealed message: each must fail as ErrIntegrity, or before it as a message
// that doesn't parse.
func TestIntegrity(t *testing.T) {
	c := &testCipher{iv: 8, icv: 16, block: 4}
	raw, err := AppendEncrypted(nil, testHeader, someInner(), c)
	if err != nil {
		t.Fatal(err)
	}
	failed := 0
	for i := range raw {
		bad := bytes.Clone(raw)
		bad[i] ^= 1
		m, err := ParseMessage(bad)
		if err != nil {
			continue
		}
		if i == 16 { // the SK payload under another name
			if _, err := OpenEncrypted(bad, m, c); !isSyntax(err) || errors.Is(err, ErrIntegrity) {
				t.Errorf("no SK payload: got %v", err)
			}
			continue
		}
		failed++
		if _, err := OpenEncrypted(bad, m, c); !errors.Is(err, ErrIntegrity) || isSyntax(err) {
			t.Errorf("octet %d changed: got %v, want ErrIntegrity", i, err)
		}
	}
	if failed < len(raw)-12 {
		t.Errorf("only %d of %d changes came to the ICV", failed, len(raw))
	}
	own := fmt.Errorf("mine: %w", ErrIntegrity)
	m, _ := ParseMessage(raw)
	if _, err := OpenEncrypted(raw, m, &testCipher{err: own}); err != own {
		t.Errorf("got %v, want the opener's own error", err)
	}
	for n := range 8 + 16 + 1 {
		short := AppendMessage(nil, testHeader, []Payload{&SK{Body: make([]byte, n)}})
		m, err := ParseMessage(short)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := OpenEncrypted(short, m, c); !errors.Is(err, ErrIntegrity) || !strings.Contains(err.Error(), fmt.Sprintf("25 octets, got %d", n)) {
			t.Errorf("body of %d octets: got %v", n, err)
		}
	}
}

// TestInnerErrors wants what an authenticated peer got wrong told apart from what isn't authentic.
func TestInnerErrors(t *testing.T) {
	message := func(first PayloadType, body string) []byte {
		return AppendMessage(nil, testHeader, []Payload{&SK{First: first, Body: unhex(t, body)}})
	}
	for _, tt := range []struct {
		name string
		raw  []byte
		want error
	}{
		{"padding too long", message(PayloadVendorID, `00 00 00 04 05`), &SyntaxError{PayloadSK, 4, "a pad length of at most 4", "5"}},
		{"chain cut", message(PayloadVendorID, `00 00 00 05 00`), &SyntaxError{PayloadVendorID, 2, "a payload length from 4 to the 4 that are left", "5"}},
		{"critical", message(200, `00 80 00 04 00`), &UnsupportedCriticalPayload{200, 0}},
		{"nothing", message(0, `00`), nil},
		{"padding of any content", message(PayloadVendorID, `00 00 00 04 ff fe 02`), nil},
	} {
		m, err := ParseMessage(tt.raw)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := OpenEncrypted(tt.raw, m, noCipher()); !reflect.DeepEqual(err, tt.want) || errors.Is(err, ErrIntegrity) {
			t.Errorf("%s: got %v, want %v", tt.name, err, tt.want)
		}
	}
	m := &Message{Payloads: []Payload{&SK{Body: make([]byte, 1)}}}
	if _, err := OpenEncrypted(make([]byte, 1), m, emptyOpener{}); !isSyntax(err) {
		t.Errorf("an opener that returns nothing: got %v", err)
	}
}

type emptyOpener struct{}

func (emptyOpener) IVLen() int                       { return 0 }
func (emptyOpener) ICVLen() int                      { return 0 }
func (emptyOpener) Open([]byte, int) ([]byte, error) { return nil, nil }

func TestTooLong(t *testing.T) {
	c := &testCipher{iv: 8, icv: 16, block: 1}
	big := func(n int) []Payload { return []Payload{&Cert{Data: make([]byte, n)}} }
	const overhead = HeaderLen + genericLen + 8 + genericLen + 1 + 1 + 16
	if b, err := AppendEncrypted(nil, testHeader, big(65535-overhead), c); err != nil || len(b) != 65535 {
		t.Errorf("longest message: %d octets, %v", len(b), err)
	}
	for _, n := range []int{65535 - overhead + 1, 65531, 1 << 20} {
		if _, err := AppendEncrypted(nil, testHeader, big(n), c); !errors.Is(err, ErrTooLong) {
			t.Errorf("%d octets: got %v", n, err)
		}
	}
	if _, err := AppendFragments(testHeader, big(1<<20), c, 1280); !errors.Is(err, ErrTooLong) {
		t.Errorf("fragments of a payload that is too long: got %v", err)
	}
	if _, err := AppendFragments(testHeader, big(1000), c, HeaderLen+genericLen+fragmentLen+8+16+1); !errors.Is(err, ErrTooLong) {
		t.Errorf("no room in a fragment: got %v", err)
	}
	if _, err := AppendFragments(testHeader, big(2000), c, HeaderLen+genericLen+fragmentLen+8+16+2); !errors.Is(err, ErrTooLong) {
		t.Errorf("more than %d fragments: got %v", MaxFragments, err)
	}
	fail := errors.New("no entropy")
	if _, err := AppendEncrypted(nil, testHeader, nil, &testCipher{err: fail}); !errors.Is(err, fail) {
		t.Errorf("got %v, want the sealer's error", err)
	}
	if _, err := AppendFragments(testHeader, big(2000), &testCipher{err: fail}, 1000); !errors.Is(err, fail) {
		t.Errorf("fragments: got %v, want the sealer's error", err)
	}
}

// TestFragments seals a chain in pieces of every size and puts it together again (RFC 7383 2.5).
func TestFragments(t *testing.T) {
	exact, err := AppendEncrypted(nil, testHeader, someInner(), &testCipher{iv: 8, icv: 16, block: 1})
	if err != nil {
		t.Fatal(err)
	}
	for limit, want := range map[int]int{len(exact): 1, len(exact) - 1: 2} {
		msgs, err := AppendFragments(testHeader, someInner(), &testCipher{iv: 8, icv: 16, block: 1}, limit)
		if err != nil || len(msgs) != want {
			t.Errorf("limit %d for %d octets: %d messages, %v, want %d", limit, len(exact), len(msgs), err, want)
		}
	}
	inner := append(someInner(), &Cert{Encoding: CertX509Signature, Data: bytes.Repeat([]byte("certificate "), 30)})
	whole := AppendPayloads(nil, inner)
	for _, c := range []*testCipher{{iv: 8, icv: 16, block: 1}, {iv: 16, icv: 12, block: 16}, {block: 1}} {
		for limit := 90; limit < 600; limit += 7 {
			msgs, err := AppendFragments(testHeader, inner, c, limit)
			if err != nil {
				t.Fatal(err)
			}
			first, got := reassemble(t, msgs, c, limit)
			if !bytes.Equal(got, whole) {
				t.Fatalf("limit %d: chain differs", limit)
			}
			if ps, err := ParsePayloads(first, got); err != nil || !reflect.DeepEqual(ps, inner) {
				t.Fatalf("limit %d: %v, %v", limit, ps, err)
			}
			if fewer := len(whole) / max(1, fragmentRoom(c, limit)); len(msgs) > fewer+1 {
				t.Errorf("limit %d: %d fragments where %d would do", limit, len(msgs), fewer+1)
			}
		}
	}
}

// reassemble opens the messages that AppendFragments made for limit and checks each; it returns their chain.
func reassemble(t *testing.T, msgs [][]byte, c *testCipher, limit int) (first PayloadType, chain []byte) {
	t.Helper()
	for i, raw := range msgs {
		if len(raw) > limit {
			t.Fatalf("limit %d: fragment of %d octets", limit, len(raw))
		}
		m, err := ParseMessage(raw)
		if err != nil {
			t.Fatal(err)
		}
		if m.MessageID != testHeader.MessageID || m.SPIr != testHeader.SPIr || m.Exchange != testHeader.Exchange {
			t.Fatalf("header is now %+v", m.Header)
		}
		if len(msgs) == 1 {
			first, chain, err = OpenInner(raw, m, c)
			if err != nil {
				t.Fatalf("limit %d: one message: %v", limit, err)
			}
			return first, chain
		}
		f, ok := m.SKF()
		if !ok || int(f.FragmentNumber) != i+1 || int(f.TotalFragments) != len(msgs) || (f.First != 0) != (i == 0) {
			t.Fatalf("fragment %d of %d: got %+v", i+1, len(msgs), f)
		}
		if i == 0 {
			first = f.First
		}
		part, err := OpenFragment(raw, m, c)
		if err != nil {
			t.Fatal(err)
		}
		if c.aadLen != HeaderLen+genericLen+fragmentLen {
			t.Fatalf("associated data of %d octets", c.aadLen)
		}
		chain = append(chain, part...)
	}
	return first, chain
}

func TestOpenWrongKind(t *testing.T) {
	sk := &Message{Payloads: []Payload{&SK{}}}
	skf := &Message{Payloads: []Payload{&VendorID{}, &SKF{}}}
	if _, err := OpenFragment(nil, sk, noCipher()); !isSyntax(err) {
		t.Errorf("SK as a fragment: got %v", err)
	}
	if _, err := OpenEncrypted(nil, skf, noCipher()); !isSyntax(err) {
		t.Errorf("SKF as SK: got %v", err)
	}
	if _, err := OpenEncrypted(nil, &Message{}, noCipher()); !isSyntax(err) {
		t.Errorf("no payloads: got %v", err)
	}
	if n := len(skf.Clear()); n != 1 {
		t.Errorf("%d clear payloads, want 1", n)
	}
}

// TestIntAuth checks the octets of RFC 9242 3.3.2 by hand, for a whole message with a clear payload before SK, and for
// the same content fragmented.
func TestIntAuth(t *testing.T) {
	inner := unhex(t, `00 00 00 09 00 24 00 00 aa`) // a KE payload
	h := testHeader
	h.Exchange = ExchangeIKEIntermediate
	raw := AppendMessage(nil, h, []Payload{&VendorID{Data: []byte("v")}, &SK{First: PayloadKE, Body: make([]byte, 40)}})
	m, err := ParseMessage(raw)
	if err != nil {
		t.Fatal(err)
	}
	want := unhex(t, `0000000000000001 0000000000000002 2b 20 2b 08 00000001 0000002e
		2e 00 00 05 76  22 00 00 0d`)
	want = append(append([]byte("iv"), want...), inner...)
	if got := AppendIntAuth([]byte("iv"), raw, m, inner); !bytes.Equal(got, want) {
		t.Errorf("got  %x\nwant %x", got, want)
	}

	c := &testCipher{iv: 8, icv: 16, block: 1}
	ke := []Payload{&KE{Method: KEMLKEM768, Data: bytes.Repeat([]byte{9}, 1184)}}
	inner = AppendPayloads(nil, ke)
	one, err := AppendEncrypted(nil, h, ke, c)
	if err != nil {
		t.Fatal(err)
	}
	parts, err := AppendFragments(h, ke, c, 500)
	if err != nil || len(parts) != 3 {
		t.Fatalf("%d fragments, %v", len(parts), err)
	}
	var sums [2][]byte
	for i, raw := range [][]byte{one, parts[0]} {
		m, err := ParseMessage(raw)
		if err != nil {
			t.Fatal(err)
		}
		sums[i] = AppendIntAuth(nil, raw, m, inner)
	}
	if !bytes.Equal(sums[0], sums[1]) {
		t.Errorf("fragmented: got\n%x, whole:\n%x", sums[1], sums[0])
	}
	if len(sums[0]) != HeaderLen+genericLen+len(inner) {
		t.Errorf("%d octets, want %d", len(sums[0]), HeaderLen+genericLen+len(inner))
	}
	if got := AppendIntAuth(nil, raw, &Message{Payloads: m.Clear()}, inner); got != nil {
		t.Errorf("no SK: got %x", got)
	}
}
