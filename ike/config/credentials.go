package config

import (
	"cmp"
	"crypto"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"fmt"
	"path/filepath"
	"slices"

	"espalier/ike/auth"
	"espalier/ike/pki"
	"espalier/ike/sa"
	"espalier/internal/secret"
)

// maxCredential bounds a key or certificate file in bytes.
const maxCredential = 1 << 20

// keyID names a public key: the SHA-256 of its SubjectPublicKeyInfo.
type keyID [sha256.Size]byte

// sharedKey is one secrets.ike* section.
type sharedKey struct {
	key secret.Bytes
	ids []auth.ID
	pos Pos
}

// credentialStore collects what the configuration and the folders hold.
type credentialStore struct {
	certs      certList // end entities and intermediates
	cas        certList // trusted
	raw        []rawKey
	crls       []*pki.CRL
	fetched    *pki.CRLCache // may be nil
	keys       map[keyID]crypto.Signer
	keyFiles   map[keyID]string
	shared     []sharedKey
	files      map[string]*x509.Certificate // certificate files read so far; nil: unusable
	brokenKeys bool                         // a private key could not be read; what misses one is not reported
}

// rawKey is a public key without certificate and the identity that it was first
// configured for; none: its own.
type rawKey struct {
	pki.RawKey
	id auth.ID
}

// addRaw adds a key, once.
func (s *credentialStore) addRaw(k rawKey) rawKey {
	i := slices.IndexFunc(s.raw, func(o rawKey) bool { return o.Fingerprint() == k.Fingerprint() })
	switch {
	case i < 0:
		s.raw = append(s.raw, k)
	case s.raw[i].id.IsAny():
		s.raw[i].id = k.id
	}
	return k
}

// addCRL adds a CRL in the place of those of its issuer that are no newer; false: there
// is a newer one.
func addCRL(list []*pki.CRL, c *pki.CRL) ([]*pki.CRL, bool) {
	if slices.ContainsFunc(list, func(o *pki.CRL) bool { return o.Replaces(c) }) {
		return list, false
	}
	list = slices.DeleteFunc(slices.Clone(list), c.Replaces)
	return append(list, c), true
}

func newCredentialStore() *credentialStore {
	return &credentialStore{
		keys: map[keyID]crypto.Signer{}, keyFiles: map[keyID]string{}, files: map[string]*x509.Certificate{},
	}
}

// certList has certificates once each, in the order added.
type certList struct {
	order []pki.Fingerprint
	by    map[pki.Fingerprint]*x509.Certificate
}

func (l *certList) add(c *x509.Certificate) pki.Fingerprint {
	f := pki.FingerprintOf(c)
	if l.by[f] == nil {
		if l.by == nil {
			l.by = map[pki.Fingerprint]*x509.Certificate{}
		}
		l.by[f] = c
		l.order = append(l.order, f)
	}
	return f
}

// all are the certificates in their order.
func (l *certList) all() []*x509.Certificate {
	return mapped(l.order, func(f pki.Fingerprint) *x509.Certificate { return l.by[f] })
}

func (s *credentialStore) addCert(c *x509.Certificate) pki.Fingerprint { return s.certs.add(c) }

func (s *credentialStore) addCA(c *x509.Certificate) pki.Fingerprint { return s.cas.add(c) }

// keyIDOfCert names a certificate's public key.
func keyIDOfCert(c *x509.Certificate) keyID { return sha256.Sum256(c.RawSubjectPublicKeyInfo) }

// keyIDOf names a public key; false when it has no encoding.
func keyIDOf(pub crypto.PublicKey) (keyID, bool) {
	der, err := x509.MarshalPKIXPublicKey(pub)
	return sha256.Sum256(der), err == nil
}

func (s *credentialStore) hasKeyOf(c *x509.Certificate) bool {
	if _, ok := s.keys[keyIDOfCert(c)]; ok {
		return true
	}
	id, ok := keyIDOf(c.PublicKey) // where the certificate's encoding is unusual
	return ok && s.keys[id] != nil
}

// in makes a file name of the configuration absolute.
func (c *compiler) in(folder, name string) string {
	if filepath.IsAbs(name) {
		return name
	}
	return filepath.Join(c.dir, folder, name)
}

