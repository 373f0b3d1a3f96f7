package config

import (
	"cmp"
	"crypto/x509"
	"fmt"
	"slices"
	"strings"
	"time"

	"espalier/ike/auth"
	"espalier/ike/pki"
	"espalier/ike/sa"
	"espalier/ike/suite"
)

// connection compiles one section of connections.
func (c *compiler) connection(n *node, set *Settings) *sa.Connection {
	conn := &sa.Connection{
		Name: n.name, Origin: c.origin,
		LocalAddrs:    anyIsEmpty(get[[]sa.AddrSpec](n, "local_addrs")),
		RemoteAddrs:   anyIsEmpty(get[[]sa.AddrSpec](n, "remote_addrs")),
		RemotePort:    uint16(get[uint32](n, "remote_port")),
		Proposals:     get[[]suite.Proposal](n, "proposals"),
		MOBIKE:        get[bool](n, "mobike"),
		Encap:         get[bool](n, "encap"),
		SendCertReq:   get[bool](n, "send_certreq"),
		DSCP:          get[uint8](n, "dscp"),
		Unique:        uniqueness[get[string](n, "unique")],
		KeyingTries:   int(get[uint32](n, "keyingtries")),
		DPDDelay:      get[time.Duration](n, "dpd_delay"),
		Fragmentation: fragmentModes[get[string](n, "fragmentation")],
	}
	conn.Pools, conn.VIPs = get[[]string](n, "pools"), c.vips(n)
	ikeTimes(n, conn)
	conn.Childless, _ = sa.ParseChildless(get[string](n, "childless"))
	if conn.PathMTU = set.PathMTU; n.has("path_mtu") {
		conn.PathMTU = get[bool](n, "path_mtu")
	}
	if n.has("local_port") {
		conn.LocalPort = uint16(get[uint32](n, "local_port"))
		if conn.LocalPort != set.SA.Port && conn.LocalPort != set.SA.NATTPort {
			c.rep.add(n.at("local_port"), fmt.Sprintf("local_port %d or %d, where the daemon listens", set.SA.Port, set.SA.NATTPort),
				fmt.Sprint(conn.LocalPort), "see port in section espalier")
		}
	}
	if conn.DPDTimeout = get[time.Duration](n, "dpd_timeout"); conn.DPDTimeout != 0 {
		c.warn.add(n.at("dpd_timeout"), "no dpd_timeout, since it is for IKEv1", quote(n.keys["dpd_timeout"].Value)+", which has no effect", "retransmit_tries decides")
	}
	c.rounds(n, conn)
	if children := n.sub("children"); children != nil {
		for _, ch := range children.subs {
			if ch.spec == nil {
				continue
			}
			if child := c.child(ch, n, conn); child.Shunt != sa.NoShunt {
				conn.Shunts = append(conn.Shunts, child)
			} else {
				conn.Children = append(conn.Children, child)
				c.guardable(ch, child, set)
			}
		}
	}
	return conn
}

// minOverTime is the least over_time that is not configured.
const minOverTime = 3 * time.Minute

// ikeTimes are when the IKE SA is replaced; what is not configured follows from
// what is.
func ikeTimes(n *node, conn *sa.Connection) {
	conn.RekeyTime = get[time.Duration](n, "rekey_time")
	conn.RandTime = conn.RekeyTime / 10
	if conn.ReauthTime = get[time.Duration](n, "reauth_time"); conn.ReauthTime != 0 && !n.has("rekey_time") {
		conn.RekeyTime = 0 // as strongSwan has it: the new IKE SA comes anyway
	}
	// With a short rekey_time a tenth is less than one retransmission run takes.
	conn.OverTime = max(conn.RekeyTime/10, minOverTime)
	if n.has("over_time") {
		conn.OverTime = get[time.Duration](n, "over_time")
		conn.RandTime = min(conn.OverTime, conn.RekeyTime/2)
	}
	if n.has("rand_time") {
		conn.RandTime = get[time.Duration](n, "rand_time")
	}
}

// uniqueness are the values of the key unique.
var uniqueness = map[string]sa.Uniqueness{"no": sa.UniquenessNo, "never": sa.UniquenessNever, "keep": sa.UniquenessKeep, "replace": sa.UniquenessReplace}

