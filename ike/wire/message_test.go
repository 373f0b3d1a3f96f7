package wire

import (
	"bufio"
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"strconv"
	"strings"
	"testing"
)

func TestHeader(t *testing.T) {
	b := unhex(t, `0102030405060708 1112131415161718 21 20 22 08 00000001 0000001c`)
	want := Header{SPIi: 0x0102030405060708, SPIr: 0x1112131415161718, Next: PayloadSA, Version: Version2,
		Exchange: ExchangeIKESAInit, Flags: FlagInitiator, MessageID: 1, Length: 28}
	h, err := ParseHeader(b)
	if err != nil || h != want {
		t.Fatalf("got %+v, %v, want %+v", h, err, want)
	}
	if got := h.Append(nil); !bytes.Equal(got, b) {
		t.Errorf("got %x, want %x", got, b)
	}
	if !h.IsInitiator() || h.IsResponse() || h.MajorVersion() != 2 {
		t.Errorf("initiator %v, response %v, major %d", h.IsInitiator(), h.IsResponse(), h.MajorVersion())
	}
	h.Flags, h.Version = FlagResponse, 0
	if h.IsInitiator() || !h.IsResponse() || h.Append(nil)[17] != 0x20 {
		t.Errorf("response: initiator %v, response %v, version octet %x", h.IsInitiator(), h.IsResponse(), h.Append(nil)[17])
	}
	for n := range HeaderLen {
		if _, err := ParseHeader(b[:n]); err == nil {
			t.Errorf("a header of %d octets was taken", n)
		}
	}
}

// header of an IKE_SA_INIT request that starts with a Vendor ID of two octets.
const vendorMessage = `0102030405060708 0000000000000000 2b 20 22 08 00000000 00000022  00 00 00 06 76 69`

func TestParseMessageErrors(t *testing.T) {
	set := func(at int, v ...byte) func([]byte) []byte {
		return func(b []byte) []byte { copy(b[at:], v); return b }
	}
	tests := []struct {
		name   string
		change func([]byte) []byte
		want   error
	}{
		{"major 1", set(17, 0x10), &InvalidMajorVersion{Major: 1}},
		{"major 3, minor 4", set(17, 0x34), &InvalidMajorVersion{Major: 3, Minor: 4}},
		{"length longer", set(27, 0x23), &SyntaxError{Offset: 24, Expected: "a length of 34 as received", Got: "35"}},
		{"length shorter", set(27, 0x21), &SyntaxError{Offset: 24, Expected: "a length of 34 as received", Got: "33"}},
		{"length huge", set(24, 0xff), &SyntaxError{Offset: 24, Expected: "a length of 34 as received", Got: "4278190114"}},
		{"critical", func(b []byte) []byte { b[16], b[29] = 200, 0x80; return b },
			&UnsupportedCriticalPayload{PayloadType: 200, Offset: 28}},
		{"critical, named but not parsed", func(b []byte) []byte { b[16], b[29] = byte(PayloadPS), 0x80; return b },
			&UnsupportedCriticalPayload{PayloadType: PayloadPS, Offset: 28}},
		{"payload length short", set(31, 3), &SyntaxError{Payload: PayloadVendorID, Offset: 30,
			Expected: "a payload length from 4 to the 6 that are left", Got: "3"}},
		{"payload length long", set(31, 7), &SyntaxError{Payload: PayloadVendorID, Offset: 30,
			Expected: "a payload length from 4 to the 6 that are left", Got: "7"}},
		{"next payload missing", set(28, 41), &SyntaxError{Payload: PayloadNotify, Offset: 34,
			Expected: "a payload header of 4 octets", Got: "0 octets"}},
		{"octets after the last payload", set(16, 0), &SyntaxError{Offset: 28,
			Expected: "the end of the message after its last payload", Got: "6 octets more"}},
		{"SK not last", func(b []byte) []byte { b[16], b[31] = byte(PayloadSK), 5; return b },
			&SyntaxError{Payload: PayloadSK, Offset: 33, Expected: "the end of the message after it", Got: "1 octet more"}},
		{"fragment 0", func(b []byte) []byte { return fragmentHeader(b, 0, 2) }, &SyntaxError{Payload: PayloadSKF, Offset: 32,
			Expected: "a fragment number from 1 to 2", Got: "0"}},
		{"fragment 3 of 2", func(b []byte) []byte { return fragmentHeader(b, 3, 2) }, &SyntaxError{Payload: PayloadSKF, Offset: 32,
			Expected: "a fragment number from 1 to 2", Got: "3"}},
		{"1 of 0 fragments", func(b []byte) []byte { return fragmentHeader(b, 1, 0) }, &SyntaxError{Payload: PayloadSKF, Offset: 34,
			Expected: "1 to 1024 fragments", Got: "0"}},
		{"1025 fragments", func(b []byte) []byte { return fragmentHeader(b, 1, 1025) }, &SyntaxError{Payload: PayloadSKF, Offset: 34,
			Expected: "1 to 1024 fragments", Got: "1025"}},
		{"SKF without numbers", func(b []byte) []byte { b[16] = byte(PayloadSKF); return b },
			&SyntaxError{Payload: PayloadSKF, Offset: 32, Expected: "fragment number and total of 4 octets", Got: "2 octets left"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := ParseMessage(tt.change(unhex(t, vendorMessage)))
			if !reflect.DeepEqual(err, tt.want) {
				t.Errorf("got  %v\nwant %v", err, tt.want)
			}
		})
	}
}

