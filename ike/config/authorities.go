package config

import (
	"crypto/x509"
	"slices"
)

// Authority is a certification authority that the configuration names.
type Authority struct {
	Name   string
	Origin string // OriginFile or OriginVici
	CACert *x509.Certificate
	CRLs   []string // where its CRLs are fetched from
}

// CRLURIs are the places where CRLs are to be fetched from, each once.
func (c *Config) CRLURIs() []string {
	var out []string
	for _, a := range c.Authorities {
		out = append(out, a.CRLs...)
	}
	slices.Sort(out)
	return slices.Compact(out)
}
