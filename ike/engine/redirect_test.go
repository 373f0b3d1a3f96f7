package engine

import (
	"errors"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"espalier/ike/sa"
)

// A gateway sends its client to another, by a name that is looked up outside of
// the shards, and to a client that is no client of ours.
func TestRedirect(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const marsAddr = "192.0.2.3"
		f := newFabric()
		sun := newBox(t, f, sunAddr, []*sa.Connection{sunConn(children)}, fourShards)
		mars := newBox(t, f, marsAddr, []*sa.Connection{sunConn(children)}, fourShards)
		moon := newBox(t, f, moonAddr, []*sa.Connection{moonConn(children, startAll)}, func(o *Options) {
			fourShards(o)
			o.Resolve = func(host string) ([]netip.Addr, error) {
				time.Sleep(3 * time.Second) // a resolver takes its time
				if host != "mars.example.org" {
					return nil, errBoom
				}
				return []netip.Addr{netip.MustParseAddr(marsAddr)}, nil
			}
		})
		synctest.Wait()
		id := sun.infos()[0].UniqueID
		if err := sun.Redirect(t.Context(), Target{IKE: id}, "not a name"); err == nil {
			t.Error("a gateway that is none")
		}
		if err := sun.Redirect(t.Context(), Target{IKE: 4711}, marsAddr); !errors.Is(err, ErrNotFound) {
			t.Errorf("got %v", err)
		}
		if err := moon.Redirect(t.Context(), Target{IKE: moon.infos()[0].UniqueID}, marsAddr); !errors.Is(err, ErrCannot) {
			t.Errorf("a responder redirected: %v", err)
		}
		// To nowhere: nothing changes.
		if err := sun.Redirect(t.Context(), Target{IKE: id}, "nowhere.example.org"); err != nil {
			t.Error(err)
		}
		time.Sleep(5 * time.Second)
		sun.holds(6, 9)
		if err := sun.Redirect(t.Context(), Target{IKE: id}, "mars.example.org"); err != nil {
			t.Error(err)
		}
		time.Sleep(time.Minute)
		sun.holds(0, 0)
		mars.holds(6, 9)
		moon.holds(6, 9)
		if n := len(moon.infos()); n != 1 || moon.infos()[0].Remote.Addr().String() != marsAddr {
			t.Errorf("%d sessions\n%s", n, moon.saw())
		}
		moon.stop()
		sun.stop()
		mars.stop()
	})
}
