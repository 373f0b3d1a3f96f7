package engine

import (
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"espalier/ike/sa"
)

func TestReauthentication(t *testing.T) {
	for name, change := range map[string]func(*Options){"inline": inline, "threads": fourShards} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				reauth := func(c *sa.Connection) { c.ReauthTime = time.Hour }
				f := newFabric()
				sun := newBox(t, f, sunAddr, []*sa.Connection{sunConn(children, reauth, to(moonAddr))}, change)
				moon := newBox(t, f, moonAddr, []*sa.Connection{moonConn(children, startAll, reauth)}, change)
				synctest.Wait()
				old := moon.infos()[0]
				reqids := map[string]uint32{}
				for _, c := range old.Children {
					reqids[c.Name] = c.ReqID
				}
				time.Sleep(65 * time.Minute)
				for _, b := range []*box{moon, sun} {
					if n := len(b.infos()); n != 1 || len(strings.Fields(names(b))) != 3 {
						t.Fatalf("%d sessions with children %q\n%s", n, names(b), b.saw())
					}
					b.holds(6, 9)
				}
				now := moon.infos()[0]
				if now.UniqueID == old.UniqueID {
					t.Error("the session was not replaced")
				}
				for _, c := range now.Children {
					if c.ReqID != reqids[c.Name] {
						t.Errorf("%s: request id %d, was %d", c.Name, c.ReqID, reqids[c.Name])
					}
				}
				if err := sun.Reauthenticate(t.Context(), sun.infos()[0].UniqueID); err != nil {
					t.Error(err)
				}
				time.Sleep(time.Second)
				if after := sun.infos(); len(after) != 1 || !after[0].Initiator || len(after[0].Children) != 3 {
					t.Errorf("sun's own: %+v", after)
				}
				if err := sun.Reauthenticate(t.Context(), 4711); !errors.Is(err, ErrNotFound) {
					t.Errorf("got %v", err)
				}
				moon.stop()
				sun.stop()
			})
		})
	}
}

// Both sides at once: one of the new sessions gives way, whichever shard has it.
func TestReauthenticationFromBothSides(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFabric()
		sun := newBox(t, f, sunAddr, []*sa.Connection{sunConn(to(moonAddr))}, fourShards)
		moon := newBox(t, f, moonAddr, []*sa.Connection{moonConn()}, fourShards)
		if err := moon.Initiate(t.Context(), "sun", "net", false); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second) // what is begun at the instant in which the first one is up counts as begun before
		for range 20 {
			ids := map[*box]uint64{moon: moon.infos()[0].UniqueID, sun: sun.infos()[0].UniqueID} // while all is quiet
			for _, b := range []*box{moon, sun} {
				// The other side may have been as fast as to have replaced it.
				if err := b.Reauthenticate(t.Context(), ids[b]); err != nil && !errors.Is(err, ErrNotFound) {
					t.Error(err)
				}
			}
			time.Sleep(2 * time.Minute)
			if a, b := len(moon.infos()), len(sun.infos()); a != 1 || b != 1 {
				t.Fatalf("%d and %d sessions\n%s", a, b, moon.saw())
			}
		}
		moon.holds(2, 3)
		sun.holds(2, 3)
		moon.stop()
		sun.stop()
	})
}
