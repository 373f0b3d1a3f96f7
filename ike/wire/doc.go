// Package wire is the IKEv2 message codec of RFC 7296 and its extensions: it turns datagrams into typed payloads and
// back, and knows nothing of cryptography, sessions or sockets.
//
// Parsing never copies: every []byte in a parsed payload aliases the input (with its capacity cut, so that an append
// by the reader can't run into the next field). Who keeps a payload beyond the life of the receive buffer clones what
// it keeps. Parsing never panics and allocates at most a small multiple of the input's length; the bounds are the
// Max constants of this package.
//
// The walk of a protected message is: [ParseMessage] (header and clear payloads, the SK or SKF payload last and still
// sealed), then [OpenEncrypted] or [OpenFragment] with the keys of the SA. An error that matches [ErrIntegrity] says
// that nothing in the datagram can be believed; a [*SyntaxError] or [*UnsupportedCriticalPayload] after a successful
// opening was sent by the authenticated peer and may be answered inside the SA (RFC 7296 2.21.3).
//
// Offsets in errors count octets from the start of the message for [ParseMessage], and from the start of the decrypted
// payload chain for [ParsePayloads], [OpenEncrypted] and what is reassembled from fragments.
package wire
