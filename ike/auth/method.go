package auth

import "strconv"

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
