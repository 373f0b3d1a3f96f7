package debian

import (
	"slices"
	"strings"
)

// ParseControl reads the stanzas that 'apt-cache show' prints into maps from lower-case field names to their values, of
// which only the first line is kept.
func ParseControl(text string) []map[string]string {
	var out []map[string]string
	stanza := map[string]string{}
	for line := range strings.Lines(text + "\n\n") {
		line = strings.TrimRight(line, "\n")
		switch k, v, ok := strings.Cut(line, ":"); {
		case line == "" && len(stanza) > 0:
			out = append(out, stanza)
			stanza = map[string]string{}
		case ok && line[0] != ' ':
			stanza[strings.ToLower(k)] = strings.TrimSpace(v)
		}
	}
	return out
}

// newestOf is the stanza with the highest version.
func newestOf(stanzas []map[string]string) (map[string]string, bool) {
	if len(stanzas) == 0 {
		return nil, false
	}
	return slices.MaxFunc(stanzas, func(a, b map[string]string) int { return CompareVersions(a["version"], b["version"]) }), true
}

// kernelDepends picks from a Depends field the packages that one kernel consists of: those that carry its release in their name.
// Meta packages and tools for its installation are not among them.
func kernelDepends(field string) []string {
	var out []string
	for _, d := range strings.Split(field, ",") {
		name, _, _ := strings.Cut(strings.TrimSpace(d), " ")
		for _, prefix := range []string{"linux-image-", "linux-binary-", "linux-modules-", "linux-base-"} {
			rest, ok := strings.CutPrefix(name, prefix)
			if ok && rest != "" && rest[0] >= '0' && rest[0] <= '9' {
				out = append(out, name)
			}
		}
	}
	return out
}
