package auth

import "slices"

// SignedOctets appends what one side's AUTH covers (RFC 7296 2.15) to dst: its first message of IKE_SA_INIT as sent
// (the last try, without non-ESP marker), the other side's nonce data, prf(SK_p, RestOfIDPayload) of its own
// identity, and, after IKE_INTERMEDIATE, IntAuth (RFC 9242 3.3.2: IntAuth_iN_I | IntAuth_iN_R | IKE_AUTH_MID), else nil.
func SignedOctets(dst, message, nonce, idBodyMAC, intAuth []byte) []byte {
	dst = slices.Grow(dst, len(message)+len(nonce)+len(idBodyMAC)+len(intAuth))
	dst = append(dst, message...)
	dst = append(dst, nonce...)
	dst = append(dst, idBodyMAC...)
	return append(dst, intAuth...)
}
