package main

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/x509"
	"fmt"
	"time"

	"espalier/ike/pki"
	"espalier/ike/vici"
)

type certCmd struct {
	Show certShowCmd `cmd:"" aliases:"list" help:"List certificates, those of CAs last."`
}

type certShowCmd struct{}

type certsResult struct {
	Schema int        `json:"version"`
	Certs  []certInfo `json:"certificates"`
}

// certInfo is one certificate.
type certInfo struct {
	Subject    string    `json:"subject"`
	Issuer     string    `json:"issuer"`
	Serial     string    `json:"serial"` // hexadecimal
	Names      []string  `json:"names"`  // of the subjectAltName: DNS, e-mail, addresses
	CA         bool      `json:"ca"`
	NotBefore  time.Time `json:"not_before"`
	NotAfter   time.Time `json:"not_after"`
	Key        string    `json:"key"` // RSA-2048, ECDSA-256, Ed25519
	PrivateKey bool      `json:"private_key"`
}

// Run lists the certificates.
func (certShowCmd) Run(e *env) error {
	c, err := e.dial()
	if err != nil {
		return err
	}
	defer c.Close()
	res := certsResult{schema, []certInfo{}}
	_, err = c.Stream(e.ctx, "list-certs", nil, "list-cert", func(m vici.Message) error {
		cert, err := x509.ParseCertificate([]byte(m.Text("data")))
		if err != nil {
			return fmt.Errorf("a certificate of the daemon's: %w", err)
		}
		res.Certs = append(res.Certs, describe(cert, m.Text("has_privkey") == "yes"))
		return nil
	})
	if err != nil {
		return e.explain(err)
	}
	if e.format != plain {
		return e.print(res)
	}
	for i := range res.Certs {
		res.Certs[i].tell(e)
	}
	if len(res.Certs) == 0 {
		fmt.Fprintln(e.stdout, "no certificates")
	}
	return nil
}

func describe(c *x509.Certificate, private bool) certInfo {
	info := certInfo{Subject: pki.FormatDN(c.RawSubject), Issuer: pki.FormatDN(c.RawIssuer), Serial: fmt.Sprintf("%x", c.SerialNumber), Names: []string{},
		CA: c.BasicConstraintsValid && c.IsCA, NotBefore: c.NotBefore, NotAfter: c.NotAfter, PrivateKey: private}
	info.Names = append(append(info.Names, c.DNSNames...), c.EmailAddresses...)
	for _, ip := range c.IPAddresses {
		info.Names = append(info.Names, ip.String())
	}
	switch k := c.PublicKey.(type) {
	case *rsa.PublicKey:
		info.Key = fmt.Sprintf("RSA-%d", k.N.BitLen())
	case *ecdsa.PublicKey:
		info.Key = fmt.Sprintf("ECDSA-%d", k.Curve.Params().BitSize)
	case ed25519.PublicKey:
		info.Key = "Ed25519"
	}
	return info
}

func (c *certInfo) tell(e *env) {
	kind := ""
	if c.CA {
		kind = ", CA"
	}
	if c.PrivateKey {
		kind += ", private key here"
	}
	fmt.Fprintf(e.stdout, "%s (%s%s)\n  issuer  %s, serial %s\n  valid   %s to %s, %s\n", printable(c.Subject), c.Key, kind, printable(c.Issuer), c.Serial,
		c.NotBefore.UTC().Format(time.DateOnly), c.NotAfter.UTC().Format(time.DateOnly), c.validity(e.now()))
	for _, n := range c.Names {
		fmt.Fprintf(e.stdout, "  name    %s\n", printable(n))
	}
}

func (c *certInfo) validity(now time.Time) string {
	switch {
	case now.Before(c.NotBefore):
		return "not yet"
	case now.After(c.NotAfter):
		return "expired"
	}
	return age(int64(c.NotAfter.Sub(now)/time.Second)) + " left"
}
