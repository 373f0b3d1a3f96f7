package main

import (
	"fmt"
	"strconv"

	"espalier/ike/vici"
)

// decoder reads a list-sa message and remembers the first thing it did not
// understand.
type decoder struct {
	where string
	err   error
}

func (d *decoder) fail(name, value, want string) {
	if d.err == nil {
		d.err = fmt.Errorf("%s: %s is %q, expected %s", printable(d.where), name, value, want)
	}
}

// number reads a required number.
func (d *decoder) number(m vici.Message, name string) uint64 {
	v, ok := m.Get(name)
	n, err := strconv.ParseUint(v, 10, 64)
	if !ok || err != nil {
		d.fail(name, v, "a number")
	}
	return n
}

// seconds reads a number that may be missing, and may be negative.
func (d *decoder) seconds(m vici.Message, name string) *int64 {
	v, ok := m.Get(name)
	if !ok {
		return nil
	}
	n, err := strconv.ParseInt(v, 10, 64)
	if err != nil {
		d.fail(name, v, "seconds")
	}
	return &n
}

func flag(m vici.Message, name string) bool { return m.Text(name) == "yes" }

func (d *decoder) ikeSA(name string, m vici.Message) ikeSA {
	s := ikeSA{
		UniqueID: d.number(m, "uniqueid"), Name: name, State: m.Text("state"), Initiator: flag(m, "initiator"),
		Local:        endpoint{m.Text("local-host"), d.number(m, "local-port"), m.Text("local-id")},
		Remote:       endpoint{m.Text("remote-host"), d.number(m, "remote-port"), m.Text("remote-id")},
		RemoteEAPID:  m.Text("remote-eap-id"),
		InitiatorSPI: m.Text("initiator-spi"), ResponderSPI: m.Text("responder-spi"),
		NAT:      nat{flag(m, "nat-local"), flag(m, "nat-remote"), flag(m, "nat-fake")},
		Proposal: d.proposal(m), PPK: flag(m, "ppk"),
		Established: d.seconds(m, "established"), Rekey: d.seconds(m, "rekey-time"), Reauth: d.seconds(m, "reauth-time"),
		LocalVIPs: m.List("local-vips"), RemoteVIPs: m.List("remote-vips"),
		Children: []childSA{},
	}
	if m.Text("path-mtu") != "" {
		n := d.number(m, "path-mtu")
		s.PathMTU = &n
	}
	for _, c := range m.Section("child-sas").Sections() {
		d.where = "list-sa " + name + "/" + c.Name
		s.Children = append(s.Children, d.childSA(c.Body))
	}
	return s
}

func (d *decoder) childSA(m vici.Message) childSA {
	c := childSA{
		UniqueID: d.number(m, "uniqueid"), Name: m.Text("name"), ReqID: d.number(m, "reqid"),
		State: m.Text("state"), Mode: m.Text("mode"), Protocol: m.Text("protocol"), Encap: flag(m, "encap"),
		Proposal: d.proposal(m),
		MarkIn:   mark(m, "mark-in", "mark-mask-in"), MarkOut: mark(m, "mark-out", "mark-mask-out"),
		IfIDIn: m.Text("if-id-in"), IfIDOut: m.Text("if-id-out"),
		Installed: d.seconds(m, "install-time"), Rekey: d.seconds(m, "rekey-time"), Expire: d.seconds(m, "life-time"),
		LocalTS: orEmpty(m.List("local-ts")), RemoteTS: orEmpty(m.List("remote-ts")),
	}
	if m.Text("cpu") != "" {
		n := d.number(m, "cpu")
		c.CPU = &n
	}
	if spi, installed := m.Get("spi-in"); installed {
		c.In = d.traffic(m, spi, "in")
		c.Out = d.traffic(m, m.Text("spi-out"), "out")
	}
	return c
}

func (d *decoder) traffic(m vici.Message, spi, dir string) *traffic {
	return &traffic{SPI: spi, Bytes: d.number(m, "bytes-"+dir), Packets: d.number(m, "packets-"+dir), LastUse: d.seconds(m, "use-"+dir)}
}

func (d *decoder) proposal(m vici.Message) proposal {
	p := proposal{
		Encr: m.Text("encr-alg"), Integ: m.Text("integ-alg"), PRF: m.Text("prf-alg"), KE: m.Text("dh-group"),
		ESN: m.Text("esn") == "1",
	}
	if _, has := m.Get("encr-keysize"); has {
		p.EncrBits = d.number(m, "encr-keysize")
	}
	for i := 1; i <= 7; i++ {
		if ke, has := m.Get("ake" + strconv.Itoa(i)); has {
			p.FurtherKE = append(p.FurtherKE, ke)
		}
	}
	return p
}

func mark(m vici.Message, value, mask string) string {
	v, ok := m.Get(value)
	if !ok {
		return ""
	}
	bits, ok := m.Get(mask)
	if !ok {
		bits = "ffffffff"
	}
	return v + "/" + bits
}

func orEmpty(s []string) []string {
	if s == nil {
		return []string{}
	}
	return s
}
