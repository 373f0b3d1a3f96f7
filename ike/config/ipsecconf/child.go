package ipsecconf

import (
	"fmt"
	"net"
	"net/netip"
	"path"
	"strconv"
	"strings"

	"espalier/ike/config"
)

// child writes the conn's child, or the children of libreswan's leftsubnets.
func (k *conn) child() {
	local, remote := k.subnets(k.local), k.subnets(k.remote)
	for i, l := range local {
		for j, r := range remote {
			name := k.name
			if len(local)*len(remote) > 1 {
				name = k.free("conn", fmt.Sprintf("%s-%dx%d", k.name, i+1, j+1))
			}
			if len(k.children) >= maxChildren {
				k.fail(nil, fmt.Sprintf("expected at most %d pairs of subnets", maxChildren))
				return
			}
			k.oneChild(name, l, r)
		}
	}
}

// maxChildren bounds the product of leftsubnets and rightsubnets.
const maxChildren = 1024

// selector is one side's traffic selectors, and the line that they come from.
type selector struct {
	text string
	from *setting
}

// subnets are a side's traffic selectors: one list, or with libreswan's subnets
// one for each.
func (k *conn) subnets(side string) []selector {
	port := k.protoport(side)
	if v, s := k.take(side + "subnets"); s != nil {
		var out []selector
		v = strings.Trim(v, "{} ")
		for _, one := range strings.FieldsFunc(v, func(r rune) bool { return r == ' ' || r == ',' }) {
			out = append(out, selector{prefix(one) + port, s})
		}
		if len(out) > 0 {
			return out
		}
		k.fail(s, "expected subnets in braces")
	}
	v, s := k.take(side + "subnet")
	if s == nil {
		if port == "" {
			return []selector{{}}
		}
		return []selector{{"dynamic" + port, k.set[side+"protoport"]}}
	}
	if strings.HasPrefix(v, "vhost:") || strings.HasPrefix(v, "vnet:") {
		k.fail(s, "expected subnets: "+side+"sourceip or "+side+"addresspool give clients their addresses")
	}
	list := strings.Split(v, ",")
	for i, one := range list {
		one = strings.TrimSpace(one)
		net, own, has := strings.Cut(one, "[")
		if net = prefix(strings.TrimSpace(net)); net == "%dynamic" || net == "" {
			net = "dynamic"
		}
		if list[i] = net + port; has {
			list[i] = net + ports(strings.TrimSuffix(own, "]"))
		}
	}
	return []selector{{strings.Join(list, ", "), s}}
}

// prefix writes a netmask as the length of a prefix.
func prefix(s string) string {
	addr, mask, ok := strings.Cut(s, "/")
	if m, err := netip.ParseAddr(mask); ok && err == nil && m.Is4() {
		b := m.As4()
		if ones, bits := net.IPMask(b[:]).Size(); bits == 32 {
			return addr + "/" + strconv.Itoa(ones)
		}
	}
	return s
}

// protoport is a side's protocol and port as a selector ends.
func (k *conn) protoport(side string) string {
	v, s := k.take(side + "protoport")
	if s == nil {
		return ""
	}
	return ports(v)
}

// ports writes protocol and port; any is left out.
func ports(v string) string {
	proto, port, _ := strings.Cut(strings.TrimSpace(v), "/")
	if port == "%any" || port == "0" || port == "any" {
		port = ""
	}
	if proto == "%any" || proto == "0" || proto == "any" {
		proto = ""
	}
	switch {
	case proto == "" && port == "":
		return ""
	case port == "":
		return "[" + proto + "]"
	case port == "%opaque":
		port = "opaque"
	}
	return "[" + proto + "/" + port + "]"
}

