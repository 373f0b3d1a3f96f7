package config

import (
	"crypto"
	"crypto/sha1" //nolint:gosec // strongSwan names keys so
	"crypto/x509"
	"encoding/asn1"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"slices"

	"espalier/ike/lease"
	"espalier/ike/pki"
	"espalier/ike/sa"
)

// Loaded is what clients of the control socket have loaded, in the order in which
// they did. It is immutable: each change makes a new one, and a change that is
// refused leaves nothing behind. What was loaded already makes none, and the
// receiver itself comes back. nil is empty.
type Loaded struct {
	conns       []loadedConn
	pools       []*lease.Pool
	authorities []Authority
	shared      []loadedShared
	keys        []loadedKey
	certs       []*x509.Certificate // to be sent or pinned
	cas         []*x509.Certificate // trusted
	crls        []*pki.CRL
	raw         []rawKey
	creds       uint64 // counts changes to what credentials are made of
}

// loadedConn is a connection with the certificates that came in its message.
type loadedConn struct {
	*sa.Connection
	certs, cas []*x509.Certificate
	raw        []rawKey
}

// hasCreds reports whether the credentials hang on the connection.
func (c *loadedConn) hasCreds() bool { return len(c.certs)+len(c.cas)+len(c.raw) > 0 }

// loadedShared is a shared key by the id that its client gave it, which may be empty.
type loadedShared struct {
	id string
	sharedKey
}

// loadedKey is a private key by its id, see KeyID.
type loadedKey struct {
	id  string
	key crypto.Signer
}

// Bounds on what is loaded, each far above what a gateway has.
const (
	maxLoadedConns       = 1 << 17
	maxLoadedCredentials = 1 << 17 // shared keys; certificates
	maxLoadedKeys        = 1 << 12
	maxLoadedPools       = 1 << 12 // and authorities
)

// ErrNotLoaded says that no client loaded anything of the name.
var ErrNotLoaded = errors.New("not loaded")

// Tree is a section as a client sends it, with what came in the place of files by
// the absolute names that stand in the section.
type Tree struct {
	Section *Section
	Content map[string][]byte
	// Odd, unless it is nil, is told of what does not keep the section from working as
	// written, as Config.Warnings.
	Odd func(*Error)
}

// TakesContent reports whether clients send the content of files as values of the
// key, where files have their names.
func TakesContent(key string) bool { return contentKeys[key] }

var contentKeys = func() map[string]bool {
	keys := map[string]bool{}
	var walk func(*sectionSpec)
	walk = func(s *sectionSpec) {
		for _, k := range s.keys {
			if k.content {
				keys[k.name] = true
			}
		}
		for _, sub := range s.subs {
			walk(sub)
		}
	}
	walk(schema())
	return keys
}()

// compileTree checks a tree as the one section of a section of the top level.
func compileTree(container string, t Tree) (*compiler, *node, error) {
	rep := newReport()
	root := &Section{Pos: t.Section.Pos, Items: []Item{&Section{Name: container, Pos: t.Section.Pos, Items: []Item{t.Section}}}}
	top, templates := resolve(root, rep)
	newChecker(rep, nil).top(top, templates)
	if err := rep.err(); err != nil {
		return nil, nil, err
	}
	c := &compiler{fs: contentFS{osFS{}, t.Content}, rep: rep, warn: newReport(), path: container, dir: "/", creds: newCredentialStore(), origin: OriginVici}
	return c, top.sub(container), nil
}

// contentFS has what came in a message, and the box's files by their names.
type contentFS struct {
	osFS
	content map[string][]byte
}

func (f contentFS) read(path string, most int64) ([]byte, fs.FileMode, error) {
	if b, ok := f.content[path]; ok {
		if int64(len(b)) > most {
			return nil, 0, errTooBig
		}
		return b, 0o600, nil
	}
	return f.osFS.read(path, most)
}

// clone copies the lists' heads; what appends to one makes a copy.
func (l *Loaded) clone() *Loaded {
	if l == nil {
		return &Loaded{}
	}
	n := *l
	return &n
}

// with returns the list with x at position i, or behind the end.
func with[T any](list []T, i int, x T) []T {
	if i < 0 {
		return append(slices.Clip(list), x)
	}
	list = slices.Clone(list)
	list[i] = x
	return list
}

