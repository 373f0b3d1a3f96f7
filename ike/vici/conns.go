package vici

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"espalier/dataplane/selector"
	"espalier/ike/auth"
	"espalier/ike/config"
	"espalier/ike/pki"
	"espalier/ike/sa"
)

// listConns streams one list-conn event a connection.
func (c *client) listConns(req Message) (Message, error) {
	creds, r := c.srv.cfg.Engine.Credentials(), c.srv.release()
	for _, conn := range c.srv.cfg.Engine.Connections() {
		if name := req.Text("ike"); name != "" && name != conn.Name {
			continue
		}
		if err := c.raise(eventListConn, c.names().listConn(conn, creds, r)); err != nil {
			return nil, err
		}
	}
	return nil, nil
}

// getConns names the connections that were loaded over vici, and no others: swanctl
// unloads what this tells and its own configuration lacks.
func (c *client) getConns(Message) (Message, error) {
	var names []string
	for _, conn := range c.srv.cfg.Engine.Connections() {
		if conn.Origin == config.OriginVici {
			names = append(names, conn.Name)
		}
	}
	return Message{List{"conns", names}}, nil
}

// listConn is the list-conn event's message: one section, named by the connection.
func (n *Names) listConn(conn *sa.Connection, creds *auth.Credentials, r Release) Message {
	var m Message
	m.PutList("local_addrs", addrTexts(conn.LocalAddrs))
	m.PutList("remote_addrs", addrTexts(conn.RemoteAddrs))
	if r.has(withPorts) {
		m.putPorts(conn)
	}
	m.Put("version", "IKEv2")
	m.PutInt("reauth_time", seconds(conn.ReauthTime))
	m.PutInt("rekey_time", seconds(conn.RekeyTime))
	m.Put("unique", uniqueText(conn.Unique))
	if r.has(withProposals) {
		m.PutSection("proposals", proposalsSection(conn.Proposals))
	}
	if conn.DPDDelay != 0 {
		m.PutInt("dpd_delay", seconds(conn.DPDDelay))
	}
	if conn.DPDTimeout != 0 {
		m.PutInt("dpd_timeout", seconds(conn.DPDTimeout))
	}
	for i, l := range rounds(conn, conn.Local) {
		m.PutSection("local-"+strconv.Itoa(i+1), authSection(&auth.Remote{Method: l.Method, ID: l.ID, Certs: l.Certs, Keys: l.Keys}, creds))
	}
	for i, r := range rounds(conn, conn.Remote) {
		m.PutSection("remote-"+strconv.Itoa(i+1), authSection(&r, creds))
	}
	if conn.OnlyShunts() { // no peer, and so no rounds: charon shows that as rounds of nothing
		m.PutSection("local-1", authLists(&auth.Remote{}, creds))
		m.PutSection("remote-1", authLists(&auth.Remote{}, creds))
	}
	var children Message
	for _, list := range [][]*sa.ChildConfig{conn.Children, conn.Shunts} {
		for _, ch := range list {
			children.PutSection(ch.Name, n.childConfSection(ch, r))
		}
	}
	m.PutSection("children", children)
	return Message{Section{conn.Name, m}}
}

// rounds are those of a connection that is used as one.
func rounds[T any](conn *sa.Connection, list []T) []T {
	if conn.OnlyShunts() {
		return nil
	}
	return list
}

// authSection is one round of either side. Charon lists what was configured last first,
// which is the usual order turned round.
func authSection(r *auth.Remote, creds *auth.Credentials) Message {
	var m Message
	if !r.CAID.IsAny() {
		m.Put("ca_id", r.CAID.String())
	}
	switch r.Revocation { // by charon's names of the least that a certificate must have come to
	case pki.RevocationStrict:
		m.Put("revocation", "GOOD")
	case pki.RevocationIfURI:
		m.Put("revocation", "SKIPPED")
	}
	if !r.ID.IsAny() {
		m.Put("id", r.ID.String())
	}
	if r.Method != auth.MethodAny {
		m.Put("class", classText(r.Method))
	}
	return append(m, authLists(r, creds)...)
}

// authLists are what every round has, be it empty. Raw public keys stand among the
// certificates, by whose they are.
func authLists(r *auth.Remote, creds *auth.Credentials) (m Message) {
	certs := subjects(r.Certs, creds)
	for range r.Keys {
		certs = append(certs, r.ID.String())
	}
	m.PutList("groups", nil)
	m.PutList("cert_policy", r.Policies)
	m.PutList("certs", certs)
	m.PutList("cacerts", subjects(r.CACerts, creds))
	return m
}

// subjects names certificates; those that are gone meanwhile are left out.
func subjects(list []pki.Fingerprint, creds *auth.Credentials) []string {
	var out []string
	for _, fp := range list {
		if cert := creds.Certificate(fp); cert != nil {
			out = append(out, pki.FormatDN(cert.RawSubject))
		}
	}
	return out
}

