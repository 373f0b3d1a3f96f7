package config

import (
	"strings"

	"espalier/ike/suite"
)

// support says what becomes of a key.
type support uint8

const (
	supported support = iota
	later             // known, not supported yet: at its default only
	ikev1             // belongs to IKEv1: at its default only, for ever
	mediation         // belongs to the mediation extension: never
)

// because ends a sentence about a key or section that is refused; what is
// the subject of "are not supported yet" or the like.
func (s support) because(what string) string {
	switch s {
	case ikev1:
		return ", since that belongs to IKEv1 and Espalier speaks IKEv2 only"
	case mediation:
		return ", since Espalier does not do IKEv2 mediation"
	}
	return ", since " + what + " not supported yet"
}

// keySpec describes one key of a section.
type keySpec struct {
	name string // ends with "*" for any suffix; "<number>" for a number
	typ  valueType
	def  string // in the syntax of the key; empty: none
	// derived says what the default is where other keys decide it.
	derived string
	sup     support
	doc     string
	// content says that clients of the control socket send the content of the files.
	content bool

	defVal any // the parsed default, once it was asked for
}

// sectionSpec describes a kind of section.
type sectionSpec struct {
	name string // a name, "<what>" for any, or a prefix with "*"
	keys []keySpec
	subs []*sectionSpec
	sup  support
	doc  string
}

// matches reports whether a section's or key's name fits a pattern.
func matches(pattern, name string) bool {
	switch {
	case pattern == "<number>":
		return name != "" && strings.Trim(name, "0123456789") == ""
	case strings.HasPrefix(pattern, "<"):
		return true
	case strings.HasSuffix(pattern, "*"):
		return strings.HasPrefix(name, strings.TrimSuffix(pattern, "*"))
	}
	return pattern == name
}

// key finds the description of a key.
func (s *sectionSpec) key(name string) *keySpec {
	for i := range s.keys {
		if matches(s.keys[i].name, name) {
			return &s.keys[i]
		}
	}
	return nil
}

// sub finds the description of a subsection; the longest prefix counts.
func (s *sectionSpec) sub(name string) *sectionSpec {
	var best *sectionSpec
	for _, sub := range s.subs {
		if matches(sub.name, name) && (best == nil || len(sub.name) > len(best.name)) {
			best = sub
		}
	}
	return best
}

// named reports whether a subsection goes by exactly this name, suffix aside.
func (s *sectionSpec) named(name string) bool {
	for _, sub := range s.subs {
		if strings.TrimSuffix(sub.name, "*") == name {
			return true
		}
	}
	return false
}

// schema is every section and key: strongSwan 6.0's swanctl.conf and Espalier's
// own settings. Nothing else in this package knows a key's type or default.
func schema() *sectionSpec {
	return &sectionSpec{subs: []*sectionSpec{
		{name: "connections", doc: "One section for each connection.", subs: []*sectionSpec{connectionSpec()}},
		secretsSpec(),
		{name: "pools", doc: "Pools of virtual addresses.", subs: []*sectionSpec{poolSpec()}},
		{name: "authorities", doc: "What is known about certification authorities.", subs: []*sectionSpec{authoritySpec()}},
		settingsSpec(),
	}}
}

