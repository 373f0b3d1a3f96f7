package auth

import (
	"crypto"
	"errors"
	"fmt"

	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"

	"espalier/ike/wire"
)

// algorithm is what an AlgorithmIdentifier of RFC 7427 says.
type algorithm struct {
	key  KeyType
	hash wire.HashAlgorithm
	pss  bool
	salt int // octets, with pss
}

// AlgorithmIdentifiers in DER (RFC 7427 appendix A, RFC 8420 appendix A), those without parameters to choose.
const (
	derRSA256   = "\x30\x0d\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x01\x0b\x05\x00"
	derRSA384   = "\x30\x0d\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x01\x0c\x05\x00"
	derRSA512   = "\x30\x0d\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x01\x0d\x05\x00"
	derECDSA256 = "\x30\x0a\x06\x08\x2a\x86\x48\xce\x3d\x04\x03\x02"
	derECDSA384 = "\x30\x0a\x06\x08\x2a\x86\x48\xce\x3d\x04\x03\x03"
	derECDSA512 = "\x30\x0a\x06\x08\x2a\x86\x48\xce\x3d\x04\x03\x04"
	derEd25519  = "\x30\x05\x06\x03\x2b\x65\x70"
)

// algorithms: the first entry of an algorithm is what we send. Absent parameters of RSA must be accepted (RFC 4055 5).
var algorithms = [...]struct {
	der string
	alg algorithm
}{
	{derECDSA256, algorithm{key: KeyECDSA, hash: wire.HashSHA2_256}},
	{derECDSA384, algorithm{key: KeyECDSA, hash: wire.HashSHA2_384}},
	{derECDSA512, algorithm{key: KeyECDSA, hash: wire.HashSHA2_512}},
	{derEd25519, algorithm{key: KeyEd25519, hash: wire.HashIdentity}},
	{derRSA256, algorithm{key: KeyRSA, hash: wire.HashSHA2_256}},
	{derRSA384, algorithm{key: KeyRSA, hash: wire.HashSHA2_384}},
	{derRSA512, algorithm{key: KeyRSA, hash: wire.HashSHA2_512}},
	{"\x30\x0b" + derRSA256[2:13], algorithm{key: KeyRSA, hash: wire.HashSHA2_256}},
	{"\x30\x0b" + derRSA384[2:13], algorithm{key: KeyRSA, hash: wire.HashSHA2_384}},
	{"\x30\x0b" + derRSA512[2:13], algorithm{key: KeyRSA, hash: wire.HashSHA2_512}},
}

// Contents of OBJECT IDENTIFIERs of RSASSA-PSS (RFC 4055).
const (
	oidPSS     = "\x2a\x86\x48\x86\xf7\x0d\x01\x01\x0a"
	oidMGF1    = "\x2a\x86\x48\x86\xf7\x0d\x01\x01\x08"
	oidSHA2    = "\x60\x86\x48\x01\x65\x03\x04\x02" // and one octet
	sha2Octets = "\x01\x02\x03"                     // of SHA-256, 384, 512
)

// cryptoHash is the standard library's number of a hash; 0 for HashIdentity and unknown ones.
func cryptoHash(h wire.HashAlgorithm) crypto.Hash {
	switch h {
	case wire.HashSHA1:
		return crypto.SHA1
	case wire.HashSHA2_256:
		return crypto.SHA256
	case wire.HashSHA2_384:
		return crypto.SHA384
	case wire.HashSHA2_512:
		return crypto.SHA512
	}
	return 0
}

// appendAlgorithm appends the length octet and the AlgorithmIdentifier that begin AUTH data (RFC 7427 3).
func appendAlgorithm(dst []byte, a algorithm) ([]byte, error) {
	if a.pss {
		der, err := pssIdentifier(a)
		if err != nil {
			return nil, err
		}
		return append(append(dst, byte(len(der))), der...), nil
	}
	for i := range algorithms {
		if algorithms[i].alg == a {
			return append(append(dst, byte(len(algorithms[i].der))), algorithms[i].der...), nil
		}
	}
	return nil, fmt.Errorf("expected a signature algorithm of RFC 7427 with SHA-2, found %s with %s", a.key, a.hash)
}

func pssIdentifier(a algorithm) ([]byte, error) {
	if a.hash < wire.HashSHA2_256 || a.hash > wire.HashSHA2_512 {
		return nil, fmt.Errorf("expected RSASSA-PSS with SHA-2, found %s", a.hash)
	}
	var b cryptobyte.Builder
	seq, oid := cbasn1.SEQUENCE, cbasn1.OBJECT_IDENTIFIER
	tag := func(n uint8) cbasn1.Tag { return cbasn1.Tag(n).ContextSpecific().Constructed() }
	hash := func(b *cryptobyte.Builder) {
		b.AddASN1(seq, func(b *cryptobyte.Builder) {
			b.AddASN1(oid, func(b *cryptobyte.Builder) {
				b.AddBytes([]byte(oidSHA2))
				b.AddUint8(sha2Octets[a.hash-wire.HashSHA2_256])
			})
			b.AddASN1NULL()
		})
	}
	b.AddASN1(seq, func(b *cryptobyte.Builder) {
		b.AddASN1(oid, func(b *cryptobyte.Builder) { b.AddBytes([]byte(oidPSS)) })
		b.AddASN1(seq, func(b *cryptobyte.Builder) {
			b.AddASN1(tag(0), hash)
			b.AddASN1(tag(1), func(b *cryptobyte.Builder) {
				b.AddASN1(seq, func(b *cryptobyte.Builder) {
					b.AddASN1(oid, func(b *cryptobyte.Builder) { b.AddBytes([]byte(oidMGF1)) })
					hash(b)
				})
			})
			b.AddASN1(tag(2), func(b *cryptobyte.Builder) { b.AddASN1Int64(int64(a.salt)) })
		})
	})
	return b.Bytes()
}

