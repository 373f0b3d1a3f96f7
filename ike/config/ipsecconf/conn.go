package ipsecconf

import (
	"fmt"
	"maps"
	"math"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"espalier/ike/config"
)

// conn is one conn section on its way.
type conn struct {
	*converter
	sec  *section
	name string
	set  map[string]*setting
	used map[string]bool
	// local and remote are left and right, or the other way round.
	local, remote string
	shunt         string // pass, drop; empty: a tunnel
	ike           *config.Section
	children      []*config.Section
	newPools      map[string]*config.Section // by content
	why           string                     // it can't be carried over; empty: it can
	at            *setting                   // the line that is to blame; nil: the section
}

// take returns a setting's value, "" when there is none, and counts it as seen to.
func (k *conn) take(key string) (string, *setting) {
	k.used[key] = true
	if s := k.set[key]; s != nil {
		return s.value, s
	}
	return "", nil
}

// or is take with a default.
func (k *conn) or(key, def string) (string, *setting) {
	if v, s := k.take(key); s != nil {
		return v, s
	}
	return def, nil
}

// fail leaves the conn out. The first reason counts.
func (k *conn) fail(s *setting, reason string) {
	if k.why == "" {
		k.why, k.at = reason, s
	}
}

// write puts a setting into the connection or a part of it; what the schema does
// not have is lost, and the conn with it if it is essential.
func (k *conn) write(into *config.Section, path []string, key, value string, from *setting, essential bool) {
	why := k.put(into, append([]string{"connections", k.name}, path...), key, value)
	switch {
	case why == "":
	case essential || from == nil:
		k.fail(from, why)
	default:
		k.lose(from, why)
	}
}

// conn converts a conn section.
func (c *converter) conn(s *section) {
	list, why := c.inherit.of(s)
	k := &conn{converter: c, sec: s, name: c.free("conn", s.name), used: map[string]bool{}, local: "left", remote: "right", why: why}
	if why == "" {
		k.set = settled(list)
		if auto, _ := k.or("auto", "ignore"); auto == "ignore" || k.onlyTemplate() {
			return
		}
		k.convert()
	}
	if k.why != "" {
		line := "conn " + s.name
		if k.at != nil {
			c.notes.lost(k.at.file, k.at.line, k.at.key+"="+k.at.value, fmt.Sprintf("conn %s is left out: %s", s.name, k.why))
		} else {
			c.notes.lost(s.file, s.line, line, "it is left out: "+k.why)
		}
		return
	}
	if k.name != s.name {
		c.notes.add(Note{File: s.file, Line: s.line, Text: "conn " + s.name, Reason: "its name is " + k.name + " here"})
	}
	k.leftovers()
	k.keep()
}

// onlyTemplate reports whether the conn names no peer at all: something to inherit from.
func (k *conn) onlyTemplate() bool { return k.set["left"] == nil && k.set["right"] == nil }

// convert fills connection and children.
func (k *conn) convert() {
	k.ike = &config.Section{Name: k.name}
	k.orient()
	k.version()
	k.kind()
	k.addresses()
	if k.shunt == "" {
		k.algorithms("ike", k.ike, nil, "proposals")
		k.options()
		k.times()
		k.virtual()
		k.authentication()
	}
	k.child()
}

// orient finds out which side is ours.
func (k *conn) orient() {
	left, right := k.mine("left"), k.mine("right")
	if right && !left {
		k.local, k.remote = "right", "left"
		k.tell(k.set["right"], "right is this box")
	}
}

// mine reports whether a side is this box.
func (k *conn) mine(side string) bool {
	s := k.set[side]
	if s == nil {
		return false
	}
	if s.value == "%defaultroute" {
		return true
	}
	for _, one := range strings.Split(s.value, ",") {
		if a, err := netip.ParseAddr(strings.TrimSpace(one)); err == nil && slices.Contains(k.in.Local, a) {
			return true
		}
	}
	return false
}

// version refuses what is IKEv1.
func (k *conn) version() {
	const ikev1 = "that is IKEv1, and Espalier speaks IKEv2 only"
	if v, s := k.or("keyexchange", "ike"); v == "ikev1" {
		k.fail(s, ikev1)
	}
	switch v, s := k.or("ikev2", "yes"); v {
	case "no", "never":
		k.fail(s, ikev1)
	case "permit":
		k.tell(s, "IKEv2 is used, also as initiator")
	}
	for _, key := range []string{"aggressive", "aggrmode"} {
		if v, s := k.or(key, "no"); v == "yes" {
			k.fail(s, ikev1)
		}
	}
	for _, key := range []string{"leftauth2", "rightauth2"} {
		if v, s := k.take(key); strings.HasPrefix(v, "xauth") {
			k.fail(s, ikev1)
		} else if s != nil {
			k.fail(s, "several rounds of authentication (RFC 4739) are not supported yet")
		}
	}
}

