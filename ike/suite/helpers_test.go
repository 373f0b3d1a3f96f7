package suite

import (
	"encoding/hex"
	"math/rand/v2"
	"strings"
	"testing"

	"espalier/ike/wire"
)

// unhex reads hexadecimal with any white space in it.
func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.Join(strings.Fields(s), ""))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// source is a deterministic io.Reader.
type source struct{ *rand.ChaCha8 }

func newSource(seed byte) source { return source{rand.NewChaCha8([32]byte{seed})} }

// choose makes the Choice of a proposal with one transform a type.
func choose(t testing.TB, proto wire.ProtocolID, s string) Choice {
	t.Helper()
	p, err := parse(proto, s)
	if err != nil {
		t.Fatal(err)
	}
	c, m := Select([]Proposal{p}, []wire.Proposal{p.Wire(1, nil)}, SelectOptions{})
	if m != nil {
		t.Fatal(m)
	}
	return c
}
