package wire

import (
	"encoding/hex"
	"errors"
	"net/netip"
	"reflect"
	"strings"
	"testing"
)

// unhex reads hexadecimal digits, white space and all.
func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.Join(strings.Fields(s), ""))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// chain puts a generic header before each body.
func chain(bodies ...typedBody) []byte {
	var b []byte
	for i, p := range bodies {
		next := byte(0)
		if i+1 < len(bodies) {
			next = byte(bodies[i+1].t)
		}
		n := len(p.body) + 4
		b = append(append(b, next, 0, byte(n>>8), byte(n)), p.body...)
	}
	return b
}

type typedBody struct {
	t    PayloadType
	body []byte
}

// payloadTests pairs bodies, written by hand after the layouts of RFC 7296, with what they mean.
var payloadTests = []struct {
	name string
	typ  PayloadType
	body string
	want Payload
}{
	{"SA one proposal with key length", PayloadSA, `
		00 00 00 2c 01 01 00 04
		03 00 00 0c 01 00 00 0c 80 0e 01 00
		03 00 00 08 02 00 00 05
		03 00 00 08 03 00 00 0c
		00 00 00 08 04 00 00 0e`,
		&SA{Proposals: []Proposal{{Number: 1, Protocol: ProtoIKE, Transforms: []Transform{
			{Type: TransformENCR, ID: uint16(EncrAESCBC), Attributes: []Attribute{{Type: AttrKeyLength, Value: 256}}},
			{Type: TransformPRF, ID: uint16(PRFHMACSHA2_256)},
			{Type: TransformINTEG, ID: uint16(IntegHMACSHA2_256_128)},
			{Type: TransformKE, ID: uint16(KEMODP2048)},
		}}}}},
	{"SA two proposals with SPIs, long attribute", PayloadSA, `
		02 00 00 14 01 03 04 01 de ad be ef
		00 00 00 08 05 00 00 01
		00 00 00 1f 02 02 04 01 01 02 03 04
		00 00 00 13 03 00 00 0c 00 63 00 03 aa bb cc 80 0e 00 80`,
		&SA{Proposals: []Proposal{
			{Number: 1, Protocol: ProtoESP, SPI: []byte{0xde, 0xad, 0xbe, 0xef}, Transforms: []Transform{
				{Type: TransformESN, ID: uint16(ESNYes)}}},
			{Number: 2, Protocol: ProtoAH, SPI: []byte{1, 2, 3, 4}, Transforms: []Transform{
				{Type: TransformINTEG, ID: 12, Attributes: []Attribute{
					{Type: 0x63, Data: []byte{0xaa, 0xbb, 0xcc}}, {Type: AttrKeyLength, Value: 128}}}}},
		}}},
	{"KE", PayloadKE, `00 1f 00 00 01 02 03`, &KE{Method: KECurve25519, Data: []byte{1, 2, 3}}},
	{"IDi FQDN", PayloadIDi, `02 00 00 00 61 2e 62`, &ID{Initiator: true, IDType: IDFQDN, Data: []byte("a.b")}},
	{"IDr address with reserved octets", PayloadIDr, `01 01 02 03 c0 00 02 01`,
		&ID{IDType: IDIPv4Addr, Reserved: [3]byte{1, 2, 3}, Data: []byte{192, 0, 2, 1}}},
	{"CERT", PayloadCert, `04 30 03`, &Cert{Encoding: CertX509Signature, Data: []byte{0x30, 3}}},
	{"CERTREQ empty", PayloadCertReq, `04`, &CertReq{Encoding: CertX509Signature, Data: []byte{}}},
	{"AUTH", PayloadAuth, `02 00 00 00 ab cd`, &Auth{Method: AuthSharedKey, Data: []byte{0xab, 0xcd}}},
	{"Nonce shortest", PayloadNonce, `00 01 02 03 04 05 06 07 08 09 0a 0b 0c 0d 0e 0f`,
		&Nonce{Data: []byte{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15}}},
	{"Notify status", PayloadNotify, `00 00 40 06 63 6f`, &Notify{NotifyType: NotifyCookie, Data: []byte("co")}},
	{"Notify of a CPU (RFC 9611 6.1)", PayloadNotify, `00 00 40 3c 00 00 00 07`, &Notify{NotifyType: NotifySAResourceInfo, Data: []byte{0, 0, 0, 7}}},
	{"Notify of no more CPUs (RFC 9611 6.2)", PayloadNotify, `00 00 00 30`, &Notify{NotifyType: NotifyTSMaxQueue, Data: []byte{}}},
	{"Notify with SPI", PayloadNotify, `03 04 40 09 01 02 03 04`,
		&Notify{Protocol: ProtoESP, SPI: []byte{1, 2, 3, 4}, NotifyType: NotifyRekeySA, Data: []byte{}}},
	{"Delete IKE SA", PayloadDelete, `01 00 00 00`, &Delete{Protocol: ProtoIKE, SPIs: []byte{}}},
	{"Delete two", PayloadDelete, `03 04 00 02 01 02 03 04 05 06 07 08`, NewDelete(ProtoESP, 0x01020304, 0x05060708)},
	{"Vendor ID", PayloadVendorID, `ff 00`, &VendorID{Data: []byte{0xff, 0}}},
	{"TSi IPv4", PayloadTSi, `01 00 00 00
		07 06 00 10 00 50 00 5a c0 00 02 00 c0 00 02 ff`,
		&TS{Initiator: true, Selectors: []TrafficSelector{NewTrafficSelector(6,
			netip.MustParseAddr("192.0.2.0"), netip.MustParseAddr("192.0.2.255"), 80, 90)}}},
	{"TSr IPv6, opaque, and a label", PayloadTSr, `02 00 00 00
		08 00 00 28 ff ff 00 00
		20 01 0d b8 00 00 00 00 00 00 00 00 00 00 00 00 20 01 0d b8 ff ff ff ff ff ff ff ff ff ff ff ff
		0a 00 00 07 73 79 73`,
		&TS{Selectors: []TrafficSelector{
			NewTrafficSelector(0, netip.MustParseAddr("2001:db8::"),
				netip.MustParseAddr("2001:db8:ffff:ffff:ffff:ffff:ffff:ffff"), 0xffff, 0),
			{TSType: TSSecLabel, Raw: []byte("sys")}}}},
	{"CP", PayloadCP, `01 00 00 00 00 01 00 00 00 03 00 04 0a 00 00 01`,
		&CP{CfgType: CfgRequest, Attributes: []CfgAttribute{
			{Type: CfgAttrInternalIP4Address, Value: []byte{}}, {Type: CfgAttrInternalIP4DNS, Value: []byte{10, 0, 0, 1}}}}},
	{"CP empty", PayloadCP, `02 00 00 00`, &CP{CfgType: CfgReply}},
	{"EAP request", PayloadEAP, `01 07 00 06 01 6d`,
		&EAP{Code: EAPRequest, Identifier: 7, EAPType: EAPTypeIdentity, Data: []byte("m")}},
	{"EAP success", PayloadEAP, `03 08 00 04`, &EAP{Code: EAPSuccess, Identifier: 8}},
	{"EAP initiate", PayloadEAP, `05 09 00 06 02 ff`, &EAP{Code: EAPInitiate, Identifier: 9, EAPType: 2, Data: []byte{0xff}}},
	{"unknown", 200, `01 02 03`, &Unknown{PayloadType: 200, Body: []byte{1, 2, 3}}},
	{"unknown GSPM, empty", PayloadGSPM, ``, &Unknown{PayloadType: PayloadGSPM, Body: []byte{}}},
}