// certificate reads a certificate that the configuration names; nil after a
// mistake, which is reported.
func (c *compiler) certificate(f listedFile, folder string) *x509.Certificate {
	path := c.in(folder, f.name)
	b, _, err := c.fs.read(path, maxCredential)
	if err != nil {
		c.rep.add(f.pos, "a readable certificate file "+quote(path), cause(err), "")
		c.creds.files[path] = nil
		return nil
	}
	cert, err := pki.ParseCertificate(b, path)
	if err != nil {
		expected, found := parseError(err, "a certificate")
		c.rep.add(f.pos, expected+" in "+quote(path), found, "")
		c.creds.files[path] = nil
		return nil
	}
	c.creds.files[path] = cert
	return cert
}

// parseError takes an error of package pki apart.
func parseError(err error, expected string) (string, string) {
	var pe *pki.ParseError
	if errors.As(err, &pe) {
		return pe.Expected, pe.Found
	}
	return expected, err.Error()
}

// authorities reads the CA certificates of section authorities.
func (c *compiler) authorities(n *node) (out []Authority) {
	if n == nil {
		return nil
	}
	for _, a := range n.subs {
		if a.spec == nil {
			continue
		}
		switch {
		case a.has("cacert") && a.has("file"):
			c.rep.add(a.at("file"), "one of cacert and file in "+a.path, "both", "")
		case a.has("cacert") || a.has("file"):
			key := "cacert"
			if a.has("file") {
				key = "file"
			}
			if cert := c.certificate(listedFile{get[string](a, key), a.keys[key].ValuePos}, "x509ca"); cert != nil {
				c.creds.addCA(cert)
				out = append(out, Authority{Name: a.name, Origin: c.origin, CACert: cert, CRLs: get[[]string](a, "crl_uris")})
			}
		default:
			c.rep.add(a.pos, "a cacert in "+a.path, "none", "")
		}
	}
	return out
}

// folders reads all certificates in x509 and x509ca, and warns of folders whose
// content is not used yet.
func (c *compiler) folders() {
	for _, path := range c.files("x509") {
		for _, cert := range c.certificatesIn(path) {
			c.creds.addCert(cert)
		}
	}
	for _, path := range c.files("x509ca") {
		for _, cert := range c.certificatesIn(path) {
			if !cert.IsCA {
				c.rep.add(Pos{File: path}, "a CA certificate", "one that is not (basicConstraints)", "end-entity certificates belong in x509")
				continue
			}
			c.creds.addCA(cert)
		}
	}
	c.otherFolders()
	for _, folder := range []string{"x509aa", "x509ocsp", "x509ac"} {
		if files := c.files(folder); len(files) > 0 {
			c.warn.add(Pos{File: files[0]}, "nothing in "+folder+", since its content is not used yet", fmt.Sprintf("%d files", len(files)), "")
		}
	}
}

// otherFolders reads all CRLs in x509crl and all public keys in pubkey.
func (c *compiler) otherFolders() {
	read := func(folder, what string, parse func([]byte, string) error) {
		for _, path := range c.files(folder) {
			b, _, err := c.fs.read(path, maxCredential)
			if err != nil {
				c.rep.add(Pos{File: path}, "a readable "+what, cause(err), "")
			} else if err := parse(b, path); err != nil {
				expected, found := parseError(err, "a "+what)
				c.rep.add(Pos{File: path}, expected, found, "")
			}
		}
	}
	read("x509crl", "CRL", func(b []byte, path string) error {
		crl, err := pki.ParseCRL(b, path)
		if err == nil {
			c.creds.crls, _ = addCRL(c.creds.crls, crl)
		}
		return err
	})
	read("pubkey", "public key", func(b []byte, path string) error {
		k, err := pki.ParseRawKey(b, path)
		if err == nil {
			c.creds.addRaw(rawKey{RawKey: *k})
		}
		return err
	})
}

