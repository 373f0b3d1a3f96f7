package config

import (
	"errors"
	"io/fs"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"espalier/ike/pki"
)

// DefaultStrongSwan is where strongSwan's daemon has its settings.
const DefaultStrongSwan = "/etc/strongswan.conf"

// Options are what a configuration is loaded with.
type Options struct {
	// StrongSwan is a strongswan.conf, whose settings count where section espalier
	// does not say otherwise; empty: none.
	StrongSwan string
	// Optional: that file need not be there, and what is wrong in it is a warning.
	Optional bool
	// MayMiss: the main file need not be there; what clients load is all there is then.
	MayMiss bool
	// CRLs are those that are fetched; nil: none.
	CRLs *pki.CRLCache
}

// StrongSwan is what was taken from a strongswan.conf, and what was not.
type StrongSwan struct {
	Path         string   // empty: there is none
	Used, Unused []string // settings by their dotted names, sorted
	// Levels are those of its loggers, -1 to 4, by group ("ike", "knl" …) and for
	// all others under "default": the most talkative counts. Empty: it has none.
	Levels map[string]int
	// Threads is their number; 0: it does not say.
	Threads int
}

// strongSwanSections are those of charon, the first that has a setting counts.
var strongSwanSections = []string{"charon-systemd", "charon"}

// sameKeys are settings that have the same name and meaning here.
var sameKeys = []string{"port", "port_nat_t", "retransmit_tries", "retransmit_base", "retransmit_jitter", "install_routes", "install_virtual_ip",
	"install_virtual_ip_on", "routing_table", "routing_table_prio", "follow_redirects", "send_vendor_id"}

// swKey is a setting that has another name or other values here.
type swKey struct {
	to string
	// value converts; ok = false: Espalier does not have this value. An empty value is
	// the default of either.
	value func(s string) (v any, ok bool)
}

// otherKeys are those settings.
var otherKeys = map[string]swKey{
	"retransmit_timeout":          {"retransmit_timeout", decimalSeconds},
	"retransmit_limit":            {"retransmit_limit", decimalSeconds},
	"half_open_timeout":           {"half_open_timeout", decimalSeconds},
	"keep_alive":                  {"keep_alive", decimalSeconds},
	"fragment_size":               {"fragment_size", func(s string) (any, bool) { return valueUnless(s, "0", number(576, 65535)) }},
	"cookie_threshold":            {"cookie_threshold", zeroIsNever},
	"init_limit_half_open":        {"half_open_limit", zeroIsNever},
	"block_threshold":             {"half_open_limit_prefix", zeroIsNever},
	"group":                       {"socket_group", func(s string) (any, bool) { return valueUnless(s, "root", text("group")) }},
	"interfaces_use":              {"interfaces", func(s string) (any, bool) { return valueUnless(s, "", words("names")) }},
	"prefer_configured_proposals": {"prefer_peer_proposal", func(s string) (any, bool) { return negated(s) }},
}

// decimalSeconds reads a time.Duration: seconds with a fraction, or with a unit.
func decimalSeconds(s string) (any, bool) {
	if f, err := strconv.ParseFloat(s, 64); err == nil {
		return time.Duration(f * float64(time.Second)), f >= 0 && f < 1<<31
	}
	v, wrong := duration().parse(s)
	return v, wrong == nil
}

// valueUnless reads a value; the one that stands for the default is none.
func valueUnless(s, none string, typ valueType) (any, bool) {
	if s == none {
		return nil, true
	}
	v, wrong := typ.parse(s)
	return v, wrong == nil
}

// never is a limit that is not reached.
const never = uint32(1 << 24)

// zeroIsNever reads a limit that strongSwan does not have at 0.
func zeroIsNever(s string) (any, bool) {
	v, wrong := number(0, never).parse(s)
	if wrong != nil {
		return nil, false
	}
	if v == uint32(0) {
		v = never
	}
	return v, true
}

func negated(s string) (any, bool) {
	v, wrong := yesNo().parse(s)
	if wrong != nil {
		return nil, false
	}
	return !v.(bool), true
}

// readStrongSwan reads the file and puts what it says into section espalier, as
// far as that does not say it. Mistakes go to rep, or to warn if it is optional.
func readStrongSwan(fsys fileSystem, o Options, top *node, rep, warn *report) StrongSwan {
	if o.StrongSwan == "" {
		return StrongSwan{}
	}
	if o.Optional {
		if _, _, err := fsys.read(o.StrongSwan, maxBytes); errors.Is(err, fs.ErrNotExist) {
			return StrongSwan{}
		}
		rep = warn
	}
	own := newReport()
	root := &Section{Pos: Pos{File: o.StrongSwan}}
	newLoader(fsys, own).file(o.StrongSwan, root, nil, Pos{File: o.StrongSwan})
	if len(own.errs) == 0 {
		mergeDoubled(root)
	}
	tree, _ := resolve(root, own)
	for _, e := range own.list() {
		rep.add(Pos{e.File, e.Line, e.Col}, e.Expected, e.Found, e.Hint)
	}
	sw := StrongSwan{Path: o.StrongSwan}
	if len(own.errs) > 0 {
		return sw // half of it would be worse than nothing
	}
	into := top.sub("espalier")
	if into == nil {
		into = &node{name: "espalier", path: "espalier", pos: root.Pos, keys: map[string]*entry{}, spec: settingsSpec()}
		top.subs = append(top.subs, into)
	}
	seen := map[string]bool{}
	for _, name := range strongSwanSections {
		if n := tree.sub(name); n != nil {
			sw.section(n, into, seen)
		}
	}
	slices.Sort(sw.Used)
	slices.Sort(sw.Unused)
	return sw
}