func TestPayloads(t *testing.T) {
	for _, tt := range payloadTests {
		t.Run(tt.name, func(t *testing.T) {
			body := unhex(t, tt.body)
			ps, err := ParsePayloads(tt.typ, chain(typedBody{tt.typ, body}))
			if err != nil {
				t.Fatal(err)
			}
			if len(ps) != 1 || !reflect.DeepEqual(ps[0], tt.want) {
				t.Fatalf("got %+v, want %+v", ps[0], tt.want)
			}
			if tt.want.Type() != tt.typ {
				t.Errorf("Type is %s, want %s", tt.want.Type(), tt.typ)
			}
			if got := tt.want.AppendBody([]byte("x")); string(got) != "x"+string(body) {
				t.Errorf("AppendBody gave\n%x, want\n%x", got[1:], body)
			}
			if got := tt.want.(sized).bodyLen(); got != len(body) {
				t.Errorf("bodyLen is %d, want %d", got, len(body))
			}
		})
	}
}

func TestReservedBitsIgnored(t *testing.T) {
	ps, err := ParsePayloads(PayloadCP, chain(typedBody{PayloadCP, unhex(t, `01 ff ff ff 80 01 00 00`)}))
	if err != nil {
		t.Fatal(err)
	}
	if got := ps[0].(*CP).Attributes[0].Type; got != CfgAttrInternalIP4Address {
		t.Errorf("got attribute %s", got)
	}
	b := chain(typedBody{PayloadKE, unhex(t, `00 1f ff ff 01`)})
	b[1] = 0x7f // reserved bits of the generic header
	if _, err := ParsePayloads(PayloadKE, b); err != nil {
		t.Error(err)
	}
	b[1] = 0x80 // a known payload's critical bit means nothing
	if _, err := ParsePayloads(PayloadKE, b); err != nil {
		t.Error(err)
	}
}

