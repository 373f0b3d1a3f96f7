package config

import (
	"fmt"
	"strings"
)

// node is a section with what it inherits: the first of each key and
// subsection counts, own ones before those of the references, left to right.
type node struct {
	name  string
	pos   Pos
	path  string // dotted, from the top
	keys  map[string]*entry
	order []string // keys by place
	subs  []*node
	spec  *sectionSpec // set by the check
	bad   bool         // the check found a mistake in the section itself
}

// entry is a setting in force, with its checked value.
type entry struct {
	*Setting
	val any  // of the type that the schema's valueType says
	ok  bool // val is set
}

func (n *node) sub(name string) *node {
	for _, s := range n.subs {
		if s.name == name {
			return s
		}
	}
	return nil
}

// The work of following references is bounded, since subsections that inherit
// from each other can stand for trees far larger than what is written: a flat
// number of steps and some for each section and setting.
const (
	maxResolve        = 1 << 20
	maxResolvePerItem = 32
)

// resolver turns the tree as written into the sections in force.
type resolver struct {
	rep   *report
	root  *Section
	index map[*Section]map[string]*Section
	used  map[*Section]bool // sections that a reference names
	work  int
	limit int
}

// containers are the sections that files in conf.d open again and again; their
// contents add up. Any other section that stands twice is a mistake.
func isContainer(name string) bool {
	switch name {
	case "connections", "secrets", "pools", "authorities", "espalier":
		return true
	}
	return false
}

// merge joins the containers of the top level and reports doubled sections and
// keys on all levels.
func (r *resolver) merge(root *Section) {
	first := map[string]*Section{}
	var items []Item
	for _, it := range root.Items {
		sec, ok := it.(*Section)
		if !ok || !isContainer(sec.Name) {
			items = append(items, it)
			continue
		}
		if have := first[sec.Name]; have != nil {
			have.Items = append(have.Items, sec.Items...)
			have.Refs = append(have.Refs, sec.Refs...)
			continue
		}
		joined := *sec
		joined.Items = append([]Item(nil), sec.Items...)
		joined.Refs = append([]Ref(nil), sec.Refs...)
		first[sec.Name] = &joined
		items = append(items, &joined)
	}
	root.Items = items
	r.doubled(root, "the file")
}

// doubled reports sections and keys that stand twice in a section.
func (r *resolver) doubled(sec *Section, path string) {
	secs, keys := map[string]*Section{}, map[string]*Setting{}
	r.limit += maxResolvePerItem * len(sec.Items)
	for _, it := range sec.Items {
		switch it := it.(type) {
		case *Section:
			if have := secs[it.Name]; have != nil {
				r.rep.add(it.Pos, fmt.Sprintf("one section %s in %s", quote(it.Name), path), "a second one", "the first is at "+have.Pos.String())
				continue
			}
			secs[it.Name] = it
			sub := it.Name
			if sec != r.root {
				sub = path + "." + it.Name
			}
			r.doubled(it, sub)
		case *Setting:
			if have := keys[it.Key]; have != nil {
				r.rep.add(it.Pos, fmt.Sprintf("one value of %s in %s", it.Key, path), "a second one", "the first is at "+have.Pos.String())
				continue
			}
			keys[it.Key] = it
		}
	}
	r.index[sec] = secs
}

// resolve follows all references. The result's top level holds every section
// as written, templates included; templates says which these are.
func resolve(root *Section, rep *report) (top *node, templates map[string]bool) {
	r := &resolver{rep: rep, root: root, index: map[*Section]map[string]*Section{}, used: map[*Section]bool{}, limit: maxResolve}
	r.merge(root)
	top = &node{pos: root.Pos, keys: map[string]*entry{}}
	for _, it := range root.Items {
		switch it := it.(type) {
		case *Setting:
			top.take(it)
		case *Section:
			if r.index[root][it.Name] == it {
				top.subs = append(top.subs, r.node(it.Name, "", r.expand(it)))
			}
		}
	}
	templates = map[string]bool{}
	for _, it := range root.Items {
		if sec, ok := it.(*Section); ok && (r.used[sec] || r.usedBelow(sec)) {
			templates[sec.Name] = true
		}
	}
	return top, templates
}

