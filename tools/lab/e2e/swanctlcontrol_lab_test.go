//go:build lab

package e2e

import (
	"bufio"
	"fmt"
	"net"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"espalier/ike/vici"
	"espalier/tools/lab/topo"
)

// TestSwanctlControl drives charon and espalierd alike with Debian's swanctl: what it begins, ends, rekeys and redirects, what goes wrong with that, and what
// those are told who follow the SAs. Replies, exit status and events are the same; the log is each daemon's own, but has the same fields.
func TestSwanctlControl(t *testing.T) {
	if topo.Emulated() {
		t.Skip("takes minutes on an emulated processor; 'make fast-test' runs it")
	}
	l := newLab(t, topo.Config{}, false)
	l.ip(t, l.ours, "addr add "+otherGateway.String()+"/24 dev out0")
	ours := controlConf(l, true)
	if err := l.swan.Configure(controlConf(l, false), nil); err != nil {
		t.Fatal(err)
	}
	if err := l.swan.Load(t.Context()); err != nil {
		t.Fatal(err)
	}
	charon, err := l.ours.StartStrongSwan(t.Context(), topo.StrongSwanConfig{Conf: ours})
	if err != nil {
		t.Fatal(err)
	}
	first := newControlRun(t, l, strings.TrimPrefix(charon.URI, "unix://"))
	first.run = func(argv ...string) (string, error) { return l.ours.Run(t.Context(), argv...) }
	first.uri = "--uri " + charon.URI
	first.script(t)
	if err := charon.Stop(); err != nil {
		t.Error(err)
	}
	l.expectNothing(t, l.ours, "after charon's stop")

	l.configure(t, files{ours, nil})
	second := newControlRun(t, l, "/var/run/charon.vici")
	second.run = func(argv ...string) (string, error) { return l.esp.Command(t.Context(), argv...) }
	second.script(t)
	second.compare(t, first)
	l.noSecret(t)
	if t.Failed() {
		t.Logf("log of espalierd:\n%s", l.log())
	}
}

// controlRun is one daemon's run of the script.
type controlRun struct {
	swanctlRun
	events *follower
	told   []string // events but for alerts, as they are compared
	alerts []string // these
	// monitored is what swanctl --monitor-sa says, logged what --log does.
	monitored, logged string
}

func newControlRun(t *testing.T, l *lab, socket string) *controlRun {
	t.Helper()
	return &controlRun{swanctlRun: swanctlRun{l: l}, events: follow(t, socket, "ike-updown", "child-updown", "ike-rekey", "child-rekey", "ike-update", "alert")}
}

// step makes calls and waits for the events that follow, of which alerts do not count.
func (c *controlRun) step(t *testing.T, events int, calls string) {
	t.Helper()
	c.said = append(c.said, c.quietly(t, calls)...)
	c.await(t, events, calls)
}

// await waits for events. Those that do not come are missed in the comparison, too.
func (c *controlRun) await(t *testing.T, events int, after string) {
	t.Helper()
	want := len(c.told) + events
	for deadline := time.Now().Add(patience); ; time.Sleep(20 * time.Millisecond) {
		for _, e := range c.events.take() {
			if strings.HasPrefix(e, "alert ") {
				c.alerts = append(c.alerts, e)
			} else {
				c.told = append(c.told, e)
			}
		}
		if len(c.told) >= want {
			return
		}
		if time.Now().After(deadline) {
			t.Errorf("%d of %d events after %q", len(c.told)-want+events, events, after)
			return
		}
	}
}

