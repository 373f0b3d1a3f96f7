package suite

import (
	"fmt"
	"strings"

	"espalier/ike/wire"
)

// KeywordError is a word of a proposal that can't be used.
type KeywordError struct {
	Word    string // as written
	Offset  int    // octets from the start of the proposal
	Known   bool   // a keyword of strongSwan's that is not supported yet
	Nearest string // the supported keyword with the fewest differences, empty if none is near
}

// Error says what was found, where, and what it was perhaps meant to be.
func (e *KeywordError) Error() string {
	switch {
	case e.Known:
		return fmt.Sprintf("algorithm %q at character %d is known, not supported yet", e.Word, e.Offset+1)
	case e.Word == "":
		return fmt.Sprintf("expected an algorithm at character %d, got nothing", e.Offset+1)
	case e.Nearest != "":
		return fmt.Sprintf("unknown algorithm %q at character %d; nearest known: %q", clip(e.Word), e.Offset+1, e.Nearest)
	}
	return fmt.Sprintf("unknown algorithm %q at character %d", clip(e.Word), e.Offset+1)
}

// clip keeps a message to one readable line, whatever was written.
func clip(s string) string {
	const most = 40
	if len(s) > most {
		return s[:most] + "…"
	}
	return s
}

// ProposalError is a proposal whose keywords are fine each, but not together.
type ProposalError struct {
	Protocol wire.ProtocolID
	Text     string // the proposal as written
	Expected string
	Got      string
}

// Error says what a proposal of this protocol needs and what it has.
func (e *ProposalError) Error() string {
	return fmt.Sprintf("%s proposal %q: expected %s, got %s", e.Protocol, clip(e.Text), e.Expected, e.Got)
}

// parse reads the words of a proposal, then checks and completes it for its protocol.
func parse(proto wire.ProtocolID, s string) (Proposal, error) {
	p := Proposal{Protocol: proto}
	offset := 0
	for word := range strings.SplitSeq(s, "-") {
		t, err := parseWord(word, offset)
		if err != nil {
			return Proposal{}, err
		}
		if !p.has(t) {
			p.Transforms = append(p.Transforms, t)
		}
		offset += len(word) + 1
	}
	c := checker{p: p, text: s}
	switch proto {
	case wire.ProtoIKE:
		c.ike()
	case wire.ProtoESP:
		c.esp()
	case wire.ProtoAH:
		c.ah()
	}
	if c.err != nil {
		return Proposal{}, c.err
	}
	return c.p, nil
}

// mustParse is for the constants of this package, which a test parses.
func mustParse(proto wire.ProtocolID, s string) Proposal {
	p, err := parse(proto, s)
	if err != nil {
		panic(err)
	}
	return p
}

// parseWord reads one keyword that stands at offset, with spaces around it as strongSwan allows.
func parseWord(word string, offset int) (Transform, error) {
	trimmed := strings.TrimLeft(word, " ")
	offset += len(word) - len(trimmed)
	word = strings.TrimRight(trimmed, " ")
	base, typ := word, wire.TransformType(0)
	if len(word) > 4 && word[:2] == "ke" && word[2] >= '1' && word[2] <= '7' && word[3] == '_' {
		base, typ = word[4:], wire.TransformADDKE1+wire.TransformType(word[2]-'1')
	}
	for i := range keywords {
		k := &keywords[i]
		if k.word != base || typ != 0 && k.typ != wire.TransformKE {
			continue
		}
		if !k.supported {
			return Transform{}, &KeywordError{Word: word, Offset: offset, Known: true}
		}
		if typ == 0 {
			typ = k.typ
		}
		return Transform{Type: typ, ID: k.id, KeyBits: k.bits}, nil
	}
	if typ == 0 && isKnownUnsupported(base) || typ != 0 && isKnownUnsupportedKE(base) {
		return Transform{}, &KeywordError{Word: word, Offset: offset, Known: true}
	}
	e := &KeywordError{Word: word, Offset: offset, Nearest: nearest(base, typ != 0)}
	if typ != 0 && e.Nearest != "" {
		e.Nearest = word[:4] + e.Nearest
	}
	return Transform{}, e
}

// nearest is the supported keyword that takes the fewest edits from word, if a third of its letters are enough.
func nearest(word string, keOnly bool) string {
	const longest = 32 // no keyword comes near a longer word
	if len(word) == 0 || len(word) > longest {
		return ""
	}
	best, found := len(word)/3+2, ""
	for i := range keywords {
		k := &keywords[i]
		if !k.supported || keOnly && k.typ != wire.TransformKE {
			continue
		}
		if d := editDistance(strings.ToLower(word), k.word); d < best {
			best, found = d, k.word
		}
	}
	return found
}

// editDistance is Levenshtein's: the least number of letters to insert, delete or replace.
func editDistance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := 1
			if a[i] == b[j] {
				cost = 0
			}
			diagonal, row[j+1] = row[j+1], min(row[j+1]+1, row[j]+1, diagonal+cost)
		}
	}
	return row[len(b)]
}

