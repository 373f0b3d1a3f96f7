package updown

import (
	"fmt"
	"net/netip"
	"strings"

	"espalier/dataplane"
	"espalier/dataplane/selector"
	"espalier/ike/sa"
	"espalier/internal/event"
)

// pair are the variables of one pair of traffic selectors.
type pair struct {
	suffix    string // of the verb: -client, -host, with -v6 for IPv6
	variables []string
}

// newRun takes from a session what a script is told when its CHILD SA comes up.
func newRun(cfg *sa.ChildConfig, child event.Child, info *sa.Info, dns []netip.Addr) *run {
	r := &run{conn: info.Conn, child: child.Name, command: cfg.Updown, local: info.Local.Addr(), remote: info.Remote.Addr()}
	for i := range info.Children {
		if c := &info.Children[i]; c.UniqueID == child.UniqueID {
			r.variables = pairs(c, info)
			r.common = common(cfg, c, info, dns)
			r.pass = pass(cfg, r.variables, info)
			r.pass.ReqID = child.ReqID
		}
	}
	return r
}

// pass is what a packet filter must let through: to the box itself only what is for
// its own addresses, or was asked for.
func pass(cfg *sa.ChildConfig, list []pair, info *sa.Info) Pass {
	p := Pass{Host: cfg.HostAccess || len(info.LocalVIPs) > 0}
	for _, l := range list {
		if strings.HasPrefix(l.suffix, "-host") {
			p.Host = true
		} else {
			p.Forward = true
		}
	}
	return p
}

// pairs are the selectors that packets can pass between, as charon goes through them.
func pairs(c *sa.ChildInfo, info *sa.Info) []pair {
	proto := "esp"
	if c.Proto == dataplane.AH {
		proto = "ah"
	}
	var out []pair
	for _, l := range c.LocalTS {
		for _, r := range c.RemoteTS {
			if l.Start.Is4() != r.Start.Is4() || l.Proto != 0 && r.Proto != 0 && l.Proto != r.Proto {
				continue
			}
			p := pair{suffix: "-client"}
			if l.Start == l.End && l.Start == info.Local.Addr() {
				p.suffix = "-host"
			}
			if l.Start.Is6() {
				p.suffix += "-v6"
			}
			mine, peers := ports(l, r)
			p.variables = []string{
				fmt.Sprintf("PLUTO_REQID=%d", c.ReqID), "PLUTO_PROTO=" + proto, fmt.Sprintf("PLUTO_UNIQUEID=%d", info.UniqueID),
				"PLUTO_ME=" + info.Local.Addr().String(), "PLUTO_MY_ID=" + clean(info.LocalID), "PLUTO_MY_CLIENT=" + subnet(l).String(),
				"PLUTO_MY_PORT=" + mine, fmt.Sprintf("PLUTO_MY_PROTOCOL=%d", l.Proto),
				"PLUTO_PEER=" + info.Remote.Addr().String(), "PLUTO_PEER_ID=" + clean(info.RemoteID),
				"PLUTO_PEER_CLIENT=" + subnet(r).String(), "PLUTO_PEER_PORT=" + peers, fmt.Sprintf("PLUTO_PEER_PROTOCOL=%d", r.Proto)}
			out = append(out, p)
		}
	}
	return out
}

// common are the variables that do not depend on the selectors.
func common(cfg *sa.ChildConfig, c *sa.ChildInfo, info *sa.Info, dns []netip.Addr) []string {
	var out []string
	add := func(format string, args ...any) { out = append(out, fmt.Sprintf(format, args...)) }
	if info.RemoteEAPID != "" {
		add("PLUTO_XAUTH_ID=%s", clean(info.RemoteEAPID))
	}
	for _, side := range []struct {
		name  string
		addrs []netip.Addr
	}{{"MY", info.LocalVIPs}, {"PEER", info.RemoteVIPs}} {
		if len(side.addrs) > 0 {
			add("PLUTO_%s_SOURCEIP=%s", side.name, side.addrs[0])
		}
		out = append(out, numbered("PLUTO_"+side.name+"_SOURCEIP", side.addrs)...)
	}
	for _, m := range []struct {
		name string
		mark dataplane.Mark
	}{{"IN", c.MarkIn}, {"OUT", c.MarkOut}} {
		if m.mark.Value != 0 {
			add("PLUTO_MARK_%s=%d/0x%08x", m.name, m.mark.Value, m.mark.Mask)
		}
	}
	if c.IfIDIn != 0 {
		add("PLUTO_IF_ID_IN=%d", c.IfIDIn)
	}
	if c.IfIDOut != 0 {
		add("PLUTO_IF_ID_OUT=%d", c.IfIDOut)
	}
	if info.NATLocal || info.NATRemote || info.NATFake {
		add("PLUTO_UDP_ENC=%d", info.Remote.Port())
	}
	if c.CPIIn != 0 || c.CPIOut != 0 {
		add("PLUTO_IPCOMP=1")
	}
	out = append(out, numbered("PLUTO_DNS", dns)...)
	if cfg.HostAccess {
		add("PLUTO_HOST_ACCESS=1")
	}
	return out
}

// numbered are a variable for each address, NAME4_1 and so on.
func numbered(name string, addrs []netip.Addr) []string {
	var out []string
	count := map[int]int{}
	for _, a := range addrs {
		family := 6
		if a.Is4() {
			family = 4
		}
		count[family]++
		out = append(out, fmt.Sprintf("%s%d_%d=%s", name, family, count[family], a))
	}
	return out
}

// environment is what the script is run with for one pair of selectors.
func (r *run) environment(path string, i int, up bool) (verb string, env []string) {
	verb = "down"
	if up {
		verb = "up"
	}
	p := r.variables[i]
	verb += p.suffix
	link := r.link
	if link == "" {
		link = "unknown"
	}
	env = append(env, "PATH="+path, "PLUTO_VERSION=1.1", "PLUTO_VERB="+verb, "PLUTO_CONNECTION="+clean(r.child), "PLUTO_INTERFACE="+link)
	return verb, append(append(env, p.variables...), r.common...)
}

// clean takes out of a peer's text what no environment can hold, and what would
// make lines of it.
func clean(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return '?'
		}
		return r
	}, s)
}

// subnet is a selector's addresses as a prefix; the next larger one where they are none.
func subnet(ts selector.TS) netip.Prefix {
	for bits := ts.Start.BitLen(); ; bits-- {
		p := netip.PrefixFrom(ts.Start, bits).Masked()
		if bits == 0 || p.Contains(ts.End) {
			return p
		}
	}
}

// ICMP's protocol numbers, whose selectors have type and code in place of ports
// (RFC 7296 3.13.1).
const (
	protoICMP   = 1
	protoICMPv6 = 58
)

// ports are the variables for the two sides' ports: one, 0 for any, or a range as
// iptables has it. With ICMP they are type and code.
func ports(local, remote selector.TS) (mine, peers string) {
	if p := max(local.Proto, remote.Proto); p == protoICMP || p == protoICMPv6 {
		port := max(local.StartPort, remote.StartPort)
		return fmt.Sprint(port >> 8), fmt.Sprint(port & 0xff)
	}
	return port(local), port(remote)
}

func port(ts selector.TS) string {
	if ts.StartPort == ts.EndPort || ts.StartPort == 0 && ts.EndPort == 65535 {
		return fmt.Sprint(ts.StartPort)
	}
	return fmt.Sprintf("%d:%d", ts.StartPort, ts.EndPort)
}
