package ipsecconf

import (
	"fmt"
	"regexp"
	"slices"
	"strings"

	"espalier/ike/config"
)

// maxProposals bounds a list of proposals.
const maxProposals = 100

// algorithms writes a list of proposals, each that the schema has.
func (k *conn) algorithms(key string, into *config.Section, at []string, to string) {
	v, s := k.take(key)
	if s == nil {
		return
	}
	v, strict := strings.CutSuffix(v, "!")
	var out []string
	for i, one := range strings.Split(v, ",") {
		if i >= maxProposals {
			k.lose(s, fmt.Sprintf("expected at most %d proposals", maxProposals))
			break
		}
		one = strings.ToLower(strings.TrimSpace(one))
		list := []string{one}
		if k.dialect == Libreswan {
			list = k.libreswan(one, key == "ike", s)
		}
		for _, p := range list {
			if why := k.schema.Refusal(append([]string{"connections", k.name}, at...), to, p); why != "" {
				k.lose(s, printable(one)+": "+why)
			} else if !slices.Contains(out, p) {
				out = append(out, p)
			}
		}
	}
	if k.dialect == StrongSwan && !strict {
		out = append(out, "default") // which it adds where no ! says that these are all
	}
	if len(out) == 0 {
		k.fail(s, "none of its proposals is supported")
		return
	}
	k.write(into, at, to, strings.Join(out, ", "), s, true)
}

// childAlgorithms writes esp_proposals or ah_proposals.
func (k *conn) childAlgorithms(ch *config.Section, at []string) {
	phase2, _ := k.or("phase2", "esp")
	switch {
	case k.set["ah"] != nil:
		k.algorithms("ah", ch, at, "ah_proposals")
	case phase2 == "ah" && k.set["esp"] != nil:
		k.algorithms("esp", ch, at, "ah_proposals")
	case phase2 == "ah":
		k.fail(k.set["phase2"], "AH needs its algorithms named")
	default:
		k.algorithms("esp", ch, at, "esp_proposals")
	}
}

// libreswan turns ENCRYPTION-INTEGRITY-PRF;GROUP into swanctl.conf's keywords. AEAD
// and classic ciphers in one become two proposals. One for ESP without a group
// comes with and without one: libreswan takes IKE's for what is rekeyed (pfs).
func (k *conn) libreswan(text string, ike bool, s *setting) []string {
	var aead, classic, integ, prf, groups []string
	hashes := 0
	for _, part := range strings.FieldsFunc(text, func(r rune) bool { return r == '-' || r == ';' }) {
		hash := false
		for _, word := range strings.Split(part, "+") {
			switch a := algorithm(word); {
			case a.aead:
				aead = append(aead, a.words...)
			case a.cipher:
				classic = append(classic, a.words...)
			case a.hash && hashes == 0:
				integ = append(integ, a.words...)
				hash = true
			case a.hash:
				prf = append(prf, "prf"+a.words[0])
				hash = true
			case a.group:
				groups = append(groups, a.words...)
			case a.none:
			default:
				k.lose(s, printable(word)+" is no known algorithm")
				return nil
			}
		}
		if hash {
			hashes++
		}
	}
	if ike && hashes == 0 {
		integ = []string{"sha256", "sha512"} // what libreswan completes it with
	}
	if ike && len(groups) == 0 {
		groups = slices.Clone(libreswanGroups)
	}
	var out []string
	join := func(parts ...[]string) { out = append(out, strings.Join(slices.Concat(parts...), "-")) }
	esn := k.esn(ike)
	for _, g := range k.groups(ike, groups) {
		if len(aead) > 0 && ike {
			all := prf
			if len(all) == 0 {
				for _, h := range integ {
					all = append(all, "prf"+h)
				}
			}
			join(aead, all, g)
		} else if len(aead) > 0 {
			join(aead, g, esn)
		}
		if len(classic) > 0 {
			join(classic, integ, prf, g, esn)
		}
	}
	return out
}

// libreswanGroups are the key exchanges that libreswan offers by itself, in Espalier's order.
var libreswanGroups = []string{"x25519", "ecp256", "modp2048", "modp3072", "modp4096"}

