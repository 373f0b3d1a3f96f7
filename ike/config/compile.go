package config

import (
	"cmp"
	"crypto/x509"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"espalier/dataplane"
	"espalier/dataplane/selector"
	"espalier/ike/auth"
	"espalier/ike/sa"
	"espalier/ike/suite"
	"espalier/ike/wire"
)

// connection compiles one section of connections.
func (c *compiler) connection(n *node, set *Settings) *sa.Connection {
	conn := &sa.Connection{
		Name: n.name, Origin: originFile,
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
		RekeyTime:     get[time.Duration](n, "rekey_time"),
	}
	conn.Pools, conn.VIPs = get[[]string](n, "pools"), c.vips(n)
	conn.RandTime = conn.RekeyTime / 10
	if conn.ReauthTime = get[time.Duration](n, "reauth_time"); conn.ReauthTime != 0 && !n.has("rekey_time") {
		conn.RekeyTime = 0 // as strongSwan has it: the new IKE SA comes anyway
	}
	// With a short rekey_time a tenth is less than one retransmission run takes.
	conn.OverTime = max(conn.RekeyTime/10, minOverTime)
	if n.has("over_time") {
		conn.OverTime = get[time.Duration](n, "over_time")
		conn.RandTime = conn.OverTime
	}
	if n.has("rand_time") {
		conn.RandTime = get[time.Duration](n, "rand_time")
	}
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
		c.rep.add(n.pos, "a section remote in "+n.path+", which says how the peer authenticates", "none", "")
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
	if l.Method == auth.MethodPSK {
		c.pskOnly(n, "certs", "cert*")
	} else if !n.bad && len(files) == 0 && l.ID.IsAny() {
		c.rep.add(n.pos, "certs or id in "+n.path+", since auth is pubkey", "neither", "auth = psk is for shared keys")
	}
	return l
}

