package wire

import (
	"strings"
	"testing"
)

// TestAllowed holds the whole table against RFC 7296 appendix C and its extensions: what is not listed is refused.
func TestAllowed(t *testing.T) {
	const anywhere = "Notify, Vendor ID"
	tests := []struct {
		exchange            ExchangeType
		response, encrypted bool
		want                string // the payloads that this codec parses and allows there, besides anywhere
	}{
		{ExchangeIKESAInit, false, false, "SA KE Nonce"},
		{ExchangeIKESAInit, true, false, "SA KE Nonce CERTREQ"},
		{ExchangeIKESessionResume, false, false, "Nonce"},
		{ExchangeIKESessionResume, true, false, "Nonce"},
		{ExchangeIKEAuth, false, false, "SK SKF"},
		{ExchangeIKEAuth, true, false, "SK SKF"},
		{ExchangeIKEAuth, false, true, "IDi IDr CERT CERTREQ AUTH EAP CP SA TSi TSr"},
		{ExchangeIKEAuth, true, true, "IDr CERT AUTH EAP CP SA TSi TSr"},
		{ExchangeCreateChildSA, false, false, "SK SKF"},
		{ExchangeCreateChildSA, false, true, "SA Nonce KE TSi TSr CP"},
		{ExchangeCreateChildSA, true, true, "SA Nonce KE TSi TSr CP"},
		{ExchangeInformational, false, false, "SK SKF"},
		{ExchangeInformational, true, false, "SK SKF"},
		{ExchangeInformational, false, true, "Delete CP"},
		{ExchangeInformational, true, true, "Delete CP"},
		{ExchangeIKEIntermediate, false, false, "SK SKF"},
		{ExchangeIKEIntermediate, false, true, "KE"},
		{ExchangeIKEIntermediate, true, true, "KE"},
		{ExchangeIKEFollowupKE, false, false, "SK SKF"},
		{ExchangeIKEFollowupKE, false, true, "KE"},
		{ExchangeIKEFollowupKE, true, true, "KE"},
		{ExchangeGSAAuth, false, false, ""},
		{ExchangeGSAAuth, false, true, ""},
		{240, true, true, ""},
	}
	for _, tt := range tests {
		want := map[string]bool{}
		for _, s := range append(strings.Split(anywhere, ", "), strings.Fields(tt.want)...) {
			want[s] = true
		}
		for n := range 256 {
			p := PayloadType(n)
			parsed := n >= 33 && n <= 48 || n == 53
			if got := Allowed(tt.exchange, tt.response, tt.encrypted, p); got != (want[p.String()] || !parsed) {
				t.Errorf("%s, response %v, encrypted %v: %s is %v", tt.exchange, tt.response, tt.encrypted, p, got)
			}
		}
	}
	for _, e := range []ExchangeType{ExchangeIKESAInit, ExchangeIKESessionResume} {
		for n := range 256 {
			if Allowed(e, false, true, PayloadType(n)) || Allowed(e, true, true, PayloadType(n)) {
				t.Errorf("%s: an encrypted %s was allowed", e, PayloadType(n))
			}
		}
	}
}