// parseDigitalSignature takes AUTH data of method 14 apart (RFC 7427 3): a length octet, an AlgorithmIdentifier of that
// length, the signature.
func parseDigitalSignature(data []byte) (algorithm, []byte, error) {
	if len(data) == 0 {
		return algorithm{}, nil, errors.New("expected the length of an AlgorithmIdentifier (RFC 7427 3), found no data")
	}
	n := int(data[0])
	data = data[1:]
	if n == 0 || n >= len(data) {
		return algorithm{}, nil, fmt.Errorf("expected an AlgorithmIdentifier and a signature in %d octets, found a length of %d for the first", len(data), n)
	}
	der, sig := data[:n], data[n:]
	for i := range algorithms {
		if algorithms[i].der == string(der) {
			return algorithms[i].alg, sig, nil
		}
	}
	in := cryptobyte.String(der)
	var id, oid cryptobyte.String
	if !in.ReadASN1(&id, cbasn1.SEQUENCE) || !in.Empty() || !id.ReadASN1(&oid, cbasn1.OBJECT_IDENTIFIER) {
		return algorithm{}, nil, fmt.Errorf("expected an AlgorithmIdentifier in DER, found %x", der)
	}
	if string(oid) != oidPSS {
		return algorithm{}, nil, fmt.Errorf("expected RSA, RSASSA-PSS or ECDSA with SHA-2, or Ed25519, found the AlgorithmIdentifier %x", der)
	}
	a, ok := parsePSS(id)
	if !ok {
		return algorithm{}, nil, fmt.Errorf("expected RSASSA-PSS parameters with the same SHA-2 hash twice and a salt of 1 to 255 octets, found %x", []byte(id))
	}
	return a, sig, nil
}

// parsePSS reads RSASSA-PSS-params (RFC 4055 3.1). The defaults mean SHA-1, which is refused, so the first three fields
// must be there. A salt of no octets is refused: crypto/rsa would take it for "any length".
func parsePSS(in cryptobyte.String) (algorithm, bool) {
	a := algorithm{key: KeyRSA, pss: true}
	var params, f, mgf, oid cryptobyte.String
	tag := func(n uint8) cbasn1.Tag { return cbasn1.Tag(n).ContextSpecific().Constructed() }
	if !in.ReadASN1(&params, cbasn1.SEQUENCE) || !in.Empty() || !params.ReadASN1(&f, tag(0)) || !readSHA2(&f, &a.hash) || !f.Empty() {
		return a, false
	}
	var mgfHash wire.HashAlgorithm
	if !params.ReadASN1(&f, tag(1)) || !f.ReadASN1(&mgf, cbasn1.SEQUENCE) || !f.Empty() ||
		!mgf.ReadASN1(&oid, cbasn1.OBJECT_IDENTIFIER) || string(oid) != oidMGF1 ||
		!readSHA2(&mgf, &mgfHash) || !mgf.Empty() || mgfHash != a.hash {
		return a, false
	}
	if !params.ReadASN1(&f, tag(2)) || !f.ReadASN1Integer(&a.salt) || !f.Empty() || a.salt < 1 || a.salt > 255 {
		return a, false
	}
	if params.PeekASN1Tag(tag(3)) { // DER leaves the default out, but some write it
		trailer := 0
		if !params.ReadASN1(&f, tag(3)) || !f.ReadASN1Integer(&trailer) || !f.Empty() || trailer != 1 {
			return a, false
		}
	}
	return a, params.Empty()
}

// readSHA2 reads an AlgorithmIdentifier of a hash, its parameters NULL or absent (RFC 4055 2.1).
func readSHA2(in *cryptobyte.String, h *wire.HashAlgorithm) bool {
	var id, oid, null cryptobyte.String
	if !in.ReadASN1(&id, cbasn1.SEQUENCE) || !id.ReadASN1(&oid, cbasn1.OBJECT_IDENTIFIER) {
		return false
	}
	if !id.Empty() && (!id.ReadASN1(&null, cbasn1.NULL) || len(null) != 0 || !id.Empty()) {
		return false
	}
	for i := range len(sha2Octets) {
		if string(oid) == oidSHA2+sha2Octets[i:i+1] {
			*h = wire.HashSHA2_256 + wire.HashAlgorithm(i)
			return true
		}
	}
	return false
}
