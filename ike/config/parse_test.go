package config

import (
	"fmt"
	"math/rand/v2"
	"reflect"
	"strings"
	"testing"
)

// strip removes the places of a tree, which printing changes.
func strip(s *Section) *Section {
	out := &Section{Name: s.Name}
	for _, r := range s.Refs {
		out.Refs = append(out.Refs, Ref{Name: r.Name})
	}
	for _, it := range s.Items {
		switch it := it.(type) {
		case *Section:
			out.Items = append(out.Items, strip(it))
		case *Setting:
			out.Items = append(out.Items, &Setting{Key: it.Key, Value: it.Value})
		}
	}
	return out
}

func mustParse(t *testing.T, text string) *Section {
	t.Helper()
	rep := newReport()
	root := parseText(rep, memFS{}, "f", text)
	if err := rep.err(); err != nil {
		t.Fatalf("%v in\n%s", err, text)
	}
	return root
}

func TestSyntax(t *testing.T) {
	for _, c := range []struct{ in, out string }{
		{"", ""},
		{"# nothing\n\n  # at all", ""},
		{"a=b", "a = b\n"},
		{"a = b   c\td # comment", "a = b c d\n"},
		{"a = b#c", "a = b\n"},
		{"a = \"b  # { c\"", "a = \"b  # { c\"\n"},
		{"a = \"b\" c \"d  e\"", "a = \"b c d  e\"\n"},
		{"a = b={c=d", "a = b={c=d\n"},
		{`a = "q\"\\\n\t\r\x"`, `a = "q\"\\\n\t\rx"` + "\n"},
		{"a = \"one \\\ntwo\"", "a = one two\n"},
		{"a = \"one \\\r\ntwo\"", "a = one two\n"},
		{"a = \"one\ntwo\"", `a = "one\ntwo"` + "\n"},
		{"a = \"\"", "a =\n"},
		{"a =\nb = 1", "a =\nb = 1\n"},
		{"a = b\r\nc {\r\n}\r\n", "a = b\nc {\n}\n"},
		{"s { a = b }", "s {\n    a = b\n}\n"},
		{"s { a = b } t { }", "s {\n    a = b\n}\nt {\n}\n"},
		{"s\n{\n}", "s {\n}\n"},
		{"s # comment\n\n{ }", "s {\n}\n"},
		{"s{t{u=v}}", "s {\n    t {\n        u = v\n    }\n}\n"},
		{"s : a.b, c { }", "s : a.b, c {\n}\n"},
		{"s:a,b{ }", "s : a, b {\n}\n"},
		{"s : a,\n b\n{ }", "s : a, b {\n}\n"},
		{"fe80::::1 { }", "fe80::::1 {\n}\n"},
		{"gw.example.com { }", "gw.example.com {\n}\n"},
		{"include { a = 1 }\ninclude = x", "include {\n    a = 1\n}\ninclude = x\n"},
		{"includes = x", "includes = x\n"},
	} {
		if got := mustParse(t, c.in).Print(); got != c.out {
			t.Errorf("%q prints as\n%q, want\n%q", c.in, got, c.out)
		}
	}
}

func TestPositions(t *testing.T) {
	root := mustParse(t, "a = 1\n  sec : x {\n\tkéy =  välue # c\n}\n")
	sec := root.Items[1].(*Section)
	key := sec.Items[0].(*Setting)
	got := fmt.Sprint(root.Items[0].pos(), sec.Pos, sec.Refs[0].Pos, key.Pos, key.ValuePos)
	if want := "f:1:1 f:2:3 f:2:9 f:3:2 f:3:9"; got != want {
		t.Errorf("places %s, want %s", got, want)
	}
}

// randomTree makes a tree of whatever names and values the syntax can hold.
func randomTree(r *rand.Rand, depth int) []Item {
	word := func(letters string, least int) string {
		var b strings.Builder
		l := []rune(letters)
		for range least + r.IntN(6) {
			b.WriteRune(l[r.IntN(len(l))])
		}
		return b.String()
	}
	const nameLetters, valueLetters = "ab-_.:%*é\\/", "ab{}=#\"\\\n\r\t  :,é$"
	var items []Item
	for range r.IntN(5) {
		if depth > 0 && r.IntN(3) == 0 {
			s := &Section{Name: word(nameLetters, 1), Items: randomTree(r, depth-1)}
			for range r.IntN(3) {
				s.Refs = append(s.Refs, Ref{Name: word(nameLetters, 1)})
			}
			items = append(items, s)
			continue
		}
		items = append(items, &Setting{Key: word(nameLetters, 1), Value: word(valueLetters, 0)})
	}
	return items
}