// script is what an operator does, and gets wrong.
func (c *controlRun) script(t *testing.T) {
	t.Helper()
	said := func(args string) *topo.Process {
		p, err := c.l.ours.Start(nil, strings.Fields("stdbuf -oL swanctl "+args+" --raw "+c.uri)...)
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	monitor, log := said("--monitor-sa"), said("--log")
	c.events.ready(t, c.l)
	c.begins(t)
	c.fails(t)
	c.rekeys(t)
	c.ends(t)
	c.redirects(t)
	c.l.eventually(t, "swanctl --monitor-sa to say all", func() error {
		c.monitored, c.logged = monitor.Log(), log.Log()
		want := 0
		for _, e := range c.told {
			if monitoredEvent.MatchString(e) {
				want++
			}
		}
		if n := len(strings.Split(strings.TrimSpace(c.monitored), "\n")); n < want {
			return fmt.Errorf("%d of %d events\n%s", n, want, c.monitored)
		}
		return nil
	})
	monitor.Kill()
	log.Kill()
}

// monitoredEvent is one that swanctl --monitor-sa shows.
var monitoredEvent = regexp.MustCompile(`^(ike|child)-updown `)

// begins sets up SAs, and what cannot be.
func (c *controlRun) begins(t *testing.T) {
	t.Helper()
	c.step(t, 0, `--initiate --child nobody
		--initiate --child nobody --raw
		--initiate --ike nobody
		--initiate --ike nobody --child net
		--initiate --ike peer --child nobody
		--initiate`)
	c.step(t, 1, "--initiate --ike peer --timeout 30 --raw")
	c.step(t, 1, `--list-sas --raw
		--initiate --child net --timeout 30 --raw
		--initiate --child net --timeout 30
		--initiate --ike peer --timeout 30 --raw
		--list-sas --raw`)
	c.step(t, 4, "--rekey --ike peer --reauth --raw")
	c.step(t, 0, `--initiate --child unfit --timeout 30 --raw
		--initiate --child weak --timeout 30`)
	c.step(t, 2, `--initiate --child liar --timeout 30 --raw
		--initiate --child stranger --timeout 30`)
	c.step(t, 0, `--initiate --child nowhere --timeout 1 --raw
		--initiate --child nowhere --timeout -1 --raw
		--terminate --ike nowhere --force --raw
		--initiate --child nowhere --timeout 1 --loglevel -1
		--terminate --ike nowhere --force --timeout -1
		--list-sas --noblock --raw`)
}

// fails names what is not there.
func (c *controlRun) fails(t *testing.T) {
	t.Helper()
	c.step(t, 0, `--rekey --ike nobody --raw
		--rekey --child nobody
		--rekey --ike-id 999 --pretty
		--rekey --child-id 999
		--rekey
		--terminate --ike nobody --raw
		--terminate --child nobody
		--terminate --ike-id 999 --pretty
		--terminate --child-id 999
		--terminate --ike peer --child nobody
		--terminate
		--redirect --ike nobody --gateway 192.0.2.9 --raw
		--redirect --ike peer
		--redirect --gateway 192.0.2.9
		--redirect --peer-ip 192.0.2.999 --gateway 192.0.2.9`)
}

// rekeys replaces SAs, from either side.
func (c *controlRun) rekeys(t *testing.T) {
	t.Helper()
	if err := c.l.Client1.Ping(t.Context(), c.l.Client2.Inner(topo.IPv4), 2); err != nil {
		t.Error(err)
	}
	if err := c.l.strongSwan(t.Context(), "rekey", "child", "net"); err != nil {
		t.Fatal(err)
	}
	c.await(t, 1, "the peer's rekeying")
	c.step(t, 1, "--initiate --child other --timeout 30 --loglevel 0 --raw")
	c.step(t, 1, "--rekey --child other --reauth --raw")
	c.step(t, 1, "--rekey --ike peer --raw")
}

// ends takes SAs down, with a peer that answers and without one.
func (c *controlRun) ends(t *testing.T) {
	t.Helper()
	c.l.eventually(t, "the replaced CHILD SAs to be gone", func() error { // they would be found by their name, too
		if sas := c.quietly(t, "--list-sas --raw")[0].text; strings.Contains(sas, "state=DELETED") {
			return fmt.Errorf("%s", sas)
		}
		return nil
	})
	c.step(t, 1, "--terminate --child net --force --timeout 30 --raw")
	c.step(t, 2, "--terminate --ike peer --timeout 30")
	for _, calls := range []string{`--terminate --ike peer --timeout 1 --raw
			--terminate --ike peer --timeout 1`,
		`--terminate --ike peer --force --timeout -1`,
		`--terminate --ike peer --force --timeout 1 --raw`} {
		c.step(t, 2, "--initiate --child net --timeout 30")
		c.silence(t, func() { c.step(t, 2, calls) })
		c.l.eventually(t, "the peer to be without SAs", func() error {
			_ = c.l.strongSwan(t.Context(), "terminate", "ike", "peer", "force", "yes", "timeout", "1000")
			if sas, err := c.l.swan.SAs(t.Context()); err != nil || strings.Contains(sas, "peer:") {
				return fmt.Errorf("%v %s", err, sas)
			}
			return nil
		})
	}
}

// silence stops the peer meanwhile.
func (c *controlRun) silence(t *testing.T, f func()) {
	t.Helper()
	if err := c.l.swan.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := c.l.swan.Signal(syscall.SIGCONT); err != nil {
			t.Error(err)
		}
	}()
	f()
}