// TestSyntaxErrors wants each breach of the format refused at its place. Offsets count from the generic header.
func TestSyntaxErrors(t *testing.T) {
	tests := []struct {
		name, body string
		typ        PayloadType
		offset     int
		want       string // part of the message
	}{
		{"SA empty", ``, PayloadSA, 4, "expected a proposal of 8 octets, got 0 octets left"},
		{"SA proposal too long", `00 00 00 09 01 01 00 00`, PayloadSA, 6, "proposal length from 8 to 8, got 9"},
		{"SA proposal too short", `00 00 00 07 01 01 00 00`, PayloadSA, 6, "got 7"},
		{"SA SPI beyond the proposal", `00 00 00 08 01 01 08 00`, PayloadSA, 6, "proposal length from 16 to 8, got 8"},
		{"SA bad more flag", `01 00 00 08 01 01 00 00`, PayloadSA, 4, "0 (last) or 2"},
		{"SA more, but none", `02 00 00 08 01 01 00 00`, PayloadSA, 12, "a proposal of 8 octets"},
		{"SA last, but more", `00 00 00 08 01 01 00 00 00 00 00 08 02 01 00 00`, PayloadSA, 12, "8 octets more"},
		{"SA ESP without SPI", `00 00 00 08 01 03 00 00`, PayloadSA, 10, "ESP SPI of 4 octets, got 0"},
		{"SA IKE with short SPI", `00 00 00 0c 01 01 04 00 01 02 03 04`, PayloadSA, 10, "IKE SPI of 0 or 8 octets, got 4"},
		{"SA transform missing", `00 00 00 08 01 01 00 01`, PayloadSA, 12, "a transform of 8 octets"},
		{"SA transform too long", `00 00 00 10 01 01 00 01 00 00 00 09 01 00 00 0c`, PayloadSA, 14, "transform length from 8 to 8, got 9"},
		{"SA transform too short", `00 00 00 10 01 01 00 01 00 00 00 00 01 00 00 0c`, PayloadSA, 14, "got 0"},
		{"SA last transform says more", `00 00 00 10 01 01 00 01 03 00 00 08 01 00 00 0c`, PayloadSA, 12, "0 (last transform"},
		{"SA first transform says last", `00 00 00 18 01 01 00 02 00 00 00 08 01 00 00 0c 00 00 00 08 01 00 00 0c`, PayloadSA, 12, "3 (more transforms"},
		{"SA more octets than transforms", `00 00 00 10 01 01 00 00 00 00 00 08 01 00 00 0c`, PayloadSA, 12, "after 0 transforms, got 8 octets more"},
		{"SA half an attribute", `00 00 00 12 01 01 00 01 00 00 00 0a 01 00 00 0c 80 0e`, PayloadSA, 20, "an attribute of 4 octets, got 2 octets"},
		{"SA attribute value missing", `00 00 00 15 01 01 00 01 00 00 00 0d 01 00 00 0c 00 01 00 02 ff`, PayloadSA, 24, "attribute value of 2 octets, got 1 octet left"},
		{"KE short", `00 1f 00`, PayloadKE, 4, "of 4 octets, got 3"},
		{"IDi short", `02 00 00`, PayloadIDi, 4, "got 3 octets"},
		{"IDr IPv4 of 5", `01 00 00 00 01 02 03 04 05`, PayloadIDr, 8, "ID_IPV4_ADDR data of 4 octets, got 5"},
		{"IDi IPv6 of 4", `05 00 00 00 01 02 03 04`, PayloadIDi, 8, "ID_IPV6_ADDR data of 16 octets, got 4"},
		{"IDi null with data", `0d 00 00 00 01`, PayloadIDi, 8, "ID_NULL data of 0 octets, got 1 octet"},
		{"CERT empty", ``, PayloadCert, 4, "certificate encoding of 1 octet"},
		{"CERTREQ empty", ``, PayloadCertReq, 4, "certificate encoding of 1 octet"},
		{"AUTH short", `02 00 00`, PayloadAuth, 4, "got 3"},
		{"Nonce of 15", strings.Repeat("00", 15), PayloadNonce, 4, "16 to 256 octets, got 15"},
		{"Nonce of 257", strings.Repeat("00", 257), PayloadNonce, 4, "16 to 256 octets, got 257"},
		{"Notify short", `00 00 40`, PayloadNotify, 4, "got 3"},
		{"Notify SPI missing", `03 04 40 09 01 02 03`, PayloadNotify, 8, "REKEY_SA SPI of 4 octets, got 3"},
		{"Delete short", `01 00 00`, PayloadDelete, 4, "got 3"},
		{"Delete IKE with SPI size", `01 08 00 00`, PayloadDelete, 5, "SPI size of 0 for IKE, got 8"},
		{"Delete ESP with SPI size 0", `03 00 00 00`, PayloadDelete, 5, "SPI size of 4 for ESP, got 0"},
		{"Delete count without size", `01 00 00 05`, PayloadDelete, 6, "no SPIs where their size is 0, got 5"},
		{"Delete fewer than said", `03 04 00 02 01 02 03 04`, PayloadDelete, 8, "2 SPIs of 4 octets, got 4 octets"},
		{"Delete more than said", `03 04 00 00 01 02 03 04`, PayloadDelete, 8, "0 SPIs of 4 octets"},
		{"TS short", `01 00 00`, PayloadTSi, 4, "got 3"},
		{"TS of none", `00 00 00 00`, PayloadTSi, 4, "at least 1 traffic selector"},
		{"TS says two, has one", `02 00 00 00 07 00 00 10 00 00 ff ff 00 00 00 00 00 00 00 00`, PayloadTSr, 24, "traffic selector header of 4 octets"},
		{"TS more octets", `01 00 00 00 07 00 00 10 00 00 ff ff 00 00 00 00 00 00 00 00 ff`, PayloadTSi, 24, "1 octet more"},
		{"TS count beyond the body", `ff 00 00 00 07 00 00 10`, PayloadTSi, 8, "255 traffic selectors"},
		{"TS IPv4 length", `01 00 00 00 07 00 00 28 00 00 ff ff 00 00 00 00 00 00 00 00`, PayloadTSi, 10, "TS_IPV4_ADDR_RANGE length of 16, got 40"},
		{"TS IPv6 cut", `01 00 00 00 08 00 00 28 00 00 ff ff 00 00 00 00 00 00 00 00`, PayloadTSi, 8, "traffic selector of 40 octets, got 16"},
		{"TS unknown length", `01 00 00 00 63 00 00 03`, PayloadTSi, 10, "length from 4 to 4, got 3"},
		{"TS ports reversed", `01 00 00 00 07 06 00 10 00 02 00 01 00 00 00 00 00 00 00 00`, PayloadTSi, 12, "got 2 to 1"},
		{"TS addresses reversed", `01 00 00 00 07 00 00 10 00 00 ff ff 0a 00 00 02 0a 00 00 01`, PayloadTSi, 16, "got 10.0.0.2 to 10.0.0.1"},
		{"CP short", `01 00 00`, PayloadCP, 4, "got 3"},
		{"CP half an attribute", `01 00 00 00 00 01 00`, PayloadCP, 8, "attribute header of 4 octets, got 3"},
		{"CP value missing", `01 00 00 00 00 01 00 04 0a`, PayloadCP, 12, "INTERNAL_IP4_ADDRESS of 4 octets, got 1"},
		{"EAP short", `03 00 00`, PayloadEAP, 4, "EAP packet header of 4 octets"},
		{"EAP length", `03 00 00 05`, PayloadEAP, 6, "EAP length of 4, the payload's, got 5"},
		{"EAP length shorter", `01 07 00 05 01 6d`, PayloadEAP, 6, "EAP length of 6, the payload's, got 5"},
		{"EAP success with data", `03 00 00 05 00`, PayloadEAP, 8, "end of an EAP Success"},
		{"EAP request without type", `01 00 00 04`, PayloadEAP, 8, "EAP type of 1 octet"},
		{"SK inside", `00 00`, PayloadSK, 0, "no encrypted payload inside another"},
		{"SKF inside", `00 01 00 01`, PayloadSKF, 0, "no encrypted payload inside another"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := ParsePayloads(tt.typ, chain(typedBody{tt.typ, unhex(t, tt.body)}))
			var syntax *SyntaxError
			if !errors.As(err, &syntax) {
				t.Fatalf("got %v, want a SyntaxError", err)
			}
			if syntax.Payload != tt.typ || syntax.Offset != tt.offset || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got payload %s, offset %d, %q; want payload %s, offset %d, …%q…",
					syntax.Payload, syntax.Offset, err, tt.typ, tt.offset, tt.want)
			}
		})
	}
}

