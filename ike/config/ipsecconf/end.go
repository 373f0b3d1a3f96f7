package ipsecconf

import (
	"net/netip"
	"path"
	"slices"
	"strings"

	"espalier/ike/config"
)

// authentication writes local and remote.
func (k *conn) authentication() {
	for _, side := range []struct{ side, kind string }{{k.local, "local"}, {k.remote, "remote"}} {
		sec := open(k.ike, side.kind)
		own := side.kind == "local"
		method, from := k.method(side.side, own)
		k.write(sec, []string{side.kind}, "auth", method, from, true)
		if strings.HasPrefix(method, "eap") {
			k.eap(sec, side.kind)
		}
		certs := method != "psk" && k.certificates(sec, side.side, side.kind)
		k.identity(sec, side.side, own, method, certs)
		k.signatureKey(side.side, certs)
	}
	k.trust()
	switch v, s := k.or(k.local+"sendcert", "ifasked"); v {
	case "never", "no":
		k.write(k.ike, nil, "send_cert", "never", s, false)
	case "always", "yes", "alwayssend", "sendalways":
		k.write(k.ike, nil, "send_cert", "always", s, false)
	}
	if s := k.set["eap-identity"]; s != nil && !k.used["eap-identity"] {
		k.used["eap-identity"] = true
		k.tell(s, "neither side authenticates by EAP")
	}
}

// method is how a side authenticates, as swanctl.conf has it, and the line that says so.
func (k *conn) method(side string, own bool) (string, *setting) {
	v, s := k.take(side + "auth")
	both, bs := k.or("authby", "pubkey")
	if s == nil {
		v, s = both, bs
	}
	var psk, signature bool
	words := strings.FieldsFunc(v, func(r rune) bool { return r == ',' || r == '|' })
	for _, w := range words {
		switch w = strings.TrimSpace(w); {
		case w == "secret" || w == "psk":
			psk = true
		case slices.Contains([]string{"rsasig", "ecdsasig", "pubkey", "rsa", "ecdsa"}, w),
			strings.HasPrefix(w, "rsa-sha2"), strings.HasPrefix(w, "ecdsa-sha2"):
			signature = true
		case w == "eaponly":
			return "eap-tls", s
		case strings.HasPrefix(w, "xauth"):
			k.fail(s, "that is IKEv1, and Espalier speaks IKEv2 only")
		default:
			return v, s // a constraint, or what the schema has something to say about
		}
	}
	switch {
	case psk && signature:
		if k.set[side+"cert"] == nil {
			k.tell(s, "a shared key is used, not a signature")
			return "psk", s
		}
		k.tell(s, "a signature is used, not a shared key")
		return "pubkey", s
	case psk:
		return "psk", s
	case !own && len(words) == 1 && (v == "rsa" || v == "ecdsa"):
		return v, s
	case k.dialect == Libreswan && strings.Contains(v, "-sha2"):
		k.tell(s, "the peer may sign with any RSA or ECDSA key and SHA-2")
	}
	return "pubkey", s
}

// eap writes the identities of EAP.
func (k *conn) eap(sec *config.Section, kind string) {
	seen := k.used["eap-identity"]
	if v, s := k.take("eap-identity"); s != nil && !seen && v != "%identity" {
		k.write(sec, []string{kind}, "eap_id", v, s, true)
	}
	if v, s := k.take("aaa-identity"); s != nil && kind == "local" {
		k.write(sec, []string{kind}, "aaa_id", v, s, true)
	}
}

// certificates writes a side's certificates and reports whether it has some.
func (k *conn) certificates(sec *config.Section, side, kind string) bool {
	v, s := k.take(side + "cert")
	if s == nil {
		return false
	}
	var files []string
	for _, f := range strings.Split(v, ",") {
		f = strings.TrimSpace(f)
		switch {
		case strings.HasPrefix(f, "%"):
			k.fail(s, "a key on a token is not supported yet")
			return true
		case k.dialect == Libreswan && !slices.Contains([]string{".pem", ".crt", ".cer", ".der"}, path.Ext(f)):
			file := k.free("cert", f) + ".pem"
			k.lose(s, "it lies in NSS: take it out (pk12util -o F.p12 -n NAME -d sql:/var/lib/ipsec/nss), and put it into x509/"+file+
				", its CA into x509ca, and the key, if it is ours, into private (openssl pkcs12)")
			f = file
		}
		files = append(files, f)
	}
	if k.dialect == StrongSwan {
		k.needs("certificates: /etc/ipsec.d/certs to x509, /etc/ipsec.d/cacerts to x509ca, keys: /etc/ipsec.d/private to private, all beside espalier.conf.")
	}
	k.write(sec, []string{kind}, "certs", strings.Join(files, ", "), s, true)
	return true
}

// identity writes id. Without one both programs take the address; swanctl.conf
// would let a peer have any.
func (k *conn) identity(sec *config.Section, side string, own bool, method string, certs bool) {
	v, s := k.take(side + "id")
	kind := "remote"
	if own {
		kind = "local"
	}
	switch v {
	case "%any", "%fromcert", "%none", "*":
	case "":
		k.defaultIdentity(sec, side, kind, method, certs)
	default:
		k.write(sec, []string{kind}, "id", k.id(v, s), s, true)
	}
	if own && !certs && method != "psk" && !strings.HasPrefix(method, "eap") && k.why == "" && !hasKey(sec, "id") {
		k.fail(s, "expected "+side+"cert or "+side+"id, since we sign")
	}
}

func hasKey(sec *config.Section, key string) bool {
	return slices.ContainsFunc(sec.Items, func(it config.Item) bool {
		s, ok := it.(*config.Setting)
		return ok && s.Key == key
	})
}

