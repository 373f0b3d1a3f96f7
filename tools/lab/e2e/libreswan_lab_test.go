//go:build lab

package e2e

import (
	"fmt"
	"strings"
	"testing"

	"espalier/tools/lab/topo"
)

// TestLibreswan brings tunnels up with libreswan, each side initiating, and has each side rekey CHILD and IKE SA, with traffic after each.
func TestLibreswan(t *testing.T) {
	n := topo.New(t, topo.Config{})
	l := &lab{Net: n, ours: n.GW1, theirs: n.GW2, pki: &pkis{cas: map[topo.KeyKind]*topo.Cert{}, ends: map[string]*topo.Cert{}}}
	var err error
	if l.wire, err = n.Capture(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.wire.Close() })
	for _, auth := range []string{psk, string(topo.RSA), string(topo.ECDSA)} {
		for _, weStart := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s, we start: %t", auth, weStart), func(t *testing.T) { l.withLibreswan(t, auth, weStart) })
		}
	}
}

func (l *lab) withLibreswan(t *testing.T, auth string, weStart bool) {
	s := shapes[0]
	ours, theirs := l.sides(auth, proposals{"libreswan", "aes256-sha256-modp2048", "aes256gcm16-modp2048"}, s)
	ours.more = "espalier { path_mtu = yes }\n"
	swan, err := l.theirs.StartLibreswan(t.Context(), l.libreswan(t, theirs))
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if t.Failed() {
			t.Logf("log of espalierd:\n%s", l.log())
			t.Logf("log of libreswan:\n%s", swan.Log())
		}
		if err := l.esp.Stop(); err != nil {
			t.Error(err)
		}
		if err := swan.Stop(); err != nil {
			t.Error(err)
		}
		l.expectNothing(t, l.ours, "after the end")
		l.expectNothing(t, l.theirs, "after the end")
	}()
	l.configure(t, files{ours.conf(), l.pki.files(t, ours)})
	l.espLog = len(l.esp.Log())
	if err := l.wire.Reset(); err != nil {
		t.Fatal(err)
	}
	command := func(args ...string) {
		t.Helper()
		if out, err := swan.Whack(t.Context(), args...); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
	}
	if weStart {
		l.mustInitiate(t, true)
	} else {
		command("--name", "peer", "--initiate")
	}
	l.traffic(t, s, false)
	// libreswan passes over the notify of our probe. The cipher's blocks do not make every size.
	if mtu := l.event(t, "path MTU")["mtu"].(float64); mtu <= 1500-16 || mtu > 1500 {
		t.Errorf("found a path MTU of %v, the wire takes 1500", mtu)
	}
	l.rekeyed(t, "CHILD SA installed", func() { l.ask(t, "rekey", "child", "net") })
	l.traffic(t, s, false)
	l.rekeyed(t, "CHILD SA installed", func() { command("--name", "peer", "--rekey-child") })
	l.traffic(t, s, false)
	l.rekeyed(t, "IKE SA rekeyed", func() { l.ask(t, "rekey", "ike", "peer") })
	l.rekeyed(t, "IKE SA rekeyed", func() { command("--name", "peer", "--rekey-ike") })
	l.traffic(t, s, false)
	l.eventually(t, "the replaced SAs to be gone", func() error {
		k, err := kernelOf(l.ours)
		if err == nil && len(k.states) != 2 {
			err = fmt.Errorf("%s", k)
		}
		return err
	})
	l.installed(t, s)
	if weStart {
		l.ask(t, "terminate", "ike", "peer", "timeout", "30000")
	} else {
		command("--name", "peer", "--terminate")
	}
	l.expectNothing(t, l.ours, "after the tunnel's end")
	l.checkLog(t)
}

// ask has espalierd run a command that must succeed.
func (l *lab) ask(t *testing.T, command string, args ...string) {
	t.Helper()
	if err := l.espalier(t.Context(), command, args...); err != nil {
		t.Fatal(err)
	}
}

// rekeyed does what makes one more line of a kind in the log, and waits for it.
func (l *lab) rekeyed(t *testing.T, message string, f func()) {
	t.Helper()
	count := func() (n int) {
		for _, m := range l.lines(t) {
			if m["message"] == message {
				n++
			}
		}
		return n
	}
	before := count()
	f()
	l.eventually(t, message, func() error {
		if n := count(); n != before+1 {
			return fmt.Errorf("%d of them before, %d after", before, n)
		}
		return nil
	})
}

// libreswan is a side in the words of libreswan.
func (l *lab) libreswan(t *testing.T, s side) topo.LibreswanConfig {
	t.Helper()
	own, cfg := "", topo.LibreswanConfig{}
	switch s.auth {
	case psk:
		own = "authby=secret"
		cfg.Secrets = fmt.Sprintf("@%s.example @%s.example : PSK %q\n", s.self.Name, s.peer.Name, s.secret)
	default:
		own = "authby=" + map[string]string{string(topo.RSA): "rsasig", string(topo.ECDSA): "ecdsa"}[s.auth] + "\n\tleftcert=own\n\trightca=%same"
		cfg.Cert, cfg.CA = l.pki.end(t, s.ca, topo.KeyKind(s.auth), s.self.Name), l.pki.ca(t, s.trusts)
	}
	lines := []string{"conn peer", "keyexchange=ikev2", "auto=add", "type=tunnel", "ike=aes256-sha2_256-modp2048", "esp=aes_gcm256;modp2048",
		"left=" + s.self.Outer(s.outer).String(), "leftid=@" + s.self.Name + ".example", "leftsubnet=" + s.localTS, "leftupdown=%disabled",
		"right=" + s.peer.PublicAddr(s.outer).String(), "rightid=@" + s.peer.Name + ".example", "rightsubnet=" + s.remoteTS, own}
	cfg.Conns = strings.Join(lines, "\n\t") + "\n"
	return cfg
}