// usedBelow reports whether a reference names a section within sec.
func (r *resolver) usedBelow(sec *Section) bool {
	for _, s := range r.index[sec] {
		if r.used[s] || r.usedBelow(s) {
			return true
		}
	}
	return false
}

func (n *node) take(s *Setting) {
	if n.keys[s.Key] == nil {
		n.keys[s.Key] = &entry{Setting: s}
		n.order = append(n.order, s.Key)
	}
}

// expand lists a section and all it inherits from, nearest first, each once.
func (r *resolver) expand(sec *Section) []*Section {
	out := []*Section{sec}
	if len(sec.Refs) > 0 {
		r.follow(sec, &out, map[*Section]bool{sec: true}, map[*Section]bool{})
	}
	return out
}

// follow adds what sec refers to; seen are the sections in the list, around
// those whose references are being followed.
func (r *resolver) follow(sec *Section, out *[]*Section, seen, around map[*Section]bool) {
	around[sec] = true
	defer delete(around, sec)
	for _, ref := range sec.Refs {
		if !r.spend(ref.Pos) {
			return
		}
		target, missing := r.find(ref.Name)
		switch {
		case target == nil:
			r.rep.add(ref.Pos, "the absolute name of a section, such as connections.gw or a section beside them", quote(missing), r.similar(ref.Name))
			continue
		case around[target]:
			r.rep.add(ref.Pos, "a section that does not inherit from itself", "a loop by way of "+quote(ref.Name), "")
		}
		r.used[target] = true
		if !seen[target] {
			seen[target] = true
			*out = append(*out, target)
			r.follow(target, out, seen, around)
		}
	}
}

// spend takes one step from the budget and reports its end once.
func (r *resolver) spend(pos Pos) bool {
	if r.work++; r.work == r.limit {
		r.rep.add(pos, "references that can be followed in a reasonable number of steps", fmt.Sprintf("more than %d steps", r.limit), "")
	}
	return r.work < r.limit
}

// find looks up an absolute name; a dot in a section's own name works where it
// leaves no doubt.
func (r *resolver) find(name string) (sec *Section, missing string) {
	sec = r.root
	rest := name
	for {
		if s := r.index[sec][rest]; s != nil {
			return s, ""
		}
		head, tail, ok := strings.Cut(rest, ".")
		sec = r.index[sec][head]
		if !ok || sec == nil {
			return nil, name
		}
		rest = tail
	}
}

// similar suggests the nearest section of the top level.
func (r *resolver) similar(name string) string {
	var names []string
	for n := range r.index[r.root] {
		names = append(names, n)
	}
	return didYouMean(nearest(name, names))
}

// node builds one section from those that contribute to it, nearest first.
func (r *resolver) node(name, path string, from []*Section) *node {
	n := &node{name: name, pos: from[0].Pos, path: path + name, keys: map[string]*entry{}}
	if strings.Count(n.path, ".") > maxNesting {
		r.rep.add(n.pos, fmt.Sprintf("at most %d sections within each other, inherited ones included", maxNesting), "one more", "")
		r.work = r.limit
		return n
	}
	subs := map[string][]*Section{}
	var order []string
	for _, sec := range once(from) {
		if !r.spend(sec.Pos) {
			return n
		}
		for _, it := range sec.Items {
			if !r.spend(sec.Pos) {
				return n
			}
			switch it := it.(type) {
			case *Setting:
				n.take(it)
			case *Section:
				if r.index[sec][it.Name] != it {
					continue // a second one, reported
				}
				if subs[it.Name] == nil {
					order = append(order, it.Name)
				}
				subs[it.Name] = append(subs[it.Name], r.expand(it)...)
			}
		}
	}
	for _, s := range order {
		n.subs = append(n.subs, r.node(s, n.path+".", subs[s]))
	}
	return n
}

// once drops sections that are inherited by a second way.
func once(from []*Section) []*Section {
	if len(from) == 1 {
		return from
	}
	seen := make(map[*Section]bool, len(from))
	out := make([]*Section, 0, len(from))
	for _, sec := range from {
		if !seen[sec] {
			seen[sec] = true
			out = append(out, sec)
		}
	}
	return out
}
