package config

import "crypto/x509"

// Authority is a certification authority that the configuration names.
type Authority struct {
	Name   string
	CACert *x509.Certificate
}