func TestBounds(t *testing.T) {
	many := func(n int, first, last string) []byte {
		return append(unhex(t, strings.Repeat(first, n-1)), unhex(t, last)...)
	}
	attributes := func(n int) []byte { // one transform with n attributes
		b := append(unhex(t, `00 00 00 00 01 01 00 01 00 00 00 00 01 00 00 0c`), unhex(t, strings.Repeat(`80 0e 01 00`, n))...)
		b[2], b[3] = byte(len(b)>>8), byte(len(b))
		b[10], b[11] = byte((len(b)-8)>>8), byte(len(b)-8)
		return b
	}
	cp := func(n int) []byte { return append([]byte{1, 0, 0, 0}, unhex(t, strings.Repeat(`00 01 00 00`, n))...) }
	tests := []struct {
		name       string
		typ        PayloadType
		within     []byte
		beyond     []byte
		wantBeyond string
	}{
		{"proposals", PayloadSA, many(MaxProposals, `02000008 01010000`, `00000008 01010000`),
			many(MaxProposals+1, `02000008 01010000`, `00000008 01010000`), "at most 64 proposals"},
		{"attributes", PayloadSA, attributes(MaxAttributes), attributes(MaxAttributes + 1), "at most 16 attributes"},
		{"configuration attributes", PayloadCP, cp(MaxCfgAttributes), cp(MaxCfgAttributes + 1), "at most 256 attributes"},
	}
	for _, tt := range tests {
		if _, err := ParsePayloads(tt.typ, chain(typedBody{tt.typ, tt.within})); err != nil {
			t.Errorf("%s: %v", tt.name, err)
		}
		_, err := ParsePayloads(tt.typ, chain(typedBody{tt.typ, tt.beyond}))
		if err == nil || !strings.Contains(err.Error(), tt.wantBeyond) {
			t.Errorf("%s: got %v, want …%q…", tt.name, err, tt.wantBeyond)
		}
	}
	vendors := make([]typedBody, MaxPayloads+1)
	for i := range vendors {
		vendors[i].t = PayloadVendorID
	}
	if ps, err := ParsePayloads(PayloadVendorID, chain(vendors[1:]...)); err != nil || len(ps) != MaxPayloads {
		t.Errorf("%d payloads: got %d, %v", MaxPayloads, len(ps), err)
	}
	if _, err := ParsePayloads(PayloadVendorID, chain(vendors...)); err == nil || !strings.Contains(err.Error(), "at most 64 payloads") {
		t.Errorf("%d payloads: got %v", MaxPayloads+1, err)
	}
}

