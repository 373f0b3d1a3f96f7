//go:build lab

package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"espalier/ike/vici"
	"espalier/tools/lab/topo"
)

// wireDelay is what a packet takes from gateway to gateway, so that requests that both begin at about the same time cross.
const wireDelay = 60 * time.Millisecond

// meeting is what the two sides begin at once; met is how the log names it.
type meeting struct {
	ours, theirs       []string
	metOurs, metTheirs string
}

const (
	rekeyIKE, rekeyChild, deleteChild = "rekey IKE SA", "rekey CHILD SA", "delete CHILD SA"
)

func rekeying(what, name string) []string { return []string{"rekey", what, name} }

var (
	endSpare = []string{"terminate", "child", "spare", "timeout", "10000"}
	meetings = []meeting{
		{rekeying("child", "net"), rekeying("child", "net"), rekeyChild, rekeyChild},
		{rekeying("ike", "peer"), rekeying("ike", "peer"), rekeyIKE, rekeyIKE},
		{rekeying("child", "net"), rekeying("ike", "peer"), rekeyChild, rekeyIKE},
		{rekeying("ike", "peer"), rekeying("child", "net"), rekeyIKE, rekeyChild},
		{rekeying("child", "spare"), endSpare, rekeyChild, deleteChild},
		{endSpare, rekeying("child", "spare"), deleteChild, rekeyChild},
	}
)

