package vici_test

import (
	"bufio"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"espalier/ike/lease"
	"espalier/ike/sa"
	"espalier/ike/vici"
	"espalier/ike/vici/vicitest"
	"espalier/internal/event"
)

// send writes a packet and returns the next that comes.
func exchange(t *testing.T, conn net.Conn, r *bufio.Reader, p vici.Packet) vici.Packet {
	t.Helper()
	segment, err := p.AppendSegment(nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Write(segment); err != nil {
		t.Fatal(err)
	}
	return next(t, r)
}

func next(t *testing.T, r *bufio.Reader) vici.Packet {
	t.Helper()
	body, err := vici.ReadSegment(r)
	if err != nil {
		t.Fatal(err)
	}
	p, err := vici.ParsePacket(body)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// text is an event's name and the names in its message down to the sections' first
// value: enough to know it by.
func text(p vici.Packet) string {
	var walk func(m vici.Message, depth int) string
	walk = func(m vici.Message, depth int) string {
		var parts []string
		for _, e := range m {
			switch e := e.(type) {
			case vici.Section:
				parts = append(parts, e.Name+"{"+walk(e.Body, depth+1)+"}")
			case vici.KeyValue:
				if depth == 0 || e.Name == "uniqueid" {
					parts = append(parts, e.Name+"="+e.Value)
				}
			}
		}
		return strings.Join(parts, " ")
	}
	return p.Name + " " + walk(p.Message, 0)
}

func TestEventsAboutSAs(t *testing.T) {
	var sightings event.Bus
	path, _ := start(t, vicitest.New(), func(c *vici.Config) { c.Sightings = &sightings })
	conn := dialRaw(t, path)
	r := bufio.NewReader(conn)
	for _, name := range []string{"ike-updown", "child-updown", "ike-rekey", "child-rekey", "ike-update"} {
		if p := exchange(t, conn, r, vici.Packet{Type: vici.EventRegister, Name: name}); p.Type != vici.EventConfirm {
			t.Fatalf("registering for %s: %s", name, p.Type)
		}
	}
	info := sa.Info{UniqueID: 1, Conn: "gw", State: sa.IKEEstablished, Children: []sa.ChildInfo{{UniqueID: 2, Name: "net", ReqID: 1, State: sa.ChildSAInstalled}}}
	rekeyed := info
	rekeyed.Children = []sa.ChildInfo{{UniqueID: 2, Name: "net", ReqID: 1, State: sa.ChildSARekeyed}, {UniqueID: 3, Name: "net", ReqID: 1, State: sa.ChildSAInstalled}}
	old, fresh := event.Child{Name: "net", UniqueID: 2, ReqID: 1}, event.Child{Name: "net", UniqueID: 3, ReqID: 1}
	see := func(e event.Event, i sa.Info) { sightings.Publish(vicitest.Now, sa.Sighting{Event: e, Info: i}) }
	see(event.IKEUp{}, info)
	see(event.ChildUp{Child: old}, info)
	see(event.ChildUp{Child: fresh}, rekeyed)
	see(event.ChildDown{Child: old}, rekeyed) // the end of a rekeying: nobody is told
	see(event.IKERekeyed{}, info)
	see(event.IKEMoved{}, info)
	see(event.ChildDown{Child: fresh}, rekeyed)
	see(event.IKEDown{}, info)
	see(event.ChildDown{Child: old}, info) // it was told with the IKE SA's end
	see(event.IKEUp{}, info)
	for _, want := range []string{
		"ike-updown up=yes gw{uniqueid=1}",
		"child-updown up=yes gw{uniqueid=1 child-sas{net{uniqueid=2}}}",
		"child-rekey gw{uniqueid=1 child-sas{net{old{uniqueid=2} new{uniqueid=3}}}}",
		"ike-rekey gw{old{uniqueid=1} new{uniqueid=1}}",
		"ike-update local-host=%any local-port=0 remote-host=%any remote-port=0 gw{uniqueid=1}",
		"child-updown gw{uniqueid=1 child-sas{net{uniqueid=3}}}",
		"child-updown gw{uniqueid=1 child-sas{net{uniqueid=2}}}",
		"ike-updown gw{uniqueid=1}",
		"ike-updown up=yes gw{uniqueid=1}",
	} {
		if got := text(next(t, r)); got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
	for _, name := range []string{"ike-updown", "child-updown", "ike-rekey", "child-rekey", "ike-update"} {
		exchange(t, conn, r, vici.Packet{Type: vici.EventUnregister, Name: name})
	}
	see(event.IKEUp{}, info)
	if p := exchange(t, conn, r, vici.Packet{Type: vici.CmdRequest, Name: "version"}); p.Type != vici.CmdResponse {
		t.Errorf("after unregistering: %s %s, want the reply alone", p.Type, p.Name)
	}
	unwatched(t, &sightings)
}

// unwatched waits until nobody follows the bus: who unregisters is answered first.
func unwatched(t *testing.T, bus *event.Bus) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); bus.Watched(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the bus is still watched with nothing registered for")
		}
	}
}

