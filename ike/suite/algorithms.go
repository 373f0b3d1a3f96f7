package suite

import "espalier/ike/wire"

type encrFacts struct {
	aead           bool
	fixedKey       int
	salt           int
	iv, icv, block int
}
type integFacts struct{ key, icv int }

func encryption(id wire.EncrID) encrFacts                  { return encrFacts{} }
func integrity(id wire.IntegID) integFacts                 { return integFacts{} }
func algorithmName(t wire.TransformType, id uint16) string { return "" }