func without[T any](list []T, i int) []T { return slices.Delete(slices.Clone(list), i, i+1) }

// room refuses one more where there are as many as the bound.
func room(n, most int, what string) error {
	if n >= most {
		return fmt.Errorf("expected at most %d %s, found one more", most, what)
	}
	return nil
}

func (l *Loaded) conn(name string) int {
	return slices.IndexFunc(l.conns, func(c loadedConn) bool { return c.Name == name })
}

// WithConnection loads a connection, or replaces the one of that name. s are the
// settings that some of its defaults depend on. Errors: Errors, whose files are
// the dotted names of sections and keys.
func (l *Loaded) WithConnection(t Tree, s *Settings) (*Loaded, error) {
	c, n, err := compileTree("connections", t)
	if err != nil {
		return nil, err
	}
	conn := c.connection(n.sub(t.Section.Name), s)
	if err := c.rep.err(); err != nil {
		return nil, err
	}
	for _, w := range c.warn.list() {
		if t.Odd != nil {
			t.Odd(w)
		}
	}
	next := l.clone()
	x := loadedConn{conn, c.creds.certs.all(), c.creds.cas.all(), c.creds.raw}
	i := next.conn(conn.Name)
	if i < 0 {
		if err := room(len(next.conns), maxLoadedConns, "connections"); err != nil {
			return nil, err
		}
	} else if _, differs := diffConnection(next.conns[i].Connection, conn); !differs {
		return l, nil
	}
	if x.hasCreds() || i >= 0 && next.conns[i].hasCreds() {
		next.creds++
	}
	next.conns = with(next.conns, i, x)
	return next, nil
}

// WithoutConnection unloads a connection. Errors: ErrNotLoaded.
func (l *Loaded) WithoutConnection(name string) (*Loaded, error) {
	next := l.clone()
	i := next.conn(name)
	if i < 0 {
		return nil, ErrNotLoaded
	}
	if next.conns[i].hasCreds() {
		next.creds++
	}
	next.conns = without(next.conns, i)
	return next, nil
}

// WithPool loads a pool, or replaces the one of that name. Errors: as WithConnection.
func (l *Loaded) WithPool(t Tree) (*Loaded, error) {
	c, n, err := compileTree("pools", t)
	if err != nil {
		return nil, err
	}
	pool := c.pool(n.sub(t.Section.Name))
	if err := c.rep.err(); err != nil {
		return nil, err
	}
	next := l.clone()
	i := slices.IndexFunc(next.pools, func(p *lease.Pool) bool { return p.Name == pool.Name })
	if i < 0 {
		if err := room(len(next.pools), maxLoadedPools, "pools"); err != nil {
			return nil, err
		}
	}
	next.pools = with(next.pools, i, pool)
	return next, nil
}

// WithoutPool unloads a pool. Errors: ErrNotLoaded.
func (l *Loaded) WithoutPool(name string) (*Loaded, error) {
	next := l.clone()
	i := slices.IndexFunc(next.pools, func(p *lease.Pool) bool { return p.Name == name })
	if i < 0 {
		return nil, ErrNotLoaded
	}
	next.pools = without(next.pools, i)
	return next, nil
}

// WithAuthority loads an authority, or replaces the one of that name. Errors: as
// WithConnection.
func (l *Loaded) WithAuthority(t Tree) (*Loaded, error) {
	c, n, err := compileTree("authorities", t)
	if err != nil {
		return nil, err
	}
	list := c.authorities(n)
	if err := c.rep.err(); err != nil {
		return nil, err
	}
	a := list[0]
	next := l.clone()
	i := slices.IndexFunc(next.authorities, func(o Authority) bool { return o.Name == a.Name })
	switch {
	case i >= 0 && next.authorities[i].CACert.Equal(a.CACert) && slices.Equal(next.authorities[i].CRLs, a.CRLs):
		return l, nil
	case i < 0:
		if err := room(len(next.authorities), maxLoadedPools, "authorities"); err != nil {
			return nil, err
		}
	}
	next.authorities = with(next.authorities, i, a)
	next.creds++
	return next, nil
}

