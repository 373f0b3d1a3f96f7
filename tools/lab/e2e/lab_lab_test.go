//go:build lab

package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"espalier/ike/vici"
	"espalier/tools/lab/topo"
)

// patience is how long a condition may take to come true. The emulated machine of the CI is slow.
const patience = 30 * time.Second

// lab is one network with one strongSwan, used by many cases. An espalierd lives on from one case to the next, which it learns by a SIGHUP, until a case
// stops it.
type lab struct {
	*topo.Net
	wire *topo.Capture
	pki  *pkis
	// ours is Espalier's gateway, theirs strongSwan's.
	ours, theirs *topo.Host
	swan         *topo.StrongSwan
	esp          *topo.Espalier
	fast         bool          // espalierd loads its BPF programs
	monitor      *topo.Process // prints the SAs that come and go in our kernel
	// How long the logs were when the case began.
	swanLog, espLog, monitorLog int
	before                      [2]counters // what XFRM had dropped when the pings began, at our gateway and the peer's
}

// newLab builds the network with strongSwan in gw2, or with the gateways' roles exchanged.
func newLab(t *testing.T, cfg topo.Config, exchanged bool, options ...string) *lab {
	t.Helper()
	n, err := topo.Build(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := n.Close(); err != nil {
			t.Error(err)
		}
	})
	l := &lab{Net: n, ours: n.GW1, theirs: n.GW2, pki: &pkis{cas: map[topo.KeyKind]*topo.Cert{}, ends: map[string]*topo.Cert{}}}
	if exchanged {
		l.ours, l.theirs = n.GW2, n.GW1
	}
	if l.wire, err = n.Capture(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.wire.Close() })
	if l.swan, err = l.theirs.StartStrongSwan(t.Context(), topo.StrongSwanConfig{Options: options}); err != nil {
		t.Fatal(err)
	}
	if l.monitor, err = l.ours.Start(nil, "ip", "xfrm", "monitor", "SA"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if l.running() {
			if err := l.esp.Stop(); err != nil {
				t.Error(err)
			}
		}
		l.expectNothing(t, l.ours, "after the last stop")
	})
	return l
}

// running tells whether there is an espalierd.
func (l *lab) running() bool {
	if l.esp == nil || l.esp.Process == nil {
		return false
	}
	select {
	case <-l.esp.Exited():
		return false
	default:
		return true
	}
}

// client is the host behind our gateway, or behind theirs.
func (l *lab) client(of *topo.Host) *topo.Host {
	if of == l.GW1 {
		return l.Client1
	}
	return l.Client2
}

// sides are two configurations that fit each other.
func (l *lab) sides(auth string, p proposals, s shape) (ours, theirs side) {
	ca := topo.ECDSA // for Ed25519, too: one CA less
	if auth == string(topo.RSA) {
		ca = topo.RSA
	}
	ours = side{self: l.ours, peer: l.theirs, outer: s.outer, auth: auth, secret: secret, ca: ca, trusts: ca, ike: p.ike, esp: p.esp, transport: s.transport}
	switch {
	case s.any:
		ours.localTS, ours.remoteTS = "0.0.0.0/0", "0.0.0.0/0"
	case !s.transport:
		ours.localTS, ours.remoteTS = l.ours.Subnet(s.inner).String(), l.theirs.Subnet(s.inner).String()
	}
	theirs = ours
	theirs.self, theirs.peer, theirs.localTS, theirs.remoteTS = l.theirs, l.ours, ours.remoteTS, ours.localTS
	return ours, theirs
}

// start makes both daemons take their configuration and forgets what passed the wire.
func (l *lab) start(t *testing.T, ours, theirs side) {
	t.Helper()
	l.startWith(t, files{ours.conf(), l.pki.files(t, ours)}, files{theirs.conf(), l.pki.files(t, theirs)})
}

// files are a configuration and what stands beside it.
type files struct {
	conf   string
	beside map[string][]byte
}