// ownCertificate checks that we can prove id with a certificate.
func (c *compiler) ownCertificate(f listedFile, cert *x509.Certificate, id auth.ID) {
	if !c.creds.hasKeyOf(cert) && !c.creds.brokenKeys {
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
	if r.Method == auth.MethodPSK {
		c.pskOnly(n, "certs", "cert*", "cacerts", "cacert*")
	}
	return r
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

// child compiles one section of children.
func (c *compiler) child(n, conn *node, compiled *sa.Connection) *sa.ChildConfig {
	ch := &sa.ChildConfig{
		Name:           n.name,
		Proposals:      get[[]suite.Proposal](n, "esp_proposals"),
		LocalTS:        get[[]selector.Spec](n, "local_ts"),
		RemoteTS:       get[[]selector.Spec](n, "remote_ts"),
		Mode:           modes[get[string](n, "mode")],
		Shunt:          shunts[get[string](n, "mode")],
		Start:          strings.Contains(get[string](n, "start_action"), "start"),
		Trap:           strings.Contains(get[string](n, "start_action"), "trap"),
		DPDAction:      followUp(get[string](n, "dpd_action")),
		CloseAction:    followUp(get[string](n, "close_action")),
		ReqID:          get[uint32](n, "reqid"),
		Priority:       get[uint32](n, "priority"),
		ReplayWindow:   get[uint32](n, "replay_window"),
		MarkInSA:       get[bool](n, "mark_in_sa"),
		Policies:       get[bool](n, "policies"),
		PoliciesFwdOut: get[bool](n, "policies_fwd_out"),
		CopyDF:         get[bool](n, "copy_df"),
		CopyECN:        get[bool](n, "copy_ecn"),
		IPComp:         get[bool](n, "ipcomp"),
		Interface:      get[string](n, "interface"),
		SHA256By96:     get[bool](n, "sha256_96"),
		ICMP:           get[bool](n, "icmp"),
	}
	numbers(n, conn, ch)
	if pad := get[int64](n, "tfc_padding"); pad < 0 {
		ch.TFCPad = sa.PadToMTU
	} else {
		ch.TFCPad = uint32(pad)
	}
	switch get[string](n, "copy_dscp") {
	case "out":
		ch.CopyDSCPOut = true
	case "in":
		ch.CopyDSCPIn = true
	case "yes":
		ch.CopyDSCPOut, ch.CopyDSCPIn = true, true
	}
	lifetimes(n, ch)
	if ch.Shunt != sa.NoShunt {
		ch.Mode = dataplane.Tunnel // policies for what is forwarded, too
	}
	if !n.bad && !conn.bad {
		c.contradictions(n, ch, compiled)
		c.modeContradictions(n, ch)
	}
	return ch
}

// minOverTime is the least over_time that is not configured.
const minOverTime = 3 * time.Minute

// lifetimes are a child's limits; what is not configured follows from what is.
func lifetimes(n *node, ch *sa.ChildConfig) {
	ch.RekeyTime, ch.Inactivity = get[time.Duration](n, "rekey_time"), get[time.Duration](n, "inactivity")
	limit(n, "time", &ch.RekeyTime, &ch.LifeTime, &ch.RandTime)
	limit(n, "bytes", &ch.RekeyBytes, &ch.LifeBytes, &ch.RandBytes)
	limit(n, "packets", &ch.RekeyPackets, &ch.LifePackets, &ch.RandPackets)
}

func limit[T time.Duration | uint64](n *node, what string, rekey, life, margin *T) {
	*rekey, *life = get[T](n, "rekey_"+what), get[T](n, "life_"+what)
	if !n.has("life_" + what) {
		*life = *rekey + *rekey/10
	}
	if *margin = 0; *life > *rekey {
		*margin = *life - *rekey
	}
	if n.has("rand_" + what) {
		*margin = get[T](n, "rand_"+what)
	}
}

// uniqueness are the values of the key unique.
var uniqueness = map[string]sa.Uniqueness{"no": sa.UniquenessNo, "never": sa.UniquenessNever, "keep": sa.UniquenessKeep, "replace": sa.UniquenessReplace}

// followUp is the meaning of dpd_action and close_action.
func followUp(action string) (f sa.FollowUp) {
	if strings.Contains(action, "trap") {
		f |= sa.FollowTrap
	}
	if strings.Contains(action, "start") {
		f |= sa.FollowStart
	}
	return f
}

// numbers compiles the marks and interface ids of a child.
func numbers(n, conn *node, ch *sa.ChildConfig) {
	in, out := get[markValue](n, "mark_in"), get[markValue](n, "mark_out")
	ch.MarkIn, ch.UniqueMarkIn, ch.MarkOut, ch.UniqueMarkOut = in.mark, in.unique, out.mark, out.unique
	in, out = get[markValue](n, "set_mark_in"), get[markValue](n, "set_mark_out")
	ch.SetMarkIn, ch.SetMarkInSame, ch.SetMarkOut, ch.SetMarkOutSame = in.mark, in.same, out.mark, out.same
	ch.IfIDIn, ch.UniqueIfIDIn = orConnection(n, conn, "if_id_in")
	ch.IfIDOut, ch.UniqueIfIDOut = orConnection(n, conn, "if_id_out")
}

// orConnection takes a child's interface id, else the connection's, which is one
// for each IKE SA when it is unique.
func orConnection(n, conn *node, key string) (uint32, sa.Unique) {
	if n.has(key) {
		v := get[ifIDValue](n, key)
		return v.id, v.unique
	}
	v := get[ifIDValue](conn, key)
	switch v.unique {
	case sa.UniqueChild:
		return 0, sa.UniqueIKE
	case sa.UniqueChildDir:
		return 0, sa.UniqueIKEDir
	}
	return v.id, sa.NotUnique
}

// contradictions refuses options of a child that can't be meant together.
func (c *compiler) contradictions(n *node, ch *sa.ChildConfig, conn *sa.Connection) {
	if ch.Shunt != sa.NoShunt {
		c.shuntContradictions(n, ch)
		return
	}
	if ch.LifeTime != 0 && ch.RekeyTime >= ch.LifeTime {
		key := "rekey_time"
		if !n.has(key) {
			key = "life_time"
		}
		c.rep.add(n.at(key), fmt.Sprintf("a rekey_time below life_time (%s)", ch.LifeTime), ch.RekeyTime.String(), "")
	}
	if (ch.Start || ch.Trap) && !slices.ContainsFunc(conn.RemoteAddrs, isTarget) {
		c.rep.add(n.at("start_action"), "a single address or host name in remote_addrs, since start_action is "+get[string](n, "start_action"), "none", "")
	}
	if ch.Trap && !ch.Policies {
		c.rep.add(n.at("start_action"), "policies = yes, since start_action is "+get[string](n, "start_action"), "no", "")
	}
	if ch.MarkInSA && ch.MarkIn == (dataplane.Mark{}) {
		c.rep.add(n.at("mark_in_sa"), "a mark_in, since mark_in_sa is yes", "none", "")
	}
	if unique := max(ch.UniqueMarkIn, ch.UniqueMarkOut, ch.UniqueIfIDIn, ch.UniqueIfIDOut); ch.Trap && unique != sa.NotUnique {
		c.rep.add(n.at("start_action"), "marks and interface ids that are numbers, since start_action is trap", "unique ones", "a trap stands before a CHILD SA has them")
	}
	if ch.MarkInSA && ch.UniqueMarkIn != sa.NotUnique {
		c.rep.add(n.at("mark_in_sa"), "a mark_in that is a number, since mark_in_sa is yes", quote(n.keys["mark_in"].Value), "the SPI is reserved before the mark is chosen")
	}
	if ch.PoliciesFwdOut && !ch.Policies {
		c.rep.add(n.at("policies_fwd_out"), "policies_fwd_out = no, since policies is no", "yes", "")
	}
	if !shareFamily(ch.LocalTS, ch.RemoteTS) {
		c.rep.add(n.at("remote_ts"), "local_ts and remote_ts with an address family in common", "IPv4 on one side and IPv6 on the other", "")
	}
	if max(ch.RekeyPackets, ch.RekeyBytes) > math.MaxInt64 || ch.LifePackets > math.MaxInt64 || ch.LifeBytes > math.MaxInt64 {
		c.rep.add(n.pos, "numbers of bytes and packets below 2^63", "more", "")
	}
	volumes(c, n, ch)
}

// guardable refuses what leak = block can't guard: its policies stand before a
// CHILD SA has its numbers, and for all network interfaces.
func (c *compiler) guardable(n *node, ch *sa.ChildConfig, set *Settings) {
	if !set.BlockLeaks || n.bad {
		return
	}
	if max(ch.UniqueMarkIn, ch.UniqueMarkOut, ch.UniqueIfIDIn, ch.UniqueIfIDOut) != sa.NotUnique {
		c.rep.add(n.pos, "marks and interface ids that are numbers in "+n.path+", since leak is block", "unique ones", "")
	}
	if ch.Interface != "" {
		c.rep.add(n.at("interface"), "no interface, since leak is block", quote(ch.Interface), "what leaves by other interfaces would be blocked, too")
	}
}

// modeContradictions refuses options that a mode does not have.
func (c *compiler) modeContradictions(n *node, ch *sa.ChildConfig) {
	if ch.Interface != "" && ch.Shunt != 0 {
		c.rep.add(n.at("interface"), "no interface, since mode is "+get[string](n, "mode"), quote(ch.Interface), "shunts are for all of them")
	}
	if ch.IPComp && ch.Mode != dataplane.Tunnel && ch.Mode != dataplane.Transport {
		c.rep.add(n.at("ipcomp"), "ipcomp = no, since mode is "+get[string](n, "mode"), "yes", "")
	}
	if ch.TFCPad != 0 && (ch.Mode != dataplane.Tunnel || ch.IPComp) {
		why := "mode is " + get[string](n, "mode")
		if ch.IPComp {
			why = "ipcomp is yes"
		}
		c.rep.add(n.at("tfc_padding"), "tfc_padding = 0, since "+why, quote(n.keys["tfc_padding"].Value), "the kernel pads packets of plain tunnels only")
	}
	if ch.Mode == dataplane.BEET && !(host(ch.LocalTS) && host(ch.RemoteTS)) {
		c.rep.add(n.at("mode"), "one host in local_ts and one in remote_ts, since mode is beet", "more", "")
	}
	if n.has("replay_window") && ch.ReplayWindow == 0 {
		for _, p := range ch.Proposals {
			if slices.ContainsFunc(p.Transforms, func(t suite.Transform) bool { return t.Type == wire.TransformESN && wire.ESNID(t.ID) == wire.ESNYes }) {
				c.rep.add(n.at("replay_window"), "a replay_window above 0, since esp_proposals has esn", "0", "extended sequence numbers do not work without")
				return
			}
		}
	}
}

// host reports whether selectors stand for exactly one host.
func host(list []selector.Spec) bool {
	return len(list) == 1 && (list[0].Dynamic || list[0].TS.Start == list[0].TS.End)
}

// shuntContradictions is contradictions for a child that is not negotiated.
func (c *compiler) shuntContradictions(n *node, ch *sa.ChildConfig) {
	mode := get[string](n, "mode")
	if ch.Start {
		c.rep.add(n.at("start_action"), "start_action none or trap, since mode is "+mode, quote(get[string](n, "start_action")), "")
	}
	if !ch.Policies {
		c.rep.add(n.at("policies"), "policies = yes, since mode is "+mode, "no", "")
	}
	if !shareFamily(ch.LocalTS, ch.RemoteTS) {
		c.rep.add(n.at("remote_ts"), "local_ts and remote_ts with an address family in common", "IPv4 on one side and IPv6 on the other", "")
	}
}

// volumes refuses a hard limit that the soft one could not come before.
func volumes(c *compiler, n *node, ch *sa.ChildConfig) {
	for _, v := range []struct {
		what        string
		rekey, life uint64
	}{{"bytes", ch.RekeyBytes, ch.LifeBytes}, {"packets", ch.RekeyPackets, ch.LifePackets}} {
		if v.rekey != 0 && v.life != 0 && v.rekey >= v.life {
			c.rep.add(n.at("rekey_"+v.what), fmt.Sprintf("a rekey_%s below life_%s (%d)", v.what, v.what, v.life), fmt.Sprint(v.rekey), "")
		}
	}
}

// isTarget reports whether an initiator can go there.
func isTarget(a sa.AddrSpec) bool {
	_, single := a.Single()
	return single || a.Host != ""
}

// shareFamily reports whether packets can pass between the two lists.
func shareFamily(a, b []selector.Spec) bool {
	for _, x := range a {
		for _, y := range b {
			if x.Dynamic || y.Dynamic || x.TS.Start.Is4() == y.TS.Start.Is4() {
				return true
			}
		}
	}
	return false
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
