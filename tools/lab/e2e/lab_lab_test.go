//go:build lab

package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"espalier/tools/lab/topo"
)

// patience is how long a condition may take to come true. The emulated machine of the CI is slow.
const patience = 60 * time.Second

// lab is one network with one strongSwan, used by many cases; each has an espalierd of its own.
type lab struct {
	*topo.Net
	wire *topo.Capture
	pki  *pkis
	// ours is Espalier's gateway, theirs strongSwan's.
	ours, theirs *topo.Host
	swan         *topo.StrongSwan
	esp          *topo.Espalier
	swanLog      int // length of charon's log when the case began
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
	return l
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

// start loads strongSwan's configuration and starts an espalierd, and forgets what passed the wire.
func (l *lab) start(t *testing.T, ours, theirs side) {
	t.Helper()
	l.startWith(t, ours.conf(), l.pki.files(t, ours), theirs.conf(), l.pki.files(t, theirs))
}

func (l *lab) startWith(t *testing.T, ours string, ourFiles map[string][]byte, theirs string, theirFiles map[string][]byte) {
	t.Helper()
	l.swanLog = len(l.swan.Log())
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("ours:\n%s\ntheirs:\n%s", ours, theirs)
			if l.esp != nil {
				t.Logf("log of espalierd:\n%s", l.esp.Log())
			}
			t.Logf("log of strongSwan:\n%s", l.swan.Log()[l.swanLog:])
		}
		l.stop(t)
	})
	// What an earlier case left in the folder must not help.
	if err := os.RemoveAll(l.swan.Dir); err != nil {
		t.Fatal(err)
	}
	t0 := time.Now()
	defer func() { t.Logf("TIME start %s", time.Since(t0)) }()
	if err := l.swan.Configure(theirs, theirFiles); err != nil {
		t.Fatal(err)
	}
	if err := l.swan.Load(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Logf("TIME load %s", time.Since(t0))
	if err := l.wire.Reset(); err != nil {
		t.Fatal(err)
	}
	l.startEspalier(t, ours, ourFiles)
}

func (l *lab) startEspalier(t *testing.T, conf string, files map[string][]byte) {
	t.Helper()
	if l.esp == nil {
		var err error
		if l.esp, err = l.ours.StartEspalier(t.Context(), topo.EspalierConfig{Conf: conf, Files: files, Args: []string{"--log-level", "debug"}}); err != nil {
			t.Fatal(err)
		}
		return
	}
	if err := os.RemoveAll(l.esp.Dir); err != nil {
		t.Fatal(err)
	}
	if err := l.esp.Configure(conf, files); err != nil {
		t.Fatal(err)
	}
	if err := l.esp.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// stop ends the case: espalierd goes, nothing is left in either kernel, and the log is in order.
func (l *lab) stop(t *testing.T) {
	t.Helper()
	if l.esp == nil {
		return
	}
	if err := l.esp.Stop(); err != nil {
		t.Error(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience) // the test's own has ended in a cleanup
	defer cancel()
	if k, err := kernelOf(l.theirs); err != nil || len(k.states)+len(k.policies) > 0 { // it does not know of a crash
		if _, err := l.swan.Swanctl(ctx, "--terminate", "--ike", "peer", "--force", "--timeout", "1"); err != nil {
			t.Logf("strongSwan keeps the IKE SA until nobody has answered for long: %v", err)
		}
	}
	l.expectNothing(t, l.ours, "after the end")
	l.expectNothing(t, l.theirs, "after the end")
	l.checkLog(t)
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
	log := l.esp.Log()
	for _, s := range []string{secret, fmt.Sprintf("%x", secret), "PRIVATE KEY"} {
		if strings.Contains(log, s) {
			t.Errorf("the log holds %q", s)
		}
	}
}

// lines are the daemon's log.
func (l *lab) lines(t *testing.T) []map[string]any {
	t.Helper()
	var out []map[string]any
	for _, text := range strings.Split(strings.TrimSpace(l.esp.Log()), "\n") {
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
	deadline := time.Now().Add(patience)
	for {
		err := condition()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("expected %s within %s: %v", what, patience, err)
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
	deadline := time.Now().Add(patience / 4)
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
		_, err := l.esp.Espctl(t.Context(), "conn", "up", "peer", "net", "--timeout", "30s")
		return err
	}
	return l.swan.Initiate(t.Context(), "net")
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
		a, b = l.ours, l.theirs
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