// fragmentModes are the values of fragmentation. IKE_SA_INIT is never fragmented
// in IKEv2, which is all that force adds.
var fragmentModes = map[string]sa.FragmentMode{"yes": sa.FragmentYes, "force": sa.FragmentYes, "accept": sa.FragmentAccept, "no": sa.FragmentNo}

// anyIsEmpty turns a list that allows every address into the empty one.
func anyIsEmpty(list []sa.AddrSpec) []sa.AddrSpec {
	if slices.Contains(list, sa.AddrSpec{}) {
		return nil
	}
	return list
}

// rounds compiles local* and remote*, sorted by round, else by place.
func (c *compiler) rounds(n *node, conn *sa.Connection) {
	sections := slices.Clone(n.subs)
	slices.SortStableFunc(sections, func(a, b *node) int { return cmp.Compare(round(a), round(b)) })
	for _, s := range sections {
		switch {
		case s.spec == nil:
		case s.spec.name == "local*":
			conn.Local = append(conn.Local, c.local(s, get[string](n, "send_cert")))
		case s.spec.name == "remote*":
			conn.Remote = append(conn.Remote, c.remote(s))
		}
	}
	if n.bad {
		return // a round may be among what is wrong
	}
	// To leave a configured factor out would be worse than to refuse it.
	if len(conn.Local) > 1 || len(conn.Remote) > 1 {
		c.rep.add(n.pos, "one section local and one remote in "+n.path+" (several rounds, RFC 4739, are not supported yet)",
			fmt.Sprintf("%d local and %d remote", len(conn.Local), len(conn.Remote)), "")
	}
	if onlyShunts(n) {
		return // nobody is spoken to
	}
	if len(conn.Local) == 0 {
		c.rep.add(n.pos, "a section local in "+n.path+", which says how we authenticate", "none", "")
	}
	if len(conn.Remote) == 0 {
		conn.Remote = []auth.Remote{{}} // whoever has a key or a certificate that we trust
	}
}

// onlyShunts reports whether a connection has children and all are shunts.
func onlyShunts(n *node) bool {
	children := n.sub("children")
	if children == nil || len(children.subs) == 0 {
		return false
	}
	for _, ch := range children.subs {
		if ch.spec == nil || shunts[get[string](ch, "mode")] == sa.NoShunt {
			return false
		}
	}
	return true
}

func round(n *node) uint32 {
	if n.spec == nil || n.spec.key("round") == nil {
		return 0
	}
	return get[uint32](n, "round")
}

// local compiles a round of our own authentication.
func (c *compiler) local(n *node, sendCert string) auth.Local {
	var l auth.Local
	l.Method, l.Schemes, _ = auth.ParseAuth(get[string](n, "auth"))
	if n.has("id") {
		l.ID, _ = auth.ParseID(get[string](n, "id"))
	}
	switch sendCert {
	case "always":
		l.SendCert = auth.SendAlways
	case "never":
		l.SendCert = auth.SendNever
	}
	files := c.listed(n, "certs", "cert*")
	for _, f := range files {
		if cert := c.certificate(f, "x509"); cert != nil {
			l.Certs = append(l.Certs, c.creds.addCert(cert))
			c.ownCertificate(f, cert, l.ID)
		}
	}
	for _, k := range c.rawKeys(n, l.ID) {
		l.Keys = append(l.Keys, k.Fingerprint())
		if id, _ := keyIDOf(k.Key); c.origin == OriginFile && c.creds.keys[id] == nil && !c.creds.brokenKeys {
			c.rep.add(n.at("pubkeys"), "private keys for the pubkeys", "one without", "")
		}
	}
	if l.Method == auth.MethodPSK {
		c.pskOnly(n, "certs", "cert*", "pubkeys")
	} else if !n.bad && len(files) == 0 && len(l.Keys) == 0 && l.ID.IsAny() {
		c.rep.add(n.pos, "certs or id in "+n.path+", since auth is pubkey", "neither", "auth = psk is for shared keys")
	}
	return l
}

// ownCertificate checks that we can prove id with a certificate.
func (c *compiler) ownCertificate(f listedFile, cert *x509.Certificate, id auth.ID) {
	if c.origin == OriginFile && !c.creds.hasKeyOf(cert) && !c.creds.brokenKeys {
		c.rep.add(f.pos, "a private key for the certificate "+quote(f.name), "none that fits in private, rsa, ecdsa and pkcs8", "")
	}
	if !id.IsAny() && !auth.HoldsIdentity(cert, id) {
		c.rep.add(f.pos, "a certificate that holds the id "+quote(id.String()), "subject "+quote(cert.Subject.String()), "")
	}
}