// kind tells tunnels from shunts.
func (k *conn) kind() {
	switch v, s := k.or("type", "tunnel"); v {
	case "passthrough", "pass":
		k.shunt = "pass"
	case "drop", "reject":
		k.shunt = "drop"
		if v == "reject" {
			k.tell(s, "packets are dropped without an ICMP error")
		}
	}
	if v, s := k.take("authby"); v == "never" && k.shunt == "" {
		k.fail(s, "a conn of nobody, and type="+k.value("type"))
	}
}

// value is a setting's text without taking it.
func (k *conn) value(key string) string {
	if s := k.set[key]; s != nil {
		return s.value
	}
	return ""
}

// addresses writes local_addrs and remote_addrs.
func (k *conn) addresses() {
	for _, side := range []struct{ side, key string }{{k.local, "local"}, {k.remote, "remote"}} {
		v, s := k.or(side.side, "%any")
		list := addressList(v)
		any, _ := k.or(side.side+"allowany", "no")
		if len(list) > 0 && strings.HasPrefix(v, "%") && !strings.HasPrefix(v, "%any") {
			if any = "yes"; k.dialect == Libreswan || side.key == "local" {
				k.fail(s, "expected an address, a name, %any or %defaultroute")
			}
		}
		if any == "yes" && len(list) > 0 {
			list = append(list, "0.0.0.0/0", "::/0") // as well, but the first is where to go
		}
		switch {
		case k.shunt != "":
		case strings.Contains(v, "%group") || strings.Contains(v, "%opportunistic"):
			k.fail(s, "opportunistic encryption is not supported")
		case len(list) > 0:
			k.write(k.ike, nil, side.key+"_addrs", strings.Join(list, ", "), s, true)
		}
		port, ps := k.take(side.side + "ikeport")
		if ps != nil {
			k.write(k.ike, nil, side.key+"_port", port, ps, false)
		}
	}
}

// addressList are a side's addresses as swanctl.conf has them; none: any.
func addressList(v string) []string {
	var out []string
	for _, one := range strings.Split(v, ",") {
		switch one = strings.TrimSpace(one); one {
		case "%any", "%defaultroute", "0.0.0.0", "::", "":
		case "%any4":
			out = append(out, "0.0.0.0/0")
		case "%any6":
			out = append(out, "::/0")
		default:
			out = append(out, strings.TrimPrefix(one, "%"))
		}
	}
	return out
}

// target reports whether the conn says where to go.
func (k *conn) target() bool {
	return slices.ContainsFunc(addressList(k.value(k.remote)), func(s string) bool { return !strings.ContainsAny(s, "/-") || !addressLike(s) })
}

// addressLike tells prefixes and ranges from names with a hyphen.
func addressLike(s string) bool {
	head, _, _ := strings.Cut(s, "/")
	head, _, _ = strings.Cut(head, "-")
	_, err := netip.ParseAddr(head)
	return err == nil
}

// options writes what belongs to the IKE SA and is neither address nor time.
func (k *conn) options() {
	def := "yes"
	if k.dialect == Libreswan {
		def = "no"
	}
	if v, s := k.or("mobike", def); v != "yes" {
		k.write(k.ike, nil, "mobike", v, s, false)
	}
	if v, s := k.or("fragmentation", "yes"); v != "yes" {
		k.write(k.ike, nil, "fragmentation", v, s, false)
	}
	if v, s := k.or("forceencaps", "no"); v == "yes" {
		k.write(k.ike, nil, "encap", v, s, false)
	}
	switch v, s := k.or("encapsulation", "auto"); v {
	case "yes":
		k.write(k.ike, nil, "encap", v, s, false)
	case "no":
		k.lose(s, "ESP is always put into UDP where a NAT is found")
	}
	if v, s := k.take("dscp"); s != nil {
		k.write(k.ike, nil, "dscp", v, s, false)
	}
	k.tries()
	if k.unique != "" {
		k.write(k.ike, nil, "unique", k.unique, nil, false)
	}
	k.deadPeers()
}

// tries writes keyingtries. What the programs call %forever is 0.
func (k *conn) tries() {
	def := "3"
	if k.dialect == Libreswan {
		def = "0"
	}
	v, s := k.or("keyingtries", def)
	if v == "%forever" {
		v = "0"
	}
	if v != "1" {
		k.write(k.ike, nil, "keyingtries", v, s, false)
	}
}

// deadPeers writes dpd_delay; what is done then belongs to the child.
func (k *conn) deadPeers() {
	on, def := k.value("dpdaction") != "" && k.value("dpdaction") != "none", "30s"
	if k.dialect == Libreswan {
		on, def = k.value("dpddelay") != "" && k.value("dpddelay") != "0", "0"
	}
	delay, s := k.or("dpddelay", def)
	if _, s := k.take("dpdtimeout"); s != nil && on {
		k.tell(s, "IKEv2 gives a peer up after the retransmissions (espalier.retransmit_tries, retransmit_timeout, retransmit_base)")
	}
	if on {
		k.write(k.ike, nil, "dpd_delay", delay, s, false)
	}
}