// defaultIdentity writes what an identity is that is not configured.
func (k *conn) defaultIdentity(sec *config.Section, side, kind, method string, certs bool) {
	at := k.set[side]
	if certs || at == nil {
		return
	}
	list := addressList(at.value)
	if len(list) == 0 || strings.ContainsAny(list[0], "/-") && addressLike(list[0]) {
		return
	}
	if _, err := netip.ParseAddr(list[0]); err != nil && k.dialect == Libreswan && kind == "remote" {
		// libreswan means the address that the name has then.
		if method != "psk" {
			k.fail(at, "expected "+side+"id, since the peer signs and has no fixed address")
			return
		}
		k.lose(at, "without "+side+"id any identity that has the secret is accepted")
		return
	}
	k.write(sec, []string{kind}, "id", list[0], at, true)
}

// id is an identity in swanctl.conf's words.
func (k *conn) id(v string, s *setting) string {
	if rest, ok := strings.CutPrefix(v, "@["); ok && strings.HasSuffix(rest, "]") {
		return "keyid:" + strings.TrimSuffix(rest, "]")
	}
	if rest, ok := strings.CutPrefix(v, "%"); ok {
		k.tell(s, "the peer must have this identity")
		return rest
	}
	return v
}

// signatureKey refuses raw public keys.
func (k *conn) signatureKey(side string, certs bool) {
	for _, key := range []string{"sigkey", "ckaid"} {
		v, s := k.take(side + key)
		if s != nil && v != "%cert" && v != "%none" && !(certs && side == k.local) {
			k.fail(s, "raw public keys are not carried over: put them as PEM into the folder pubkey, for the key pubkeys")
		}
	}
}

// trust writes what the peer's certificate must be like.
func (k *conn) trust() {
	remote := open(k.ike, "remote")
	if v, s := k.take(k.remote + "ca"); s != nil && v != "%any" {
		if v == "%same" {
			k.lose(s, "any CA in x509ca may have issued the peer's certificate: put that one alone there, or name it in cacerts")
		} else {
			k.write(remote, []string{"remote"}, "ca_id", v, s, true)
		}
	}
	if v, s := k.take(k.remote + "groups"); s != nil {
		k.write(remote, []string{"remote"}, "groups", v, s, true)
	}
	if v, s := k.take(k.remote + "certpolicy"); s != nil {
		k.write(remote, []string{"remote"}, "cert_policy", v, s, true)
	}
	if s := k.strict; s != nil {
		k.write(remote, []string{"remote"}, "revocation", map[string]string{"yes": "strict", "ifuri": "ifuri"}[s.value], s, false)
	}
}

// virtual writes the virtual addresses that we ask for, and those that we give.
func (k *conn) virtual() {
	if v, s := k.take(k.local + "sourceip"); s != nil {
		if k.dialect == Libreswan && !strings.HasPrefix(v, "%") {
			k.tell(s, "routes into the tunnel get a source address of the box that local_ts contains")
		} else {
			k.write(k.ike, nil, "vips", vips(v), s, true)
		}
	}
	if v, s := k.or(k.local+"modecfgclient", "no"); v == "yes" {
		k.write(k.ike, nil, "vips", "0.0.0.0", s, true)
	}
	var names []string
	for _, key := range []string{"sourceip", "addresspool"} {
		v, s := k.take(k.remote + key)
		if s == nil || k.dialect == Libreswan && key == "sourceip" {
			continue
		}
		for _, one := range strings.Split(v, ",") {
			if name := k.pool(strings.TrimSpace(one), s); name != "" {
				names = append(names, name)
			}
		}
		if len(names) > 0 {
			k.write(k.ike, nil, "pools", strings.Join(names, ", "), s, true)
		}
	}
}

// vips are the addresses to ask for.
func vips(v string) string {
	list := strings.Split(v, ",")
	for i, one := range list {
		switch one = strings.TrimSpace(one); one {
		case "%config", "%cfg", "%modeconfig", "%modecfg", "%config4", "%cfg4", "%modeconfig4", "%modecfg4":
			one = "0.0.0.0"
		case "%config6", "%cfg6", "%modeconfig6", "%modecfg6":
			one = "::"
		}
		list[i] = one
	}
	return strings.Join(list, ", ")
}

// pool writes the pool of these addresses, unless it is there, and returns its name.
func (k *conn) pool(addrs string, s *setting) string {
	if strings.HasPrefix(addrs, "%") {
		k.fail(s, "addresses come from pools here, and "+addrs+" is none")
		return ""
	}
	if _, err := netip.ParseAddr(addrs); err == nil {
		addrs += "-" + addrs
	}
	dns, ds := k.take(k.remote + "dns")
	if ds == nil {
		dns, ds = k.take("modecfgdns")
	}
	dns = strings.Join(strings.FieldsFunc(dns, func(r rune) bool { return r == ',' || r == ' ' }), ", ")
	key := addrs + " " + dns
	if name := k.pools[key]; name != "" {
		return name
	}
	if sec := k.newPools[key]; sec != nil {
		return sec.Name
	}
	name := k.free("pool", k.name)
	sec := &config.Section{Name: name}
	if why := k.put(sec, []string{"pools", name}, "addrs", addrs); why != "" {
		k.fail(s, why)
		return ""
	}
	if dns != "" {
		if why := k.put(sec, []string{"pools", name}, "dns", dns); why != "" {
			k.lose(ds, why)
		}
	}
	if k.newPools == nil {
		k.newPools = map[string]*config.Section{}
	}
	k.newPools[key] = sec
	return name
}