func TestAlertEvent(t *testing.T) {
	e := vicitest.New()
	path, _ := start(t, e, nil)
	conn := dialRaw(t, path)
	r := bufio.NewReader(conn)
	if p := exchange(t, conn, r, vici.Packet{Type: vici.EventRegister, Name: "alert"}); p.Type != vici.EventConfirm {
		t.Fatalf("registering: %s", p.Type)
	}
	ike := event.IKE{Conn: "gw", UniqueID: 7}
	e.Bus.Publish(vicitest.Now, event.IKEUp{IKE: ike}) // no alert
	e.Bus.Publish(vicitest.Now, event.Failed{IKE: ike, ChildName: "net", Cause: event.NoProposalChosen, ByPeer: true})
	e.Bus.Publish(vicitest.Now, event.Failed{Cause: event.NoProposalChosen})
	e.Bus.Publish(vicitest.Now, event.Failed{IKE: ike, Cause: event.AuthenticationFailed})
	e.Bus.Publish(vicitest.Now, event.Failed{IKE: ike, Cause: event.KeyExchangeFailed})
	e.Bus.Publish(vicitest.Now, event.Dropped{Conn: "gw", Child: "net", Reason: "replay", Packets: 3, Fix: "replay_window = 128"})
	e.Bus.Publish(vicitest.Now, event.Dropped{Reason: "integrity"})
	for _, want := range []string{
		"alert type=PROPOSAL_MISMATCH_CHILD ike=gw ike-id=7 child=net cause=NO_PROPOSAL_CHOSEN by-peer=yes msg=negotiation failed",
		"alert type=PROPOSAL_MISMATCH_IKE cause=NO_PROPOSAL_CHOSEN msg=negotiation failed",
		"alert type=PEER_AUTH_FAILED ike=gw ike-id=7 cause=AUTHENTICATION_FAILED msg=negotiation failed",
		"alert type=KEY_EXCHANGE_FAILED ike=gw ike-id=7 cause=KEY_EXCHANGE_FAILED msg=negotiation failed",
		"alert type=PACKETS_DROPPED ike=gw child=net cause=replay msg=packets of an SA were lost: conn=gw child=net",
		"alert type=PACKETS_DROPPED cause=integrity msg=packets of an SA were lost",
	} {
		if got := text(next(t, r)); !strings.HasPrefix(got, want) {
			t.Errorf("got %s, want %s", got, want)
		}
	}
	exchange(t, conn, r, vici.Packet{Type: vici.EventUnregister, Name: "alert"})
	unwatched(t, &e.Bus)
}

func TestLogEvent(t *testing.T) {
	e := vicitest.New()
	path, _ := start(t, e, nil)
	conn := dialRaw(t, path)
	r := bufio.NewReader(conn)
	exchange(t, conn, r, vici.Packet{Type: vici.EventRegister, Name: "log"})
	e.Bus.Publish(vicitest.Now, event.Discarded{Reason: "of level 2"})
	e.Bus.Publish(vicitest.Now, event.IKEDown{IKE: event.IKE{Conn: "gw", UniqueID: 5}, Reason: "why"})
	p := next(t, r)
	want := "log group=IKE level=0 thread=0 ikesa-name=gw ikesa-uniqueid=5 msg=IKE SA closed"
	if got := text(p); !strings.HasPrefix(got, want) {
		t.Errorf("got %s, want %s", got, want)
	}
}