// oneChild writes a child.
func (k *conn) oneChild(name string, local, remote selector) {
	ch := &config.Section{Name: name}
	at := []string{"children", name}
	k.children = append(k.children, ch)
	set := func(key, value string, from *setting, essential bool) {
		k.write(ch, at, key, value, from, essential)
	}
	if local.text != "" {
		set("local_ts", local.text, local.from, true)
	}
	if remote.text != "" {
		set("remote_ts", remote.text, remote.from, true)
	}
	switch v, s := k.or("type", "tunnel"); {
	case k.shunt != "":
		set("mode", k.shunt, s, true)
	case v != "tunnel":
		set("mode", v, s, true)
	}
	k.start(set)
	if k.shunt != "" {
		return
	}
	k.childAlgorithms(ch, at)
	k.childTimes(set)
	k.ends(set)
	k.numbers(set)
	k.scripts(set)
	k.packets(set)
}

type setter func(key, value string, from *setting, essential bool)

// start writes start_action.
func (k *conn) start(set setter) {
	v, s := k.or("auto", "ignore")
	action := ""
	switch v {
	case "add", "keep":
	case "route", "ondemand":
		action = "trap"
	case "start", "up":
		action = "start"
	default:
		k.fail(s, "expected ignore, add, route, ondemand or start for auto")
	}
	switch {
	case action == "":
	case k.shunt != "":
		set("start_action", "trap", s, true)
	case !k.target():
		k.lose(s, "there is no address to go to: the peer begins")
	default:
		set("start_action", action, s, true)
	}
}

// ends writes what follows when the peer is dead or closes the CHILD SA.
func (k *conn) ends(set setter) {
	actions := map[string]string{"none": "none", "clear": "clear", "hold": "trap", "restart": "restart", "restart-by-peer": "restart"}
	v, s := k.or("dpdaction", "")
	if s == nil && hasKey(k.ike, "dpd_delay") { // libreswan does what auto says
		switch k.value("auto") {
		case "route", "ondemand":
			v = "hold"
		case "start", "up", "keep":
			v = "restart"
		}
	}
	if v != "" && v != "none" && v != "clear" {
		action, ok := actions[v]
		if !ok {
			action = v
		}
		if action == "trap" && !k.target() {
			action = "clear" // nothing can be trapped for a peer without address
		}
		set("dpd_action", action, s, false)
	}
	v, s = k.or("closeaction", "none")
	switch v {
	case "hold":
		set("close_action", "trap", s, false)
	case "restart":
		set("close_action", "start", s, false)
	case "none", "clear":
	default:
		k.lose(s, "expected none, clear, hold or restart")
	}
}

// childTimes writes when the CHILD SA is replaced.
func (k *conn) childTimes(set setter) {
	def := "1h"
	if k.dialect == Libreswan {
		def = "8h"
	}
	l, s := k.or("lifetime", def)
	t, why := k.span(l, "margintime")
	rekey, rs := k.or("rekey", "yes")
	switch {
	case why != "" && s != nil:
		k.lose(s, why)
	case why != "":
		k.fail(nil, why)
	case rekey == "no":
		set("rekey_time", "0", rs, false)
		set("life_time", seconds(t.life), s, false)
	default:
		set("rekey_time", seconds(t.rekey), s, false)
		set("life_time", seconds(t.life), s, false)
		set("rand_time", seconds(t.rand), s, false)
	}
	for _, what := range []string{"bytes", "packets"} {
		k.volume(what, rekey != "no", set)
	}
}

// volume writes a limit of bytes or packets.
func (k *conn) volume(what string, rekey bool, set setter) {
	life, s := k.take("life" + what)
	margin, ms := k.or("margin"+what, "0")
	if s == nil || life == "0" {
		return
	}
	l, lok := number(life)
	m, mok := number(margin)
	switch {
	case !lok:
		k.lose(s, "expected a number")
		return
	case !mok || m >= l:
		k.lose(ms, "expected a number below life"+what)
		return
	}
	if m == 0 {
		m = max(l/10, 1) // rekeying must come first
	}
	set("life_"+what, strconv.FormatUint(l, 10), s, false)
	if rekey && l > m {
		set("rekey_"+what, strconv.FormatUint(l-m, 10), s, false)
		set("rand_"+what, strconv.FormatUint(min(uint64(float64(m)*k.fuzz()), l-m), 10), s, false)
	}
}