func connectionSpec() *sectionSpec {
	return &sectionSpec{name: "<conn>", doc: "A connection: one IKE peer, or several that are treated alike.", keys: []keySpec{
		{name: "version", typ: ikeVersion(), def: "0", doc: "Major version of IKE. 0 means 2."},
		{name: "local_addrs", typ: addresses(), def: "%any", doc: "Own addresses. The first single address or name is where an initiator starts from."},
		{name: "remote_addrs", typ: addresses(), def: "%any", doc: "The peer's addresses. The first single address or name is where an initiator goes to."},
		{name: "local_port", typ: number(1, 65535), def: "500", derived: "espalier.port", doc: "Own UDP port."},
		{name: "remote_port", typ: number(1, 65535), def: "500", doc: "The peer's UDP port."},
		{name: "proposals", typ: proposals(suite.ParseIKE, suite.DefaultIKE), def: "default", doc: "IKE proposals in order of preference."},
		{name: "vips", typ: ipList(), doc: "Virtual addresses to ask the peer for; 0.0.0.0 and :: stand for any. local_ts = dynamic means those that it gives."},
		{name: "aggressive", typ: yesNo(), def: "no", sup: ikev1, doc: "Aggressive mode."},
		{name: "pull", typ: yesNo(), def: "yes", sup: ikev1, doc: "Mode Config by pull."},
		{name: "dscp", typ: bits6(), def: "000000", doc: "DSCP of IKE packets."},
		{name: "encap", typ: yesNo(), def: "no", doc: "Force UDP encapsulation by pretending a NAT."},
		{name: "mobike", typ: yesNo(), def: "yes", doc: "MOBIKE (RFC 4555): tunnels survive changes of addresses. IKE_AUTH then goes to port 4500."},
		{name: "dpd_delay", typ: duration(), def: "0s", doc: "Silence, without an IKE message or an ESP packet, after which the peer is asked whether it lives; 0: never."},
		{name: "dpd_timeout", typ: duration(), def: "0s", doc: "Of no effect, since it is for IKEv1: in IKEv2 a peer is dead when a message to it was sent again retransmit_tries times. It is listed, and a warning says so."},
		{name: "fragmentation", typ: oneOf("yes", "accept", "force", "no"), def: "yes", doc: "IKE fragmentation (RFC 7383): announced and used, only announced (accept), or neither; force is yes. Fragments of a peer are always taken."},
		{name: "path_mtu", typ: yesNo(), derived: "espalier.path_mtu", doc: "Look for the path MTU to the peer."},
		{name: "childless", typ: oneOf("allow", "prefer", "force", "never"), def: "allow", doc: "IKE SAs whose first CHILD SA has an exchange, and a key exchange, of its own (RFC 6023): allow as responder, prefer as initiator, too, force, or never."},
		{name: "send_certreq", typ: yesNo(), def: "yes", doc: "Tell the peer which CAs are trusted."},
		{name: "send_cert", typ: oneOf("always", "never", "ifasked"), def: "ifasked", doc: "When to send certificates."},
		{name: "ocsp", typ: ocspMode(), def: "reply", doc: "OCSP within IKE (RFC 4806): there are no answers to send, and none is asked for."},
		{name: "ppk_id", typ: text("identity"), sup: later, doc: "Post-quantum preshared key (RFC 8784)."},
		{name: "ppk_required", typ: yesNo(), def: "no", sup: later, doc: "Insist on a PPK."},
		{name: "keyingtries", typ: number(0, 1<<31), def: "1", doc: "Rounds of attempts, each at all of the peer's addresses, before the first connect fails, with pauses up to a minute; 0: any number."},
		{name: "unique", typ: oneOf("no", "never", "keep", "replace"), def: "no", doc: "What becomes of an earlier IKE SA between the same identities: it stands unless the peer says INITIAL_CONTACT (no), or even then (never), it is kept and the new one refused (keep; not one that the peer begins from the same address and port, which may be its reauthentication), or replaced. Of two that both sides begin at once one stays."},
		{name: "reauth_time", typ: duration(), def: "0s", doc: "Time until a new IKE SA is set up, and authenticated, in the place of the old one, with the same children, less a random part of a tenth; 0: never. A responder tells it to the initiator (RFC 4478)."},
		{name: "rekey_time", typ: duration(), def: "4h", doc: "Time until the IKE SA is rekeyed, less a random part of rand_time; 0: never, which is the default with a reauth_time."},
		{name: "over_time", typ: duration(), derived: "10% of rekey_time, at least 3m", doc: "How much longer than rekey_time the IKE SA may live, for a rekeying that fails; 0: for ever."},
		{name: "rand_time", typ: duration(), derived: "over_time if given, at most half of rekey_time; else 10% of it", doc: "What is taken off rekey_time at most, at random."},
		{name: "pools", typ: words("names"), doc: "Pools to give the peer virtual addresses from, in this order; it must ask for one. remote_ts = dynamic means those that it gets."},
		{name: "if_id_in", typ: ifID(), def: "0", doc: "XFRM interface id, inbound; children may have their own. Unique ones are for each IKE SA."},
		{name: "if_id_out", typ: ifID(), def: "0", doc: "XFRM interface id, outbound; children may have their own."},
		{name: "mediation", typ: yesNo(), def: "no", sup: mediation, doc: "Act as mediation server."},
		{name: "mediated_by", typ: text("name"), sup: mediation, doc: "Connection to the mediation server."},
		{name: "mediation_peer", typ: text("identity"), sup: mediation, doc: "Peer at the mediation server."},
	}, subs: []*sectionSpec{localSpec(), remoteSpec(),
		{name: "children", doc: "One section for each CHILD SA.", subs: []*sectionSpec{childSpec()}},
	}}
}