// files lists a credential folder in alphabetic order.
func (c *compiler) files(folder string) []string {
	dir := filepath.Join(c.dir, folder)
	paths, err := c.fs.list(dir)
	if err != nil {
		c.rep.add(Pos{File: dir}, "a readable folder", cause(err), "")
	}
	slices.Sort(paths)
	return paths
}

// certificatesIn reads a file of a folder, unless the configuration named it.
func (c *compiler) certificatesIn(path string) []*x509.Certificate {
	if cert, ok := c.creds.files[path]; ok {
		if cert == nil {
			return nil // reported where it is named
		}
	}
	b, _, err := c.fs.read(path, maxCredential)
	if err != nil {
		c.rep.add(Pos{File: path}, "a readable certificate file", cause(err), "")
		return nil
	}
	certs, err := pki.ParseCertificates(b, path)
	if err != nil {
		expected, found := parseError(err, "certificates")
		c.rep.add(Pos{File: path}, expected, found, "")
		return nil
	}
	return certs
}

// passphrase opens an encrypted key file.
type passphrase struct {
	value secret.Bytes
	pos   Pos
}

// privateKeys reads the keys in private, rsa, ecdsa and pkcs8, and the containers in
// pkcs12, with the passphrases of the sections of these names.
func (c *compiler) privateKeys(secrets *node) {
	for _, folder := range []string{"private", "rsa", "ecdsa", "pkcs8", "pkcs12"} {
		phrases := c.passphrases(secrets, folder)
		paths := c.files(folder)
		for path, ph := range phrases {
			if !slices.Contains(paths, path) {
				c.rep.add(ph.pos, "a file "+quote(path), "none", "")
			}
		}
		for _, path := range paths {
			var phrase []byte
			if ph, ok := phrases[path]; ok {
				phrase = ph.value
			}
			c.privateKey(path, phrase, folder)
		}
	}
}

// passphrases maps files of a folder to what opens them.
func (c *compiler) passphrases(secrets *node, folder string) map[string]passphrase {
	out := map[string]passphrase{}
	if secrets == nil {
		return out
	}
	for _, n := range secrets.subs {
		if n.spec == nil || n.spec.name != folder+"*" {
			continue
		}
		if !n.has("file") && (n.keys["file"] == nil || n.keys["file"].Value == "") {
			c.rep.add(n.pos, "a file in "+n.path, "none", "")
		}
		if n.has("file") { // without a secret the file is named, and must be there
			out[c.in(folder, get[string](n, "file"))] = passphrase{get[secret.Bytes](n, "secret"), n.keys["file"].ValuePos}
		}
	}
	return out
}

// privateKey reads one key file or container of a folder.
func (c *compiler) privateKey(path string, phrase []byte, folder string) {
	at := Pos{File: path}
	b, mode, err := c.fs.read(path, maxCredential)
	if err != nil {
		c.creds.brokenKeys = true
		c.rep.add(at, "a readable private key file", cause(err), "")
		return
	}
	defer clear(b)
	if mode.Perm()&0o077 != 0 {
		c.rep.add(at, "a private key that only its owner can read", fmt.Sprintf("mode %04o", mode.Perm()), "chmod 600 "+path)
	}
	var key crypto.Signer
	if folder == "pkcs12" {
		key, err = c.container(b, phrase, path)
	} else {
		key, err = pki.ParsePrivateKey(b, phrase, path)
	}
	if err != nil {
		c.creds.brokenKeys = true
		expected, found := parseError(err, "a private key")
		hint := ""
		if errors.Is(err, pki.ErrPassphrase) && phrase == nil {
			hint = "a section " + folder + " in secrets names the file and its passphrase"
		}
		c.rep.add(at, expected, found, hint)
		return
	}
	id, ok := keyIDOf(key.Public())
	if !ok {
		c.rep.add(at, "an RSA, ECDSA or Ed25519 key", fmt.Sprintf("%T", key), "")
		return
	}
	c.creds.keys[id] = key
	c.creds.keyFiles[id] = path
}

