package config

import "crypto/x509"

// Authority is a certification authority that the configuration names.
type Authority struct {
	Name   string
	Origin string // OriginFile or OriginVici
	CACert *x509.Certificate
}