func TestPrintParse(t *testing.T) {
	r := rand.New(rand.NewPCG(5, 6))
	for range 5000 {
		tree := &Section{Items: randomTree(r, 4)}
		text := tree.Print()
		if got := strip(mustParse(t, text)); !reflect.DeepEqual(got, strip(tree)) {
			t.Fatalf("the tree comes back different from\n%s\nas\n%s", text, got.Print())
		}
	}
}

func TestInclude(t *testing.T) {
	conf := "include conf.d/*.conf\ninclude none.d/*.conf\nconnections {\n include \"extra file\"\n include sub/child\\ list.inc # c\n}\n"
	fsys := box(conf).with(map[string]memFile{
		"conf.d/b.conf":      {data: "connections { b { } }"},
		"conf.d/a.conf":      {data: "connections { a { } }\ninclude ../shared.conf"},
		"conf.d/ignored.txt": {data: "}}}"},
		"shared.conf":        {data: "connections { shared { } }"},
		"extra file":         {data: "extra { }"},
		"sub/child list.inc": {data: "child { }\ninclude /abs/x.conf"},
		"/abs/x.conf":        {data: "abs { }"},
	})
	rep := newReport()
	l := newLoader(fsys, rep)
	root := &Section{}
	l.file(confPath, root, nil, Pos{})
	top, _ := resolve(root, rep)
	if err := rep.err(); err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, s := range top.sub("connections").subs {
		names = append(names, s.name)
	}
	if got := strings.Join(names, " "); got != "a shared b extra child abs" {
		t.Errorf("the files hold %s", got)
	}
}

func TestIncludeBounds(t *testing.T) {
	// A chain one longer than allowed, and files that each include the next twice.
	chain, twice := map[string]memFile{}, map[string]memFile{}
	for i := range 20 {
		chain[fmt.Sprintf("f%d", i)] = memFile{data: fmt.Sprintf("include f%d\n", i+1)}
		twice[fmt.Sprintf("f%d", i)] = memFile{data: fmt.Sprintf("include f%d\ninclude f%d\n", i+1, i+1)}
	}
	chain["f20"], twice["f20"] = memFile{data: "# end\n"}, memFile{data: "# end\n"}
	got := mistakes(t, box("include f0\n").with(chain))
	if want := "f14:1:9: expected at most 16 files including each other, found one more"; len(got) != 1 || got[0] != want {
		t.Errorf("it says %q, want %q", got, want)
	}
	got = mistakes(t, box("include f0\n").with(twice))
	if len(got) == 0 || len(got) > maxErrors {
		t.Errorf("%d mistakes", len(got))
	}
	loop := map[string]memFile{"a": {data: "include b\n"}, "b": {data: "include a\n"}}
	got = mistakes(t, box("include a\n").with(loop))
	if want := "b:1:9: expected a file that does not include itself, found a loop: espalier.conf includes a includes b includes a"; len(got) != 1 || got[0] != want {
		t.Errorf("it says %q, want %q", got, want)
	}
}

func TestReferenceBounds(t *testing.T) {
	var b strings.Builder
	for i := range 14 {
		fmt.Fprintf(&b, "s%d {\n", i)
		for j := range 4 {
			fmt.Fprintf(&b, "x%d : s%d { }\n", j, i+1)
		}
		b.WriteString("}\n")
	}
	b.WriteString("s14 { }\n")
	got := strings.Join(mistakes(t, box(b.String())), "\n")
	if !strings.Contains(got, "expected references that can be followed in a reasonable number of steps") {
		t.Errorf("it says %q", got)
	}
	// Inheriting the same by many ways is no work.
	b.Reset()
	for i := range 64 {
		fmt.Fprintf(&b, "s%d : s%d, s%d { k%d = 1\n }\n", i, i+1, i+1, i)
	}
	top, _ := resolveText(t, b.String()+"s64 { }\n")
	if n := len(top.sub("s0").keys); n != 64 {
		t.Errorf("%d keys inherited", n)
	}
	// A section that inherits the section around it would never end.
	got = strings.Join(mistakes(t, box("connections { a { children { x : connections.a { } } } }")), "\n")
	if !strings.Contains(got, "expected at most 16 sections within each other, inherited ones included") {
		t.Errorf("it says %q", got)
	}
	deep := strings.Repeat("a { ", 40) + strings.Repeat("}", 40)
	if got := mistakes(t, box(deep)); len(got) == 0 || !strings.Contains(got[len(got)-1], "expected at most 16 sections within each other") {
		t.Errorf("it says %q", got)
	}
}

