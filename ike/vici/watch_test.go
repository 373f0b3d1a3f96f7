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
	rekeyed.Children = []sa.ChildInfo{{UniqueID: 3, Name: "net", ReqID: 1, State: sa.ChildSAInstalled}}
	old, fresh := event.Child{Name: "net", UniqueID: 2, ReqID: 1}, event.Child{Name: "net", UniqueID: 3, ReqID: 1}
	see := func(e event.Event, i sa.Info, child *sa.ChildInfo) {
		sightings.Publish(vicitest.Now, sa.Sighting{Event: e, Info: i, Child: child})
	}
	first, second := &info.Children[0], &rekeyed.Children[0]
	ending := rekeyed
	ending.State, ending.Children = sa.IKEDestroying, nil
	refused := sa.Info{UniqueID: 4, Conn: "gw", State: sa.IKEDestroying, Initiator: true}
	see(event.IKEUp{}, info, nil)
	see(event.ChildUp{Child: old}, info, nil)
	see(event.ChildUp{Child: fresh}, rekeyed, first)
	see(event.ChildDown{Child: old}, rekeyed, first) // the end of a rekeying: nobody is told
	see(event.IKERekeyed{}, info, nil)
	see(event.IKEMoved{}, info, nil)
	see(event.IKEDown{}, ending, nil)
	see(event.ChildDown{Child: fresh}, ending, second) // follows the IKE SA's end
	see(event.ChildDown{Child: old}, info, nil)        // was not seen to come
	see(event.Failed{Cause: event.PeerTimeout}, refused, nil)
	see(event.Failed{Cause: event.AuthenticationFailed, ByPeer: true}, refused, nil)
	see(event.Failed{Cause: event.TSUnacceptable}, info, nil)
	see(event.IKEUp{}, info, nil)
	for _, want := range []string{
		"ike-updown up=yes gw{uniqueid=1}",
		"child-updown up=yes gw{uniqueid=1 child-sas{net-2{uniqueid=2}}}",
		"child-rekey gw{uniqueid=1 child-sas{net{old{uniqueid=2} new{uniqueid=3}}}}",
		"ike-rekey gw{old{uniqueid=1} new{uniqueid=1}}",
		"ike-update local-host=%any local-port=0 remote-host=%any remote-port=0 gw{uniqueid=1}",
		"ike-updown gw{uniqueid=1}",
		"child-updown gw{uniqueid=1 child-sas{net-3{uniqueid=3}}}",
		"child-updown gw{uniqueid=1 child-sas{net-2{uniqueid=2}}}",
		"ike-updown gw{uniqueid=4}",
		"ike-updown up=yes gw{uniqueid=1}",
	} {
		if got := text(next(t, r)); got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
	for _, name := range []string{"ike-updown", "child-updown", "ike-rekey", "child-rekey", "ike-update"} {
		exchange(t, conn, r, vici.Packet{Type: vici.EventUnregister, Name: name})
	}
	see(event.IKEUp{}, info, nil)
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

func TestProblemEvent(t *testing.T) {
	e := vicitest.New()
	path, _ := start(t, e, nil)
	conn := dialRaw(t, path)
	r := bufio.NewReader(conn)
	if p := exchange(t, conn, r, vici.Packet{Type: vici.EventRegister, Name: "problem"}); p.Type != vici.EventConfirm {
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
		"problem type=PROPOSAL_MISMATCH_CHILD ike=gw ike-id=7 child=net cause=NO_PROPOSAL_CHOSEN by-peer=yes msg=negotiation failed",
		"problem type=PROPOSAL_MISMATCH_IKE cause=NO_PROPOSAL_CHOSEN msg=negotiation failed",
		"problem type=PEER_AUTH_FAILED ike=gw ike-id=7 cause=AUTHENTICATION_FAILED msg=negotiation failed",
		"problem type=KEY_EXCHANGE_FAILED ike=gw ike-id=7 cause=KEY_EXCHANGE_FAILED msg=negotiation failed",
		"problem type=PACKETS_DROPPED ike=gw child=net cause=replay msg=packets of an SA were lost: conn=gw child=net",
		"problem type=PACKETS_DROPPED cause=integrity msg=packets of an SA were lost",
	} {
		if got := text(next(t, r)); !strings.HasPrefix(got, want) {
			t.Errorf("got %s, want %s", got, want)
		}
	}
	exchange(t, conn, r, vici.Packet{Type: vici.EventUnregister, Name: "problem"})
	unwatched(t, &e.Bus)
}

// A failure that charon has an alert for raises it, with the IKE SA as it was.
func TestAlertEvent(t *testing.T) {
	var sightings event.Bus
	path, _ := start(t, vicitest.New(), func(c *vici.Config) { c.Sightings = &sightings })
	conn := dialRaw(t, path)
	r := bufio.NewReader(conn)
	if p := exchange(t, conn, r, vici.Packet{Type: vici.EventRegister, Name: "alert"}); p.Type != vici.EventConfirm {
		t.Fatalf("registering: %s", p.Type)
	}
	up := sa.Info{UniqueID: 7, Conn: "gw", State: sa.IKEEstablished, Initiator: true, Established: vicitest.Now}
	half := sa.Info{UniqueID: 8, Conn: "gw", State: sa.IKEDestroying, Initiator: true}
	for _, tc := range []struct {
		failed event.Failed
		info   sa.Info
		want   []string
	}{
		{event.Failed{ChildName: "net", Cause: event.NoProposalChosen, ByPeer: true}, up, []string{"proposal-mismatch-child", "keep-on-child-sa-failure"}},
		{event.Failed{Cause: event.TSUnacceptable}, up, []string{"ts-mismatch", "keep-on-child-sa-failure"}},
		{event.Failed{Cause: event.NoProposalChosen}, half, []string{"proposal-mismatch-ike"}},
		{event.Failed{Cause: event.KeyExchangeFailed}, half, nil}, // charon has none
		{event.Failed{Cause: event.AuthenticationFailed}, half, []string{"peer-auth-failed"}},
		{event.Failed{Cause: event.AuthenticationFailed, ByPeer: true}, half, []string{"local-auth-failed"}},
		{event.Failed{Cause: event.PeerTimeout}, half, []string{"retransmit-send-timeout", "peer-init-unreachable"}},
		{event.Failed{Cause: event.PeerTimeout}, up, []string{"retransmit-send-timeout"}},
	} {
		sightings.Publish(vicitest.Now, sa.Sighting{Event: tc.failed, Info: tc.info})
		for _, name := range tc.want {
			p := next(t, r)
			want := fmt.Sprintf("alert type=%s ike-sa{gw{uniqueid=%d}}", name, tc.info.UniqueID)
			if got := text(p); got != want {
				t.Errorf("got %s, want %s", got, want)
			}
			state := "CONNECTING"
			if !tc.info.Established.IsZero() {
				state = "ESTABLISHED"
			}
			if got := p.Message.Section("ike-sa").Section("gw").Text("state"); got != state {
				t.Errorf("%s: state %s, want %s", name, got, state)
			}
		}
	}
	exchange(t, conn, r, vici.Packet{Type: vici.EventUnregister, Name: "alert"})
	unwatched(t, &sightings)
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
