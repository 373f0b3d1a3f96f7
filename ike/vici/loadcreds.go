package vici

import (
	"fmt"
	"strings"

	"espalier/ike/config"
)

// loadShared loads a shared key. swanctl names the types in capitals.
func (c *client) loadShared(req Message) (Message, error) {
	typ, data := strings.ToLower(req.Text("type")), req.Text("data")
	switch {
	case typ == "":
		return failure("missing type of the shared key"), nil
	case data == "":
		return failure("missing data of the shared key"), nil
	}
	return c.change(func(l *config.Loaded, _ *config.Settings) (*config.Loaded, error) {
		return l.WithShared(req.Text("id"), typ, []byte(data), req.List("owners"))
	}), nil
}

func (c *client) unloadShared(req Message) (Message, error) {
	return c.unload(req, "id", "shared key", (*config.Loaded).WithoutShared), nil
}

// getShared lists the ids of the shared keys that were loaded over vici.
func (c *client) getShared(Message) (Message, error) {
	return Message{List{"keys", c.srv.cfg.Engine.Loaded().SharedIDs()}}, nil
}

// loadKey loads a private key, which its client has decrypted; id in the reply is
// the one that get-keys and unload-key know it by.
func (c *client) loadKey(req Message) (Message, error) {
	typ, data := strings.ToLower(req.Text("type")), req.Text("data")
	switch typ {
	case "any", "rsa", "ecdsa", "pkcs8":
	case "":
		return failure("missing type of the private key"), nil
	default:
		return failure("type %q: expected a private key of type any, rsa or ecdsa", typ), nil
	}
	if data == "" {
		return failure("missing data of the private key"), nil
	}
	var id string
	m := c.change(func(l *config.Loaded, _ *config.Settings) (next *config.Loaded, err error) {
		next, id, err = l.WithKey(typ, []byte(data))
		return next, err
	})
	if m.Text("success") == "yes" {
		m.Put("id", id)
	}
	return m, nil
}

func (c *client) unloadKey(req Message) (Message, error) {
	return c.unload(req, "id", "private key", func(l *config.Loaded, id string) (*config.Loaded, error) {
		return l.WithoutKey(strings.ToLower(id))
	}), nil
}

// getKeys lists the ids of the private keys that were loaded over vici.
func (c *client) getKeys(Message) (Message, error) {
	return Message{List{"keys", c.srv.cfg.Engine.Loaded().KeyIDs()}}, nil
}

func (c *client) loadToken(Message) (Message, error) {
	return failure("expected a key from a file (load-key), since keys on tokens (PKCS#11, TPM) are not supported yet"), nil
}

// certLoader reads type and flag of a certificate: charon's names, or swanctl's of
// before version 5.3.
func certLoader(req Message) (func(*config.Loaded, []byte) (*config.Loaded, error), error) {
	cert := func(ca bool) func(*config.Loaded, []byte) (*config.Loaded, error) {
		return func(l *config.Loaded, data []byte) (*config.Loaded, error) { return l.WithCert(data, ca) }
	}
	typ, flag := strings.ToLower(req.Text("type")), strings.ToUpper(req.Text("flag"))
	switch {
	case typ == "":
		return nil, fmt.Errorf("missing type of the certificate")
	case typ == "x509ca", typ == "x509" && flag == "CA":
		return cert(true), nil
	case typ == "x509" && (flag == "" || flag == "NONE"):
		return cert(false), nil
	case typ == "x509":
		return nil, fmt.Errorf("flag %s: expected NONE or CA, since certificates of other uses are not supported yet", flag)
	case typ == "x509_crl", typ == "x509crl":
		return (*config.Loaded).WithCRL, nil
	case typ == "pubkey":
		return (*config.Loaded).WithRawKey, nil
	}
	return nil, fmt.Errorf("type %s: expected X509, X509_CRL or PUBKEY, since others are not supported yet", req.Text("type"))
}

// loadCert loads a certificate, a CRL or a raw public key.
func (c *client) loadCert(req Message) (Message, error) {
	load, err := certLoader(req)
	if err != nil {
		return failure("%s", err), nil
	}
	data := req.Text("data")
	if data == "" {
		return failure("missing data of the certificate"), nil
	}
	return c.change(func(l *config.Loaded, _ *config.Settings) (*config.Loaded, error) { return load(l, []byte(data)) }), nil
}

// clearCreds unloads all credentials, those of connections and authorities aside.
func (c *client) clearCreds(Message) (Message, error) {
	return c.change(func(l *config.Loaded, _ *config.Settings) (*config.Loaded, error) { return l.WithoutCreds(), nil }), nil
}

// flushCerts forgets what was found out about certificates, so that it is found out
// anew. Of other types than X.509 certificates nothing is remembered.
func (c *client) flushCerts(req Message) (Message, error) {
	if f, err := parseCertFilter(Message{KeyValue{"type", req.Text("type")}}); err != nil {
		return failure("%s", err), nil
	} else if f.x509 {
		c.srv.cfg.Engine.Credentials().ForgetChains()
	}
	return success(), nil
}