// A client that does not read loses events and holds nobody up.
func TestSlowWatcherHoldsNobodyUp(t *testing.T) {
	e := vicitest.New()
	path, s := start(t, e, func(c *vici.Config) { c.QueueLimit = 1000 })
	conn := dialRaw(t, path)
	exchange(t, conn, bufio.NewReader(conn), vici.Packet{Type: vici.EventRegister, Name: "log"})
	for i := range 100_000 {
		e.Bus.Publish(vicitest.Now, event.IKEDown{Reason: fmt.Sprint(i)})
	}
	if _, err := dial(t, path).Call(t.Context(), "version", nil); err != nil {
		t.Errorf("another client: %v", err)
	}
	conn.Close()
	s.Close() // returns only when all pumps have ended
}

func TestUnknownEvent(t *testing.T) {
	path, _ := start(t, vicitest.New(), nil)
	conn := dialRaw(t, path)
	if p := exchange(t, conn, bufio.NewReader(conn), vici.Packet{Type: vici.EventRegister, Name: "quake"}); p.Type != vici.EventUnknown {
		t.Errorf("an event that nobody knows: %s", p.Type)
	}
}

func TestGetCommands(t *testing.T) {
	e := vicitest.New()
	e.Config.Conns = []*sa.Connection{{Name: "f", Origin: "file"}, {Name: "v", Origin: "vici"}}
	e.Config.Authorities = []vici.Authority{{Name: "f", Origin: "file"}, {Name: "v", Origin: "vici"}}
	e.Config.Counted = map[string]vici.Counters{"": {Invalid: 7}, "a": {}, "b": {}}
	e.Config.Pools = []lease.Status{{Name: "p", Size: 9, Online: 1, Leases: []lease.Lease{{Identity: "moon", Online: true}}}}
	path, _ := start(t, e, nil)
	c := dial(t, path)
	call := func(name string, args ...string) vici.Message {
		t.Helper()
		var req vici.Message
		for i := 0; i < len(args); i += 2 {
			req.Put(args[i], args[i+1])
		}
		m, err := c.Call(t.Context(), name, req)
		if err != nil {
			m = vici.Message{vici.KeyValue{Name: "error", Value: err.Error()}}
		}
		return m
	}
	for _, tc := range []struct{ what, got, want string }{
		// What the file has is not told: swanctl would unload it.
		{"get-conns", fmt.Sprint(call("get-conns")), "[{conns [v]}]"},
		{"get-authorities", fmt.Sprint(call("get-authorities")), "[{authorities [v]}]"},
		{"get-keys", fmt.Sprint(call("get-keys")), "[{keys []}]"},
		{"get-shared", fmt.Sprint(call("get-shared")), "[{keys []}]"},
		{"counters", call("get-counters").Section("counters").Section("").Text("invalid"), "7"},
		{"counters of each", fmt.Sprint(len(call("get-counters", "all", "yes").Section("counters"))), "2"},
		{"counters of nobody", call("get-counters", "name", "c").Text("error"), "get-counters: no counters found for this connection"},
		{"reset", call("reset-counters", "name", "a").Text("success"), "yes"},
		{"counters after", call("get-counters", "name", "a").Text("error"), "get-counters: no counters found for this connection"},
		{"pool", fmt.Sprint(call("get-pools")), "[{p [{base invalid IP} {size 9} {online 1} {offline 0}]}]"},
		{"leases", fmt.Sprint(call("get-pools", "leases", "yes").Section("p").Section("leases")), "[{0 [{address invalid IP} {identity moon} {status online}]}]"},
		{"another pool", fmt.Sprint(call("get-pools", "name", "q")), "[]"},
		{"reload", call("reload-settings").Text("error"), "reload-settings: reloading failed: no configuration"},
	} {
		if tc.got != tc.want {
			t.Errorf("%s: %q, want %q", tc.what, tc.got, tc.want)
		}
	}
	e.Config.Reloaded = func() error { return nil }
	if got := call("reload-settings").Text("success"); got != "yes" {
		t.Errorf("reload-settings: %q", got)
	}
}