// checker completes a parsed proposal by the rules of its protocol; the first violation stays in err.
type checker struct {
	p    Proposal
	text string
	err  error
}

func (c *checker) fail(expected, got string) {
	if c.err == nil {
		c.err = &ProposalError{Protocol: c.p.Protocol, Text: c.text, Expected: expected, Got: got}
	}
}

// ike applies RFC 7296 3.3.3: ENCR, PRF, KE, and INTEG unless all ENCR are AEAD.
func (c *checker) ike() {
	if len(c.p.Of(wire.TransformPRF)) == 0 {
		for _, t := range c.p.Of(wire.TransformINTEG) {
			if prf := prfOf(wire.IntegID(t.ID)); prf != 0 {
				c.add(Transform{Type: wire.TransformPRF, ID: uint16(prf)})
			}
		}
	}
	c.encryption()
	if len(c.p.Of(wire.TransformPRF)) == 0 {
		c.fail("a PRF with the AEAD (\"prfsha256\", \"prfsha384\" …)", "none")
	}
	c.removeNone(wire.TransformKE)
	if len(c.p.Of(wire.TransformKE)) == 0 {
		c.fail("a key exchange method (\"x25519\", \"ecp256\", \"modp2048\" …)", "none")
	}
	c.remove(wire.TransformESN)
	c.additional()
}

// esp applies RFC 7296 3.3.3 and RFC 8221 4: ENCR, INTEG unless all ENCR are AEAD, SN.
func (c *checker) esp() {
	c.remove(wire.TransformPRF)
	c.encryption()
	c.sequenceNumbers()
	c.additional()
}

// ah applies RFC 7296 3.3.3: INTEG and SN.
func (c *checker) ah() {
	c.remove(wire.TransformPRF)
	c.remove(wire.TransformENCR)
	if len(c.p.Of(wire.TransformINTEG)) == 0 {
		c.fail("an integrity algorithm (\"sha256\" …)", "none")
	}
	c.sequenceNumbers()
	c.additional()
}

// encryption checks that there is encryption, of one kind, and integrity beside the classic kind only.
func (c *checker) encryption() {
	var aead, classic *Transform
	for _, t := range c.p.Of(wire.TransformENCR) {
		if t.isAEAD() {
			aead = &t
		} else {
			classic = &t
		}
	}
	switch {
	case aead == nil && classic == nil:
		c.fail("an encryption algorithm (\"aes256gcm16\", \"aes256\" …)", "none")
	case aead != nil && classic != nil:
		c.fail("either classic or AEAD encryption", "both "+classic.String()+" and "+aead.String())
	case aead != nil: // RFC 7296 3.3: INTEG must not be offered, or be NONE
		c.remove(wire.TransformINTEG)
	case len(c.p.Of(wire.TransformINTEG)) == 0:
		c.fail("an integrity algorithm beside "+classic.String()+" (\"sha256\" …)", "none")
	}
}

// sequenceNumbers adds noesn where nothing was said, as strongSwan does.
func (c *checker) sequenceNumbers() {
	if len(c.p.Of(wire.TransformESN)) == 0 {
		c.add(Transform{Type: wire.TransformESN, ID: uint16(wire.ESNNo)})
	}
}

// additional checks that additional key exchanges add to a first one (RFC 9370 2.2.1).
func (c *checker) additional() {
	if HasAdditionalKE([]Proposal{c.p}) && FirstKE([]Proposal{c.p}) == wire.KENone {
		c.fail("a key exchange method before the additional ones", "none")
	}
}

func (c *checker) add(t Transform) {
	if !c.p.has(t) {
		c.p.Transforms = append(c.p.Transforms, t)
	}
}

func (c *checker) remove(typ wire.TransformType) {
	c.filter(func(t Transform) bool { return t.Type != typ })
}

func (c *checker) removeNone(typ wire.TransformType) {
	c.filter(func(t Transform) bool { return t.Type != typ || t.ID != 0 })
}

func (c *checker) filter(keep func(Transform) bool) {
	kept := c.p.Transforms[:0]
	for _, t := range c.p.Transforms {
		if keep(t) {
			kept = append(kept, t)
		}
	}
	c.p.Transforms = kept
}

// prfOf is the PRF on the same primitive as an integrity algorithm.
func prfOf(i wire.IntegID) wire.PRFID {
	switch i {
	case wire.IntegHMACSHA1_96:
		return wire.PRFHMACSHA1
	case wire.IntegHMACSHA2_256_128:
		return wire.PRFHMACSHA2_256
	case wire.IntegHMACSHA2_384_192:
		return wire.PRFHMACSHA2_384
	case wire.IntegHMACSHA2_512_256:
		return wire.PRFHMACSHA2_512
	case wire.IntegAESXCBC_96:
		return wire.PRFAES128XCBC
	case wire.IntegAESCMAC_96:
		return wire.PRFAES128CMAC
	}
	return 0
}
