package config

import (
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"math"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"espalier/dataplane"
	"espalier/dataplane/selector"
	"espalier/ike/auth"
	"espalier/ike/pki/fetch"
	"espalier/ike/sa"
	"espalier/ike/suite"
	"espalier/internal/secret"
)

// valueType reads the values of keys of one kind.
type valueType struct {
	name string // for the table of keys
	// parse returns the value, or what is wrong with the text.
	parse func(s string) (v any, wrong *problem)
	// hide keeps the value out of messages.
	hide bool
}

// problem says why a text is no value of a key.
type problem struct {
	expected string // the key's name is added by the caller
	reason   string // follows the key's name, with its own punctuation
	found    string // empty: the whole value
	hint     string
}

// problemOf takes an error of another package apart that reads "expected X,
// found Y".
func problemOf(err error, what string) *problem {
	text, ok := strings.CutPrefix(err.Error(), "expected ")
	i := strings.LastIndex(text, ", found ")
	if !ok || i < 0 {
		return &problem{expected: what + " (" + err.Error() + ")"}
	}
	return &problem{expected: text[:i], found: text[i+len(", found "):]}
}

// only makes a value type of a function that says ok or not.
func only[T any](name, expected string, f func(string) (T, bool)) valueType {
	return valueType{name: name, parse: func(s string) (any, *problem) {
		v, ok := f(s)
		if !ok {
			return nil, &problem{expected: expected}
		}
		return v, nil
	}}
}

// yesNo reads a bool.
func yesNo() valueType {
	return only("yes or no", "yes or no", func(s string) (v, ok bool) {
		switch strings.ToLower(s) {
		case "yes", "true", "enabled", "1":
			return true, true
		case "no", "false", "disabled", "0":
			return false, true
		}
		return false, false
	})
}

// duration reads a time.Duration: seconds, or a number with s, m, h or d.
func duration() valueType {
	return only("duration", "a duration such as 30s, 10m, 1h or 1d", func(s string) (time.Duration, bool) {
		unit := time.Second
		if s == "" {
			return 0, false
		}
		switch s[len(s)-1] {
		case 's', 'S':
		case 'm', 'M':
			unit = time.Minute
		case 'h', 'H':
			unit = time.Hour
		case 'd', 'D':
			unit = 24 * time.Hour
		default:
			s += "s"
		}
		n, err := strconv.ParseUint(strings.TrimRight(s[:len(s)-1], " "), 0, 32)
		if err != nil || n > uint64(100*365*24*time.Hour/unit) {
			return 0, false
		}
		return time.Duration(n) * unit, true
	})
}

// size reads a number of bytes, a uint64: plain, or with k, m or g for powers of 1024.
func size() valueType {
	return only("bytes", "a number of bytes such as 1000000, 512k, 64m or 10g", func(s string) (uint64, bool) {
		shift := 0
		if s != "" {
			switch s[len(s)-1] {
			case 'k', 'K':
				shift = 10
			case 'm', 'M':
				shift = 20
			case 'g', 'G':
				shift = 30
			}
		}
		if shift > 0 {
			s = strings.TrimRight(s[:len(s)-1], " ")
		}
		n, err := strconv.ParseUint(s, 0, 64)
		return n << shift, err == nil && n <= math.MaxUint64>>shift
	})
}

// count reads a uint64.
func count() valueType {
	return only("number", "a number", func(s string) (uint64, bool) {
		n, err := strconv.ParseUint(s, 0, 64)
		return n, err == nil
	})
}

// number reads a uint32 within limits.
func number(low, high uint32) valueType {
	return only("number", fmt.Sprintf("a number from %d to %d", low, high), func(s string) (uint32, bool) {
		n, err := strconv.ParseUint(s, 0, 32)
		return uint32(n), err == nil && n >= uint64(low) && n <= uint64(high)
	})
}

// decimal reads a float64 within limits.
func decimal(low, high float64) valueType {
	return only("number", fmt.Sprintf("a number from %g to %g", low, high), func(s string) (float64, bool) {
		f, err := strconv.ParseFloat(s, 64)
		return f, err == nil && f >= low && f <= high
	})
}

