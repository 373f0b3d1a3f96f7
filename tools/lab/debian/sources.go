// Package debian gets what the lab needs from Debian: programs for this machine, kernels and root file systems for the guest, all
// from the mirror that this machine is already set up with.
package debian

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// Source is one entry of apt's sources of type deb.
type Source struct {
	URIs       []string
	Suites     []string
	Components []string
	// SignedBy is the path of a keyring, or empty.
	SignedBy string
}

// ParseOneLine reads entries in the style of sources.list: deb [option=value ...] URI SUITE COMPONENT... Lines of other kinds and malformed ones are
// passed over, as they are not the lab's to judge.
func ParseOneLine(text string) []Source {
	var out []Source
	for line := range strings.Lines(text) {
		line, _, _ = strings.Cut(line, "#")
		kind, rest, _ := strings.Cut(strings.TrimSpace(line), " ")
		rest = strings.TrimSpace(rest)
		if kind != "deb" {
			continue
		}
		var s Source
		if strings.HasPrefix(rest, "[") {
			options, after, ok := strings.Cut(rest[1:], "]")
			if !ok {
				continue
			}
			rest = after
			for _, o := range strings.Fields(options) {
				if v, ok := strings.CutPrefix(o, "signed-by="); ok {
					s.SignedBy = keyringPath(v)
				}
			}
		}
		f := strings.Fields(rest)
		if len(f) < 2 {
			continue
		}
		s.URIs, s.Suites, s.Components = f[:1], f[1:2], f[2:]
		out = append(out, s)
	}
	return out
}

// ParseDeb822 reads entries in the style of *.sources: stanzas of fields. Disabled ones and ones without the type deb
// are passed over.
func ParseDeb822(text string) []Source {
	var out []Source
	fields := map[string]string{}
	last := ""
	flush := func() {
		if slices.Contains(strings.Fields(fields["types"]), "deb") && !isNo(fields["enabled"]) && fields["uris"] != "" && fields["suites"] != "" {
			out = append(out, Source{URIs: strings.Fields(fields["uris"]), Suites: strings.Fields(fields["suites"]),
				Components: strings.Fields(fields["components"]), SignedBy: keyringPath(fields["signed-by"])})
		}
		fields, last = map[string]string{}, ""
	}
	for sc := bufio.NewScanner(strings.NewReader(text)); sc.Scan(); {
		line := sc.Text()
		switch {
		case strings.HasPrefix(line, "#"):
		case strings.TrimSpace(line) == "":
			flush()
		case line[0] == ' ' || line[0] == '\t':
			fields[last] += "\n" + strings.TrimSpace(line)
		default:
			k, v, _ := strings.Cut(line, ":")
			last = strings.ToLower(strings.TrimSpace(k))
			fields[last] = strings.TrimSpace(v)
		}
	}
	flush()
	return out
}

// isNo tells whether apt reads the value as false.
func isNo(v string) bool {
	return slices.Contains([]string{"no", "false", "without", "off", "disable"}, strings.ToLower(v))
}

// keyringPath is v when it is the path of a keyring; embedded keys and fingerprints are nothing that the lab can pass on.
func keyringPath(v string) string {
	if strings.HasPrefix(v, "/") && !strings.ContainsAny(v, " \n,") {
		return v
	}
	return ""
}

// ErrNoMirror means that apt on this machine has no entry for Debian's main archive.
var ErrNoMirror = errors.New("apt on this machine has no mirror of Debian's main archive")

// Mirror is where Debian's main archive is to be had.
type Mirror struct {
	URI string
	// Keyring is the path of the keys that the archive's signature is checked with.
	Keyring string
}

// line is the entry of a suite in the style of sources.list. That the archive's signature has expired is let pass, since a machine may be set up with a
// snapshot; that it is Debian's is not.
func (m Mirror) line(suite string) string {
	return fmt.Sprintf("deb [arch=amd64 signed-by=%s check-valid-until=no] %s %s main", m.Keyring, m.URI, suite)
}

// FindMirror picks the mirror from a machine's sources: entries with the component main whose suite is the one that the machine runs, or else a
// class of release (stable ...). Entries that are signed with keys of their own come last: most of them are not Debian. Suites with a
// suffix (-security, -updates) may lie in another archive and do not count.
func FindMirror(sources []Source, codename string) (Mirror, error) {
	classes := []string{"oldoldstable", "oldstable", "stable", "testing", "unstable", "sid"}
	best, bestRank := Mirror{}, 4
	for _, s := range sources {
		rank := 0
		switch {
		case !slices.Contains(s.Components, "main"):
			continue
		case slices.Contains(s.Suites, codename):
		case slices.ContainsFunc(s.Suites, func(suite string) bool { return slices.Contains(classes, suite) }):
			rank = 1
		default:
			continue
		}
		if s.SignedBy != "" && !isDebianKeyring(s.SignedBy) {
			rank += 2
		}
		for _, uri := range s.URIs {
			if scheme, _, ok := strings.Cut(uri, ":"); ok && scheme != "cdrom" && rank < bestRank {
				best, bestRank = Mirror{URI: strings.TrimRight(uri, "/"), Keyring: s.SignedBy}, rank
			}
		}
	}
	if best.URI == "" {
		return best, fmt.Errorf("%w (looked for suite %s, component main)", ErrNoMirror, codename)
	}
	return best, nil
}

// isDebianKeyring tells whether the keyring is one of the package debian-archive-keyring.
func isDebianKeyring(path string) bool {
	return strings.HasPrefix(filepath.Base(path), "debian-archive-")
}

// machineSources reads the sources below etc (/etc/apt).
func machineSources(etc string) ([]Source, error) {
	files, err := filepath.Glob(filepath.Join(etc, "sources.list.d", "*"))
	if err != nil {
		return nil, err
	}
	var out []Source
	for _, f := range append([]string{filepath.Join(etc, "sources.list")}, files...) {
		b, err := os.ReadFile(f)
		switch {
		case os.IsNotExist(err):
		case err != nil:
			return nil, err
		case strings.HasSuffix(f, ".list"):
			out = append(out, ParseOneLine(string(b))...)
		case strings.HasSuffix(f, ".sources"):
			out = append(out, ParseDeb822(string(b))...)
		}
	}
	return out, nil
}

// codename reads the machine's suite from an os-release file.
func codename(path string) (string, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return "", err
	}
	for line := range strings.Lines(string(b)) {
		if v, ok := strings.CutPrefix(strings.TrimSpace(line), "VERSION_CODENAME="); ok {
			return strings.Trim(v, `"`), nil
		}
	}
	return "", fmt.Errorf("%s: expected a line VERSION_CODENAME=, found none: the lab works on Debian bookworm and trixie", path)
}
