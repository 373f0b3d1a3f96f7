package wire

// Allowed reports whether a payload of type t may come in a message of the given exchange, as a request or response,
// inside an SK (or SKF) payload (encrypted) or in clear. It follows RFC 7296 appendix C, with RFC 5723 for
// IKE_SESSION_RESUME, RFC 9242 and 9370 for IKE_INTERMEDIATE and IKE_FOLLOWUP_KE.
//
// Notify, Vendor ID and payloads that this codec doesn't parse are tolerated wherever payloads are: what they say is
// judged elsewhere. Exchanges that this codec doesn't know allow nothing else. Whether a payload must come, and how
// often, is the session machine's concern.
func Allowed(exchange ExchangeType, response, encrypted bool, t PayloadType) bool {
	initial := exchange == ExchangeIKESAInit || exchange == ExchangeIKESessionResume
	if encrypted && initial {
		return false // there are no keys yet
	}
	if t == PayloadNotify || t == PayloadVendorID || !known(t) {
		return true
	}
	if !encrypted && !initial {
		return protected(exchange) && (t == PayloadSK || t == PayloadSKF)
	}
	switch exchange {
	case ExchangeIKESAInit:
		return t == PayloadSA || t == PayloadKE || t == PayloadNonce || t == PayloadCertReq && response
	case ExchangeIKESessionResume:
		return t == PayloadNonce
	case ExchangeIKEAuth:
		return allowedAuth(response, t)
	case ExchangeCreateChildSA:
		switch t {
		case PayloadSA, PayloadNonce, PayloadKE, PayloadTSi, PayloadTSr, PayloadCP:
			return true
		}
	case ExchangeInformational:
		return t == PayloadDelete || t == PayloadCP
	case ExchangeIKEIntermediate, ExchangeIKEFollowupKE:
		return t == PayloadKE
	}
	return false
}

// allowedAuth is Allowed for the inside of IKE_AUTH, over all its rounds (RFC 7296 appendices C.2 and C.3).
func allowedAuth(response bool, t PayloadType) bool {
	switch t {
	case PayloadIDr, PayloadCert, PayloadAuth, PayloadEAP, PayloadCP, PayloadSA, PayloadTSi, PayloadTSr:
		return true
	case PayloadIDi, PayloadCertReq:
		return !response
	}
	return false
}

// protected reports whether the exchange's payloads come inside SK.
func protected(e ExchangeType) bool {
	switch e {
	case ExchangeIKEAuth, ExchangeCreateChildSA, ExchangeInformational, ExchangeIKEIntermediate, ExchangeIKEFollowupKE:
		return true
	}
	return false
}

// known reports whether this codec parses payloads of type t.
func known(t PayloadType) bool {
	return t >= PayloadSA && t <= PayloadEAP || t == PayloadSKF
}