// container opens a PKCS#12 file. Its certificates are taken: those of CAs as trusted.
func (c *compiler) container(b, phrase []byte, path string) (crypto.Signer, error) {
	key, leaf, others, err := pki.ParsePKCS12(b, phrase, path)
	if err != nil {
		return nil, err
	}
	c.creds.addCert(leaf)
	for _, cert := range others {
		if cert.BasicConstraintsValid && cert.IsCA {
			c.creds.addCA(cert)
		} else {
			c.creds.addCert(cert)
		}
	}
	return key, nil
}

// sharedKeys reads secrets.ike*.
func (c *compiler) sharedKeys(secrets *node) {
	if secrets == nil {
		return
	}
	for _, n := range secrets.subs {
		if n.spec == nil || n.spec.name != "ike*" {
			continue
		}
		if !n.has("secret") {
			if e := n.keys["secret"]; e == nil || e.Value == "" {
				c.rep.add(n.pos, "a secret in "+n.path, "none", "")
			}
			continue
		}
		shared := sharedKey{key: get[secret.Bytes](n, "secret"), pos: n.pos}
		for _, key := range n.order {
			if key != "secret" && n.has(key) {
				id, _ := auth.ParseID(get[string](n, key))
				shared.ids = append(shared.ids, id)
			}
		}
		c.creds.shared = append(c.creds.shared, shared)
	}
}

// usable warns of what can never work or be used.
func (c *compiler) usable(conns []*sa.Connection) {
	certified := map[keyID]bool{}
	for _, cert := range c.creds.certs.by {
		certified[keyIDOfCert(cert)] = true
		if id, ok := keyIDOf(cert.PublicKey); ok {
			certified[id] = true
		}
	}
	for _, k := range c.creds.raw {
		if id, ok := keyIDOf(k.Key); ok {
			certified[id] = true
		}
	}
	for id, path := range c.creds.keyFiles {
		if !certified[id] {
			c.warn.add(Pos{File: path}, "a certificate in x509 that holds this key's public key", "none", "")
		}
	}
	for _, conn := range conns {
		for _, r := range conn.Remote {
			if r.Method == auth.MethodPubkey && len(r.Certs)+len(r.Keys) == 0 && len(c.creds.cas.order) == 0 {
				c.warn.add(Pos{File: filepath.Join(c.dir, "x509ca")}, "a CA certificate, since connection "+conn.Name+" wants certificates of the peer", "none", "")
			}
		}
		for _, l := range conn.Local {
			if l.Method == auth.MethodPSK && len(c.creds.shared) == 0 {
				c.warn.add(Pos{File: c.path}, "a section ike in secrets, since connection "+conn.Name+" uses a shared key", "none", "")
			}
		}
	}
}

// build makes the credentials, in the order added, keys aside. What is refused is reported at
// the place, a shared key at its own.
func (s *credentialStore) build(rep *report, at Pos) (*auth.Credentials, credentialSet) {
	set := credentialSet{shared: s.shared, certs: s.certs.order, cas: s.cas.order, keys: sorted(s.keys), raw: s.raw, crls: s.crls}
	b := auth.NewBuilder()
	added := func(err error) {
		if err != nil {
			rep.add(at, "usable credentials", err.Error(), "")
		}
	}
	for _, c := range s.certs.all() {
		added(b.AddCert(c, "certificate"))
	}
	for _, c := range s.cas.all() {
		added(b.AddCA(c, "CA certificate"))
	}
	for _, id := range set.keys {
		added(b.AddKey(s.keys[id], "private key"))
	}
	for i := range s.raw {
		b.AddRawKey(&s.raw[i].RawKey, s.raw[i].id)
	}
	for _, c := range s.crls {
		b.AddCRL(c)
	}
	b.FetchedCRLs(s.fetched)
	for _, k := range s.shared {
		if err := b.AddShared(k.key, k.ids, "shared key"); err != nil {
			rep.add(k.pos, "a usable shared key", err.Error(), "")
		}
	}
	return b.Build(), set
}

// sorted lists the keys of a map of fixed-size names in order.
func sorted[K ~[sha256.Size]byte, V any](m map[K]V) []K {
	out := make([]K, 0, len(m))
	for k := range m {
		out = append(out, k)
	}
	slices.SortFunc(out, func(a, b K) int { return cmp.Compare(string(a[:]), string(b[:])) })
	return out
}
