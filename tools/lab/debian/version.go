package debian

import (
	"cmp"
	"strings"
)

// CompareVersions compares two Debian versions as deb-version(7) orders them: epoch, upstream version, revision; it returns -1, 0 or 1.
func CompareVersions(a, b string) int {
	ea, ua, ra := splitVersion(a)
	eb, ub, rb := splitVersion(b)
	return cmp.Or(compareDigits(ea, eb), comparePart(ua, ub), comparePart(ra, rb))
}

// splitVersion splits [epoch:]upstream[-revision].
func splitVersion(v string) (epoch, upstream, revision string) {
	if e, rest, ok := strings.Cut(v, ":"); ok {
		epoch, v = e, rest
	}
	if i := strings.LastIndex(v, "-"); i >= 0 {
		return epoch, v[:i], v[i+1:]
	}
	return epoch, v, ""
}

// comparePart compares alternating runs of other characters and digits.
func comparePart(a, b string) int {
	for a != "" || b != "" {
		na, nb := run(a, false), run(b, false)
		for i := 0; i < max(na, nb); i++ {
			if c := cmp.Compare(weight(a, i, na), weight(b, i, nb)); c != 0 {
				return c
			}
		}
		a, b = a[na:], b[nb:]
		na, nb = run(a, true), run(b, true)
		if c := compareDigits(a[:na], b[:nb]); c != 0 {
			return c
		}
		a, b = a[na:], b[nb:]
	}
	return 0
}

// run is the length of the run of digits, or of other characters, that s begins with.
func run(s string, digits bool) int {
	n := 0
	for n < len(s) && (s[n] >= '0' && s[n] <= '9') == digits {
		n++
	}
	return n
}

// weight orders the i-th character of a run of n: a tilde before the end, the end before letters, letters before the rest.
func weight(s string, i, n int) int {
	switch {
	case i >= n:
		return 0
	case s[i] == '~':
		return -1
	case s[i] >= 'A' && s[i] <= 'Z' || s[i] >= 'a' && s[i] <= 'z':
		return int(s[i])
	}
	return int(s[i]) + 256
}

// compareDigits compares decimal numbers of any length; none is 0.
func compareDigits(a, b string) int {
	a, b = strings.TrimLeft(a, "0"), strings.TrimLeft(b, "0")
	return cmp.Or(cmp.Compare(len(a), len(b)), cmp.Compare(a, b))
}
