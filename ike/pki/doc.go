// Package pki reads certificates, private keys and distinguished names, and builds certificate chains as IPsec needs
// them: no host names, no demand on extended key usages (RFC 4945 5.1.3.12), and errors that name the certificate and
// what is wrong with it. Revocation is not decided here.
package pki