func (l *lab) startWith(t *testing.T, ours, theirs files) {
	t.Helper()
	l.swanLog, l.espLog, l.monitorLog = len(l.swan.Log()), 0, len(l.monitor.Log())
	t.Cleanup(func() {
		l.finish(t)
		if t.Failed() {
			t.Logf("ours:\n%s\ntheirs:\n%s", ours.conf, theirs.conf)
			t.Logf("log of espalierd:\n%s", l.log())
			t.Logf("log of strongSwan:\n%s", l.swan.Log()[l.swanLog:])
		}
	})
	// What an earlier case left in the folder must not help.
	if err := os.RemoveAll(l.swan.Dir); err != nil {
		t.Fatal(err)
	}
	if err := l.swan.Configure(theirs.conf, theirs.beside); err != nil {
		t.Fatal(err)
	}
	if err := l.swan.Load(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := l.wire.Reset(); err != nil {
		t.Fatal(err)
	}
	l.configure(t, ours)
}

// configure has an espalierd run with the configuration: the one that runs, or a new one.
func (l *lab) configure(t *testing.T, f files) {
	t.Helper()
	var err error
	if l.esp == nil {
		l.esp, err = l.ours.StartEspalier(t.Context(), topo.EspalierConfig{Conf: f.conf, Files: f.beside, Args: []string{"--log-level", "debug"}, Plain: !l.fast})
		if err != nil {
			t.Fatal(err)
		}
		return
	}
	if err := os.RemoveAll(l.esp.Dir); err != nil {
		t.Fatal(err)
	}
	if err := l.esp.Configure(f.conf, f.beside); err != nil {
		t.Fatal(err)
	}
	if !l.running() {
		if err := l.esp.Restart(t.Context()); err != nil {
			t.Fatal(err)
		}
		return
	}
	l.espLog = len(l.esp.Log())
	l.reload(t)
}

// reload sends a SIGHUP and waits until the configuration was taken.
func (l *lab) reload(t *testing.T) {
	t.Helper()
	from := len(l.esp.Log())
	if err := l.esp.Signal(syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	l.eventually(t, "the configuration to be reloaded", func() error {
		log := l.esp.Log()[from:]
		for _, message := range []string{`"configuration reloaded"`, `"nothing differs"`} {
			if strings.Contains(log, message) {
				return nil
			}
		}
		return errors.New(log)
	})
}

// log is the part of the daemon's log that belongs to the case.
func (l *lab) log() string {
	if l.esp == nil {
		return ""
	}
	log := l.esp.Log()
	return log[min(l.espLog, len(log)):]
}

// finish ends the case: no SA is left, nothing is in either kernel, and the log is in order. A case that failed takes the daemon with it.
func (l *lab) finish(t *testing.T) {
	t.Helper()
	if l.esp == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience) // the test's own has ended in a cleanup
	defer cancel()
	l.checkLog(t)
	if l.running() && t.Failed() {
		if err := l.esp.Stop(); err != nil {
			t.Error(err)
		}
	} else if l.running() {
		if err := l.espalier(ctx, "terminate", "ike", "peer"); err != nil && !strings.Contains(err.Error(), "no matching SAs") {
			t.Error(err)
		}
	}
	if err := l.strongSwan(ctx, "terminate", "ike", "peer", "force", "yes", "timeout", "1000"); err != nil && !strings.Contains(err.Error(), "no matching SAs") {
		t.Logf("strongSwan keeps an IKE SA: %v", err)
	}
	l.expectNothing(t, l.ours, "after the end")
	l.expectNothing(t, l.theirs, "after the end")
}

// espalier has espalierd run a command of its control socket. It is what espctl does, without the start of a process.
func (l *lab) espalier(ctx context.Context, command string, args ...string) error {
	if command == "initiate" {
		args = append(args, "ensure", "yes") // as espctl: what is up already is success, and a failure says why
	}
	return control(ctx, filepath.Join(l.esp.RunDir, "vici.sock"), command, args)
}

// strongSwan is the same for charon.
func (l *lab) strongSwan(ctx context.Context, command string, args ...string) error {
	return control(ctx, strings.TrimPrefix(l.swan.URI, "unix://"), command, args)
}

// control calls a daemon; the error carries what it said meanwhile.
func control(ctx context.Context, socket, command string, args []string) error {
	c, err := vici.Dial(ctx, socket)
	if err != nil {
		return err
	}
	defer c.Close()
	var req vici.Message
	for i := 0; i < len(args); i += 2 {
		req.Put(args[i], args[i+1])
	}
	var log strings.Builder
	_, err = c.Stream(ctx, command, req, "control-log", func(m vici.Message) error {
		fmt.Fprintln(&log, m.Text("msg"))
		return nil
	})
	if err != nil {
		return fmt.Errorf("%s %q: %w\n%s", command, args, err, log.String())
	}
	return nil
}

// checkLog shows that every line is JSON, none is of level error and none holds the secret.
func (l *lab) checkLog(t *testing.T) {
	t.Helper()
	l.noSecret(t)
	for _, line := range l.lines(t) {
		if line["level"] == "error" {
			t.Errorf("an error in the log: %v", line)
		}
	}
}

func (l *lab) noSecret(t *testing.T) {
	t.Helper()
	for _, s := range []string{secret, fmt.Sprintf("%x", secret), wrongSecret, "PRIVATE KEY"} {
		if strings.Contains(l.esp.Log(), s) {
			t.Errorf("the log holds %q", s)
		}
	}
}

// lines are the daemon's log. One that is being written does not count yet.
func (l *lab) lines(t *testing.T) []map[string]any {
	t.Helper()
	var out []map[string]any
	log := l.log()
	for _, text := range strings.Split(strings.TrimSpace(log[:strings.LastIndexByte(log, '\n')+1]), "\n") {
		if text == "" {
			continue
		}
		var m map[string]any
		if err := json.Unmarshal([]byte(text), &m); err != nil {
			t.Errorf("a line of the log is not JSON: %q", text)
			continue
		}
		out = append(out, m)
	}
	return out
}

// event waits for a line of the log with this message, and these fields, if any.
func (l *lab) event(t *testing.T, message string, fields ...string) map[string]any {
	t.Helper()
	var found map[string]any
	l.eventually(t, fmt.Sprintf("a line %q with %q in the log", message, fields), func() error {
		for _, m := range l.lines(t) {
			ok := m["message"] == message
			for i := 0; ok && i < len(fields); i += 2 {
				ok = fmt.Sprint(m[fields[i]]) == fields[i+1]
			}
			if ok {
				found = m
				return nil
			}
		}
		return fmt.Errorf("not there")
	})
	return found
}

// eventually waits until the condition holds.
func (l *lab) eventually(t *testing.T, what string, condition func() error) {
	t.Helper()
	l.within(t, patience, what, condition)
}

// within is the same for what takes longer by its nature.
func (l *lab) within(t *testing.T, limit time.Duration, what string, condition func() error) {
	t.Helper()
	deadline := time.Now().Add(limit)
	for {
		err := condition()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("expected %s within %s: %v", what, limit, err)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// kernel is what XFRM holds in a namespace: states, and policies that are not a socket's.
type kernel struct {
	states   []netlink.XfrmState
	policies []netlink.XfrmPolicy
}

func (k kernel) String() string {
	var b strings.Builder
	for _, s := range k.states {
		fmt.Fprintf(&b, "  state %s > %s spi %08x reqid %d %s\n", s.Src, s.Dst, s.Spi, s.Reqid, s.Mode)
	}
	for _, p := range k.policies {
		fmt.Fprintf(&b, "  policy %s > %s dir %s priority %d\n", p.Src, p.Dst, p.Dir, p.Priority)
	}
	return b.String()
}

// kernelOf reads XFRM.
func kernelOf(h *topo.Host) (kernel, error) {
	var k kernel
	err := h.Do(func() (err error) {
		if k.states, err = netlink.XfrmStateList(netlink.FAMILY_ALL); err != nil {
			return err
		}
		k.policies, err = netlink.XfrmPolicyList(netlink.FAMILY_ALL)
		return err
	})
	k.policies = slices.DeleteFunc(k.policies, func(p netlink.XfrmPolicy) bool {
		return p.Dir == netlink.XFRM_SOCKET_IN || p.Dir == netlink.XFRM_SOCKET_OUT || p.Dir == netlink.XFRM_SOCKET_FWD
	})
	return k, err
}

// expectNothing waits until no state and no policy is left.
func (l *lab) expectNothing(t *testing.T, h *topo.Host, when string) {
	t.Helper()
	deadline := time.Now().Add(patience)
	for {
		k, err := kernelOf(h)
		if err == nil && len(k.states)+len(k.policies) == 0 {
			return
		}
		if time.Now().After(deadline) {
			t.Errorf("%s: XFRM of %s: expected nothing, got %v\n%s", when, h.Name, err, k)
			return
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// initiate brings the tunnel up from either side.
func (l *lab) initiate(t *testing.T, ours bool) error {
	t.Helper()
	if ours {
		return l.espalier(t.Context(), "initiate", "ike", "peer", "child", "net", "timeout", "30000")
	}
	return l.strongSwan(t.Context(), "initiate", "ike", "peer", "child", "net", "timeout", "30000", "loglevel", "1")
}

// mustInitiate is initiate where it has to succeed.
func (l *lab) mustInitiate(t *testing.T, ours bool) {
	t.Helper()
	if err := l.initiate(t, ours); err != nil {
		t.Fatal(err)
	}
}

// counts are what has passed the wire since the case began.
func (l *lab) counts(t *testing.T) topo.Counts {
	t.Helper()
	c, err := l.wire.Counts()
	if err != nil {
		t.Fatal(err)
	}
	if c.Lost != 0 {
		t.Fatalf("the capture lost %d packets", c.Lost)
	}
	return c
}

// transferSize is what goes through each tunnel by TCP, in bytes.
const transferSize = 100_000

// traffic pushes TCP one way and pings the other, and shows that the wire carried it as ESP (in UDP, if encap) and nothing in clear.
func (l *lab) traffic(t *testing.T, s shape, encap bool) {
	t.Helper()
	a, b := l.client(l.ours), l.client(l.theirs)
	to, back := b.Inner(s.inner), a.Inner(s.inner)
	switch {
	case s.transport:
		if a, b = l.ours, l.theirs; l.Router != nil {
			a, b = l.GW1, l.GW2 // nobody can listen at the router's address
		}
		to, back = b.PublicAddr(s.outer), a.PublicAddr(s.outer)
	case s.any: // the peer would protect what it forwards a second time, on its way to the client
		a, b = l.ours, l.theirs
		to, back = b.Inner(s.inner), a.Inner(s.inner)
	}
	before := l.counts(t)
	if _, err := a.Transfer(t.Context(), b, to, transferSize); err != nil {
		t.Fatal(err)
	}
	// Last, so that no packet of the connection is on its way any more.
	if err := b.Ping(t.Context(), back, 3); err != nil {
		t.Fatal(err)
	}
	after := l.counts(t)
	esp, udp := after.ESP-before.ESP, after.UDPESP-before.UDPESP
	if encap {
		esp, udp = udp, esp
	}
	if esp < 6+transferSize/1500 || udp != 0 {
		t.Errorf("expected at least %d packets of ESP, all of them in UDP: %t; got %+v", 6+transferSize/1500, encap, after)
	}
	if after.Clear != 0 || after.Bytes-before.Bytes < transferSize {
		t.Errorf("expected %d bytes in ESP and no clear text, got %+v", transferSize, after)
	}
}
