package config

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"espalier/dataplane/selector"
	"espalier/ike/auth"
	"espalier/ike/sa"
	"espalier/ike/suite"
)

var update = flag.Bool("update", false, "rewrite golden files and the table of keys in docs/configuration.md")

// describe writes what a configuration compiles to, without what differs from
// run to run.
func describe(cfg *Config) string {
	var b strings.Builder
	for _, c := range cfg.Connections {
		fmt.Fprintf(&b, "connection %s (%s)\n", c.Name, c.Origin)
		fmt.Fprintf(&b, "  %s:%d -> %s:%d encap=%v certreq=%v\n", addrs(c.LocalAddrs), c.LocalPort, addrs(c.RemoteAddrs), c.RemotePort, c.Encap, c.SendCertReq)
		if c.DSCP != 0 {
			fmt.Fprintf(&b, "  DSCP %d\n", c.DSCP)
		}
		fmt.Fprintf(&b, "  ike %s\n", proposalText(c.Proposals, suite.DefaultIKE()))
		for _, l := range c.Local {
			fmt.Fprintf(&b, "  local %s id=%s certs=%d schemes=%v send=%s\n", l.Method, id(l.ID), len(l.Certs), l.Schemes, l.SendCert)
		}
		for _, r := range c.Remote {
			fmt.Fprintf(&b, "  remote %s id=%s certs=%d cas=%d schemes=%v\n", r.Method, id(r.ID), len(r.Certs), len(r.CACerts), r.Schemes)
		}
		if len(c.Pools)+len(c.VIPs) > 0 {
			fmt.Fprintf(&b, "  pools %v vips %v\n", c.Pools, c.VIPs)
		}
		for _, ch := range c.Children {
			fmt.Fprintf(&b, "  child %s %s %s === %s\n", ch.Name, ch.Mode, specs(ch.LocalTS), specs(ch.RemoteTS))
			fmt.Fprintf(&b, "    esp %s\n", proposalText(ch.Proposals, suite.DefaultESP()))
			fmt.Fprintf(&b, "   %s\n", differences(*ch, *plainChild()))
		}
		for _, ch := range c.Shunts {
			fmt.Fprintf(&b, "  shunt %s %s === %s\n   %s\n", ch.Name, specs(ch.LocalTS), specs(ch.RemoteTS), differences(*ch, *plainChild()))
		}
	}
	plain := (&compiler{rep: newReport()}).settings(nil)
	fmt.Fprintf(&b, "settings%s%s\n", differences(cfg.Settings.SA, plain.SA), differences(cfg.Settings, plain))
	for _, p := range cfg.Pools {
		fmt.Fprintf(&b, "pool %s %s-%s", p.Name, p.Start, p.End)
		for _, a := range p.Attrs {
			fmt.Fprintf(&b, " %s=%x", a.Type, a.Value)
		}
		b.WriteString("\n")
	}
	fmt.Fprintf(&b, "credentials certs=%d cas=%d keys=%d shared=", len(cfg.creds.certs), len(cfg.creds.cas), len(cfg.creds.keys))
	for _, s := range cfg.creds.shared {
		fmt.Fprintf(&b, "%d bytes %v;", len(s.key), s.ids)
	}
	b.WriteString("\n")
	for _, w := range cfg.Warnings {
		fmt.Fprintf(&b, "warning %s\n", w)
	}
	return b.String()
}

// proposalText keeps the golden files from repeating the default proposals.
func proposalText(got, def []suite.Proposal) string {
	if reflect.DeepEqual(got, def) {
		return "default"
	}
	return suite.Join(got)
}

// plainChild is a child without any key set.
func plainChild() *sa.ChildConfig {
	n := &node{keys: map[string]*entry{}, spec: childSpec()}
	conn := &node{keys: map[string]*entry{}, spec: connectionSpec()}
	return (&compiler{rep: newReport()}).child(n, conn, &sa.Connection{})
}

// differences writes the fields in which a struct is not like the plain one.
func differences(got, plain any) string {
	var b strings.Builder
	g, p := reflect.ValueOf(got), reflect.ValueOf(plain)
	for i := range g.NumField() {
		switch name := g.Type().Field(i).Name; name {
		case "Name", "LocalTS", "RemoteTS", "Proposals", "SA":
		default:
			if !reflect.DeepEqual(g.Field(i).Interface(), p.Field(i).Interface()) {
				fmt.Fprintf(&b, " %s=%v", name, g.Field(i))
			}
		}
	}
	return b.String()
}

func id(i auth.ID) string {
	if i.IsAny() {
		return "%any"
	}
	return fmt.Sprintf("%s(%s)", i.Type, i)
}

func addrs(list []sa.AddrSpec) string {
	var out []string
	for _, a := range list {
		switch {
		case a.Host != "":
			out = append(out, a.Host)
		case a.IsAny():
			out = append(out, fmt.Sprintf("%%any%d", a.Family))
		case a.Start == a.End:
			out = append(out, a.Start.String())
		default:
			out = append(out, a.Start.String()+"-"+a.End.String())
		}
	}
	return "[" + strings.Join(out, " ") + "]"
}

func specs(list []selector.Spec) string {
	var out []string
	for _, s := range list {
		out = append(out, s.String())
	}
	return strings.Join(out, " ")
}

func TestCorpus(t *testing.T) {
	files, err := filepath.Glob("testdata/corpus/*.conf")
	if err != nil || len(files) < 12 {
		t.Fatalf("%d files, %v", len(files), err)
	}
	for _, f := range files {
		t.Run(strings.TrimSuffix(filepath.Base(f), ".conf"), func(t *testing.T) {
			text, err := os.ReadFile(f)
			if err != nil {
				t.Fatal(err)
			}
			got := describe(mustLoad(t, string(text)))
			golden := strings.TrimSuffix(f, ".conf") + ".golden"
			if *update {
				if err := os.WriteFile(golden, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if got != string(want) {
				t.Errorf("compiles to\n%s\nwant\n%s", got, want)
			}
		})
	}
}

// The corpus holds every key that is accepted only at its default.
func TestCorpusNamesEveryKey(t *testing.T) {
	text, err := os.ReadFile("testdata/corpus/defaults-spelt-out.conf")
	if err != nil {
		t.Fatal(err)
	}
	for _, spec := range []*sectionSpec{connectionSpec(), childSpec()} {
		for _, k := range spec.keys {
			if k.sup != supported && k.def != "" && !strings.Contains(string(text), " "+k.name+" = ") {
				t.Errorf("%s of %s is missing", k.name, spec.name)
			}
		}
	}
}

func TestDefaultsParse(t *testing.T) {
	var walk func(s *sectionSpec)
	walk = func(s *sectionSpec) {
		for i := range s.keys {
			k := &s.keys[i]
			if k.def == "" {
				continue
			}
			if v, wrong := k.typ.parse(k.def); wrong != nil || v == nil {
				t.Errorf("the default %q of %s in %s: %v", k.def, k.name, s.name, wrong)
			}
		}
		for _, sub := range s.subs {
			walk(sub)
		}
	}
	walk(schema())
}