// redirects sends a client elsewhere: to the same box, under another address.
func (c *controlRun) redirects(t *testing.T) {
	t.Helper()
	if err := c.l.initiate(t, false); err != nil {
		t.Fatal(err)
	}
	c.await(t, 2, "the peer's initiation")
	to := " --gateway " + otherGateway.String()
	c.step(t, 4, `--redirect --peer-ip 192.0.2.33-192.0.2.40 --raw`+to+`
		--redirect --peer-id *.test`+to+`
		--redirect --peer-ip 192.0.2.0/27 --peer-id *.example --raw`+to)
	c.step(t, 0, "--list-sas --raw")
	if sas := c.said[len(c.said)-1].text; !strings.Contains(sas, "local-host="+otherGateway.String()) {
		t.Errorf("the client is not at %s:\n%s", otherGateway, sas)
	}
	if err := c.l.strongSwan(t.Context(), "terminate", "ike", "peer", "timeout", "10000"); err != nil {
		t.Fatal(err)
	}
	c.await(t, 2, "the peer's terminating")
}

// compare shows that both daemons gave the same answers and told the same of SAs.
func (c *controlRun) compare(t *testing.T, charon *controlRun) {
	t.Helper()
	for i := range min(len(c.said), len(charon.said)) {
		w, g := charon.said[i], c.said[i]
		want, wantLog := splitLog(w.text)
		got, gotLog := splitLog(g.text)
		if want, got = comparable("", eventText(want)), comparable("", eventText(got)); want != got {
			t.Errorf("%d. swanctl %s:\n%s\nwant, from charon:\n%s", i, w.call, got, want)
		}
		for of, lines := range [][]string{wantLog, gotLog} {
			for _, line := range lines {
				if !logShape.MatchString(line) {
					t.Errorf("%d. swanctl %s: %s\nwant the shape of charon's, %s (%d)", i, w.call, line, logShape, of)
				}
			}
		}
		if len(wantLog) == 0 && len(gotLog) > 0 {
			t.Errorf("%d. swanctl %s: %q, charon tells nothing", i, w.call, gotLog)
		}
	}
	compareLines(t, "event", c.told, charon.told)
	lines := func(r *controlRun) []string { return strings.Split(comparable("", eventText(r.monitored)), "\n") }
	compareLines(t, "line of swanctl --monitor-sa", lines(c), lines(charon))
	for of, text := range []string{charon.logged, c.logged} {
		for line := range strings.Lines(text) {
			if !eventShape.MatchString(line) {
				t.Errorf("swanctl --log (%d): %s\nwant the shape of charon's, %s", of, line, eventShape)
			}
		}
	}
	if !strings.Contains(c.logged, "ikesa-name=peer ikesa-uniqueid=") {
		t.Errorf("swanctl --log has nothing of the connection:\n%s", c.logged)
	}
	if !charon.events.unknown["alert"] {
		compareLines(t, "alert", c.alerts, charon.alerts)
	}
}

