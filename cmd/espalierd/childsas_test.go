package main

import (
	"errors"
	"reflect"
	"testing"
	"testing/synctest"
	"time"

	"espalier/dataplane"
	"espalier/dataplane/tune"
	"espalier/ike/engine"
	"espalier/internal/event"
)

// TestChildSAs: what the tuner is told of inbound SPIs follows the CHILD SAs.
func TestChildSAs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		bus := new(event.Bus)
		c := followChildren(bus)
		defer c.close()
		cpu := uint32(1)
		ike := event.IKE{Conn: "gw", UniqueID: 3}
		for _, child := range []event.Child{
			{Name: "net", UniqueID: 10, ReqID: 5, PerCPU: true, SPIIn: 100}, {Name: "net", UniqueID: 11, ReqID: 5, CPU: &cpu, SPIIn: 101},
			{Name: "old", UniqueID: 12, ReqID: 6, SPIIn: 102}, {Name: "gone", UniqueID: 13, ReqID: 7, SPIIn: 103},
		} {
			bus.Publish(time.Now(), event.ChildUp{IKE: ike, Child: child})
		}
		bus.Publish(time.Now(), event.ChildDown{IKE: ike, Child: event.Child{UniqueID: 13, SPIIn: 103}})
		synctest.Wait()
		sas := []tune.SA{{SPI: 100}, {SPI: 101}, {SPI: 102}, {SPI: 103}, {SPI: 104, CPU: 1}}
		c.Know(sas)
		want := []tune.SA{{SPI: 100, Group: 5, CanSplit: true}, {SPI: 101, Group: 5}, {SPI: 102, Group: 6}, {SPI: 103}, {SPI: 104, CPU: 1}}
		if !reflect.DeepEqual(sas, want) {
			t.Errorf("told of\n%+v, expected\n%+v", sas, want)
		}
		if a, b := c.name(101), c.name(103); a != "gw/net" || b != "" {
			t.Errorf("names %q and %q", a, b)
		}
		if s := c.Whole(104); s != "it is not one of this daemon's" {
			t.Error(s)
		}
		c.engine.Store(new(engine.Engine)) // which must not be asked about SAs that are of one CPU, or may have such beside them
		for _, spi := range []uint32{100, 101} {
			if s := c.Whole(spi); s != "" {
				t.Errorf("SPI %d: %s", spi, s)
			}
		}
		c.engine.Store(nil)
		if err := c.Split(t.Context(), 104, 1); !errors.Is(err, errNoChild) {
			t.Errorf("split of another's: %v", err)
		}
		if err := c.Join(t.Context(), 101); !errors.Is(err, errNoChild) {
			t.Errorf("before the engine has begun: %v", err)
		}
		if err := c.Renew(t.Context(), 101); !errors.Is(err, errNoChild) {
			t.Errorf("before the engine has begun: %v", err)
		}
		c.windows = new(dataplane.Windows)
		if err := c.Widen(101, 256); err != nil {
			t.Error(err)
		}
		if err := c.Widen(104, 256); !errors.Is(err, errNoChild) {
			t.Errorf("a window of another's: %v", err)
		}
		bus.Publish(time.Now(), event.PathMTU{IKE: ike, MTU: 1400})
		bus.Publish(time.Now(), event.PathMTU{IKE: event.IKE{Conn: "lost", UniqueID: 4}, MTU: 1300})
		bus.Publish(time.Now(), event.PathMTU{IKE: event.IKE{Conn: "lost", UniqueID: 4}})
		synctest.Wait()
		var o tune.Observation
		if c.tell(&o); !reflect.DeepEqual(o.Paths, []tune.Path{{Name: "gw", MTU: 1400}}) || o.System.MSS {
			t.Errorf("paths %+v, MSS %v", o.Paths, o.System.MSS)
		}
	})
}
