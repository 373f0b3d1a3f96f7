package ipsecconf

import (
	"fmt"
	"slices"
	"strings"
)

// maxInherited bounds the sections that conns inherit from, all conns together:
// sections that name each other can stand for far more than what is written.
const maxInherited = 1 << 20

// maxDepth bounds how many also= lead from one to the next.
const maxDepth = 100

// inheritance follows also=.
type inheritance struct {
	byName  map[string]*section
	dialect Dialect
	parents map[*section][]*section // nearest first, without %default
	work    int
}

// of lists the sections that s takes settings from, nearest first and itself at the
// head, %default at the end. why is the reason when it cannot be told.
func (in *inheritance) of(s *section) (list []*section, why string) {
	list, why = in.follow(s, nil)
	if def := in.byName[s.kind+" %default"]; def != nil && s != def && why == "" {
		above, reason := in.follow(def, nil)
		list, why = append(slices.Clone(list), above...), reason
	}
	return list, why
}

// follow is of without %default; around are the sections whose also= lead here.
func (in *inheritance) follow(s *section, around []*section) ([]*section, string) {
	if list, ok := in.parents[s]; ok {
		return list, ""
	}
	if around = append(slices.Clone(around), s); len(around) > maxDepth {
		return nil, fmt.Sprintf("also= leads through more than %d sections", maxDepth)
	}
	also := slices.Clone(s.also)
	if in.dialect == StrongSwan {
		slices.Reverse(also) // what is named later overrides; in libreswan it is the first
	}
	list := []*section{s}
	for _, a := range also {
		if a.value == "%default" || a.value == "" {
			continue // all inherit from it
		}
		target := in.byName[s.kind+" "+a.value]
		switch {
		case target == nil:
			return nil, fmt.Sprintf("also=%s (%s:%d) names a section that there is not", a.value, a.file, a.line)
		case slices.Contains(around, target):
			return nil, "also= makes a loop: " + loop(around, target)
		}
		more, why := in.follow(target, around)
		if why != "" {
			return nil, why
		}
		if in.work += len(list) * len(more); in.work > maxInherited {
			return nil, "also= names too many sections"
		}
		// Of a section that comes twice the last place counts.
		list = slices.DeleteFunc(list, func(x *section) bool { return slices.Contains(more, x) })
		list = append(list, more...)
	}
	in.parents[s] = list
	return list, ""
}

func loop(around []*section, back *section) string {
	var names []string
	for _, s := range append(around[slices.Index(around, back):], back) {
		names = append(names, s.name)
	}
	return strings.Join(names, ", ")
}

// settled are the settings in force for a section. An empty value stands for
// the default.
func settled(list []*section) map[string]*setting {
	out := map[string]*setting{}
	for _, s := range list {
		own := map[string]*setting{}
		for i := range s.settings {
			own[s.settings[i].key] = &s.settings[i]
		}
		for key, set := range own {
			if _, have := out[key]; !have {
				out[key] = set
			}
		}
	}
	for key, set := range out {
		if set.value == "" {
			delete(out, key)
		}
	}
	return out
}