// TestCollisions has both sides rekey and delete at once, in every combination, under iperf3 and a ping each 10 ms: not one answer is missing.
func TestCollisions(t *testing.T) {
	l := newLab(t, topo.Config{}, false)
	for _, h := range []*topo.Host{l.ours, l.theirs} {
		if out, err := h.Run(t.Context(), "tc", "qdisc", "add", "dev", "out0", "root", "netem", "delay", wireDelay.String(), "limit", "100000"); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
	for i, who := range initiators {
		t.Run(who, func(t *testing.T) { l.collide(t, i == 0) })
	}
}

func (l *lab) collide(t *testing.T, weStart bool) {
	s := shapes[0]
	ours, theirs := l.sides(psk, proposals{ike: suites[1].ike, esp: "aes128gcm16-x25519"}, s)
	// The emulated processors are held up so long now and then that a packet comes too late for a window of 32.
	ours.child = "replay_window = 1024"
	theirs.child = ours.child
	spare := func(s side) string { // another child of the same connection
		return strings.Replace(s.conf(), "children {", fmt.Sprintf(`children { spare {
    esp_proposals = %s
    local_ts = %s[17/9]
    remote_ts = %s[17/9]
  }`, s.esp, s.localTS, s.remoteTS), 1)
	}
	l.startWith(t, files{spare(ours), nil}, files{spare(theirs), nil})
	l.mustInitiate(t, weStart)
	ping := l.pings(t, s, 10*time.Millisecond)
	load := l.iperf(t, s)
	l.meet(t)
	load(t)
	if n := l.stopPings(t, ping); n < 300 {
		t.Errorf("expected at least 300 answers in this time, got %d", n)
	}
	l.quiet(t) // the last packets of the stream's connection
	l.end(t, "conn down")
}

// quiet waits until no packet has passed the wire for a second.
func (l *lab) quiet(t *testing.T) {
	t.Helper()
	l.eventually(t, "a second without packets", func() error {
		before := l.counts(t).Protected()
		time.Sleep(time.Second)
		if n := l.counts(t).Protected() - before; n > 0 {
			return fmt.Errorf("%d packets", n)
		}
		return nil
	})
}

// iperfRate is what iperf3 sends: much for an emulated machine, but not all that it can do, or its queues drop packets.
const iperfRate = "4M"

// iperf runs iperf3 from the client of the peer to ours until the function that it returns is called, which then shows that it never stopped.
func (l *lab) iperf(t *testing.T, s shape) (end func(t *testing.T)) {
	t.Helper()
	to := l.client(l.ours).Inner(s.inner).String()
	server, err := l.client(l.ours).Start(nil, "iperf3", "-s", "-1", "-B", to)
	if err != nil {
		t.Fatal(err)
	}
	l.eventually(t, "iperf3 to listen", func() error {
		out, err := l.client(l.ours).Run(t.Context(), "ss", "-Htln", "sport = :5201")
		if err == nil && out == "" {
			err = errors.New("nobody listens")
		}
		return err
	})
	client, err := l.client(l.theirs).Start(nil, "iperf3", "-c", to, "-t", "3600", "-b", iperfRate, "-J")
	if err != nil {
		t.Fatal(err)
	}
	return func(t *testing.T) {
		t.Helper()
		select {
		case <-client.Exited(): // it gives up when its control connection fails
			t.Fatalf("iperf3 ended before the test: %s", client.Log())
		default:
		}
		if err := client.Signal(syscall.SIGINT); err != nil { // it prints what it counted
			t.Fatal(err)
		}
		for _, p := range []*topo.Process{client, server} {
			select {
			case <-p.Exited():
			case <-time.After(patience):
				t.Fatalf("iperf3 does not end: %s", p.Log())
			}
		}
		streamed(t, client.Log())
	}
}

// streamed reads what iperf3 reports: no error but that it was interrupted, and never three seconds without a byte.
func streamed(t *testing.T, report string) {
	t.Helper()
	var r struct {
		Error     string
		Intervals []struct {
			Sum struct{ Bytes float64 }
		}
		End struct {
			Sent struct{ Bytes, Retransmits float64 } `json:"sum_sent"`
		}
	}
	if err := json.Unmarshal([]byte(report), &r); err != nil || r.Error != "" && !strings.Contains(r.Error, "interrupt") {
		t.Fatalf("iperf3: %v %s\n%s", err, r.Error, report)
	}
	still := 0 // intervals in a row
	for i, in := range r.Intervals {
		if still++; in.Sum.Bytes > 0 {
			still = 0
		}
		if still >= 3 {
			t.Errorf("iperf3 stood still up to its interval %d of %d", i+1, len(r.Intervals))
		}
	}
	t.Logf("iperf3: %.0f bytes in %d intervals, %.0f retransmissions", r.End.Sent.Bytes, len(r.Intervals), r.End.Sent.Retransmits)
	if len(r.Intervals) < 5 {
		t.Errorf("expected iperf3 to run for at least 5 intervals:\n%s", report)
	}
}

// meet lets the two sides meet until every kind of collision was seen and enough was rekeyed.
func (l *lab) meet(t *testing.T) {
	t.Helper()
	const enoughIKEs, enoughChildren = 5, 15
	deadline := time.Now().Add(3 * patience)
	for i := 0; ; i++ {
		ikes, children, met := l.met(t)
		var next []meeting // what was not seen yet, else what brings the numbers up
		for _, m := range meetings {
			if met[[2]string{m.metOurs, m.metTheirs}] == 0 {
				next = append(next, m)
			}
		}
		enough := ikes >= enoughIKEs && children >= enoughChildren
		if len(next) == 0 && enough {
			t.Logf("%d rekeyed CHILD SAs, %d rekeyed IKE SAs, collisions (ours, theirs): %v", children, ikes, met)
			return
		}
		if time.Now().After(deadline) {
			t.Errorf("expected %d rekeyed CHILD SAs, %d rekeyed IKE SAs and each collision, got %d, %d and %v", enoughChildren, enoughIKEs, children, ikes, met)
			return
		}
		switch {
		case len(next) == 0 && ikes < enoughIKEs:
			next = meetings[1:2]
		case len(next) == 0 || i%2 == 0 && !enough:
			next = meetings[:1]
		}
		l.begin(t, next[i%len(next)])
	}
}

// begin has both sides begin at once, and lets what follows pass the wire.
func (l *lab) begin(t *testing.T, m meeting) {
	t.Helper()
	if m.metOurs == deleteChild || m.metTheirs == deleteChild {
		if err := l.espalier(t.Context(), "initiate", "ike", "peer", "child", "spare", "timeout", "20000"); err != nil {
			t.Logf("spare: %v", err) // while an IKE SA is replaced; the next time
			return
		}
	}
	var both sync.WaitGroup
	both.Go(func() { // either may find that another exchange is under way
		if err := l.espalier(t.Context(), m.ours[0], m.ours[1:]...); err != nil {
			t.Logf("ours: %v", err)
		}
	})
	both.Go(func() {
		if err := l.strongSwan(t.Context(), m.theirs[0], m.theirs[1:]...); err != nil {
			t.Logf("theirs: %v", err)
		}
	})
	both.Wait()
	l.settled(t)
}

// settled waits until strongSwan has done what it began, and has the network's CHILD SA once. When it is told to rekey that while the one which was
// replaced in a collision is still there, it rekeys both, throws away the inbound SA of the wrong one, and packets are lost (6.0.1 to 6.0.6).
func (l *lab) settled(t *testing.T) {
	t.Helper()
	l.eventually(t, "strongSwan to have done what it began", func() error {
		c, err := vici.Dial(t.Context(), strings.TrimPrefix(l.swan.URI, "unix://"))
		if err != nil {
			return err
		}
		defer c.Close()
		var busy []string
		nets := 0
		_, err = c.Stream(t.Context(), "list-sas", nil, "list-sa", func(m vici.Message) error {
			for _, ike := range m.Sections() {
				for _, key := range []string{"tasks-active", "tasks-passive", "tasks-queued"} {
					if tasks := ike.Body.List(key); len(tasks) > 0 {
						busy = append(busy, fmt.Sprint(key, tasks))
					}
				}
				for _, child := range ike.Body.Section("child-sas").Sections() {
					switch state := child.Body.Text("state"); {
					case child.Body.Text("name") != "net" || state == "DELETED":
					case state == "INSTALLED":
						nets++
					default:
						busy = append(busy, child.Name+" "+state)
					}
				}
			}
			return nil
		})
		if err == nil && (len(busy) > 0 || nets != 1) {
			err = fmt.Errorf("%d CHILD SAs of the network, and %v", nets, busy)
		}
		return err
	})
}

// met counts what the log has: IKE SAs and CHILD SAs that others took the place of, and collisions, ours first. Of a collision of two rekeyings two new
// CHILD SAs may come, one of which goes at once: they count as one.
func (l *lab) met(t *testing.T) (ikes, children int, met map[[2]string]int) {
	t.Helper()
	met = map[[2]string]int{}
	for _, m := range l.lines(t) {
		switch m["message"] {
		case "IKE SA rekeyed":
			ikes++
		case "CHILD SA installed":
			if m["child"] == "net" {
				children++
			}
		case "exchanges collided":
			met[[2]string{fmt.Sprint(m["ours"]), fmt.Sprint(m["theirs"])}]++
		case "negotiation failed", "IKE SA closed":
			t.Fatalf("%v", m)
		}
	}
	return ikes, max(0, children-1-met[[2]string{rekeyChild, rekeyChild}]), met // the first was set up
}