func TestKeyLength(t *testing.T) {
	if bits, ok := NewTransform(TransformENCR, 12, 192).KeyLength(); !ok || bits != 192 {
		t.Errorf("got %d, %v", bits, ok)
	}
	if _, ok := NewTransform(TransformENCR, 28, 0).KeyLength(); ok {
		t.Error("a key length where there is none")
	}
	long := Transform{Attributes: []Attribute{{Type: AttrKeyLength, Data: []byte{1, 0}}}}
	if _, ok := long.KeyLength(); ok {
		t.Error("a key length in the long format, which RFC 7296 3.3.5 forbids, was taken")
	}
}

func TestDeleteSPIs(t *testing.T) {
	d := NewDelete(ProtoESP, 1, 0x80000002)
	if d.Count() != 2 || string(d.SPI(0)) != "\x00\x00\x00\x01" || string(d.SPI(1)) != "\x80\x00\x00\x02" {
		t.Errorf("got %d SPIs, %x", d.Count(), d.SPIs)
	}
	if n := NewDelete(ProtoIKE).Count(); n != 0 {
		t.Errorf("IKE: got %d SPIs", n)
	}
}

func TestRestOfID(t *testing.T) {
	body := unhex(t, `02 00 07 00 61 62`)
	ps, err := ParsePayloads(PayloadIDr, chain(typedBody{PayloadIDr, body}))
	if err != nil {
		t.Fatal(err)
	}
	if got := ps[0].(*ID).RestOfID(); string(got) != string(body) {
		t.Errorf("got %x, want %x, reserved octets and all", got, body)
	}
}