func (n *Names) childConfSection(ch *sa.ChildConfig, r Release) Message {
	var m Message
	m.Put("mode", childMode(ch))
	m.PutInt("rekey_time", seconds(ch.RekeyTime))
	m.PutUint("rekey_bytes", ch.RekeyBytes)
	m.PutUint("rekey_packets", ch.RekeyPackets)
	m.Put("dpd_action", actionText(ch.DPDAction))
	m.Put("close_action", actionText(ch.CloseAction))
	if r.has(withProposals) {
		m.PutSection("esp_proposals", proposalsSection(ch.Proposals))
		m.PutSection("ah_proposals", nil) // AH is not supported
	}
	m.PutList("local-ts", n.specTexts(ch.LocalTS))
	m.PutList("remote-ts", n.specTexts(ch.RemoteTS))
	if ch.Interface != "" {
		m.Put("interface", ch.Interface)
	}
	if ch.Priority != 0 {
		m.PutUint("priority", uint64(ch.Priority))
	}
	return m
}

// listPolicies streams one list-policy event for each installed trap or shunt; the
// request says which kinds it wants.
func (c *client) listPolicies(req Message) (Message, error) {
	kinds := map[sa.Shunt]bool{}
	for name, kind := range map[string]sa.Shunt{"trap": sa.NoShunt, "pass": sa.ShuntPass, "drop": sa.ShuntDrop} {
		_, kinds[kind] = req.Get(name)
	}
	policies, r := slices.Clone(c.srv.cfg.Engine.Policies()), c.srv.release()
	for _, shunts := range []bool{false, true} { // traps come first, the youngest before the others
		slices.Reverse(policies)
		for i := range policies {
			p := &policies[i]
			if !kinds[p.Child.Shunt] || (p.Child.Shunt != sa.NoShunt) != shunts {
				continue
			}
			if child := req.Text("child"); child != "" && child != p.Child.Name {
				continue
			}
			if ike := req.Text("ike"); ike != "" && ike != p.Conn {
				continue
			}
			if err := c.raise(eventListPolicy, c.names().listPolicy(p, r)); err != nil {
				return nil, err
			}
		}
	}
	return nil, nil
}

func (n *Names) listPolicy(p *Policy, r Release) Message {
	var m Message
	m.Put("child", p.Child.Name)
	if p.ReqID != 0 && r.has(withPorts) {
		m.PutUint("reqid", uint64(p.ReqID))
	}
	m.Put("ike", p.Conn)
	m.Put("mode", childMode(p.Child))
	m.PutList("local-ts", n.specTexts(p.LocalTS))
	m.PutList("remote-ts", n.specTexts(p.RemoteTS))
	return Message{Section{p.Conn + "/" + p.Child.Name, m}}
}

// reloadSettings has the daemon read its configuration again, as a SIGHUP does.
func (c *client) reloadSettings(Message) (Message, error) {
	ctx, cancel := context.WithTimeout(c.ctx, time.Minute)
	defer cancel()
	if err := c.srv.cfg.Engine.Reload(ctx); err != nil {
		return failure("reloading failed: %s", err), nil
	}
	return success(), nil
}

func childMode(ch *sa.ChildConfig) string {
	switch ch.Shunt {
	case sa.ShuntPass:
		return "PASS"
	case sa.ShuntDrop:
		return "DROP"
	}
	return ch.Mode.String()
}

func classText(m auth.Method) string {
	switch m {
	case auth.MethodPSK:
		return "pre-shared key"
	case auth.MethodPubkey:
		return "public key"
	}
	return "any"
}

func uniqueText(u sa.Uniqueness) string {
	switch u {
	case sa.UniquenessNever:
		return "UNIQUE_NEVER"
	case sa.UniquenessKeep:
		return "UNIQUE_KEEP"
	case sa.UniquenessReplace:
		return "UNIQUE_REPLACE"
	}
	return "UNIQUE_NO"
}

func actionText(f sa.FollowUp) string {
	switch f {
	case sa.FollowTrap:
		return "trap"
	case sa.FollowStart:
		return "start"
	}
	return "none"
}

// addrTexts writes addresses as the configuration has them.
func addrTexts(list []sa.AddrSpec) []string {
	if len(list) == 0 {
		return []string{"%any"}
	}
	out := make([]string, len(list))
	for i, a := range list {
		out[i] = addrText(a)
	}
	return out
}

func addrText(a sa.AddrSpec) string {
	switch {
	case a.Host != "":
		return a.Host
	case a.IsAny() && a.Family != 0:
		return "%any" + strconv.Itoa(int(a.Family))
	case a.IsAny():
		return "%any"
	case a.Start == a.End:
		return a.Start.String()
	}
	if p, ok := (selector.TS{Start: a.Start, End: a.End, EndPort: 65535}).Prefix(); ok {
		return p.String()
	}
	return fmt.Sprintf("%s-%s", a.Start, a.End)
}

func (n *Names) specTexts(list []selector.Spec) []string {
	out := make([]string, len(list))
	for i, s := range list {
		if s.Dynamic {
			out[i] = n.spelled(strings.TrimSpace(s.String()), s.TS)
		} else {
			out[i] = n.tsText(s.TS)
		}
	}
	return out
}