// fragmentHeader makes b's payload an SKF with the given numbers and no more.
func fragmentHeader(b []byte, number, total int) []byte {
	b = append(b[:32], byte(number>>8), byte(number), byte(total>>8), byte(total))
	b[16], b[27], b[31] = byte(PayloadSKF), byte(len(b)), 8
	return b
}

func TestErrorTexts(t *testing.T) {
	for want, err := range map[string]error{
		"IKE header: expected major version 2, got version 3.4 at offset 17": &InvalidMajorVersion{3, 4},
		"Nonce payload: expected x, got y at offset 7":                       &SyntaxError{PayloadNonce, 7, "x", "y"},
		"IKE message: expected x, got y at offset 0":                         &SyntaxError{PayloadNone, 0, "x", "y"},
		"unsupported critical payload PayloadType(200) (200) at offset 28":   &UnsupportedCriticalPayload{200, 28},
	} {
		if err.Error() != want {
			t.Errorf("got %q, want %q", err, want)
		}
	}
}

func TestAppendMessage(t *testing.T) {
	h := Header{SPIi: 0x0102030405060708, Exchange: ExchangeIKESAInit, Flags: FlagInitiator, Next: 99, Length: 99}
	got := AppendMessage([]byte("ab"), h, []Payload{&VendorID{Data: []byte("vi")}})
	if want := append([]byte("ab"), unhex(t, vendorMessage)...); !bytes.Equal(got, want) {
		t.Errorf("got %x, want %x", got, want)
	}
	if got := AppendMessage(nil, h, nil); len(got) != HeaderLen || got[16] != 0 || got[27] != HeaderLen {
		t.Errorf("empty: got %x", got)
	}
	// A critical payload of ours goes out with its bit, and comes back as the error that names it.
	b := AppendMessage(nil, h, []Payload{&VendorID{}, &Unknown{PayloadType: 200, Critical: true}})
	_, err := ParseMessage(b)
	if want := (&UnsupportedCriticalPayload{200, 32}); !reflect.DeepEqual(err, want) {
		t.Errorf("got %v, want %v", err, want)
	}
	if AppendMessage(nil, h, []Payload{&Cert{Data: make([]byte, 65531)}}) != nil {
		t.Error("a payload of 65536 octets was written")
	}
	if AppendMessage(nil, h, []Payload{&Cert{Data: make([]byte, 65530)}}) == nil {
		t.Error("a payload of 65535 octets was not written")
	}
}

func TestLookups(t *testing.T) {
	n1, n2 := &Notify{NotifyType: NotifyCookie}, &Notify{NotifyType: NotifyNoProposalChosen}
	ps := []Payload{n1, &ID{IDType: IDFQDN}, &TS{Initiator: true}, n2, &Cert{Encoding: 1}, &Cert{Encoding: 2}, &ID{Initiator: true}}
	if n, ok := First[*Notify](ps); !ok || n != n1 {
		t.Errorf("First: %v, %v", n, ok)
	}
	if k, ok := First[*KE](ps); ok || k != nil {
		t.Errorf("First of none: %v, %v", k, ok)
	}
	if n, ok := FindNotify(ps, NotifyNoProposalChosen); !ok || n != n2 {
		t.Errorf("FindNotify: %v, %v", n, ok)
	}
	if _, ok := FindNotify(ps, NotifyCookie2); ok {
		t.Error("FindNotify found what isn't there")
	}
	if n, ok := FindError(ps); !ok || n != n2 {
		t.Errorf("FindError: %v, %v", n, ok)
	}
	if _, ok := FindError(ps[:3]); ok {
		t.Error("FindError took a status")
	}
	if id, ok := FindID(ps, true); !ok || !id.Initiator {
		t.Errorf("FindID: %v, %v", id, ok)
	}
	if id, ok := FindID(ps, false); !ok || id.IDType != IDFQDN {
		t.Errorf("FindID: %v, %v", id, ok)
	}
	if ts, ok := FindTS(ps, true); !ok || !ts.Initiator {
		t.Errorf("FindTS: %v, %v", ts, ok)
	}
	if _, ok := FindTS(ps, false); ok {
		t.Error("FindTS found what isn't there")
	}
	var encodings []CertEncoding
	for c := range All[*Cert](ps) {
		encodings = append(encodings, c.Encoding)
	}
	if !reflect.DeepEqual(encodings, []CertEncoding{1, 2}) {
		t.Errorf("All: %v", encodings)
	}
}

