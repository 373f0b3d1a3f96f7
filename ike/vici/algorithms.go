package vici

import (
	"espalier/ike/suite"
	"espalier/ike/wire"
)

// provider is who implements an algorithm; charon names its plugins there.
const provider = "espalier"

// getAlgorithms tells what IKE can be done with, by charon's kinds; those that have
// no counterpart here are empty.
func (c *client) getAlgorithms(Message) (Message, error) {
	section := func(t wire.TransformType, wanted func(id uint16) bool) (m Message) {
		for _, id := range suite.Algorithms(t) {
			if wanted(id) {
				m.Put(suite.AlgorithmName(t, id), provider)
			}
		}
		return m
	}
	all := func(uint16) bool { return true }
	aead := func(id uint16) bool { return suite.AEAD(wire.EncrID(id)) }
	var m Message
	m.PutSection("encryption", section(wire.TransformENCR, func(id uint16) bool { return !aead(id) }))
	m.PutSection("integrity", section(wire.TransformINTEG, all))
	m.PutSection("aead", section(wire.TransformENCR, aead))
	m.PutSection("hasher", hashers())
	m.PutSection("prf", section(wire.TransformPRF, all))
	m.PutSection("xof", nil)
	m.PutSection("kdf", Message{KeyValue{"KDF_PRF", provider}, KeyValue{"KDF_PRF_PLUS", provider}})
	m.PutSection("drbg", nil)
	m.PutSection("ke", section(wire.TransformKE, all))
	m.PutSection("rng", Message{KeyValue{"RNG_STRONG", provider}})
	m.PutSection("nonce-gen", Message{KeyValue{"NONCE_GEN", provider}})
	return m, nil
}

// hashers are those of signatures (RFC 7427).
func hashers() (m Message) {
	for _, name := range []string{"HASH_SHA1", "HASH_SHA2_256", "HASH_SHA2_384", "HASH_SHA2_512", "HASH_IDENTITY"} {
		m.Put(name, provider)
	}
	return m
}
