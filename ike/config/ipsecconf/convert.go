package ipsecconf

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"espalier/ike/config"
)

// Files are what a conversion reads. Errors of Read say what is wrong without the path.
type Files interface {
	// Read returns a file's content.
	Read(path string) ([]byte, error)
	// Glob lists the files that a shell pattern names.
	Glob(pattern string) ([]string, error)
}

// Dialect is whose ipsec.conf it is; the defaults depend on it.
type Dialect uint8

// The dialects. Auto looks at the keys that only one of them has.
const (
	Auto Dialect = iota
	StrongSwan
	Libreswan
)

// String names the program.
func (d Dialect) String() string {
	return [...]string{"auto", "strongSwan", "libreswan"}[d]
}

// Input is what is converted.
type Input struct {
	Files   Files
	Path    string // ipsec.conf
	Secrets string // ipsec.secrets; empty: none
	Dialect Dialect
	// Local are the box's own addresses. A conn whose right is one of them, and whose
	// left is not, is read with its sides exchanged, as both programs do.
	Local []netip.Addr
}

// Output is a configuration and what did not get into it.
type Output struct {
	Conf  string // ends in a newline; holds the secrets
	Notes []Note // by file and line
}

// Lost reports whether the configuration lacks something of the input.
func (o *Output) Lost() bool {
	return slices.ContainsFunc(o.Notes, func(n Note) bool { return n.Lost })
}

// Convert reads ipsec.conf and writes the configuration that does the same. Lines
// that have no equivalent are notes, not errors; a conn that would let in whom it
// kept out, or protect less, without such a line is left out as a whole. Errors: a
// file that cannot be read.
func Convert(in Input) (*Output, error) { return convert(in, config.NewSchema()) }

// schema says what Espalier supports; config.Schema.
type schema interface {
	Refusal(section []string, key, value string) string
}

// convert is Convert with a choice of what is supported.
func convert(in Input, schema schema) (*Output, error) {
	c := &converter{in: in, schema: schema, root: &config.Section{}, unique: "replace",
		merged: map[string]*config.Section{}, pools: map[string]string{}, names: map[string]int{}}
	p := &parser{files: in.Files, notes: &c.notes, byName: map[string]*section{}}
	if err := p.file(in.Path, nil); err != nil {
		return nil, err
	}
	if c.dialect = in.Dialect; c.dialect == Auto {
		c.dialect = guess(p.sections)
	}
	c.inherit = inheritance{byName: p.byName, dialect: c.dialect, parents: map[*section][]*section{}}
	if s := p.byName["config setup"]; s != nil {
		c.setup(settled([]*section{s}))
	}
	for _, s := range p.sections {
		if s.name == "%default" {
			continue
		}
		switch s.kind {
		case "conn":
			c.conn(s)
		case "ca":
			c.ca(s)
		}
	}
	if in.Secrets != "" {
		if err := c.secrets(in.Secrets); err != nil {
			return nil, err
		}
	}
	return &Output{Conf: c.text(), Notes: c.notes.sorted()}, nil
}

// converter is a conversion under way.
type converter struct {
	in      Input
	dialect Dialect
	schema  schema
	notes   notes
	inherit inheritance
	root    *config.Section
	// unique is what config setup says of uniqueids, for all connections. Both
	// programs' default is to replace, swanctl.conf's is not.
	unique string
	strict *setting
	// merged are the connections by what their IKE SAs are like: conns that agree
	// in it share one, as children of it.
	merged map[string]*config.Section
	pools  map[string]string // by content
	files  []string          // kinds of files that the configuration names
	names  map[string]int    // of connections, pools and the like: how often each was wanted
}

// top finds or opens a section of the file.
func (c *converter) top(name string) *config.Section { return open(c.root, name) }

// open finds or adds a section in another.
func open(in *config.Section, name string) *config.Section {
	for _, it := range in.Items {
		if s, ok := it.(*config.Section); ok && s.Name == name {
			return s
		}
	}
	s := &config.Section{Name: name}
	in.Items = append(in.Items, s)
	return s
}

// put writes a setting whose line is from. It returns the reason why the schema
// does not have it, "" when it is written.
func (c *converter) put(into *config.Section, path []string, key, value string) string {
	if why := c.schema.Refusal(path, key, value); why != "" {
		return why
	}
	for _, it := range into.Items {
		if set, ok := it.(*config.Setting); ok && set.Key == key {
			set.Value = value
			return ""
		}
	}
	into.Items = append(into.Items, &config.Setting{Key: key, Value: value})
	return ""
}