// seed reads the arguments of a file of the fuzz corpus.
func seed(t testing.TB, name string) (first PayloadType, data []byte) {
	t.Helper()
	f, err := os.ReadFile(filepath.Join("testdata", "fuzz", name))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(f)) {
		line = strings.TrimSpace(line)
		if s, ok := strings.CutPrefix(line, "byte("); ok {
			r, _, _, err := strconv.UnquoteChar(s[1:], '\'')
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			first = PayloadType(r)
		}
		if s, ok := strings.CutPrefix(line, "[]byte("); ok {
			s, err := strconv.Unquote(strings.TrimSuffix(s, ")"))
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			data = []byte(s)
		}
	}
	return first, data
}

// messageSeeds names the captured datagrams.
func messageSeeds(t testing.TB) []string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join("testdata", "fuzz", "FuzzParseMessage", "*-[0-9][0-9]"))
	if err != nil || len(files) < 50 {
		t.Fatalf("found %d captured messages, %v", len(files), err)
	}
	for i, f := range files {
		files[i] = filepath.Join("FuzzParseMessage", filepath.Base(f))
	}
	return files
}

// TestRealMessages parses what strongSwan sent, compares with what strongSwan itself read in it, wants every payload
// allowed where it stands, and wants append to give the same octets again.
func TestRealMessages(t *testing.T) {
	for _, name := range messageSeeds(t) {
		_, raw := seed(t, name)
		m, err := ParseMessage(raw)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		for _, p := range m.Payloads {
			if !Allowed(m.Exchange, m.IsResponse(), false, p.Type()) {
				t.Errorf("%s: %s not allowed in a clear %s", name, p.Type(), m.Exchange)
			}
		}
		if got := AppendMessage(nil, m.Header, m.Payloads); !bytes.Equal(got, raw) {
			t.Errorf("%s: written as\n%x, came as\n%x", name, got, raw)
		}
	}
	f, err := os.Open(filepath.Join("testdata", "charon.txt"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	lines := 0
	for sc := bufio.NewScanner(f); sc.Scan(); lines++ {
		name, want, _ := strings.Cut(sc.Text(), " ")
		_, raw := seed(t, strings.Replace(name, "FuzzParsePayloads", "FuzzParseMessage", 1))
		m, err := ParseMessage(raw)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		ps := m.Payloads
		if strings.HasPrefix(name, "FuzzParsePayloads") {
			ps = realChain(t, name, m.Header)
		}
		if got := summary(m.Header, ps); got != want {
			t.Errorf("%s:\nwe read     %s\ncharon read %s", name, got, want)
		}
	}
	if lines < 50 {
		t.Errorf("only %d messages compared", lines)
	}
}

func realChain(t *testing.T, name string, h Header) []Payload {
	t.Helper()
	first, data := seed(t, name)
	ps, err := ParsePayloads(first, data)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	for _, p := range ps {
		if !Allowed(h.Exchange, h.IsResponse(), true, p.Type()) {
			t.Errorf("%s: %s not allowed in %s", name, p.Type(), h.Exchange)
		}
	}
	if got := AppendPayloads(nil, ps); !bytes.Equal(got, data) {
		t.Errorf("%s: written as\n%x, came as\n%x", name, got, data)
	}
	return ps
}

// summary says a message in charon's shorthand, as far as the captures need it.
func summary(h Header, ps []Payload) string {
	kind := "request"
	if h.IsResponse() {
		kind = "response"
	}
	s := h.Exchange.String() + " " + kind + " " + strconv.Itoa(int(h.MessageID)) + " [ "
	for _, p := range ps {
		s += shorthand(p) + " "
	}
	return s + "]"
}

func shorthand(p Payload) string {
	switch p := p.(type) {
	case *Nonce:
		return "No"
	case *Delete:
		return "D"
	case *Notify:
		return "N(" + map[NotifyType]string{NotifyNATDetectionSourceIP: "NATD_S_IP", NotifyNATDetectionDestinationIP: "NATD_D_IP",
			NotifyIKEv2FragmentationSupported: "FRAG_SUP", NotifySignatureHashAlgorithms: "HASH_ALG",
			NotifyRedirectSupported: "REDIR_SUP", NotifyChildlessIKEv2Supported: "CHDLESS_SUP",
			NotifyMultipleAuthSupported: "MULT_AUTH", NotifyInitialContact: "INIT_CONTACT", NotifyIPCompSupported: "IPCOMP_SUP",
			NotifyMOBIKESupported: "MOBIKE_SUP", NotifyNoAdditionalAddresses: "NO_ADD_ADDR",
			NotifyEAPOnlyAuthentication: "EAP_ONLY", NotifyIKEv2MessageIDSyncSupported: "MSG_ID_SYN_SUP",
			NotifyUseTransportMode: "USE_TRANSP", NotifyIntermediateExchangeSupported: "IKE_INT_SUP", NotifyRekeySA: "REKEY_SA",
			NotifyAdditionalKeyExchange: "ADD_KE", NotifyNoProposalChosen: "NO_PROP", NotifyInvalidKEPayload: "INVAL_KE",
		}[p.NotifyType] + ")"
	case *EAP:
		s := "EAP/" + map[EAPCode]string{EAPRequest: "REQ", EAPResponse: "RES", EAPSuccess: "SUCC"}[p.Code]
		if p.Code <= EAPResponse {
			s += "/" + map[EAPType]string{EAPTypeIdentity: "ID", EAPTypeMSCHAPv2: "MSCHAPV2"}[p.EAPType]
		}
		return s
	case *CP:
		var as []string
		for _, a := range p.Attributes {
			as = append(as, map[CfgAttr]string{CfgAttrInternalIP4Address: "ADDR", CfgAttrInternalIP6Address: "ADDR6",
				CfgAttrInternalIP4DNS: "DNS", CfgAttrInternalIP6DNS: "DNS6"}[a.Type])
		}
		return map[CfgType]string{CfgRequest: "CPRQ", CfgReply: "CPRP"}[p.CfgType] + "(" + strings.Join(as, " ") + ")"
	}
	return p.Type().String()
}

// TestTruncation cuts each captured message and chain of every exchange at every octet. None may parse: a message
// neither with its old length (the network cut it) nor with a length field that fits (the sender did).
func TestTruncation(t *testing.T) {
	exchanges := map[ExchangeType]bool{}
	for _, name := range messageSeeds(t) {
		_, raw := seed(t, name)
		m, err := ParseMessage(raw)
		if err != nil {
			t.Fatal(err)
		}
		exchanges[m.Exchange] = true
		for n := range len(raw) {
			if _, err := ParseMessage(raw[:n:n]); !isSyntax(err) {
				t.Fatalf("%s cut to %d octets: got %v", name, n, err)
			}
			if n < HeaderLen {
				continue
			}
			cut := bytes.Clone(raw[:n])
			cut[26], cut[27] = byte(n>>8), byte(n)
			if _, err := ParseMessage(cut); !isSyntax(err) {
				t.Fatalf("%s cut to %d octets with that length: got %v", name, n, err)
			}
		}
	}
	for _, e := range []ExchangeType{ExchangeIKESAInit, ExchangeIKEAuth, ExchangeCreateChildSA, ExchangeInformational,
		ExchangeIKEIntermediate, ExchangeIKEFollowupKE} {
		if !exchanges[e] {
			t.Errorf("no captured %s", e)
		}
	}
	chains, err := filepath.Glob(filepath.Join("testdata", "fuzz", "FuzzParsePayloads", "*-[0-9][0-9]"))
	if err != nil || len(chains) < 40 {
		t.Fatalf("found %d captured chains, %v", len(chains), err)
	}
	for _, name := range chains {
		first, b := seed(t, filepath.Join("FuzzParsePayloads", filepath.Base(name)))
		for n := range len(b) {
			if _, err := ParsePayloads(first, b[:n:n]); !isSyntax(err) {
				t.Fatalf("%s cut to %d octets: got %v", name, n, err)
			}
		}
	}
}

func isSyntax(err error) bool {
	var syntax *SyntaxError
	return errors.As(err, &syntax)
}
