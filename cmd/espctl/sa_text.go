package main

import (
	"bytes"
	"fmt"
	"strconv"
	"strings"
)

// text is the block that people read.
func (s *ikeSA) text() []byte {
	var b bytes.Buffer
	role := "responder"
	if s.Initiator {
		role = "initiator"
	}
	head := []string{since(s.State, s.Established), role}
	if s.PPK {
		head = append(head, "PPK")
	}
	fmt.Fprintf(&b, "%s #%d %s\n", printable(s.Name), s.UniqueID, strings.Join(head, ", "))
	line(&b, 2, "local", s.Local.text()+natText(s.NAT.Local, s.NAT.Fake))
	line(&b, 2, "remote", s.Remote.text()+natText(s.NAT.Remote, false))
	if s.RemoteEAPID != "" {
		line(&b, 2, "eap id", printable(s.RemoteEAPID))
	}
	ike := []string{s.Proposal.text()}
	ike = until(ike, "rekey", s.Rekey)
	ike = until(ike, "reauthentication", s.Reauth)
	line(&b, 2, "ike", strings.Join(ike, ", "))
	line(&b, 2, "spi", "initiator "+printable(s.InitiatorSPI)+", responder "+printable(s.ResponderSPI))
	if s.PathMTU != nil {
		line(&b, 2, "path mtu", strconv.FormatUint(*s.PathMTU, 10))
	}
	if len(s.LocalVIPs)+len(s.RemoteVIPs) > 0 {
		line(&b, 2, "virtual", "local "+words(s.LocalVIPs)+", remote "+words(s.RemoteVIPs))
	}
	for i := range s.Children {
		s.Children[i].writeText(&b)
	}
	return b.Bytes()
}

func (c *childSA) writeText(b *bytes.Buffer) {
	head := []string{since(c.State, c.Installed), c.Mode}
	if c.Protocol != "" && c.Protocol != "ESP" {
		head = append(head, c.Protocol)
	}
	if c.Encap {
		head = append(head, "ESP in UDP")
	}
	head = append(head, "reqid "+strconv.FormatUint(c.ReqID, 10))
	if c.CPU != nil {
		head = append(head, "CPU "+strconv.FormatUint(*c.CPU, 10))
	}
	fmt.Fprintf(b, "  %s #%d %s\n", printable(c.Name), c.UniqueID, printable(strings.Join(head, ", ")))
	line(b, 4, "local", words(c.LocalTS))
	line(b, 4, "remote", words(c.RemoteTS))
	if c.In == nil {
		return
	}
	esp := until(until([]string{c.Proposal.text()}, "rekey", c.Rekey), "end", c.Expire)
	line(b, 4, "esp", strings.Join(esp, ", "))
	c.writeKernel(b)
	line(b, 4, "in", c.In.text())
	line(b, 4, "out", c.Out.text())
}

// writeKernel tells marks and interface ids where there are any.
func (c *childSA) writeKernel(b *bytes.Buffer) {
	var parts []string
	for _, p := range []struct{ name, value string }{
		{"mark in", c.MarkIn}, {"mark out", c.MarkOut}, {"if_id in", c.IfIDIn}, {"if_id out", c.IfIDOut},
	} {
		if p.value != "" {
			parts = append(parts, p.name+" "+printable(p.value))
		}
	}
	if len(parts) > 0 {
		line(b, 4, "kernel", strings.Join(parts, ", "))
	}
}

func line(b *bytes.Buffer, indent int, label, text string) {
	fmt.Fprintf(b, "%*s%-8s%s\n", indent, "", label, text)
}

func since(state string, seconds *int64) string {
	if seconds == nil {
		return printable(state)
	}
	return printable(state) + " " + age(*seconds)
}

func until(parts []string, what string, seconds *int64) []string {
	switch {
	case seconds == nil:
		return parts
	case *seconds < 0:
		return append(parts, what+" due")
	}
	return append(parts, what+" in "+age(*seconds))
}

func (p endpoint) text() string {
	host := p.Host
	if strings.Contains(host, ":") {
		host = "[" + host + "]"
	}
	return fmt.Sprintf("%s:%d %s", printable(host), p.Port, printable(p.ID))
}

func natText(here, fake bool) string {
	switch {
	case fake:
		return ", pretends a NAT"
	case here:
		return ", behind a NAT"
	}
	return ""
}

// text is the proposal in strongSwan's spelling.
func (p *proposal) text() string {
	encr := p.Encr
	if p.EncrBits != 0 {
		encr += "-" + strconv.FormatUint(p.EncrBits, 10)
	}
	var parts []string
	for _, t := range append([]string{encr, p.Integ, p.PRF, p.KE}, p.FurtherKE...) {
		if t != "" {
			parts = append(parts, t)
		}
	}
	if p.ESN {
		parts = append(parts, "ESN")
	}
	if len(parts) == 0 {
		return "no proposal yet"
	}
	return printable(strings.Join(parts, "/"))
}

func (t *traffic) text() string {
	used := "never used"
	if t.LastUse != nil {
		used = "last " + age(*t.LastUse) + " ago"
	}
	packets := "packets"
	if t.Packets == 1 {
		packets = "packet"
	}
	return fmt.Sprintf("%s, %d %s, %s, %s", printable(t.SPI), t.Packets, packets, size(t.Bytes), used)
}

func words(list []string) string {
	if len(list) == 0 {
		return "none"
	}
	out := make([]string, len(list))
	for i, s := range list {
		out[i] = printable(s)
	}
	return strings.Join(out, " ")
}
