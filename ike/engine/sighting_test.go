package engine

import (
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"espalier/dataplane"
	"espalier/ike/sa"
	"espalier/internal/event"
)

// Who follows the SAs is told what went through a CHILD SA that is replaced, and through
// one that is gone; failures come with their session.
func TestSightings(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFabric()
		bus := new(event.Bus)
		seen := bus.Subscribe(100)
		sun := newBox(t, f, sunAddr, []*sa.Connection{sunConn()}, nil)
		moon := newBox(t, f, moonAddr, []*sa.Connection{moonConn()}, func(o *Options) { o.Sightings = bus })
		if err := moon.Initiate(t.Context(), "sun", "", false); err != nil {
			t.Fatal(err)
		}
		count := func() {
			t.Helper()
			c := moon.infos()[0].Children[0]
			if err := moon.dp.Count(dataplane.SAKey{Dst: netip.MustParseAddr(moonAddr), Proto: dataplane.ESP, SPI: c.SPIIn}, 2, 168); err != nil {
				t.Fatal(err)
			}
		}
		count()
		id := moon.infos()[0].UniqueID
		if err := moon.Rekey(t.Context(), Target{IKE: id, Child: moon.infos()[0].Children[0].UniqueID}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(10 * time.Second)
		count()
		if err := moon.Terminate(t.Context(), Target{IKE: id, Child: moon.infos()[0].Children[0].UniqueID}, false); err != nil {
			t.Fatal(err)
		}
		f.setPass(func(netip.AddrPort, netip.AddrPort, []byte) bool { return false })
		if err := moon.Initiate(t.Context(), "sun", "", false); err == nil {
			t.Error("a CHILD SA with a peer that is silent")
		}
		var ups, downs, failures int
		for {
			r, ok := seen.Next()
			if !ok {
				break
			}
			s := r.Event.(sa.Sighting)
			switch s.Event.(type) {
			case event.ChildUp:
				if ups++; ups == 2 && (s.Child == nil || s.Child.State != sa.ChildSARekeying || s.Child.In.Bytes != 168) {
					t.Errorf("the CHILD SA that was replaced: %+v", s.Child)
				}
			case event.ChildDown:
				if downs++; downs == 2 && (s.Child == nil || s.Child.State != sa.ChildSADeleted || s.Child.In.Packets != 2 || s.Child.Algorithms.Encr == 0) {
					t.Errorf("the CHILD SA that is gone: %+v", s.Child)
				}
			case event.Failed:
				if failures++; s.Info.UniqueID != id {
					t.Errorf("a failure of %+v", s.Info)
				}
			}
		}
		if ups != 2 || downs != 2 || failures == 0 {
			t.Errorf("%d ups, %d downs, %d failures", ups, downs, failures)
		}
		moon.stop()
		sun.end()
	})
}

// By force an IKE SA goes without the peer's answer, but the peer is told.
func TestTerminateByForce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFabric()
		moon, sun := pair(t, f, nil)
		if err := moon.Initiate(t.Context(), "sun", "", false); err != nil {
			t.Fatal(err)
		}
		f.setPass(func(from, _ netip.AddrPort, _ []byte) bool { return from.Addr().String() == moonAddr })
		if err := moon.Terminate(t.Context(), Target{IKE: moon.infos()[0].UniqueID, Force: true}, false); err != nil {
			t.Error(err)
		}
		moon.holds(0, 0)
		synctest.Wait()
		if n := len(sun.infos()); n != 0 {
			t.Errorf("the peer has %d IKE SAs", n)
		}
		moon.stop()
		sun.stop()
	})
}

// The IKE SA alone is set up where that is wanted, of a connection with children.
func TestInitiateIKE(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		moon, sun := pair(t, newFabric(), nil)
		for range 2 { // one that is up is success
			if err := moon.InitiateIKE(t.Context(), "sun", false); err != nil {
				t.Fatal(err)
			}
		}
		if all := moon.infos(); len(all) != 1 || len(all[0].Children) != 0 {
			t.Errorf("%+v", all)
		}
		if err := moon.Initiate(t.Context(), "sun", "", false); err != nil {
			t.Fatal(err)
		}
		if all := moon.infos(); len(all) != 1 || len(all[0].Children) != 1 {
			t.Errorf("%+v", all)
		}
		moon.stop()
		sun.stop()
	})
}