// WithoutAuthority unloads an authority. Errors: ErrNotLoaded.
func (l *Loaded) WithoutAuthority(name string) (*Loaded, error) {
	next := l.clone()
	i := slices.IndexFunc(next.authorities, func(a Authority) bool { return a.Name == name })
	if i < 0 {
		return nil, ErrNotLoaded
	}
	next.authorities = without(next.authorities, i)
	next.creds++
	return next, nil
}

// WithShared loads a shared key of a type such as ike, for the owners, or for all
// without any. An id that is not empty names it, and replaces the key of that
// name. Errors: as WithConnection.
func (l *Loaded) WithShared(id, typ string, key []byte, owners []string) (*Loaded, error) {
	pos := func(name string) Pos { return Pos{File: "secrets." + typ + name} }
	sec := &Section{Name: typ, Pos: pos("")}
	if len(key) > 0 {
		sec.Items = append(sec.Items, &Setting{Key: "secret", Value: "0x" + hex.EncodeToString(key), Pos: pos(".secret"), ValuePos: pos(".secret")})
	}
	for i, o := range owners {
		name := fmt.Sprintf("id%d", i+1)
		sec.Items = append(sec.Items, &Setting{Key: name, Value: o, Pos: pos("." + name), ValuePos: pos("." + name)})
	}
	c, n, err := compileTree("secrets", Tree{Section: sec})
	if err != nil {
		return nil, err
	}
	c.sharedKeys(n)
	if err := c.rep.err(); err != nil {
		return nil, err
	}
	if len(c.creds.shared) != 1 {
		return nil, fmt.Errorf("secrets.%s: expected a shared key (type ike), found a passphrase", typ)
	}
	x := loadedShared{id, c.creds.shared[0]}
	next := l.clone()
	i := slices.IndexFunc(next.shared, func(s loadedShared) bool {
		return s.id == id && (id != "" || s.same(&x.sharedKey))
	})
	switch {
	case i >= 0 && next.shared[i].same(&x.sharedKey):
		return l, nil
	case i < 0:
		if err := room(len(next.shared), maxLoadedCredentials, "shared keys"); err != nil {
			return nil, err
		}
	}
	next.shared = with(next.shared, i, x)
	next.creds++
	return next, nil
}

func (s *sharedKey) same(o *sharedKey) bool { return s.key.Equal(o.key) && sameIDs(s.ids, o.ids) }

// WithoutShared unloads a shared key by its id. Errors: ErrNotLoaded.
func (l *Loaded) WithoutShared(id string) (*Loaded, error) {
	next := l.clone()
	i := slices.IndexFunc(next.shared, func(s loadedShared) bool { return s.id == id })
	if i < 0 || id == "" {
		return nil, ErrNotLoaded
	}
	next.shared = without(next.shared, i)
	next.creds++
	return next, nil
}

// WithKey loads a private key of a type (rsa, ecdsa, any or pkcs8), PEM or DER, not
// encrypted, and tells its id.
func (l *Loaded) WithKey(typ string, data []byte) (next *Loaded, id string, err error) {
	key, err := pki.ParsePrivateKey(data, nil, "")
	if err != nil {
		return nil, "", err
	}
	if is := keyType(key); typ != "any" && typ != "pkcs8" && typ != is {
		return nil, "", fmt.Errorf("expected a private key of type %s, found one of type %s", quote(typ), is)
	}
	if id, err = KeyID(key.Public()); err != nil {
		return nil, "", err
	}
	next = l.clone()
	if slices.ContainsFunc(next.keys, func(k loadedKey) bool { return k.id == id }) {
		return l, id, nil
	}
	if err := room(len(next.keys), maxLoadedKeys, "private keys"); err != nil {
		return nil, "", err
	}
	next.keys = with(next.keys, -1, loadedKey{id, key})
	next.creds++
	return next, id, nil
}

// keyType is what load-key calls the type of a key.
func keyType(key crypto.Signer) string {
	switch fmt.Sprintf("%T", key) {
	case "*rsa.PrivateKey":
		return "rsa"
	case "*ecdsa.PrivateKey":
		return "ecdsa"
	}
	return "ed25519"
}

