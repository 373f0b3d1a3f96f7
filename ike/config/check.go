package config

import (
	"fmt"
	"io/fs"
	"reflect"
	"strings"
)

// checker compares the sections in force with the schema and reads the values.
type checker struct {
	rep    *report
	root   *sectionSpec
	modes  map[string]fs.FileMode // of the files read
	places map[string][]string    // where each known key belongs, once a hint is needed
}

func newChecker(rep *report, modes map[string]fs.FileMode) *checker {
	return &checker{rep: rep, root: schema(), modes: modes}
}

// index notes where each key belongs, for hints.
func (c *checker) index(s *sectionSpec, path string) {
	for _, k := range s.keys {
		c.places[k.name] = append(c.places[k.name], path)
	}
	for _, sub := range s.subs {
		c.index(sub, path+"."+sub.name)
	}
}

// top checks the whole tree; templates are checked where they are inherited.
func (c *checker) top(n *node, templates map[string]bool) {
	for _, key := range n.order {
		c.rep.add(n.keys[key].Pos, "a section such as connections or secrets", "the setting "+quote(key), "")
	}
	for _, sub := range n.subs {
		spec := c.root.sub(sub.name)
		switch {
		case spec != nil:
			c.section(sub, spec)
		case !templates[sub.name]:
			c.rep.add(sub.pos, "connections, secrets, pools, authorities, espalier or a section that another one inherits from",
				"section "+quote(sub.name), didYouMean(nearest(sub.name, names(c.root))))
		}
	}
}

// names lists what a section may hold.
func names(s *sectionSpec) []string {
	var out []string
	for _, k := range s.keys {
		out = append(out, strings.TrimSuffix(k.name, "*"))
	}
	for _, sub := range s.subs {
		if !strings.HasPrefix(sub.name, "<") {
			out = append(out, strings.TrimSuffix(sub.name, "*"))
		}
	}
	return out
}

// section checks one section and all within.
func (c *checker) section(n *node, spec *sectionSpec) {
	if c.rep.full() {
		return
	}
	n.spec = spec
	for _, name := range n.order {
		if c.rep.full() {
			return // looking for what each of thousands of names may have meant takes its time
		}
		e := n.keys[name]
		switch k := spec.key(name); {
		case k != nil:
			c.value(n, e, k)
		case spec.named(name):
			c.fault(n, e.Pos, fmt.Sprintf("a section %s { }", name), "a setting of that name", "")
		default:
			c.fault(n, e.Pos, "a key of "+n.path, quote(name), c.hint(name, spec))
		}
	}
	for _, sub := range n.subs {
		s := spec.sub(sub.name)
		switch {
		case s == nil && spec.key(sub.name) != nil:
			c.fault(n, sub.pos, sub.name+" = value", "a section of that name", "")
		case s == nil:
			c.fault(n, sub.pos, "a section of "+n.path, quote(sub.name), c.hint(sub.name, spec))
		case s.sup != supported:
			c.fault(n, sub.pos, "no section "+s.name+" in "+n.path+s.sup.because("it is"), "section "+quote(sub.name), "")
		default:
			c.section(sub, s)
		}
	}
}

// fault records a mistake in a section, which is then not searched for
// contradictions: they would follow from the mistake.
func (c *checker) fault(n *node, pos Pos, expected, found, hint string) {
	n.bad = true
	c.rep.add(pos, expected, found, hint)
}

// hint says what an unknown name was meant to be: the same in another section,
// or the nearest in this one.
func (c *checker) hint(name string, spec *sectionSpec) string {
	if c.places == nil {
		c.places = map[string][]string{}
		for _, s := range c.root.subs {
			c.index(s, s.name)
		}
	}
	if places := c.places[name]; len(places) > 0 {
		return name + " belongs in " + places[0]
	}
	if near := nearest(name, names(spec)); near != "" {
		return didYouMean(near)
	}
	var all []string
	for k := range c.places {
		all = append(all, k)
	}
	if near := nearest(name, all); near != "" {
		return fmt.Sprintf("did you mean %s of %s?", near, c.places[near][0])
	}
	return ""
}

// value reads one setting.
func (c *checker) value(n *node, e *entry, k *keySpec) {
	if e.Value == "" {
		return
	}
	v, wrong := k.typ.parse(e.Value)
	found := quote(e.Value)
	if k.typ.hide {
		found = "another value"
		c.private(e)
	}
	if wrong != nil {
		if wrong.found != "" {
			found = wrong.found
		}
		c.fault(n, e.ValuePos, wrong.expected+" for "+e.Key+wrong.reason, found, wrong.hint)
		return
	}
	if k.sup != supported && !(k.def != "" && reflect.DeepEqual(v, k.fallback())) {
		c.fault(n, e.Pos, k.onlyDefault(e.Key), found, "")
		return
	}
	e.val, e.ok = v, true
}

// onlyDefault is what is expected of a key that can only have its default.
func (k *keySpec) onlyDefault(name string) string {
	switch {
	case k.derived != "":
		return name + " left at its default" + k.sup.because("other values are")
	case k.def != "":
		return name + " = " + k.def + k.sup.because("other values are")
	}
	return "no " + name + k.sup.because("it is")
}

// private refuses a secret in a file that others can read.
func (c *checker) private(e *entry) {
	mode, ok := c.modes[e.Pos.File]
	if !ok || mode.Perm()&0o077 == 0 {
		return
	}
	c.rep.add(e.Pos, "a file that only its owner can read, since it holds a secret", fmt.Sprintf("mode %04o", mode.Perm()), "chmod 600 "+e.Pos.File)
}

// fallback returns the default's value, nil when there is none. The defaults
// of the schema are valid: a test reads them all.
func (k *keySpec) fallback() any {
	if k.defVal == nil && k.def != "" {
		k.defVal, _ = k.typ.parse(k.def)
	}
	return k.defVal
}

// has reports whether a key is set to something.
func (n *node) has(key string) bool {
	e := n.keys[key]
	return e != nil && e.ok
}

// get returns a key's value or default. T is what the key's valueType makes;
// the zero value stands for no default.
func get[T any](n *node, key string) T {
	if e := n.keys[key]; e != nil && e.ok {
		v, _ := e.val.(T)
		return v
	}
	v, _ := n.spec.key(key).fallback().(T)
	return v
}

// at is the place to blame for a key: its own, or its section's.
func (n *node) at(key string) Pos {
	if e := n.keys[key]; e != nil {
		return e.Pos
	}
	return n.pos
}