// tokenKeys are the keys of a certificate's or key's place on a smartcard.
func tokenKeys() []keySpec {
	return []keySpec{
		{name: "handle", typ: text("hex"), sup: later, doc: "CKA_ID on a token."},
		{name: "slot", typ: number(0, 1<<31), sup: later, doc: "Slot of the token."},
		{name: "module", typ: text("name"), sup: later, doc: "PKCS#11 module."},
	}
}

// certSpec is a section for one certificate.
func certSpec(name, folder string) *sectionSpec {
	return &sectionSpec{name: name, doc: "One more certificate.", keys: append([]keySpec{
		{name: "file", typ: text("file"), doc: "Certificate file, absolute or in " + folder + "."},
	}, tokenKeys()...)}
}

func localSpec() *sectionSpec {
	return &sectionSpec{name: "local*", doc: "A round of our own authentication.", keys: []keySpec{
		{name: "round", typ: number(0, 65535), def: "0", doc: "Order of the rounds; those without it go by their place."},
		{name: "auth", typ: authMethod(), def: "pubkey", doc: "How we authenticate: psk, pubkey, or pubkey with constraints such as ike:pubkey-sha384."},
		{name: "id", typ: identity(), derived: "the certificate's subject, else the address", doc: "Our identity."},
		{name: "certs", typ: words("files"), content: true, doc: "Certificates to choose from, absolute or in x509."},
		{name: "pubkeys", typ: words("files"), content: true, doc: "Raw public keys (RFC 7670) to choose from, absolute or in pubkey. No certificate is sent for them; without id the key's SHA-1 is the identity."},
		{name: "eap_id", typ: text("identity"), derived: "id", sup: later, doc: "EAP identity."},
		{name: "aaa_id", typ: text("identity"), derived: "the peer's id", sup: later, doc: "Identity of the EAP server."},
		{name: "xauth_id", typ: text("identity"), derived: "id", sup: ikev1, doc: "XAuth user."},
	}, subs: []*sectionSpec{certSpec("cert*", "x509")}}
}

func remoteSpec() *sectionSpec {
	return &sectionSpec{name: "remote*", doc: "A round of the peer's authentication.", keys: []keySpec{
		{name: "round", typ: number(0, 65535), def: "0", doc: "Order of the rounds; those without it go by their place."},
		{name: "auth", typ: authMethod(), def: "pubkey", doc: "How the peer must authenticate: psk, pubkey, or constraints such as rsa-2048-ecdsa-256-sha256."},
		{name: "id", typ: identity(), def: "%any", doc: "The peer's identity; * stands for anything in a name."},
		{name: "certs", typ: words("files"), content: true, doc: "Certificates to accept, absolute or in x509."},
		{name: "cacerts", typ: words("files"), content: true, doc: "CA certificates to accept, absolute or in x509ca."},
		{name: "ca_id", typ: identity(), doc: "Identity of a CA to accept, * as in id: one in the chain must have it."},
		{name: "pubkeys", typ: words("files"), content: true, doc: "Raw public keys (RFC 7670) to accept, absolute or in pubkey; without id the identity is the SHA-1 of the first."},
		{name: "groups", typ: words("names"), sup: later, doc: "Groups, one of which the peer must belong to."},
		{name: "cert_policy", typ: oids(), doc: "Certificate policies that the peer's certificate must have, all of them."},
		{name: "revocation", typ: oneOf("strict", "ifuri", "relaxed"), def: "relaxed", doc: "What it means that no current CRL tells of one of the peer's certificates: it is refused (strict), also when it says where to ask (ifuri), or taken. Revoked ones are refused in any case. CRLs come from x509crl, from a client or from crl_uris."},
		{name: "eap_id", typ: text("identity"), derived: "id", sup: later, doc: "EAP identity to ask for."},
	}, subs: []*sectionSpec{certSpec("cert*", "x509"), certSpec("cacert*", "x509ca")}}
}
