package host

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"time"
)

// Pass is what the box's packet filter lets through for one tunnel.
type Pass struct {
	ReqID   uint32 // of its SAs
	Forward bool   // to and from networks behind the box
	Host    bool   // to and from the box itself
}

// Our rules in other tables are known by a comment, which begins so and ends in
// the request id.
const (
	ruleComment = "espalier:"
	ownTable    = "espalier"
)

// exemption keeps what goes into tunnels from being masqueraded by later chains: a
// connection that has a translation, if only to its own address, gets no other.
const exemption = `table inet ` + ownTable + ` {
	chain postrouting {
		type nat hook postrouting priority srcnat - 1; policy accept;
		meta nfproto ipv4 rt ipsec exists snat ip to ip saddr
		meta nfproto ipv6 rt ipsec exists snat ip6 to ip6 saddr
	}
}
`

// admitTime bounds a run of nft.
const admitTime = 20 * time.Second

// path is the chain as commands name it.
func (c nftChain) path() string { return c.Family + " " + c.Table + " " + c.Name }

// ofIPTables reports whether iptables made the chain, which does not understand
// rules that are not its own.
func (c nftChain) ofIPTables() bool {
	return (c.Family == "ip" || c.Family == "ip6") && slices.Contains([]string{"INPUT", "FORWARD", "OUTPUT"}, c.Name)
}

// StartFirewall implements Verbs.
func (l Local) StartFirewall() error {
	if err := l.StopFirewall(); err != nil {
		return err
	}
	_, err := runNFT(exemption, "-f", "-")
	return err
}

// StopFirewall implements Verbs.
func (Local) StopFirewall() error {
	if err := revoke(ruleComment); err != nil {
		return err
	}
	// Added first, it can be deleted whether it was there or not.
	_, err := runNFT("add table inet "+ownTable+"\ndelete table inet "+ownTable+"\n", "-f", "-")
	return err
}

// AdmitTunnel implements Verbs.
func (Local) AdmitTunnel(p Pass) (skipped []string, err error) {
	err = again(func() (err error) {
		skipped, err = admit(p)
		return err
	})
	return skipped, err
}

// attempts is how often a change is begun anew: between the listing and the change,
// which is made as a whole or not at all, another program may have removed a chain.
const attempts = 20

func again(f func() error) (err error) {
	for i := range attempts {
		if err = f(); err == nil {
			return nil
		}
		time.Sleep(time.Duration(i) * 10 * time.Millisecond)
	}
	return err
}

func admit(p Pass) (skipped []string, err error) {
	list, err := runList("list", "chains")
	if err != nil {
		return nil, err
	}
	chains := filterChains(list)
	in, out := fmt.Sprintf("ipsec in reqid %d", p.ReqID), fmt.Sprintf("ipsec out reqid %d", p.ReqID)
	var script strings.Builder
	for _, c := range chains {
		var matches []string
		switch {
		case c.Hook == "forward" && p.Forward:
			matches = []string{in, out}
		case c.Hook == "input" && p.Host:
			matches = []string{in}
		case c.Hook == "output" && p.Host:
			matches = []string{out}
		}
		if len(matches) > 0 && c.ofIPTables() {
			skipped = append(skipped, c.path())
			continue
		}
		for _, m := range matches {
			fmt.Fprintf(&script, "insert rule %s %s accept comment \"%s%d\"\n", c.path(), m, ruleComment, p.ReqID)
		}
	}
	if script.Len() == 0 {
		return skipped, nil
	}
	_, err = runNFT(script.String(), "-f", "-")
	return skipped, err
}

// RevokeTunnel implements Verbs.
func (Local) RevokeTunnel(reqid uint32) error { return revoke(fmt.Sprint(ruleComment, reqid)) }

// filterChains are the chains through which packets have to pass.
func filterChains(all nftList) []nftChain {
	var out []nftChain
	for _, it := range all.Nftables {
		c := it.Chain
		if c == nil || c.Type != "filter" || c.Table == ownTable || !plainName(c.Table) || !plainName(c.Name) {
			continue
		}
		if slices.Contains([]string{"ip", "ip6", "inet"}, c.Family) && slices.Contains([]string{"input", "forward", "output"}, c.Hook) {
			out = append(out, *c)
		}
	}
	return out
}

// plainName reports whether a name can stand in a command as it is.
func plainName(s string) bool {
	return s != "" && !strings.ContainsFunc(s, func(r rune) bool {
		return r != '_' && r != '-' && r != '.' && r != '/' && (r < '0' || r > '9') && (r < 'a' || r > 'z') && (r < 'A' || r > 'Z')
	})
}

// revoke deletes our rules with this comment; one that ends in a colon stands for
// all that begin so.
func revoke(comment string) error { return again(func() error { return revokeOnce(comment) }) }

func revokeOnce(comment string) error {
	list, err := runList("-a", "list", "ruleset")
	if err != nil {
		return err
	}
	var script strings.Builder
	for _, it := range list.Nftables {
		r := it.Rule
		if r == nil || r.Comment != comment && !(strings.HasSuffix(comment, ":") && strings.HasPrefix(r.Comment, comment)) {
			continue
		}
		c := nftChain{Family: r.Family, Table: r.Table, Name: r.Chain}
		if plainName(c.Table) && plainName(c.Name) {
			fmt.Fprintf(&script, "delete rule %s handle %d\n", c.path(), r.Handle)
		}
	}
	if script.Len() == 0 {
		return nil
	}
	_, err = runNFT(script.String(), "-f", "-")
	return err
}

// runList runs a command that lists something.
func runList(args ...string) (nftList, error) {
	var out nftList
	b, err := runNFT("", append([]string{"-j"}, args...)...)
	if err != nil {
		return out, err
	}
	if err := json.Unmarshal(b, &out); err != nil {
		return out, fmt.Errorf("nft %s: %w", strings.Join(args, " "), err)
	}
	return out, nil
}

// runNFT runs the program that changes packet filters.
func runNFT(input string, args ...string) ([]byte, error) {
	tool := ""
	for _, p := range []string{"/usr/sbin/nft", "/sbin/nft"} {
		if _, err := os.Stat(p); err == nil {
			tool = p
			break
		}
	}
	if tool == "" {
		return nil, errors.New("nft not found in /usr/sbin and /sbin (package nftables)")
	}
	ctx, cancel := context.WithTimeout(context.Background(), admitTime)
	defer cancel()
	cmd := exec.CommandContext(ctx, tool, args...)
	cmd.Stdin = strings.NewReader(input)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("nft %s: %w: %s", strings.Join(args, " "), err, strings.TrimSpace(stderr.String()))
	}
	return out, nil
}
