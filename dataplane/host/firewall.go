package host

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os/exec"
	"strings"
	"time"
)

const (
	// nftTime bounds the listing of the firewall's rules.
	nftTime = 5 * time.Second
	// nftMost is how large the listing may be, octets.
	nftMost = 16 << 20
	// chainDepth bounds jumps from chain to chain, as the kernel does (NFT_JUMP_STACK_SIZE).
	chainDepth = 16
)

// firewall looks for rules of nftables that drop what a peer begins. Those of
// iptables, which nftables shows as they are, are left out: they could mean anything.
func (l Local) firewall(ctx context.Context, all moduleSet) []Finding {
	state := l.moduleState("nf_tables", all)
	if state == ModuleLoadable || state == ModuleAbsent {
		return nil // no rules; asking would load the module
	}
	const nft = "/usr/sbin/nft"
	switch {
	case l.exists(nft):
	case state == ModuleUnknown:
		return nil
	default:
		return []Finding{{Note, "firewall", "the kernel has nftables, and the program nft, which lists its rules, is not there", "apt install nftables"}}
	}
	ctx, cancel := context.WithTimeout(ctx, nftTime)
	defer cancel()
	var out limited
	cmd := exec.CommandContext(ctx, l.path(nft), "-j", "list", "ruleset")
	cmd.Stdout = &out
	if err := cmd.Run(); err != nil {
		return []Finding{{Note, "firewall", "the rules of nftables could not be listed: " + err.Error(), ""}}
	}
	findings, err := judgeRules(out.Bytes())
	if err != nil {
		return []Finding{{Note, "firewall", "the rules of nftables could not be read: " + err.Error(), ""}}
	}
	return findings
}

// limited is a buffer that takes no more than nftMost.
type limited struct{ bytes.Buffer }

func (b *limited) Write(p []byte) (int, error) {
	if b.Len()+len(p) > nftMost {
		return 0, errors.New("too many rules")
	}
	return b.Buffer.Write(p)
}

// The rules as nft prints them in JSON (libnftables-json(5)), as far as they matter.
type (
	nftChain struct {
		Family, Table, Name, Type, Hook, Policy string
	}
	nftRule struct {
		Family, Table, Chain, Comment string
		Handle                        uint64 // by which it is deleted
		Expr                          []map[string]json.RawMessage
	}
	nftList struct {
		Nftables []struct {
			Chain *nftChain
			Rule  *nftRule
		}
	}
	chainID struct{ family, table, name string }
)

// ruleset is the rules by chain.
type ruleset struct {
	chains []nftChain
	rules  map[chainID][]nftRule
}

// arrival is a packet that a peer begins with.
type arrival struct {
	what  string
	proto string // esp or udp
	port  int
	rule  string // that lets it in
}

var arrivals = []arrival{
	{"IKE (UDP port 500)", "udp", 500, "udp dport { 500, 4500 } accept"},
	{"IKE and ESP behind NAT (UDP port 4500)", "udp", 4500, "udp dport { 500, 4500 } accept"},
	{"ESP", "esp", 0, "meta l4proto esp accept"},
}

// fate is what becomes of a packet.
type fate uint8

const (
	goesOn fate = iota
	accepted
	dropped
	unknown // it depends on what is not looked at
	returns // to the chain that jumped here
)

func judgeRules(list []byte) ([]Finding, error) {
	var parsed nftList
	if err := json.Unmarshal(list, &parsed); err != nil {
		return nil, err
	}
	set := ruleset{rules: map[chainID][]nftRule{}}
	for _, x := range parsed.Nftables {
		if x.Chain != nil {
			set.chains = append(set.chains, *x.Chain)
		}
		if x.Rule != nil {
			id := chainID{x.Rule.Family, x.Rule.Table, x.Rule.Chain}
			set.rules[id] = append(set.rules[id], *x.Rule)
		}
	}
	var out []Finding
	for _, c := range set.chains {
		if c.Hook != "input" && c.Hook != "prerouting" || c.Family != "ip" && c.Family != "ip6" && c.Family != "inet" {
			continue
		}
		for _, a := range arrivals {
			f := set.walk(chainID{c.Family, c.Table, c.Name}, a, 0)
			if f == goesOn && c.Policy == "drop" {
				f = dropped
			}
			if f == dropped {
				out = append(out, Finding{Warning, "firewall",
					fmt.Sprintf("chain %s of nftables (%s %s) drops %s that a peer begins with", c.Name, c.Family, c.Table, a.what),
					fmt.Sprintf("nft insert rule %s %s %s %s", c.Family, c.Table, c.Name, a.rule)})
			}
		}
	}
	return out, nil
}

// walk follows a packet through a chain.
func (s *ruleset) walk(id chainID, a arrival, depth int) fate {
	if depth == chainDepth {
		return unknown
	}
	for _, r := range s.rules[id] {
		switch f := s.apply(id, &r, a, depth); f {
		case goesOn:
		case returns:
			return goesOn
		default:
			return f
		}
	}
	return goesOn
}

