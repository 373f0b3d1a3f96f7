// Package configtest has the table of every option of swanctl.conf, for the tests
// of all that reads options.
package configtest

import (
	_ "embed"
	"fmt"
	"slices"
	"strings"
	"testing"
)

//go:embed options.txt
var table string

// Verdicts on an option at a value that is not its default.
const (
	Honoured = "honoured" // something in the resulting configuration differs
	Refused  = "refused"  // by its name, with the reason
	Alone    = "alone"    // of no effect by itself
)

// Option is a line of options.txt.
type Option struct {
	Section []string // the way to it from the top
	Key     string
	Value   string // not the default
	Verdict string
	With    string // what else stands in the section, "key = value", or nothing
}

// String is the option's name from the top.
func (o *Option) String() string { return strings.Join(o.Section, ".") + "." + o.Key }

// Setting is the option with a value, as Conf takes it.
func (o *Option) Setting(value string) string { return o.Key + " = " + value }

// Options reads the table.
func Options(t *testing.T) (out []Option) {
	t.Helper()
	for line := range strings.Lines(table) {
		if strings.HasPrefix(line, "#") {
			continue
		}
		f := strings.Split(strings.TrimSpace(line), " | ")
		if len(f) < 4 || len(f) > 5 || !slices.Contains([]string{Honoured, Refused, Alone}, f[3]) {
			t.Fatalf("options.txt: expected four or five columns, found %q", line)
		}
		o := Option{Section: strings.Split(f[0], "."), Key: f[1], Value: f[2], Verdict: f[3]}
		if len(f) == 5 {
			o.With = f[4]
		}
		out = append(out, o)
	}
	return out
}

// Conf is a configuration in which the option's section has some settings, "key =
// value", instead of or beside what stands there anyway. An empty one is passed over.
func (o *Option) Conf(settings ...string) string {
	root := base()
	root.at(o.Section...)
	for _, s := range settings {
		if key, value, ok := strings.Cut(s, " = "); ok {
			root.at(o.Section...).set(key, value)
		}
	}
	var b strings.Builder
	root.write(&b)
	return b.String()
}

// base is a configuration in which any option may be set.
func base() *section {
	root := &section{}
	gw := root.at("connections", "gw")
	gw.set("remote_addrs", "192.0.2.1")
	gw.at("local").set("auth", "pubkey")
	gw.at("local").set("id", "gw.example.com")
	gw.at("remote")
	gw.at("children", "net")
	root.at("pools", "four").set("addrs", "10.3.0.0/24")
	return root
}

// section is a section with its settings and sections in their order.
type section struct {
	name     string
	settings [][2]string
	subs     []*section
}

// at finds or makes a section within.
func (s *section) at(path ...string) *section {
	for _, name := range path {
		i := slices.IndexFunc(s.subs, func(sub *section) bool { return sub.name == name })
		if i < 0 {
			i = len(s.subs)
			s.subs = append(s.subs, &section{name: name})
		}
		s = s.subs[i]
	}
	return s
}

func (s *section) set(key, value string) {
	for i := range s.settings {
		if s.settings[i][0] == key {
			s.settings[i][1] = value
			return
		}
	}
	s.settings = append(s.settings, [2]string{key, value})
}

func (s *section) write(b *strings.Builder) {
	for _, kv := range s.settings {
		fmt.Fprintf(b, "%s = %q\n", kv[0], kv[1])
	}
	for _, sub := range s.subs {
		fmt.Fprintf(b, "%s {\n", sub.name)
		sub.write(b)
		b.WriteString("}\n")
	}
}