// times writes when the IKE SA is replaced: rekeyed, or with reauth set up anew.
func (k *conn) times() {
	life, reauth := "3h", "yes"
	if k.dialect == Libreswan {
		life, reauth = "8h", "no"
	}
	l, s := k.or("ikelifetime", life)
	reauth, _ = k.or("reauth", reauth)
	if rekey, rs := k.or("rekey", "yes"); rekey == "no" {
		k.write(k.ike, nil, "rekey_time", "0", rs, false)
		if s != nil {
			k.tell(s, "with rekey=no the IKE SA lives until the peer ends it")
		}
		return
	}
	t, why := k.span(l, "margintime")
	switch {
	case why != "" && s == nil:
		k.fail(nil, why)
	case why != "":
		k.lose(s, why)
	case reauth == "yes":
		k.write(k.ike, nil, "reauth_time", seconds(t.rekey), s, false)
	default:
		k.write(k.ike, nil, "rekey_time", seconds(t.rekey), s, false)
		k.write(k.ike, nil, "over_time", seconds(t.life-t.rekey), s, false)
		k.write(k.ike, nil, "rand_time", seconds(t.rand), s, false)
	}
}

// span is a lifetime taken apart.
type span struct{ life, rekey, rand time.Duration }

// span computes from a lifetime, its margin and the fuzz when an SA is rekeyed. A
// margin that leaves nothing counts as a tenth.
func (k *conn) span(life, marginKey string) (span, string) {
	l, ok := duration(life)
	if !ok || l <= 0 {
		return span{}, "expected a time such as 3h, 60m or 3600s"
	}
	text, _ := k.or(marginKey, "9m")
	margin, ok := duration(text)
	if !ok {
		return span{}, "expected a " + marginKey + " such as 9m"
	}
	if margin >= l {
		margin = l / 10
	}
	t := span{life: l, rekey: l - margin}
	t.rand = min(time.Duration(float64(margin)*k.fuzz()).Truncate(time.Second), t.rekey)
	return t, ""
}

// fuzz is rekeyfuzz as a factor.
func (k *conn) fuzz() float64 {
	v, s := k.or("rekeyfuzz", "100%")
	n, err := strconv.ParseUint(strings.TrimSuffix(v, "%"), 10, 16)
	if err != nil {
		if s != nil {
			k.lose(s, "expected a percentage; 100% is used")
		}
		return 1
	}
	return float64(n) / 100
}

// duration reads a time: a number with s, m, h, d or w, seconds without.
func duration(s string) (time.Duration, bool) {
	unit := time.Second
	if s != "" {
		u, ok := map[byte]time.Duration{'s': time.Second, 'm': time.Minute, 'h': time.Hour, 'd': 24 * time.Hour, 'w': 7 * 24 * time.Hour}[s[len(s)-1]]
		if ok {
			unit, s = u, s[:len(s)-1]
		}
	}
	n, err := strconv.ParseUint(strings.TrimSpace(s), 10, 32)
	if err != nil || n > uint64(math.MaxInt32)*uint64(time.Second)/uint64(unit) {
		return 0, false
	}
	return time.Duration(n) * unit, true
}

// seconds writes a time as configurations have it.
func seconds(d time.Duration) string { return fmt.Sprintf("%ds", int64(d/time.Second)) }

// keep adds the connection to the result, or its child to the connection that
// has the same IKE SA.
func (k *conn) keep() {
	connections := k.top("connections")
	same := (&config.Section{Items: k.ike.Items}).Print()
	into := k.merged[same]
	if into == nil || k.shunt != "" {
		into = k.ike
		connections.Items = append(connections.Items, into)
		if k.shunt == "" {
			k.merged[same] = into
		}
		k.ike.Items = slices.Clone(k.ike.Items)
	} else {
		k.notes.add(Note{File: k.sec.file, Line: k.sec.line, Text: "conn " + k.sec.name,
			Reason: fmt.Sprintf("it is a child of connection %s, whose IKE SA it shares", into.Name)})
	}
	children := open(into, "children")
	for _, ch := range k.children {
		children.Items = append(children.Items, ch)
	}
	for _, key := range slices.Sorted(maps.Keys(k.newPools)) {
		k.pools[key] = k.newPools[key].Name
		pools := k.top("pools")
		pools.Items = append(pools.Items, k.newPools[key])
	}
}

// leftovers notes the settings that nothing was made of.
func (k *conn) leftovers() {
	for _, key := range slices.Sorted(maps.Keys(k.set)) {
		s := k.set[key]
		if k.used[key] {
			continue
		}
		k.leftover(s, connLeftovers)
	}
}
