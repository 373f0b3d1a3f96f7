package main

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"unicode"
)

// format is how results are printed.
type format uint8

const (
	plain format = iota
	jsonLine
	jsonPretty
)

func formatOf(line, pretty bool) format {
	switch {
	case pretty:
		return jsonPretty
	case line:
		return jsonLine
	}
	return plain
}

// schema is the version of all JSON that espctl prints. Fields may be added
// within a version; none changes its meaning or goes away.
const schema = 1

// print writes a result as JSON.
func (e *env) print(v any) error {
	enc := json.NewEncoder(e.stdout)
	enc.SetEscapeHTML(false)
	if e.format == jsonPretty {
		enc.SetIndent("", "  ")
	}
	return enc.Encode(v)
}

// printable keeps what a peer chose, its identity for one, from steering the
// terminal.
func printable(s string) string {
	if strings.IndexFunc(s, func(r rune) bool { return !unicode.IsPrint(r) || r == unicode.ReplacementChar }) < 0 {
		return s
	}
	return strconv.QuoteToASCII(s)
}

// age is a number of seconds in at most two units.
func age(seconds int64) string {
	s := max(seconds, 0)
	switch {
	case s < 60:
		return fmt.Sprintf("%ds", s)
	case s < 3600:
		return two(s, 60, "m", "s")
	case s < 86400:
		return two(s/60, 60, "h", "m")
	}
	return two(s/3600, 24, "d", "h")
}

func two(n, base int64, big, small string) string {
	if n%base == 0 {
		return fmt.Sprintf("%d%s", n/base, big)
	}
	return fmt.Sprintf("%d%s%d%s", n/base, big, n%base, small)
}

// size is a number of octets with a binary prefix.
func size(octets uint64) string {
	if octets < 1024 {
		return fmt.Sprintf("%d B", octets)
	}
	v, prefixes := float64(octets), "KMGTPE"
	i := -1
	for v >= 1024 && i < len(prefixes)-1 {
		v /= 1024
		i++
	}
	return fmt.Sprintf("%.1f %ciB", v, prefixes[i])
}