// oneOf reads one of some words, in lower case.
func oneOf(words ...string) valueType {
	list := strings.Join(words[:len(words)-1], ", ") + " or " + words[len(words)-1]
	return only(list, list, func(s string) (string, bool) {
		s = strings.ToLower(s)
		for _, w := range words {
			if w == s {
				return s, true
			}
		}
		return "", false
	})
}

// action reads none, trap or start with the other names that swanctl knows.
func action(words string) valueType {
	return only(words, words, func(s string) (string, bool) {
		switch strings.ToLower(s) {
		case "none", "clear":
			return "none", true
		case "trap", "route":
			return "trap", true
		case "start", "restart":
			return "start", true
		case "trap|start", "start|trap":
			return "trap|start", words != "clear, trap or restart"
		}
		return "", false
	})
}

// ikeVersion reads IKE's major version, 0 or 2.
func ikeVersion() valueType {
	return valueType{name: "0 or 2", parse: func(s string) (any, *problem) {
		switch s {
		case "0", "2":
			return uint32(2), nil
		case "1":
			return nil, &problem{expected: "2 or 0", reason: ", since Espalier speaks IKEv2 only"}
		}
		return nil, &problem{expected: "2 or 0"}
	}}
}

// text reads anything.
func text(name string) valueType {
	return only(name, name, func(s string) (string, bool) { return s, true })
}

// secretText reads a secret.Bytes: text, hexadecimal after 0x, base64 after 0s.
func secretText(name string) valueType {
	return valueType{name: name, hide: true, parse: func(s string) (any, *problem) {
		var b []byte
		var err error
		form := "a secret"
		switch {
		case strings.HasPrefix(s, "0x"):
			form = "hexadecimal digits in pairs after 0x"
			b, err = hex.DecodeString(s[2:])
		case strings.HasPrefix(s, "0s"):
			form = "base64 after 0s"
			b, err = base64.RawStdEncoding.DecodeString(strings.TrimRight(s[2:], "="))
		default:
			b = []byte(s)
		}
		if err != nil || len(b) == 0 {
			return nil, &problem{expected: form}
		}
		return secret.Bytes(b), nil
	}}
}

// words reads a list with commas.
func words(name string) valueType {
	return only(name, name, func(s string) ([]string, bool) {
		list, ok := commas(s)
		return list, ok
	})
}

// commas splits a list; an empty element is a mistake.
func commas(s string) ([]string, bool) {
	list := strings.Split(s, ",")
	for i := range list {
		list[i] = strings.TrimSpace(list[i])
		if list[i] == "" {
			return nil, false
		}
	}
	return list, true
}

// bits6 reads a DSCP, up to six binary digits, as uint8.
func bits6() valueType {
	return only("six binary digits", "six binary digits", func(s string) (uint8, bool) {
		n, err := strconv.ParseUint(s, 2, 6)
		return uint8(n), err == nil && len(s) <= 6
	})
}

// padding reads a number of bytes or "mtu", which is -1.
func padding() valueType {
	return only("number or mtu", "a number of bytes or mtu", func(s string) (int64, bool) {
		if s == "mtu" {
			return -1, true
		}
		n, err := strconv.ParseUint(s, 0, 32)
		return int64(n), err == nil
	})
}

// markValue is a mark as it is written: fixed, unique, or that of another key.
type markValue struct {
	mark   dataplane.Mark
	unique sa.Unique
	same   bool
}

// uniques are the words for numbers that the daemon chooses.
var uniques = map[string]sa.Unique{"%unique": sa.UniqueChild, "%unique-dir": sa.UniqueChildDir}

// mark reads a markValue: value[/mask], %unique[/mask] or %unique-dir[/mask].
func mark() valueType { return markOr("%unique or %unique-dir", uniques, false) }

// setMark reads a markValue: value[/mask] or %same[/mask].
func setMark() valueType { return markOr("%same", nil, true) }