func compareLines(t *testing.T, what string, got, want []string) {
	t.Helper()
	for i := range max(len(got), len(want)) {
		g, w := "nothing", "nothing"
		if i < len(got) {
			g = got[i]
		}
		if i < len(want) {
			w = want[i]
		}
		if g != w {
			t.Errorf("%s %d:\n%s\nwant, from charon:\n%s", what, i, g, w)
		}
	}
}

// logShape is a line of the control-log, raw or plain.
var logShape = regexp.MustCompile(`^log \{group=[A-Z]{3} level=\d( ikesa-name=\S+)?( ikesa-uniqueid=\d+)? msg=.*\}$|^\[[A-Z]{3}\] .`)

// eventShape is a line of swanctl --log --raw.
var eventShape = regexp.MustCompile(`^log \{group=[A-Z]{3} level=[01] thread=\d+( ikesa-name=\S+)?( ikesa-uniqueid=\d+)? msg=`)

// splitLog takes the lines of the control-log out of what swanctl says.
func splitLog(text string) (rest string, log []string) {
	var kept []string
	for line := range strings.Lines(text) {
		if strings.HasPrefix(line, "log {") || strings.HasPrefix(line, "[") {
			log = append(log, strings.TrimSuffix(line, "\n"))
		} else {
			kept = append(kept, line)
		}
	}
	return strings.Join(kept, ""), log
}

// follower collects a daemon's events.
type follower struct {
	mu      sync.Mutex
	events  []string
	unknown map[string]bool // events that the daemon does not have
	known   int             // answers to the registrations
	names   []string
}

// follow registers for events until the test ends.
func follow(t *testing.T, socket string, names ...string) *follower {
	t.Helper()
	conn, err := net.Dial("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	f := &follower{unknown: map[string]bool{}, names: names}
	for _, name := range names {
		segment, err := (&vici.Packet{Type: vici.EventRegister, Name: name}).AppendSegment(nil)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := conn.Write(segment); err != nil {
			t.Fatal(err)
		}
	}
	go f.read(bufio.NewReader(conn))
	return f
}

// read ends with the connection.
func (f *follower) read(r *bufio.Reader) {
	for {
		body, err := vici.ReadSegment(r)
		if err != nil {
			return
		}
		p, err := vici.ParsePacket(body)
		if err != nil {
			return
		}
		f.mu.Lock()
		switch p.Type {
		case vici.Event:
			f.events = append(f.events, p.Name+" "+rawText(p.Message))
		case vici.EventUnknown:
			f.unknown[f.names[f.known]] = true
			f.known++
		default:
			f.known++
		}
		f.mu.Unlock()
	}
}

// ready waits until all registrations are answered.
func (f *follower) ready(t *testing.T, l *lab) {
	t.Helper()
	l.eventually(t, "the answers to the registrations", func() error {
		f.mu.Lock()
		defer f.mu.Unlock()
		if f.known < len(f.names) {
			return fmt.Errorf("%d of %d", f.known, len(f.names))
		}
		return nil
	})
}

// take returns the events since the last time as they are compared, without those that only charon has: of a half-open SA whose port changes, of every
// retransmission, and of messages of SAs that are not there.
func (f *follower) take() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	var out []string
	for _, e := range f.events {
		if !onlyCharon.MatchString(e) {
			out = append(out, comparable("", eventText(e)))
		}
	}
	f.events = nil
	return out
}

var onlyCharon = regexp.MustCompile(`^ike-update .*\(unnamed\)|^alert type=(retransmit-send |invalid-ike-spi)`)