// putTop is put for the settings of the daemon.
func (c *converter) putTop(key, value string) string {
	if why := c.schema.Refusal([]string{"espalier"}, key, value); why != "" {
		return why
	}
	return c.put(c.top("espalier"), []string{"espalier"}, key, value)
}

// lose notes a line that the result lacks.
func (c *converter) lose(s *setting, reason string) {
	c.notes.lost(s.file, s.line, s.key+"="+s.value, reason)
}

// tell notes a line about which there is something to know.
func (c *converter) tell(s *setting, reason string) {
	c.notes.add(Note{File: s.file, Line: s.line, Text: s.key + "=" + s.value, Reason: reason})
}

// free makes a name that a section can have, and that no other of its kind has.
func (c *converter) free(kind, want string) string {
	want = strings.Map(func(r rune) rune {
		switch {
		case r == '-' || r == '_' || r >= '0' && r <= '9' || r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z':
			return r
		}
		return '-'
	}, want)
	name := want
	for c.names[kind+" "+name] > 0 {
		c.names[kind+" "+want]++
		name = fmt.Sprintf("%s-%d", want, c.names[kind+" "+want])
	}
	c.names[kind+" "+name]++
	return name
}

// text writes the configuration, with what it lacks in a comment.
func (c *converter) text() string {
	var b strings.Builder
	fmt.Fprintf(&b, "# From %s, read as %s has it.\n", printable(c.in.Path), c.dialect)
	for _, f := range c.files {
		fmt.Fprintf(&b, "# Copy %s\n", f)
	}
	for _, lost := range []bool{true, false} {
		head := map[bool]string{true: "# Not carried over:\n", false: "# To know:\n"}[lost]
		for _, n := range c.notes.sorted() {
			if n.Lost == lost {
				b.WriteString(head + "#   " + n.String() + "\n")
				head = ""
			}
		}
	}
	order := []string{"espalier", "connections", "pools", "authorities", "secrets"}
	slices.SortStableFunc(c.root.Items, func(a, b config.Item) int {
		return slices.Index(order, a.(*config.Section).Name) - slices.Index(order, b.(*config.Section).Name)
	})
	b.WriteString("\n" + c.root.Print())
	return b.String()
}

// needs notes that files of a kind belong beside the configuration.
func (c *converter) needs(what string) {
	if !slices.Contains(c.files, what) {
		c.files = append(c.files, what)
	}
}

// guess tells the dialect by what only one of the programs has.
func guess(sections []*section) Dialect {
	score := 0 // above 0: libreswan
	for _, s := range sections {
		for _, set := range s.settings {
			key := strings.TrimPrefix(strings.TrimPrefix(set.key, "left"), "right")
			switch {
			case slices.Contains(onlyLibreswan, key):
				score++
			case slices.Contains(onlyStrongSwan, key):
				score--
			}
			v := strings.ToLower(set.value)
			switch {
			case (key == "ike" || key == "esp") && (strings.ContainsAny(v, ";+") || strings.Contains(v, "sha2_") || strings.Contains(v, "aes_gcm")):
				score++
			case (key == "ike" || key == "esp") && strings.HasSuffix(v, "!"), key == "keyexchange" && v == "ike", key == "sourceip" && strings.Contains(v, "%config"):
				score--
			case key == "auto" && (v == "ondemand" || v == "keep" || v == "up"), key == "sigkey" && v == "%cert", key == "authby" && strings.Contains(v, "sha2"):
				score++
			}
		}
	}
	if score > 0 {
		return Libreswan
	}
	return StrongSwan
}

// Keys, sides taken off, that one of the programs has and the other has not.
var (
	onlyLibreswan = []string{"protostack", "virtual-private", "plutodebug", "logfile", "nssdir", "dumpdir", "ikev1-policy", "ikev2", "phase2", "pfs",
		"addresspool", "subnets", "modecfgclient", "modecfgserver", "modecfgpull", "modecfgdns", "encapsulation", "narrowing", "ipsec-interface", "vti-interface",
		"vti-routing", "vti-shared", "nic-offload", "overlapip", "sareftrack", "xauthserver", "xauthclient", "nat-ikev1-method", "esn", "decap-dscp", "nflog", "listen"}
	onlyStrongSwan = []string{"charondebug", "auth", "auth2", "forceencaps", "closeaction", "installpolicy", "reauth", "strictcrlpolicy",
		"eap-identity", "aaa-identity", "hostaccess", "firewall", "allowany", "inactivity", "groups", "dns", "ah", "certpolicy"}
)
