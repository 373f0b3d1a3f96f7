// Package ipsecconf converts ipsec.conf and ipsec.secrets, in strongSwan's and in
// libreswan's spelling, to the swanctl.conf syntax that package config reads. It
// is a function of its input: files are read by the caller's [Files], nothing is
// asked of the box.
//
// The way of a file: text → sections of settings (parse.go) → what a conn has in
// force, also= and %default followed (inherit.go) → connections, children, pools
// and secrets (conn.go, end.go, child.go, secrets.go) → text. Every setting that
// is written is first shown to config's schema, so what Espalier does not support
// is never written; each line of the input that did not come through is a [Note].
package ipsecconf
