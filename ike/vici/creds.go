package vici

import (
	"fmt"
	"strings"

	"espalier/ike/auth"
	"espalier/ike/config"
	"espalier/ike/pki"
	"espalier/ike/wire"
)

// certFilter is what list-certs selects by.
type certFilter struct {
	x509, crls, keys bool // the types; none of them: one that Espalier never has
	flag             string
	subject          auth.ID // zero: any
}

// parseCertFilter reads type, flag and subject. Types go by charon's name (X509) or
// by swanctl's (x509, x509ca, ...), which implies the flag.
func parseCertFilter(req Message) (f certFilter, err error) {
	f.flag = "ANY"
	switch typ := req.Text("type"); typ {
	case "", "ANY":
		f.x509, f.crls, f.keys = true, true, true
	case "X509":
		f.x509 = true
		if v := req.Text("flag"); v != "" {
			f.flag = v
		}
	case "x509":
		f.x509, f.flag = true, "NONE"
	case "x509ca":
		f.x509, f.flag = true, "CA"
	case "x509crl", "X509_CRL":
		f.crls = true
	case "pubkey", "PUBKEY":
		f.keys = true
	case "x509aa", "x509ocsp", "x509ac", "X509_AC", "OCSP_RESPONSE":
	default:
		return f, fmt.Errorf("type %q: expected a type of certificates", typ)
	}
	if s := req.Text("subject"); s != "" {
		f.subject, err = auth.ParseID(s)
	}
	return f, err
}

func (f *certFilter) match(c *auth.Stored) bool {
	switch {
	case f.flag != "ANY" && f.flag != certFlag(c):
		return false
	case f.subject.IsAny():
		return true
	}
	_, matches := auth.DNID(c.Cert.RawSubject).Matches(f.subject)
	return matches || auth.HoldsIdentity(c.Cert, f.subject)
}

func certFlag(c *auth.Stored) string {
	if c.CA {
		return "CA"
	}
	return "NONE"
}

// listCerts streams one list-cert event a raw public key, one a certificate, those of
// CAs last, and one a CRL.
func (c *client) listCerts(req Message) (Message, error) {
	f, err := parseCertFilter(req)
	if err != nil {
		return failure("%s", err), nil
	}
	creds := c.srv.cfg.Engine.Credentials()
	var list []Message
	if f.keys {
		list = f.publicKeys(creds)
	}
	if f.x509 {
		list = append(list, f.certificates(creds)...)
	}
	if f.crls {
		list = append(list, f.revocationLists(creds)...)
	}
	for _, m := range list {
		if err := c.raise(eventListCert, m); err != nil {
			return nil, err
		}
	}
	return nil, nil
}

func (f *certFilter) certificates(creds *auth.Credentials) (out []Message) {
	certs := creds.Certificates()
	for _, ca := range []bool{false, true} {
		for i := range certs {
			if certs[i].CA != ca || !f.match(&certs[i]) {
				continue
			}
			var m Message
			m.Put("type", "X509")
			m.Put("flag", certFlag(&certs[i]))
			m.PutFlag("has_privkey", certs[i].HasKey)
			m.Put("data", string(certs[i].Cert.Raw))
			out = append(out, m)
		}
	}
	return out
}

// revocationLists tells of the CRLs, whose subject is their issuer.
func (f *certFilter) revocationLists(creds *auth.Credentials) (out []Message) {
	for _, crl := range creds.CRLs() {
		if _, matches := auth.DNID(crl.List.RawIssuer).Matches(f.subject); !matches && !f.subject.IsAny() {
			continue
		}
		var m Message
		m.Put("type", "X509_CRL")
		m.Put("data", string(crl.List.Raw))
		out = append(out, m)
	}
	return out
}

func (f *certFilter) publicKeys(creds *auth.Credentials) (out []Message) {
	for _, k := range creds.RawKeys() {
		id := k.ID
		if id.IsAny() {
			id = auth.RawKeyID(k.Key)
		}
		if _, matches := id.Matches(f.subject); !matches && !f.subject.IsAny() {
			continue
		}
		var m Message
		m.Put("type", "PUBKEY")
		m.PutFlag("has_privkey", k.HasKey)
		m.Put("data", string(k.Key.DER))
		if id.Type != wire.IDKeyID {
			m.Put("subject", id.String())
		}
		out = append(out, m)
	}
	return out
}

// listAuthorities streams one list-authority event an authority.
func (c *client) listAuthorities(req Message) (Message, error) {
	for _, a := range c.srv.cfg.Engine.Authorities() {
		if name := req.Text("name"); name != "" && name != a.Name {
			continue
		}
		var m Message
		m.Put("cacert", pki.FormatDN(a.CACert.RawSubject))
		m.PutList("crl_uris", a.CRLs)
		m.PutList("ocsp_uris", nil)
		if err := c.raise(eventListAuthority, Message{Section{a.Name, m}}); err != nil {
			return nil, err
		}
	}
	return nil, nil
}

// getAuthorities names the authorities that were loaded over vici.
func (c *client) getAuthorities(Message) (Message, error) {
	var names []string
	for _, a := range c.srv.cfg.Engine.Authorities() {
		if a.Origin == config.OriginVici {
			names = append(names, a.Name)
		}
	}
	return Message{List{"authorities", names}}, nil
}

// getPools tells of all pools, whoever loaded them: it is the only command that does.
func (c *client) getPools(req Message) (Message, error) {
	var m Message
	for _, p := range c.srv.cfg.Engine.Pools() {
		if name := req.Text("name"); name != "" && name != p.Name {
			continue
		}
		var body Message
		body.Put("base", p.Base.String())
		body.PutUint("size", p.Size)
		body.PutUint("online", p.Online)
		body.PutUint("offline", p.Offline)
		if strings.EqualFold(req.Text("leases"), "yes") {
			var leases Message
			for i, l := range p.Leases {
				var one Message
				one.Put("address", l.Addr.String())
				one.Put("identity", l.Identity)
				status := "offline"
				if l.Online {
					status = "online"
				}
				one.Put("status", status)
				leases.PutSection(fmt.Sprint(i), one)
			}
			body.PutSection("leases", leases)
		}
		m.PutSection(p.Name, body)
	}
	return m, nil
}