// remote compiles a round of the peer's authentication.
func (c *compiler) remote(n *node) auth.Remote {
	var r auth.Remote
	r.Method, r.Schemes, _ = auth.ParseAuth(get[string](n, "auth"))
	r.ID, _ = auth.ParseID(get[string](n, "id"))
	for _, f := range c.listed(n, "certs", "cert*") {
		if cert := c.certificate(f, "x509"); cert != nil {
			r.Certs = append(r.Certs, c.creds.addCert(cert))
		}
	}
	for _, f := range c.listed(n, "cacerts", "cacert*") {
		if cert := c.certificate(f, "x509ca"); cert != nil {
			r.CACerts = append(r.CACerts, c.creds.addCA(cert))
		}
	}
	for i, k := range c.rawKeys(n, r.ID) {
		r.Keys = append(r.Keys, k.Fingerprint())
		if i == 0 && !n.has("id") {
			r.ID = auth.RawKeyID(&k.RawKey)
		}
	}
	if n.has("ca_id") {
		r.CAID, _ = auth.ParseID(get[string](n, "ca_id"))
	}
	r.Policies, r.Revocation = get[[]string](n, "cert_policy"), revocations[get[string](n, "revocation")]
	if r.Method == auth.MethodPSK {
		c.pskOnly(n, "certs", "cert*", "cacerts", "cacert*", "pubkeys", "ca_id", "cert_policy")
		if r.Revocation != pki.RevocationRelaxed {
			c.pskOnly(n, "revocation")
		}
	}
	return r
}

// revocations are the values of the key revocation.
var revocations = map[string]pki.Revocation{"relaxed": pki.RevocationRelaxed, "ifuri": pki.RevocationIfURI, "strict": pki.RevocationStrict}

// rawKeys reads the raw public keys of a round, which are the identity's.
func (c *compiler) rawKeys(n *node, id auth.ID) (out []rawKey) {
	if !n.has("pubkeys") {
		return nil
	}
	for _, name := range get[[]string](n, "pubkeys") {
		path := c.in("pubkey", name)
		b, _, err := c.fs.read(path, maxCredential)
		if err != nil {
			c.rep.add(n.keys["pubkeys"].ValuePos, "a readable public key file "+quote(path), cause(err), "")
			continue
		}
		k, err := pki.ParseRawKey(b, path)
		if err != nil {
			expected, found := parseError(err, "a public key")
			c.rep.add(n.keys["pubkeys"].ValuePos, expected+" in "+quote(path), found, "")
			continue
		}
		out = append(out, c.creds.addRaw(rawKey{*k, id}))
	}
	return out
}

// pskOnly refuses certificates beside auth = psk.
func (c *compiler) pskOnly(n *node, names ...string) {
	for _, name := range names {
		if n.has(name) {
			c.rep.add(n.at(name), "no "+name+" in "+n.path+", since auth is psk", quote(n.keys[name].Value), "certificates need auth = pubkey")
		}
		for _, s := range n.subs {
			if s.spec != nil && s.spec.name == name {
				c.rep.add(s.pos, "no section "+name+" in "+n.path+", since auth is psk", "section "+quote(s.name), "certificates need auth = pubkey")
			}
		}
	}
}

// listedFile is a certificate named in the configuration.
type listedFile struct {
	name string
	pos  Pos
}

// listed returns the files of a key with a list and of the sections for one.
func (c *compiler) listed(n *node, key, sections string) []listedFile {
	var out []listedFile
	if n.has(key) {
		for _, name := range get[[]string](n, key) {
			out = append(out, listedFile{name, n.keys[key].ValuePos})
		}
	}
	for _, s := range n.subs {
		if s.spec == nil || s.spec.name != sections {
			continue
		}
		if s.has("file") {
			out = append(out, listedFile{get[string](s, "file"), s.keys["file"].ValuePos})
		} else {
			c.rep.add(s.pos, "a file in "+strings.TrimPrefix(s.path, "connections."), "none", "")
		}
	}
	return out
}
