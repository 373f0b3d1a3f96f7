package sa

import (
	"net/netip"
	"slices"

	"espalier/dataplane"
)

// With compression (RFC 3173) a child has two more SAs: IPComp has the child's
// mode, and ESP around it is in transport mode, for the tunnel is inside.

// keyComp is the IPComp SA's name beside an ESP SA's.
func (c *Child) keyComp(esp dataplane.SAKey, cpi uint16) dataplane.SAKey {
	esp.Proto, esp.SPI = dataplane.IPComp, uint32(cpi)
	return esp
}

// appendInstall adds the SA, and with compression the IPComp SA within it.
func (c *Child) appendInstall(ops []dataplane.Op, esp dataplane.SA) []dataplane.Op {
	if !c.compressed() {
		return append(ops, dataplane.InstallSA{SA: esp})
	}
	cpi := c.CPIIn
	if esp.Dir == dataplane.Out {
		cpi = c.CPIOut
	}
	comp := dataplane.SA{
		SAKey: c.keyComp(esp.SAKey, cpi), Src: esp.Src, Dir: esp.Dir, Mode: c.Mode, ReqID: c.ReqID, IfID: esp.IfID,
		Crypt: dataplane.Algorithm{Name: "deflate"}, Flags: esp.Flags,
	}
	esp.Mode, esp.TFCPad, esp.Flags = dataplane.Transport, 0, esp.Flags&^dataplane.AnyFamily
	return append(ops, dataplane.InstallSA{SA: comp}, dataplane.InstallSA{SA: esp})
}

// appendDeleteIn and appendDeleteOut remove a child's SAs of a direction, or what
// is reserved of them.
func (c *Child) appendDeleteIn(ops []dataplane.Op) []dataplane.Op {
	ops = append(ops, dataplane.DeleteSA{Key: c.keyIn()})
	if c.CPIIn != 0 {
		ops = append(ops, dataplane.DeleteSA{Key: c.keyComp(c.keyIn(), c.CPIIn)})
	}
	return ops
}

func (c *Child) appendDeleteOut(ops []dataplane.Op) []dataplane.Op {
	ops = append(ops, dataplane.DeleteSA{Key: c.keyOut()})
	if c.compressed() {
		ops = append(ops, dataplane.DeleteSA{Key: c.keyComp(c.keyOut(), c.CPIOut)})
	}
	return ops
}

// templates are what the policies of a direction demand, the inner one first.
// Packets too small to gain come in without IPComp.
func (c *Child) templates(dir dataplane.Direction) []dataplane.Template {
	t := dataplane.Template{Src: c.Local, Dst: c.Remote, Proto: dataplane.ESP, Mode: c.Mode, ReqID: c.ReqID}
	if dir == dataplane.In {
		t.Src, t.Dst = c.Remote, c.Local
	}
	if !c.compressed() {
		if c.Mode == dataplane.Transport { // the packets' own addresses are the SA's
			t.Src, t.Dst = netip.Addr{}, netip.Addr{}
		}
		return []dataplane.Template{t}
	}
	comp := t
	comp.Proto, comp.Optional = dataplane.IPComp, dir == dataplane.In
	t.Mode, t.Src, t.Dst = dataplane.Transport, netip.Addr{}, netip.Addr{}
	return []dataplane.Template{comp, t}
}

// orClear is the templates such that packets in clear pass, too.
func orClear(ts []dataplane.Template) []dataplane.Template {
	out := slices.Clone(ts)
	for i := range out {
		out[i].Optional = true
	}
	return out
}
