package engine

import (
	"net/netip"
	"testing"

	"espalier/dataplane"
)

// overlay is a Network on a box whose every address is virtual.
type overlay struct {
	dataplane.FakeNetwork
	virtual []netip.Addr
}

func (o *overlay) Addrs() []netip.Addr { return o.virtual }
func (o *overlay) Outside(netip.Addr) (netip.Addr, error) {
	return netip.MustParseAddr("192.0.2.77"), nil
}

// TestNoTunnelFromAVirtualAddress: where the kernel would send from a virtual
// address, what lies under it counts.
func TestNoTunnelFromAVirtualAddress(t *testing.T) {
	loopback := netip.MustParseAddr("127.0.0.1")
	o := &overlay{}
	e := &Engine{opts: Options{Network: o}}
	if a, err := e.outside(loopback); err != nil || a != loopback {
		t.Errorf("got %s, %v, expected the kernel's answer", a, err)
	}
	o.virtual = []netip.Addr{loopback}
	if a, err := e.outside(loopback); err != nil || a.String() != "192.0.2.77" {
		t.Errorf("got %s, %v, expected the way outside", a, err)
	}
	own := netip.MustParseAddr("192.0.2.1")
	e.opts.Addrs = func() ([]netip.Addr, error) { return []netip.Addr{own, loopback}, nil }
	if e.lookAround(); len(*e.addrs.Load()) != 1 || (*e.addrs.Load())[0] != own {
		t.Errorf("the machines are told of %s, expected %s alone", *e.addrs.Load(), own)
	}
}
