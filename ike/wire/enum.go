package wire

import "strconv"

// Flags is the flags octet of the IKE header (RFC 7296 3.1).
type Flags uint8

// Values of Flags.
const (
	FlagInitiator Flags = 0x08 // sent by the original initiator of the IKE SA
	FlagVersion   Flags = 0x10 // the sender could speak a higher major version; cleared when sent
	FlagResponse  Flags = 0x20 // answers a request of the same message id
)

// String names the set flags, joined by "|": "Initiator|Response"; unnamed bits come as one number, none as "0".
func (f Flags) String() string {
	var s string
	add := func(bit Flags, name string) {
		if f&bit != 0 {
			if s != "" {
				s += "|"
			}
			s += name
		}
	}
	add(FlagInitiator, "Initiator")
	add(FlagVersion, "Version")
	add(FlagResponse, "Response")
	if rest := f &^ (FlagInitiator | FlagVersion | FlagResponse); rest != 0 || s == "" {
		if s != "" {
			s += "|"
		}
		s += strconv.Itoa(int(rest))
	}
	return s
}

// unknown is what String gives for a number without a name: the type's name and the number.
func unknown(typeName string, n uint16) string { return typeName + "(" + strconv.Itoa(int(n)) + ")" }

// PayloadType is the type of a payload (RFC 7296 3.2).
type PayloadType uint8

// Values of PayloadType.
const (
	PayloadNone     PayloadType = 0
	PayloadSA       PayloadType = 33
	PayloadKE       PayloadType = 34
	PayloadIDi      PayloadType = 35
	PayloadIDr      PayloadType = 36
	PayloadCert     PayloadType = 37
	PayloadCertReq  PayloadType = 38
	PayloadAuth     PayloadType = 39
	PayloadNonce    PayloadType = 40 // notation Ni, Nr
	PayloadNotify   PayloadType = 41 // notation N
	PayloadDelete   PayloadType = 42 // notation D
	PayloadVendorID PayloadType = 43 // notation V
	PayloadTSi      PayloadType = 44
	PayloadTSr      PayloadType = 45
	PayloadSK       PayloadType = 46
	PayloadCP       PayloadType = 47
	PayloadEAP      PayloadType = 48
	PayloadGSPM     PayloadType = 49 // Generic Secure Password Method, RFC 6467; not parsed
	PayloadIDg      PayloadType = 50 // Group Identification, RFC 9838; not parsed
	PayloadGSA      PayloadType = 51 // Group Security Association, RFC 9838; not parsed
	PayloadKD       PayloadType = 52 // Key Download, RFC 9838; not parsed
	PayloadSKF      PayloadType = 53 // RFC 7383
	PayloadPS       PayloadType = 54 // Puzzle Solution, RFC 8019; not parsed
)

// String is the IANA notation ("SA", "IDi"), or the IANA name where that is a single letter.
func (p PayloadType) String() string {
	switch p {
	case PayloadNone:
		return "No Next Payload"
	case PayloadSA:
		return "SA"
	case PayloadKE:
		return "KE"
	case PayloadIDi:
		return "IDi"
	case PayloadIDr:
		return "IDr"
	case PayloadCert:
		return "CERT"
	case PayloadCertReq:
		return "CERTREQ"
	case PayloadAuth:
		return "AUTH"
	case PayloadNonce:
		return "Nonce"
	case PayloadNotify:
		return "Notify"
	case PayloadDelete:
		return "Delete"
	case PayloadVendorID:
		return "Vendor ID"
	case PayloadTSi:
		return "TSi"
	case PayloadTSr:
		return "TSr"
	case PayloadSK:
		return "SK"
	case PayloadCP:
		return "CP"
	case PayloadEAP:
		return "EAP"
	case PayloadGSPM:
		return "GSPM"
	case PayloadIDg:
		return "IDg"
	case PayloadGSA:
		return "GSA"
	case PayloadKD:
		return "KD"
	case PayloadSKF:
		return "SKF"
	case PayloadPS:
		return "PS"
	}
	return unknown("PayloadType", uint16(p))
}

// ExchangeType is the exchange a message belongs to (RFC 7296 3.1).
type ExchangeType uint8

// Values of ExchangeType.
const (
	ExchangeIKESAInit        ExchangeType = 34
	ExchangeIKEAuth          ExchangeType = 35
	ExchangeCreateChildSA    ExchangeType = 36
	ExchangeInformational    ExchangeType = 37
	ExchangeIKESessionResume ExchangeType = 38 // RFC 5723
	ExchangeGSAAuth          ExchangeType = 39 // RFC 9838
	ExchangeGSARegistration  ExchangeType = 40 // RFC 9838
	ExchangeGSARekey         ExchangeType = 41 // RFC 9838
	ExchangeGSAInbandRekey   ExchangeType = 42 // RFC 9838
	ExchangeIKEIntermediate  ExchangeType = 43 // RFC 9242
	ExchangeIKEFollowupKE    ExchangeType = 44 // RFC 9370
)

// String is the IANA name.
func (e ExchangeType) String() string {
	switch e {
	case ExchangeIKESAInit:
		return "IKE_SA_INIT"
	case ExchangeIKEAuth:
		return "IKE_AUTH"
	case ExchangeCreateChildSA:
		return "CREATE_CHILD_SA"
	case ExchangeInformational:
		return "INFORMATIONAL"
	case ExchangeIKESessionResume:
		return "IKE_SESSION_RESUME"
	case ExchangeGSAAuth:
		return "GSA_AUTH"
	case ExchangeGSARegistration:
		return "GSA_REGISTRATION"
	case ExchangeGSARekey:
		return "GSA_REKEY"
	case ExchangeGSAInbandRekey:
		return "GSA_INBAND_REKEY"
	case ExchangeIKEIntermediate:
		return "IKE_INTERMEDIATE"
	case ExchangeIKEFollowupKE:
		return "IKE_FOLLOWUP_KE"
	}
	return unknown("ExchangeType", uint16(e))
}

// ProtocolID is the security protocol of a proposal, notification or deletion (RFC 7296 3.3.1).
type ProtocolID uint8

// Values of ProtocolID.
const (
	ProtoNone               ProtocolID = 0 // a Notify payload without SPI
	ProtoIKE                ProtocolID = 1
	ProtoAH                 ProtocolID = 2
	ProtoESP                ProtocolID = 3
	ProtoFCESPHeader        ProtocolID = 4 // RFC 4595
	ProtoFCCTAuthentication ProtocolID = 5 // RFC 4595
	ProtoGIKEUpdate         ProtocolID = 6 // RFC 9838
)

// String is the IANA name.
func (p ProtocolID) String() string {
	switch p {
	case ProtoNone:
		return "None"
	case ProtoIKE:
		return "IKE"
	case ProtoAH:
		return "AH"
	case ProtoESP:
		return "ESP"
	case ProtoFCESPHeader:
		return "FC_ESP_HEADER"
	case ProtoFCCTAuthentication:
		return "FC_CT_AUTHENTICATION"
	case ProtoGIKEUpdate:
		return "GIKE_UPDATE"
	}
	return unknown("ProtocolID", uint16(p))
}
