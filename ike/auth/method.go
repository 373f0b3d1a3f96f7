package auth

import (
	"strconv"

	"espalier/ike/wire"
)

// Method is the kind of authentication in one round.
type Method uint8

// Values of Method.
const (
	MethodAny    Method = 0
	MethodPSK    Method = 1 // shared key
	MethodPubkey Method = 2 // signature with a certificate
)

// String is swanctl's keyword.
func (m Method) String() string {
	switch m {
	case MethodAny:
		return "any"
	case MethodPSK:
		return "psk"
	case MethodPubkey:
		return "pubkey"
	}
	return "Method(" + strconv.Itoa(int(m)) + ")"
}

// KeyType is a kind of public key.
type KeyType uint8

// Values of KeyType.
const (
	KeyAny KeyType = iota
	KeyRSA
	KeyECDSA
	KeyEd25519
)

// Scheme is one signature scheme that a configuration allows. A plain value; zero fields mean any.
type Scheme struct {
	Key     KeyType
	MinBits uint16             // of the RSA modulus or the ECDSA curve
	Hash    wire.HashAlgorithm // Ed25519: HashIdentity or 0
	PSS     bool               // RSA: RSASSA-PSS is what we sign with; for KeyRSA with false we sign PKCS#1 v1.5
	IKEOnly bool               // applies to AUTH only, not to the signatures in the chain ("ike:")
}