func markOr(words string, unique map[string]sa.Unique, same bool) valueType {
	wrong := &problem{expected: "a mark such as 42 or 0x10/0xf0, or " + words}
	return valueType{name: "value[/mask], " + words, parse: func(s string) (any, *problem) {
		v, m, masked := strings.Cut(s, "/")
		v = strings.TrimSpace(v)
		mask := uint64(math.MaxUint32)
		if masked {
			var err error
			if mask, err = strconv.ParseUint(strings.TrimSpace(m), 0, 32); err != nil {
				return nil, wrong
			}
		}
		out := markValue{mark: dataplane.Mark{Mask: uint32(mask)}, unique: unique[v], same: same && v == "%same"}
		if out.same || out.unique != sa.NotUnique {
			return out, nil
		}
		value, err := strconv.ParseUint(v, 0, 32)
		if err != nil {
			return nil, wrong
		}
		out.mark.Value = uint32(value & mask)
		return out, nil
	}}
}

// ifIDValue is an xfrm interface's id as it is written.
type ifIDValue struct {
	id     uint32
	unique sa.Unique
}

// ifID reads an ifIDValue: a number, %unique or %unique-dir.
func ifID() valueType {
	return valueType{name: "number, %unique or %unique-dir", parse: func(s string) (any, *problem) {
		if u := uniques[s]; u != sa.NotUnique {
			return ifIDValue{unique: u}, nil
		}
		n, err := strconv.ParseUint(s, 0, 32)
		if err != nil {
			return nil, &problem{expected: "a number from 0 to 4294967295, %unique or %unique-dir"}
		}
		return ifIDValue{id: uint32(n)}, nil
	}}
}

// selectors reads a []selector.Spec.
func selectors() valueType {
	return valueType{name: "traffic selectors", parse: func(s string) (any, *problem) {
		list, ok := commas(s)
		if !ok {
			return nil, &problem{expected: "traffic selectors with commas between them"}
		}
		var out []selector.Spec
		for _, one := range list {
			spec, err := selector.Parse(one)
			if err != nil {
				return nil, problemOf(err, "a traffic selector")
			}
			out = append(out, spec)
		}
		return out, nil
	}}
}

// addresses reads a []sa.AddrSpec.
func addresses() valueType {
	return valueType{name: "addresses", parse: func(s string) (any, *problem) {
		const expected = "addresses, prefixes, ranges, host names or %any with commas between them"
		list, ok := commas(s)
		if !ok {
			return nil, &problem{expected: expected}
		}
		var out []sa.AddrSpec
		for _, one := range list {
			spec, ok := address(one)
			if !ok {
				return nil, &problem{expected: expected}
			}
			out = append(out, spec)
		}
		return out, nil
	}}
}

// address reads one entry of local_addrs or remote_addrs.
func address(s string) (sa.AddrSpec, bool) {
	switch s {
	case "%any", "0.0.0.0/0,::/0":
		return sa.AddrSpec{}, true
	case "%any4", "0.0.0.0", "0.0.0.0/0":
		return sa.AddrSpec{Family: 4}, true
	case "%any6", "::", "::/0":
		return sa.AddrSpec{Family: 6}, true
	}
	if start, end, err := selector.ParseAddrs(s); err == nil {
		return sa.AddrSpec{Start: start, End: end}, true
	}
	return sa.AddrSpec{Host: strings.ToLower(s)}, isHostName(s)
}

// isHostName tells a DNS name (RFC 1123) from a misspelt address.
func isHostName(s string) bool {
	if s == "" || len(s) > 253 || strings.Trim(s, "0123456789.") == "" {
		return false
	}
	for label := range strings.SplitSeq(strings.TrimSuffix(s, "."), ".") {
		if label == "" || len(label) > 63 || label[0] == '-' || label[len(label)-1] == '-' {
			return false
		}
		for _, r := range label {
			if r != '-' && r != '_' && (r < '0' || r > '9') && (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') {
				return false
			}
		}
	}
	return true
}

// ipList reads a []netip.Addr.
func ipList() valueType {
	return only("addresses", "IP addresses with commas between them", func(s string) ([]netip.Addr, bool) {
		list, ok := commas(s)
		var out []netip.Addr
		for _, one := range list {
			a, err := netip.ParseAddr(one)
			ok = ok && err == nil && !a.Is4In6()
			out = append(out, a)
		}
		return out, ok
	})
}