func TestSelectorHelpers(t *testing.T) {
	a := netip.MustParseAddr("10.0.0.1")
	for _, tt := range []struct {
		start, end  uint16
		opaque, any bool
	}{{0, 0xffff, false, true}, {0xffff, 0, true, false}, {0, 0, false, false}, {0xffff, 0xffff, false, false}} {
		s := NewTrafficSelector(0, a, a, tt.start, tt.end)
		if s.Opaque() != tt.opaque || s.AnyPort() != tt.any {
			t.Errorf("%d to %d: opaque %v, any %v", tt.start, tt.end, s.Opaque(), s.AnyPort())
		}
	}
	// What can't be said in a selector's family must not panic.
	wrong := &TS{Selectors: []TrafficSelector{
		{TSType: TSIPv4AddrRange, Start: netip.MustParseAddr("2001:db8::1")}, {TSType: TSIPv6AddrRange}}}
	want := "07000010" + strings.Repeat("00", 12) + "08000028" + strings.Repeat("00", 36)
	if got := hex.EncodeToString(wrong.AppendBody(nil)[4:]); got != want {
		t.Errorf("got  %s, want %s", got, want)
	}
}

// TestCapacityCut wants an append to a parsed field to leave the message alone.
func TestCapacityCut(t *testing.T) {
	b := chain(typedBody{PayloadNotify, unhex(t, `03 04 40 09 01 02 03 04 05`)}, typedBody{PayloadVendorID, []byte("v")})
	orig := string(b)
	ps, err := ParsePayloads(PayloadNotify, b)
	if err != nil {
		t.Fatal(err)
	}
	n := ps[0].(*Notify)
	_, _ = append(n.SPI, 0xff), append(n.Data, 0xff)
	if string(b) != orig {
		t.Errorf("message is now %x, was %x", b, orig)
	}
}
