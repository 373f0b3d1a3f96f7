package wire

// EAPCode is the code of an EAP packet (RFC 3748 4).
type EAPCode uint8

// Values of EAPCode.
const (
	EAPRequest  EAPCode = 1
	EAPResponse EAPCode = 2
	EAPSuccess  EAPCode = 3
	EAPFailure  EAPCode = 4
	EAPInitiate EAPCode = 5 // RFC 6696
	EAPFinish   EAPCode = 6 // RFC 6696
)

// String is the IANA name.
func (e EAPCode) String() string {
	switch e {
	case EAPRequest:
		return "Request"
	case EAPResponse:
		return "Response"
	case EAPSuccess:
		return "Success"
	case EAPFailure:
		return "Failure"
	case EAPInitiate:
		return "Initiate"
	case EAPFinish:
		return "Finish"
	}
	return unknown("EAPCode", uint16(e))
}

// EAPType is the method type of an EAP request or response (RFC 3748 5).
type EAPType uint8

// Values of EAPType.
const (
	EAPTypeIdentity            EAPType = 1
	EAPTypeNotification        EAPType = 2
	EAPTypeLegacyNak           EAPType = 3
	EAPTypeMD5Challenge        EAPType = 4
	EAPTypeOTP                 EAPType = 5
	EAPTypeGTC                 EAPType = 6
	EAPTypeRSAPublicKey        EAPType = 9
	EAPTypeDSSUnilateral       EAPType = 10
	EAPTypeKEA                 EAPType = 11
	EAPTypeKEAValidate         EAPType = 12
	EAPTypeTLS                 EAPType = 13
	EAPTypeDefenderToken       EAPType = 14
	EAPTypeSecurID             EAPType = 15
	EAPTypeArcot               EAPType = 16
	EAPTypeCiscoWireless       EAPType = 17
	EAPTypeSIM                 EAPType = 18
	EAPTypeSRPSHA1             EAPType = 19
	EAPTypeTTLS                EAPType = 21
	EAPTypeRemoteAccessService EAPType = 22
	EAPTypeAKA                 EAPType = 23
	EAPType3ComWireless        EAPType = 24
	EAPTypePEAP                EAPType = 25
	EAPTypeMSCHAPv2            EAPType = 26 // EAP-MSCHAPv2 as every peer speaks it
	EAPTypeMAKE                EAPType = 27
	EAPTypeCRYPTOCard          EAPType = 28
	EAPTypeMSCHAPv2Other       EAPType = 29 // registered, but peers use 26
	EAPTypeDynamID             EAPType = 30
	EAPTypeRob                 EAPType = 31
	EAPTypeProtectedOTP        EAPType = 32
	EAPTypeMSAuthenticationTLV EAPType = 33
	EAPTypeSentriNET           EAPType = 34
	EAPTypeActiontecWireless   EAPType = 35
	EAPTypeCogentBiometrics    EAPType = 36
	EAPTypeAirFortress         EAPType = 37
	EAPTypeHTTPDigest          EAPType = 38
	EAPTypeSecureSuite         EAPType = 39
	EAPTypeDeviceConnect       EAPType = 40
	EAPTypeSPEKE               EAPType = 41
	EAPTypeMOBAC               EAPType = 42
	EAPTypeFAST                EAPType = 43
	EAPTypeZoneLabs            EAPType = 44
	EAPTypeLink                EAPType = 45
	EAPTypePAX                 EAPType = 46
	EAPTypePSK                 EAPType = 47
	EAPTypeSAKE                EAPType = 48
	EAPTypeIKEv2               EAPType = 49
	EAPTypeAKAPrime            EAPType = 50
	EAPTypeGPSK                EAPType = 51
	EAPTypePWD                 EAPType = 52
	EAPTypeEKEv1               EAPType = 53
	EAPTypePT                  EAPType = 54
	EAPTypeTEAP                EAPType = 55
	EAPTypeNOOB                EAPType = 56
	EAPTypeExpanded            EAPType = 254
	EAPTypeExperimental        EAPType = 255
)