// number reads a number, with K, M, G or T for powers of 1024.
func number(s string) (uint64, bool) {
	shift := 0
	if s != "" {
		if i := strings.IndexByte("kKmMgGtT", s[len(s)-1]); i >= 0 {
			shift, s = 10*(i/2+1), s[:len(s)-1]
		}
	}
	n, err := strconv.ParseUint(s, 10, 62)
	return n << shift, err == nil && n < 1<<62>>shift
}

// numbers writes marks, interface ids, reqid and priority.
func (k *conn) numbers(set setter) {
	for _, m := range []struct{ key, in, out string }{{"mark", "mark_in", "mark_out"}, {"mark-in", "mark_in", ""}, {"mark-out", "", "mark_out"}} {
		v, s := k.take(m.key)
		if s == nil {
			continue
		}
		if rest, ok := strings.CutPrefix(v, "-1"); ok {
			v = "%unique" + rest
		}
		for _, key := range []string{m.in, m.out} {
			if key != "" {
				set(key, v, s, true)
			}
		}
	}
	if v, s := k.or("ipsec-interface", "no"); v != "no" {
		id := v
		if v == "yes" {
			id = "1"
		}
		set("if_id_in", id, s, true)
		set("if_id_out", id, s, true)
		k.tell(s, fmt.Sprintf("create the interface: ip link add ipsec%s type xfrm if_id %s", printable(id), printable(id)))
	}
	if _, s := k.take("vti-interface"); s != nil {
		k.lose(s, "create the interface with the mark as its key (ip link add NAME type vti key MARK …), or use an xfrm interface")
	}
	for _, key := range []string{"reqid", "priority"} {
		if v, s := k.take(key); s != nil {
			set(key, v, s, false)
		}
	}
}

// scripts writes updown, hostaccess and the firewall's part.
func (k *conn) scripts(set setter) {
	v, s := k.take(k.local + "updown")
	fw, fs := k.or(k.local+"firewall", "no")
	words := strings.Fields(v)
	switch {
	case s == nil || v == "%disabled":
	case len(words) > 0 && strings.HasSuffix(path.Base(words[0]), "_updown") || len(words) > 1 && words[0] == "ipsec" && words[1] == "_updown":
		// The script that each program brings along.
		if k.dialect == Libreswan || !strings.Contains(v, "iptables") {
			k.tell(s, "what this script does is built in")
			break
		}
		fw, fs = "yes", s
	default:
		set("updown", v, s, false)
	}
	if fw == "yes" {
		if why := k.putTop("firewall", "yes"); why != "" {
			k.lose(fs, why)
		}
	}
	if v, s := k.or(k.local+"hostaccess", "no"); v == "yes" {
		set("hostaccess", "yes", s, false)
	}
}

// packets writes how packets are handled.
func (k *conn) packets(set setter) {
	for _, o := range []struct{ key, def, to string }{
		{"compress", "no", "ipcomp"}, {"installpolicy", "yes", "policies"}, {"inactivity", "0", "inactivity"}, {"replay-window", "", "replay_window"},
		{"sha256-96", "no", "sha256_96"}, {"nic-offload", "no", "hw_offload"}, {"hw-offload", "no", "hw_offload"},
	} {
		if v, s := k.take(o.key); s != nil && v != o.def {
			set(o.to, v, s, false)
		}
	}
	if v, s := k.or("tfc", "0"); v != "0" {
		if v == "%mtu" {
			v = "mtu"
		}
		set("tfc_padding", v, s, false)
	}
	if v, s := k.or("nopmtudisc", "no"); v == "yes" {
		set("copy_df", "no", s, false)
	}
	if v, s := k.or("encapdscp", "yes"); v == "no" {
		set("copy_dscp", "no", s, false)
	}
	if v, s := k.or("decap-dscp", "no"); v == "yes" {
		set("copy_dscp", "yes", s, false)
	}
}