// KeyID names a key as strongSwan does: the SHA-1 of the subjectPublicKey, in
// hexadecimal digits.
func KeyID(pub crypto.PublicKey) (string, error) {
	der, err := x509.MarshalPKIXPublicKey(pub)
	if err != nil {
		return "", err
	}
	var info struct {
		Algorithm asn1.RawValue
		Key       asn1.BitString
	}
	if _, err := asn1.Unmarshal(der, &info); err != nil {
		return "", err
	}
	sum := sha1.Sum(info.Key.Bytes) //nolint:gosec
	return hex.EncodeToString(sum[:]), nil
}

// WithoutKey unloads a private key by its id. Errors: ErrNotLoaded.
func (l *Loaded) WithoutKey(id string) (*Loaded, error) {
	next := l.clone()
	i := slices.IndexFunc(next.keys, func(k loadedKey) bool { return k.id == id })
	if i < 0 {
		return nil, ErrNotLoaded
	}
	next.keys = without(next.keys, i)
	next.creds++
	return next, nil
}

// WithCert loads certificates, PEM or DER: of trusted CAs, or others to be sent or
// pinned.
func (l *Loaded) WithCert(data []byte, ca bool) (*Loaded, error) {
	certs, err := pki.ParseCertificates(data, "")
	if err != nil {
		return nil, err
	}
	next := l.clone()
	list := &next.certs
	if ca {
		list = &next.cas
	}
	for _, cert := range certs {
		if ca && !(cert.BasicConstraintsValid && cert.IsCA) {
			return nil, errors.New("expected a CA certificate, found one that is not (basicConstraints)")
		}
		if err := pki.CheckPublicKey(cert.PublicKey); err != nil {
			return nil, err
		}
		if slices.ContainsFunc(*list, cert.Equal) {
			continue
		}
		if err := room(len(*list), maxLoadedCredentials, "certificates"); err != nil {
			return nil, err
		}
		*list = with(*list, -1, cert)
		next.creds++
	}
	if l != nil && next.creds == l.creds {
		return l, nil
	}
	return next, nil
}

// WithCRL loads a revocation list, PEM or DER, in the place of those of its issuer that
// are no newer; one that is older than what there is changes nothing.
func (l *Loaded) WithCRL(data []byte) (*Loaded, error) {
	crl, err := pki.ParseCRL(data, "")
	if err != nil {
		return nil, err
	}
	next := l.clone()
	list, newer := addCRL(next.crls, crl)
	if !newer {
		return l, nil
	}
	if err := room(len(list)-1, maxLoadedKeys, "CRLs"); err != nil {
		return nil, err
	}
	next.crls = list
	next.creds++
	return next, nil
}

// WithRawKey loads a public key without certificate, PEM or DER.
func (l *Loaded) WithRawKey(data []byte) (*Loaded, error) {
	k, err := pki.ParseRawKey(data, "")
	if err != nil {
		return nil, err
	}
	next := l.clone()
	if slices.ContainsFunc(next.raw, func(o rawKey) bool { return o.Fingerprint() == k.Fingerprint() }) {
		return l, nil
	}
	if err := room(len(next.raw), maxLoadedCredentials, "public keys"); err != nil {
		return nil, err
	}
	next.raw = with(next.raw, -1, rawKey{RawKey: *k})
	next.creds++
	return next, nil
}

// WithoutCreds unloads shared keys, private keys and certificates, but for those
// that belong to connections and authorities.
func (l *Loaded) WithoutCreds() *Loaded {
	next := l.clone()
	if len(next.shared)+len(next.keys)+len(next.certs)+len(next.cas)+len(next.crls)+len(next.raw) == 0 {
		return l
	}
	next.shared, next.keys, next.certs, next.cas, next.crls, next.raw = nil, nil, nil, nil, nil, nil
	next.creds++
	return next
}

// KeyIDs are the ids of the private keys.
func (l *Loaded) KeyIDs() []string {
	if l == nil {
		return nil
	}
	return mapped(l.keys, func(k loadedKey) string { return k.id })
}

// SharedIDs are the ids of the shared keys that have one.
func (l *Loaded) SharedIDs() []string {
	if l == nil {
		return nil
	}
	return slices.DeleteFunc(mapped(l.shared, func(s loadedShared) string { return s.id }), func(id string) bool { return id == "" })
}

func mapped[T, U any](list []T, f func(T) U) []U {
	out := make([]U, len(list))
	for i, x := range list {
		out[i] = f(x)
	}
	return out
}