// String is the IANA name.
func (e EAPType) String() string {
	switch e {
	case EAPTypeIdentity:
		return "Identity"
	case EAPTypeNotification:
		return "Notification"
	case EAPTypeLegacyNak:
		return "Legacy Nak"
	case EAPTypeMD5Challenge:
		return "MD5-Challenge"
	case EAPTypeOTP:
		return "One-Time Password (OTP)"
	case EAPTypeGTC:
		return "Generic Token Card (GTC)"
	case EAPTypeRSAPublicKey:
		return "RSA Public Key Authentication"
	case EAPTypeDSSUnilateral:
		return "DSS Unilateral"
	case EAPTypeKEA:
		return "KEA"
	case EAPTypeKEAValidate:
		return "KEA-VALIDATE"
	case EAPTypeTLS:
		return "EAP-TLS"
	case EAPTypeDefenderToken:
		return "Defender Token (AXENT)"
	case EAPTypeSecurID:
		return "RSA Security SecurID EAP"
	case EAPTypeArcot:
		return "Arcot Systems EAP"
	case EAPTypeCiscoWireless:
		return "EAP-Cisco Wireless"
	case EAPTypeSIM:
		return "GSM Subscriber Identity Modules (EAP-SIM)"
	case EAPTypeSRPSHA1:
		return "SRP-SHA1"
	case EAPTypeTTLS:
		return "EAP-TTLS"
	case EAPTypeRemoteAccessService:
		return "Remote Access Service"
	case EAPTypeAKA:
		return "EAP-AKA Authentication"
	case EAPType3ComWireless:
		return "EAP-3Com Wireless"
	case EAPTypePEAP:
		return "PEAP"
	case EAPTypeMSCHAPv2:
		return "MS-EAP-Authentication"
	case EAPTypeMAKE:
		return "Mutual Authentication w/Key Exchange (MAKE)"
	case EAPTypeCRYPTOCard:
		return "CRYPTOCard"
	case EAPTypeMSCHAPv2Other:
		return "EAP-MSCHAP-V2"
	case EAPTypeDynamID:
		return "DynamID"
	case EAPTypeRob:
		return "Rob EAP"
	case EAPTypeProtectedOTP:
		return "Protected One-Time Password"
	case EAPTypeMSAuthenticationTLV:
		return "MS-Authentication-TLV"
	case EAPTypeSentriNET:
		return "SentriNET"
	case EAPTypeActiontecWireless:
		return "EAP-Actiontec Wireless"
	case EAPTypeCogentBiometrics:
		return "Cogent Systems Biometrics Authentication EAP"
	case EAPTypeAirFortress:
		return "AirFortress EAP"
	case EAPTypeHTTPDigest:
		return "EAP-HTTP Digest"
	case EAPTypeSecureSuite:
		return "SecureSuite EAP"
	case EAPTypeDeviceConnect:
		return "DeviceConnect EAP"
	case EAPTypeSPEKE:
		return "EAP-SPEKE"
	case EAPTypeMOBAC:
		return "EAP-MOBAC"
	case EAPTypeFAST:
		return "EAP-FAST"
	case EAPTypeZoneLabs:
		return "ZoneLabs EAP (ZLXEAP)"
	case EAPTypeLink:
		return "EAP-Link"
	case EAPTypePAX:
		return "EAP-PAX"
	case EAPTypePSK:
		return "EAP-PSK"
	case EAPTypeSAKE:
		return "EAP-SAKE"
	case EAPTypeIKEv2:
		return "EAP-IKEv2"
	case EAPTypeAKAPrime:
		return "EAP-AKA'"
	case EAPTypeGPSK:
		return "EAP-GPSK"
	case EAPTypePWD:
		return "EAP-pwd"
	case EAPTypeEKEv1:
		return "EAP-EKE Version 1"
	case EAPTypePT:
		return "EAP Method Type for PT-EAP"
	case EAPTypeTEAP:
		return "TEAP"
	case EAPTypeNOOB:
		return "EAP-NOOB"
	case EAPTypeExpanded:
		return "Reserved for the Expanded Type"
	case EAPTypeExperimental:
		return "Experimental"
	}
	return unknown("EAPType", uint16(e))
}