// groups are the key exchange parts of the proposals to write.
func (k *conn) groups(ike bool, own []string) [][]string {
	if ike || len(own) > 0 {
		return [][]string{own}
	}
	if pfs, _ := k.or("pfs", "yes"); pfs == "no" {
		return [][]string{nil}
	}
	for _, part := range strings.FieldsFunc(strings.ToLower(k.value("ike")), func(r rune) bool { return strings.ContainsRune("-;+,", r) }) {
		if a := algorithm(part); a.group && !slices.Contains(own, a.words[0]) {
			own = append(own, a.words...)
		}
	}
	if len(own) == 0 {
		own = slices.Clone(libreswanGroups)
	}
	return [][]string{own, nil}
}

// esn is what libreswan's esn says of extended sequence numbers.
func (k *conn) esn(ike bool) []string {
	v, _ := k.take("esn")
	switch {
	case ike:
	case v == "yes":
		return []string{"esn"}
	case v == "either":
		return []string{"esn", "noesn"}
	}
	return nil
}

// alg is what a word of libreswan's stands for.
type alg struct {
	aead, cipher, hash, group, none bool
	words                           []string
}

var (
	cipherWord = regexp.MustCompile(`^(aes|aes_cbc|aes_ctr|camellia|aes_gcm|aes_gcm_a|aes_gcm_b|aes_gcm_c|aes_gcm8|aes_gcm12|aes_gcm16|aes_ccm|aes_ccm_a|aes_ccm_b|aes_ccm_c)_?(128|192|256)?$`)
	groupWord  = regexp.MustCompile(`^(?:modp_?|dh)(\d+)$`)
	dhNumbers  = map[string]string{"2": "modp1024", "5": "modp1536", "14": "modp2048", "15": "modp3072", "16": "modp4096", "17": "modp6144", "18": "modp8192",
		"19": "ecp256", "20": "ecp384", "21": "ecp521", "22": "modp1024s160", "23": "modp2048s224", "24": "modp2048s256", "31": "x25519"}
	hashWords = map[string]string{"sha": "sha1", "sha1": "sha1", "sha2": "sha256", "sha256": "sha256", "sha384": "sha384", "sha512": "sha512", "sha2_256": "sha256", "sha2_384": "sha384",
		"sha2_512": "sha512", "md5": "md5", "aes_xcbc": "aesxcbc", "aes_cmac": "aescmac", "aes_xcbc_96": "aesxcbc", "aes_cmac_96": "aescmac"}
	cipherEnds = map[string]string{"aes": "", "aes_cbc": "", "aes_ctr": "ctr", "camellia": "", "aes_gcm": "gcm16", "aes_gcm_a": "gcm8", "aes_gcm_b": "gcm12",
		"aes_gcm_c": "gcm16", "aes_gcm8": "gcm8", "aes_gcm12": "gcm12", "aes_gcm16": "gcm16", "aes_ccm": "ccm16", "aes_ccm_a": "ccm8", "aes_ccm_b": "ccm12", "aes_ccm_c": "ccm16"}
)

// algorithm reads one word. A cipher without size stands for 256 and 128 bits.
func algorithm(word string) alg {
	word = strings.TrimSpace(word)
	switch word {
	case "null", "none", "dh0", "":
		return alg{none: true}
	case "3des":
		return alg{cipher: true, words: []string{"3des"}}
	case "chacha20_poly1305", "chacha20poly1305":
		return alg{aead: true, words: []string{"chacha20poly1305"}}
	case "ecp_256", "ecp256", "ecp_384", "ecp384", "ecp_521", "ecp521":
		return alg{group: true, words: []string{strings.ReplaceAll(word, "_", "")}}
	case "curve25519", "x25519":
		return alg{group: true, words: []string{"x25519"}}
	}
	if h := hashWords[word]; h != "" {
		return alg{hash: true, words: []string{h}}
	}
	if m := groupWord.FindStringSubmatch(word); m != nil {
		g := "modp" + m[1]
		if strings.HasPrefix(word, "dh") {
			if g = dhNumbers[m[1]]; g == "" {
				return alg{}
			}
		}
		return alg{group: true, words: []string{g}}
	}
	m := cipherWord.FindStringSubmatch(word)
	if m == nil {
		return alg{}
	}
	sizes := []string{"256", "128"}
	if m[2] != "" {
		sizes = []string{m[2]}
	}
	base := "aes"
	if m[1] == "camellia" {
		base = m[1]
	}
	a := alg{aead: strings.Contains(m[1], "cm"), cipher: true}
	for _, size := range sizes {
		a.words = append(a.words, base+size+cipherEnds[m[1]])
	}
	return a
}
