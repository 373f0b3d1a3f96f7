package main

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"

	"espalier/ike/config/ipsecconf"
)

// errLost says that a conversion is not complete.
var errLost = errors.New("some lines could not be carried over, see above")

// convertCmd converts ipsec.conf.
type convertCmd struct {
	Conf    string       `arg:"" placeholder:"FILE" help:"ipsec.conf of strongSwan or libreswan."`
	Secrets string       `placeholder:"FILE" help:"ipsec.secrets that belongs to it."`
	Output  string       `short:"o" placeholder:"FILE" help:"Write there, readable by the owner only, instead of to stdout. A file that exists is not overwritten."`
	Dialect string       `enum:"auto,strongswan,libreswan" default:"auto" help:"Whose ipsec.conf it is: ${enum} (${default}: by its settings)."`
	Local   []netip.Addr `placeholder:"ADDRS" help:"The box's addresses, which tell left from right (those of this box)."`
}

// Run writes the configuration, and on stderr each line that could not be carried over.
func (c *convertCmd) Run(e *env) error {
	in := ipsecconf.Input{Files: osFiles{}, Path: c.Conf, Secrets: c.Secrets, Local: c.Local}
	in.Dialect = map[string]ipsecconf.Dialect{"strongswan": ipsecconf.StrongSwan, "libreswan": ipsecconf.Libreswan}[c.Dialect]
	if len(in.Local) == 0 {
		in.Local = ownAddresses()
	}
	out, err := ipsecconf.Convert(in)
	if err != nil {
		return err
	}
	if err := c.write(out.Conf, e.stdout); err != nil {
		return err
	}
	for _, n := range out.Notes {
		what := "note: "
		if n.Lost {
			what = "lost: "
		}
		fmt.Fprintln(e.stderr, what+n.String())
	}
	if out.Lost() {
		return errLost
	}
	return nil
}

// write writes the configuration, which may hold secrets.
func (c *convertCmd) write(conf string, stdout io.Writer) error {
	if c.Output == "" {
		_, err := io.WriteString(stdout, conf)
		return err
	}
	f, err := os.OpenFile(c.Output, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = io.WriteString(f, conf)
	return errors.Join(err, f.Close())
}

// ownAddresses are those of this box; none when they can't be read.
func ownAddresses() []netip.Addr {
	var out []netip.Addr
	addrs, _ := net.InterfaceAddrs()
	for _, a := range addrs {
		if p, err := netip.ParsePrefix(a.String()); err == nil {
			out = append(out, p.Addr().Unmap())
		}
	}
	return out
}

// osFiles are the box's files.
type osFiles struct{}

// maxConf bounds a file; real ones stay far below.
const maxConf = 16 << 20

func (osFiles) Read(path string) ([]byte, error) {
	// Devices and pipes could block for ever.
	if st, err := os.Stat(path); err != nil {
		return nil, err
	} else if !st.Mode().IsRegular() {
		return nil, errors.New("expected a regular file")
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxConf+1))
	if err == nil && len(b) > maxConf {
		err = fmt.Errorf("expected at most %d bytes, found more", maxConf)
	}
	return b, err
}

func (osFiles) Glob(pattern string) ([]string, error) {
	// As a shell has it: hidden files only where they are named so.
	list, err := filepath.Glob(pattern)
	var out []string
	for _, path := range list {
		if !strings.HasPrefix(filepath.Base(path), ".") || strings.HasPrefix(filepath.Base(pattern), ".") {
			out = append(out, path)
		}
	}
	return out, err
}
