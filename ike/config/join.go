package config

import (
	"crypto/x509"
	"fmt"
	"maps"
	"slices"

	"espalier/ike/lease"
	"espalier/ike/sa"
)

// Join makes one configuration of what the file says and what clients loaded. Both
// stay their owners': a connection, pool or authority that both have is a mistake,
// and so is an address in pools of both. was is the configuration in force, or nil:
// what has not changed since is taken from it. Errors: Errors.
func Join(file *Config, l *Loaded, was *Config) (*Config, error) {
	if l == nil {
		l = &Loaded{}
	}
	rep := newReport()
	out := *file
	out.file, out.loaded = file, l
	out.Connections = append(slices.Clip(file.Connections), mapped(l.conns, func(c loadedConn) *sa.Connection { return c.Connection })...)
	out.Pools = append(slices.Clip(file.Pools), l.pools...)
	out.Authorities = append(slices.Clip(file.Authorities), l.authorities...)
	twice(rep, file.Path, "connections", out.Connections, func(c *sa.Connection) string { return c.Name })
	twice(rep, file.Path, "pools", out.Pools, func(p *lease.Pool) string { return p.Name })
	twice(rep, file.Path, "authorities", out.Authorities, func(a Authority) string { return a.Name })
	for i, p := range l.pools {
		for _, o := range append(slices.Clip(file.Pools), l.pools[:i]...) {
			if o.Name != p.Name && o.Overlaps(p) {
				rep.add(Pos{File: "pools." + p.Name + ".addrs"}, "addresses that no other pool has", "some of "+o.Name, "")
			}
		}
	}
	switch {
	case was != nil && was.file == file && was.loaded.creds == l.creds:
		out.Credentials, out.creds, out.store = was.Credentials, was.creds, was.store
	case l.creds != 0:
		out.store = file.store.with(l)
		out.Credentials, out.creds = out.store.build(rep, Pos{File: "credentials"})
	}
	if err := rep.err(); err != nil {
		return nil, err
	}
	return &out, nil
}

// Loaded is what clients loaded, nil in what a file alone says.
func (c *Config) Loaded() *Loaded { return c.loaded }

// twice refuses names that the file and a client use, each for its own.
func twice[T any](rep *report, path, what string, list []T, name func(T) string) {
	seen := make(map[string]bool, len(list))
	for _, x := range list {
		if n := name(x); seen[n] {
			rep.add(Pos{File: what + "." + n}, "one owner of the name", fmt.Sprintf("one in %s and one that a client of the control socket loaded", path), "")
		} else {
			seen[n] = true
		}
	}
}

// with adds what clients loaded to what the files hold.
func (s *credentialStore) with(l *Loaded) *credentialStore {
	out := newCredentialStore()
	add := func(certs, cas []*x509.Certificate) {
		for _, c := range certs {
			out.addCert(c)
		}
		for _, c := range cas {
			out.addCA(c)
		}
	}
	if s != nil {
		add(s.certs.all(), s.cas.all())
		maps.Copy(out.keys, s.keys)
		out.shared = slices.Clip(s.shared)
		out.raw, out.crls, out.fetched = slices.Clone(s.raw), s.crls, s.fetched
	}
	add(l.certs, l.cas)
	for _, c := range l.crls {
		out.crls, _ = addCRL(out.crls, c)
	}
	for i := range l.conns {
		add(l.conns[i].certs, l.conns[i].cas)
		for _, k := range l.conns[i].raw {
			out.addRaw(k)
		}
	}
	for _, k := range l.raw {
		out.addRaw(k)
	}
	for _, a := range l.authorities {
		out.addCA(a.CACert)
	}
	for _, k := range l.keys {
		if id, ok := keyIDOf(k.key.Public()); ok {
			out.keys[id] = k.key
		}
	}
	for i := range l.shared {
		out.shared = append(out.shared, l.shared[i].sharedKey)
	}
	return out
}