// mergeDoubled joins sections of one name, on all levels. Of settings the later
// counts, as in strongSwan.
func mergeDoubled(sec *Section) {
	first := map[string]*Section{}
	keys := map[string]*Setting{}
	var items []Item
	for _, it := range sec.Items {
		switch it := it.(type) {
		case *Section:
			if have := first[it.Name]; have != nil {
				have.Items = append(have.Items, it.Items...)
				have.Refs = append(have.Refs, it.Refs...)
				continue
			}
			first[it.Name] = it
		case *Setting:
			if have := keys[it.Key]; have != nil {
				*have = *it
				continue
			}
			keys[it.Key] = it
		}
		items = append(items, it)
	}
	sec.Items = items
	for _, name := range slices.Sorted(maps.Keys(first)) {
		mergeDoubled(first[name])
	}
}

// section takes the settings of one of charon's sections; seen are those that an
// earlier one has.
func (sw *StrongSwan) section(n, into *node, seen map[string]bool) {
	for _, key := range n.order {
		e := n.keys[key]
		if e.Value == "" || seen[key] {
			continue
		}
		seen[key] = true
		if sw.setting(e, into) {
			sw.Used = append(sw.Used, n.name+"."+key)
		} else {
			sw.Unused = append(sw.Unused, n.name+"."+key)
		}
	}
	for _, sub := range n.subs {
		switch sub.name {
		case "filelog", "syslog", "journal":
			sw.loggers(sub, n.name)
		default:
			sw.unused(sub, n.name)
		}
	}
}

// setting takes one setting and reports whether it is used.
func (sw *StrongSwan) setting(e *entry, into *node) bool {
	key := e.Key
	if other, ok := otherKeys[key]; ok {
		v, ok := other.value(e.Value)
		return ok && put(into, e, other.to, v)
	}
	switch {
	case slices.Contains(sameKeys, key):
		v, wrong := into.spec.key(key).typ.parse(e.Value)
		return wrong == nil && put(into, e, key, v)
	case key == "dos_protection":
		on, wrong := yesNo().parse(e.Value)
		if wrong == nil && !on.(bool) {
			// What it turns off: cookies, and limits for single peers.
			return put(into, e, "cookie_threshold", never) && put(into, e, "half_open_limit_prefix", never) && put(into, e, "init_rate", uint32(0))
		}
		return wrong == nil
	case key == "threads":
		n, wrong := number(1, 1024).parse(e.Value)
		if wrong == nil {
			sw.Threads = int(n.(uint32))
		}
		return wrong == nil
	case key == "load_modular", key == "load":
		return true // which plugins: there are none here
	}
	return false
}

// put sets a key of section espalier that the configuration does not set. A limit
// stays below the one that it may not exceed.
func put(into *node, from *entry, key string, v any) bool {
	if v == nil || into.keys[key] != nil {
		return true
	}
	if key == "cookie_threshold" {
		v = min(v.(uint32), get[uint32](into, "half_open_limit"))
	}
	set := *from.Setting
	set.Key = key
	into.keys[key] = &entry{Setting: &set, val: v, ok: true}
	into.order = append(into.order, key)
	return true
}

// logGroups are the subsystems that strongSwan's loggers have levels for.
var logGroups = []string{"default", "dmn", "mgr", "ike", "chd", "job", "cfg", "knl", "net", "asn", "enc", "tnc", "imc", "imv", "pts", "tls", "app", "esp", "lib"}

// loggers takes the levels of the loggers in a section: each has one of its own but
// the journal.
func (sw *StrongSwan) loggers(n *node, path string) {
	path += "." + n.name
	list := n.subs
	if n.name == "journal" {
		list = []*node{n}
	} else {
		for _, key := range n.order {
			sw.Unused = append(sw.Unused, path+"."+key)
		}
	}
	for _, logger := range list {
		at := path
		if logger != n {
			at += "." + logger.name
		}
		own := map[string]int{"default": 1}
		for _, key := range logger.order {
			level, err := strconv.Atoi(logger.keys[key].Value)
			if !slices.Contains(logGroups, key) || err != nil || level < -1 || level > 4 {
				sw.Unused = append(sw.Unused, at+"."+key)
				continue
			}
			own[key] = level
			sw.Used = append(sw.Used, at+"."+key)
		}
		sw.talk(own)
	}
}

// talk adds a logger's levels.
func (sw *StrongSwan) talk(own map[string]int) {
	if sw.Levels == nil {
		sw.Levels = own
		return
	}
	of := func(m map[string]int, group string) int {
		if level, ok := m[group]; ok {
			return level
		}
		return m["default"]
	}
	for _, group := range logGroups {
		_, a := sw.Levels[group]
		if _, b := own[group]; (a || b) && group != "default" {
			sw.Levels[group] = max(of(sw.Levels, group), of(own, group))
		}
	}
	sw.Levels["default"] = max(sw.Levels["default"], own["default"])
}

// unused lists all settings within a section. Which plugins are loaded is no
// question here.
func (sw *StrongSwan) unused(n *node, path string) {
	path += "." + n.name
	for _, key := range n.order {
		if key != "load" || !strings.Contains(path, ".plugins.") {
			sw.Unused = append(sw.Unused, path+"."+key)
		}
	}
	for _, sub := range n.subs {
		sw.unused(sub, path)
	}
}