// apply is what one rule makes of it.
func (s *ruleset) apply(id chainID, r *nftRule, a arrival, depth int) fate {
	certain := true // all that the rule asks for is known to be so
	for _, e := range r.Expr {
		for kind, arg := range e {
			switch kind {
			case "match":
				switch a.matches(arg) {
				case no:
					return goesOn
				case maybe:
					certain = false
				}
			case "accept", "drop", "reject", "queue", "return", "jump", "goto", "vmap", "xt":
				return s.verdict(id, kind, arg, a, certain, depth)
			}
		}
	}
	return goesOn
}

func (s *ruleset) verdict(id chainID, kind string, arg json.RawMessage, a arrival, certain bool, depth int) fate {
	to := goesOn
	switch kind {
	case "accept":
		to = accepted
	case "drop", "reject":
		to = dropped
	case "queue", "vmap", "xt":
		to = unknown
	case "return":
		if !certain {
			return goesOn
		}
		to = returns
	case "jump", "goto":
		var target struct{ Target string }
		if json.Unmarshal(arg, &target) != nil {
			return unknown
		}
		to = s.walk(chainID{id.family, id.table, target.Target}, a, depth+1)
		if kind == "goto" && to == goesOn {
			return unknown
		}
	}
	switch {
	case to == goesOn || certain:
		return to
	case to == dropped:
		return goesOn // some are dropped: not those of all peers, for all we know
	}
	return unknown
}

// truth is whether a packet matches.
type truth uint8

const (
	no truth = iota
	yes
	maybe
)

// matches compares a packet that is the first of its kind, from outside.
func (a arrival) matches(arg json.RawMessage) truth {
	var m struct {
		Op   string
		Left struct {
			Meta    struct{ Key string }
			Payload struct{ Protocol, Field string }
			CT      struct{ Key string }
		}
		Right json.RawMessage
	}
	if json.Unmarshal(arg, &m) != nil {
		return maybe
	}
	var has truth
	left := &m.Left
	switch {
	case left.CT.Key == "state":
		has = inSet(m.Right, func(v string) bool { return v == "new" || v == "untracked" })
	case (left.Meta.Key == "iif" || left.Meta.Key == "iifname") && string(m.Right) == `"lo"`:
		has = no
	case left.Meta.Key == "l4proto",
		left.Payload.Field == "protocol" && left.Payload.Protocol == "ip",
		left.Payload.Field == "nexthdr" && left.Payload.Protocol == "ip6":
		number := map[string]string{"udp": "17", "esp": "50"}[a.proto]
		has = inSet(m.Right, func(v string) bool { return v == a.proto || v == number })
	case left.Payload.Field != "" && (left.Payload.Protocol == "udp" || left.Payload.Protocol == "tcp" || left.Payload.Protocol == "th" || left.Payload.Protocol == "esp" || strings.HasPrefix(left.Payload.Protocol, "icmp")):
		switch {
		case left.Payload.Protocol != "th" && left.Payload.Protocol != a.proto, left.Payload.Protocol == "th" && a.proto == "esp":
			return no // also with !=: the kernel looks at the protocol first
		case left.Payload.Field != "dport":
			return maybe
		}
		has = portIn(m.Right, a.port)
	default:
		return maybe
	}
	if m.Op == "!=" && has != maybe {
		return yes - has // yes and no change places
	}
	return has
}

// inSet looks at a value, or each of a list or set.
func inSet(right json.RawMessage, is func(string) bool) truth {
	values, ok := valuesOf(right)
	if !ok {
		return maybe
	}
	for _, v := range values {
		if is(strings.Trim(string(v), `"`)) {
			return yes
		}
	}
	return no
}

// valuesOf are the elements of a list or set, or the value itself; it fails for
// named sets.
func valuesOf(right json.RawMessage) ([]json.RawMessage, bool) {
	var set struct{ Set json.RawMessage }
	if json.Unmarshal(right, &set) == nil && set.Set != nil {
		right = set.Set
	}
	var list []json.RawMessage
	if json.Unmarshal(right, &list) == nil {
		return list, true
	}
	return []json.RawMessage{right}, !strings.HasPrefix(string(right), `"@`)
}

func portIn(right json.RawMessage, port int) truth {
	values, ok := valuesOf(right)
	if !ok {
		return maybe
	}
	for _, v := range values {
		var n int
		var r struct{ Range [2]int }
		switch {
		case json.Unmarshal(v, &n) == nil:
			if n == port {
				return yes
			}
		case json.Unmarshal(v, &r) == nil && r.Range != [2]int{}:
			if r.Range[0] <= port && port <= r.Range[1] {
				return yes
			}
		default:
			return maybe
		}
	}
	return no
}
