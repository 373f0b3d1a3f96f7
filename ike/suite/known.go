package suite

import "espalier/ike/wire"

// Algorithms lists what this package implements of a transform type for IKE, by
// number, each once, in the order of the keywords' table. Key lengths are not told.
func Algorithms(t wire.TransformType) []uint16 {
	var out []uint16
	seen := map[uint16]bool{}
	for i := range keywords {
		k := &keywords[i]
		if k.typ == t && k.supported && k.id != 0 && !seen[k.id] {
			seen[k.id] = true
			out = append(out, k.id)
		}
	}
	return out
}

// AEAD reports whether an encryption algorithm authenticates, too.
func AEAD(id wire.EncrID) bool { return encryption(id).aead }