func TestInheritance(t *testing.T) {
	top, templates := resolveText(t, `
one { k = one
 a = 1
 sub { x = one
  only-one = 1 } }
two { k = two
 b = 2
 sub { x = two
  y = two } }
connections {
  c : one, two {
    a =
    sub { own = 1 }
  }
  d : connections.c { k = d }
}`)
	if !templates["one"] || !templates["two"] {
		t.Error("the inherited sections are not known as templates")
	}
	want := "a= sub.own=1 sub.x=one sub.only-one=1 sub.y=two k=one b=2"
	if got := flat(top.sub("connections").sub("c")); !sameWords(got, want) {
		t.Errorf("c holds %s, want %s", got, want)
	}
	want = strings.Replace(want, "k=one", "k=d", 1)
	if got := flat(top.sub("connections").sub("d")); !sameWords(got, want) {
		t.Errorf("d holds %s, want %s", got, want)
	}
}

func resolveText(t *testing.T, text string) (*node, map[string]bool) {
	t.Helper()
	rep := newReport()
	top, templates := resolve(parseText(rep, memFS{}, "f", text), rep)
	if err := rep.err(); err != nil {
		t.Fatal(err)
	}
	return top, templates
}

func flat(n *node) string {
	var out []string
	for _, k := range n.order {
		out = append(out, k+"="+n.keys[k].Value)
	}
	for _, s := range n.subs {
		for w := range strings.FieldsSeq(flat(s)) {
			out = append(out, s.name+"."+w)
		}
	}
	return strings.Join(out, " ")
}

func sameWords(a, b string) bool {
	count := map[string]int{}
	for w := range strings.FieldsSeq(a) {
		count[w]++
	}
	for w := range strings.FieldsSeq(b) {
		count[w]--
	}
	for _, n := range count {
		if n != 0 {
			return false
		}
	}
	return true
}

func TestNearest(t *testing.T) {
	known := []string{"remote_addrs", "local_addrs", "proposals", "encap"}
	for in, want := range map[string]string{
		"remote_adrs": "remote_addrs", "rmeote_addrs": "remote_addrs", "proposal": "proposals",
		"enacp": "encap", "encpa": "encap", "x": "", "mobike": "",
	} {
		if got := nearest(in, known); got != want {
			t.Errorf("nearest to %s is %q, want %q", in, got, want)
		}
	}
}

// FuzzLoad feeds text as main file and as the file it includes: nothing may
// panic, run away or give a configuration together with mistakes; and what
// parses must print and parse to the same.
func FuzzLoad(f *testing.F) {
	f.Add("connections { a : b { children { c : b { } } } }\ninclude x\nb { local { auth = psk } }", "include espalier.conf\n")
	f.Add("secrets { ike { secret = 0sAA==\n id = \"ipv4:#01\" } }\ninclude *", "a = \"\\")
	f.Add(net("remote_ts = 10.0.0.0/8[icmp/3(4)]\nmark_in = 1/2\nesp_proposals = aes256gcm16-x25519, default"), "")
	f.Add("espalier { port = 0x1f4\nretransmit_base = 1e1\nlisten = ::1 }", "x { y : z, }")
	f.Fuzz(func(t *testing.T, main, included string) {
		if len(main)+len(included) > 1<<16 {
			return
		}
		fsys := memFS{}.with(map[string]memFile{"espalier.conf": {data: main}, "x": {data: included}})
		cfg, err := load(fsys, confPath)
		if (cfg == nil) == (err == nil) {
			t.Fatalf("configuration %v, error %v", cfg, err)
		}
		if err != nil && strings.Count(err.Error(), "\n") >= maxErrors {
			t.Fatalf("%d lines", strings.Count(err.Error(), "\n"))
		}
		rep := newReport()
		root := parseText(rep, memFS{}, "f", main)
		if rep.err() != nil {
			return
		}
		if again := mustParse(t, root.Print()); !reflect.DeepEqual(strip(again), strip(root)) {
			t.Fatalf("%q prints as %q, which is something else", main, root.Print())
		}
	})
}
