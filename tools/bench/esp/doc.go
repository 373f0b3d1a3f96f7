// Package esp makes and sends ESP for tests and for the traffic lab: valid
// packets for given keys (AES-GCM, AES-CBC with HMAC-SHA2; tunnel mode, in UDP
// too), of one SA or of many, evenly or skewed, and forged ones. Sequence
// numbers never repeat: a ring of frames is sealed ahead, from a seed, and sent
// paced or as fast as it goes, through XDP live frames or batches on a packet
// socket.
//
//	SAs + inner packets → Generator ─┐
//	                      Forger ────┴→ Ring (filled ahead) → Sender → device
//
// It stands in for a peer at a speed that a kernel of the same machine doesn't
// reach when it has to encrypt. It is no implementation of IPsec for anything
// but tests: its IVs come from the seed.
package esp
