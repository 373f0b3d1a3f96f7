package engine

import (
	"net/netip"
	"testing"
	"testing/synctest"

	"espalier/dataplane"
	"espalier/ike/sa"
)

// TestMapping: the data plane sees the peer's packets come from elsewhere, and
// the CHILD SA follows; what it says of others moves nobody.
func TestMapping(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFabric()
		natted := moonConn()
		natted.Encap = true
		moon, sun := newBox(t, f, moonAddr, []*sa.Connection{natted}, nil), newBox(t, f, sunAddr, []*sa.Connection{sunConn()}, nil)
		if err := moon.Initiate(t.Context(), "sun", "net", false); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		c := theInfo(t, sun).Children[0]
		to := netip.MustParseAddrPort("198.51.100.7:6000")
		key := dataplane.SAKey{Dst: netip.MustParseAddr(sunAddr), Proto: dataplane.ESP, SPI: c.SPIIn}
		sun.dp.Inject(dataplane.Mapping{Key: dataplane.SAKey{Dst: key.Dst, Proto: key.Proto, SPI: key.SPI ^ 1}, NewAddr: netip.MustParseAddrPort("198.51.100.8:1")})
		sun.dp.Inject(dataplane.Mapping{Key: key, ReqID: c.ReqID, NewAddr: to})
		synctest.Wait()
		info := theInfo(t, sun)
		if info.Remote != to || info.Children[0].Remote != to {
			t.Errorf("the peer is at %s, its CHILD SA at %s, expected both at %s", info.Remote, info.Children[0].Remote, to)
		}
		for _, p := range sun.reg.contacts.peers {
			for _, o := range p.up {
				if o != nil && o.Peer != to {
					t.Errorf("the registry has the peer at %s, so that its reauthentication would be refused", o.Peer)
				}
			}
		}
		out := dataplane.SAKey{Dst: to.Addr(), Proto: dataplane.ESP, SPI: c.SPIOut}
		if s, ok := sun.dp.SA(out); !ok || s.Encap == nil || s.Encap.DstPort != 6000 {
			t.Errorf("outbound SA %+v, %v, expected it at %s", s, ok, to)
		}
		if info.Children[0].State != sa.ChildSAInstalled {
			t.Errorf("the child is %s", info.Children[0].State)
		}
		moon.stop()
		sun.stop()
	})
}

// theInfo is the only session of a box.
func theInfo(t *testing.T, b *box) sa.Info {
	t.Helper()
	got := b.infos()
	if len(got) != 1 || len(got[0].Children) != 1 {
		t.Fatalf("%+v, expected one session with one child", got)
	}
	return got[0]
}