// proposals reads a []suite.Proposal with the parser of a protocol.
func proposals(parse func(string) (suite.Proposal, error), defaults func() []suite.Proposal) valueType {
	return valueType{name: "proposals", parse: func(s string) (any, *problem) {
		list, ok := commas(s)
		if !ok {
			return nil, &problem{expected: "proposals with commas between them"}
		}
		var out []suite.Proposal
		for _, one := range list {
			if strings.EqualFold(one, "default") {
				out = append(out, defaults()...)
				continue
			}
			p, err := parse(one)
			if err != nil {
				return nil, proposalProblem(one, err)
			}
			out = append(out, p)
		}
		return out, nil
	}}
}

// proposalProblem says which keyword is wrong, or what the keywords lack.
func proposalProblem(text string, err error) *problem {
	var ke *suite.KeywordError
	var pe *suite.ProposalError
	switch {
	case errors.As(err, &ke) && ke.Known:
		return &problem{expected: "a supported algorithm", reason: fmt.Sprintf(", since %s is not supported yet", ke.Word), found: quote(ke.Word) + " in " + quote(text)}
	case errors.As(err, &ke):
		return &problem{expected: "a known algorithm", found: quote(ke.Word) + " in " + quote(text), hint: didYouMean(ke.Nearest)}
	case errors.As(err, &pe):
		return &problem{expected: pe.Expected, found: pe.Got + " in " + quote(text)}
	}
	return problemOf(err, "a proposal")
}

// oids reads a list of object identifiers and keeps their text.
func oids() valueType {
	return only("OIDs", "object identifiers such as 1.3.6.1.4.1.36906.1 with commas between them", func(s string) ([]string, bool) {
		list, ok := commas(s)
		for i, one := range list {
			o, err := x509.ParseOID(one)
			if ok = ok && err == nil; ok {
				list[i] = o.String()
			}
		}
		return list, ok
	})
}

// uris reads a list of places to fetch from.
func uris() valueType {
	return valueType{name: "URIs", parse: func(s string) (any, *problem) {
		list, ok := commas(s)
		if !ok {
			return nil, &problem{expected: "URIs with commas between them"}
		}
		for _, one := range list {
			if err := fetch.CheckURI(one); err != nil {
				return nil, problemOf(err, "a URI")
			}
		}
		return list, nil
	}}
}

// ocspMode reads what an IKE SA does with OCSP, and refuses what asks for it.
func ocspMode() valueType {
	words := oneOf("reply", "never", "request", "both")
	return valueType{name: "reply or never", parse: func(s string) (any, *problem) {
		v, wrong := words.parse(s)
		if v == "request" || v == "both" {
			wrong = &problem{expected: "reply or never", reason: ", since asking for OCSP responses is not supported yet"}
		}
		return v, wrong
	}}
}

// identity reads an IKE identity and keeps its text.
func identity() valueType {
	return valueType{name: "identity", parse: func(s string) (any, *problem) {
		if _, err := auth.ParseID(s); err != nil {
			return nil, problemOf(err, "an identity")
		}
		return s, nil
	}}
}

// authMethod reads an authentication method and keeps its text.
func authMethod() valueType {
	return valueType{name: "pubkey, psk or a constraint", parse: func(s string) (any, *problem) {
		if strings.HasPrefix(strings.ToLower(s), "xauth") {
			return nil, &problem{expected: "pubkey or psk", reason: ", since XAuth is IKEv1 and Espalier speaks IKEv2 only"}
		}
		if strings.HasPrefix(strings.ToLower(s), "eap") {
			return nil, &problem{expected: "pubkey or psk", reason: ", since EAP is not supported yet"}
		}
		if strings.EqualFold(s, "psk") {
			return "psk", nil
		}
		if _, _, err := auth.ParseAuth(s); err != nil {
			return nil, problemOf(err, "an authentication method")
		}
		return s, nil
	}}
}