// rawText writes a message as swanctl --raw does.
func rawText(m vici.Message) string {
	var parts []string
	for _, e := range m {
		switch e := e.(type) {
		case vici.Section:
			parts = append(parts, e.Name+" {"+rawText(e.Body)+"}")
		case vici.KeyValue:
			parts = append(parts, e.Name+"="+e.Value)
		case vici.List:
			parts = append(parts, e.Name+"=["+strings.Join(e.Items, " ")+"]")
		}
	}
	return strings.Join(parts, " ")
}

// What differs in events: ids, seconds since the last use, and the tasks inside of charon.
var eventVarying = []struct {
	in   *regexp.Regexp
	with string
}{
	{regexp.MustCompile(`(uniqueid|reqid)=\d+`), "$1=ID"},
	{regexp.MustCompile(`\b(net|other)-\d+ \{`), "$1-ID {"},
	{regexp.MustCompile(`(use-in|use-out)=\d+`), "$1=TIME"},
	{regexp.MustCompile(` tasks-(queued|active|passive)=\[[^\]]*\]`), ""},
	{regexp.MustCompile(`((initiator|responder)-spi=)0{16}`), "${1}NONE"},
}

func eventText(text string) string {
	for _, v := range eventVarying {
		text = v.in.ReplaceAllString(text, v.with)
	}
	return text
}

// controlConf is the configuration of either gateway: a connection that fits, and ours that the other does not take.
func controlConf(l *lab, ours bool) string {
	self, peer := l.ours, l.theirs
	wrong := wrongSecret
	if !ours {
		self, peer, wrong = peer, self, secret
	}
	local := self.Outer(topo.IPv4).String()
	if ours {
		local += ", " + otherGateway.String()
	}
	conn := func(name, remote, proposal, id, children string) string {
		return fmt.Sprintf(`  %s {
    version = 2
    local_addrs = %s
    remote_addrs = %s
    proposals = %s
    local {
      auth = psk
      id = %s
    }
    remote {
      auth = psk
      id = %s.example
    }
    children {
%s    }
  }
`, name, local, remote, proposal, id, peer.Name, children)
	}
	child := func(name, localTS, remoteTS, proposal string) string {
		return fmt.Sprintf("      %s {\n        local_ts = %s\n        remote_ts = %s\n        esp_proposals = %s\n      }\n", name, localTS, remoteTS, proposal)
	}
	const ike, esp = "aes256-sha256-x25519", "aes256gcm16-x25519"
	inner, other := self.Subnet(topo.IPv4).String(), peer.Subnet(topo.IPv4).String()
	pair := []string{"10.50.0.0/24", "10.51.0.0/24"}
	if !ours {
		slices.Reverse(pair)
	}
	id, outer := self.Name+".example", peer.Outer(topo.IPv4).String()
	children := child("net", inner, other, esp) + child("other", pair[0], pair[1], esp)
	if ours {
		children += child("unfit", "10.60.0.0/24", "10.61.0.0/24", esp) + child("weak", pair[0], pair[1], "aes128-sha1")
	}
	text := "connections {\n" + conn("peer", outer, ike, id, children)
	if ours {
		text += conn("liar", outer, ike, "liar.example", child("liar", inner, other, esp)) +
			conn("stranger", outer, "aes128-sha512-ecp521", id, child("stranger", inner, other, esp)) +
			conn("nowhere", "192.0.2.99", ike, id, child("nowhere", inner, "10.64.0.0/24", esp))
	} else {
		text += strings.Replace(conn("liar", outer, ike, id, child("liar", inner, other, esp)), "id = "+peer.Name+".example", "id = liar.example", 1)
	}
	return text + fmt.Sprintf(`}
secrets {
  ike-1 {
    secret = %q
    id-1 = %s.example
    id-2 = %s.example
  }
  ike-2 {
    secret = %q
    id-1 = liar.example
    id-2 = %s.example
  }
}
`, secret, l.ours.Name, l.theirs.Name, wrong, l.theirs.Name)
}
