//go:build lab

package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"espalier/tools/lab/topo"
)

// TestConverted runs what espctl convert makes of an ipsec.conf. The first file is libreswan's, which runs it as it is on the other side: both programs find
// their side in the same text. The second makes a client of strongSwan's gateway.
func TestConverted(t *testing.T) {
	n := topo.New(t, topo.Config{})
	l := &lab{Net: n, ours: n.GW1, theirs: n.GW2, pki: &pkis{cas: map[topo.KeyKind]*topo.Cert{}, ends: map[string]*topo.Cert{}}}
	var err error
	if l.wire, err = n.Capture(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.wire.Close() })
	t.Run("networks", l.convertedNetworks)
	t.Run("client", l.convertedClient)
}

// convert has espctl convert the two files and starts an espalierd with the result.
func (l *lab) convert(t *testing.T, conf, secrets string) {
	t.Helper()
	dir := t.TempDir()
	for name, text := range map[string]string{"ipsec.conf": conf, "ipsec.secrets": secrets} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	prepared, err := l.ours.PrepareEspalier(topo.EspalierConfig{})
	if err != nil {
		t.Fatal(err)
	}
	// It runs in our gateway's namespace, so it knows our addresses. An exit code of 3 would be an error.
	out, err := prepared.Espctl(t.Context(), "convert", filepath.Join(dir, "ipsec.conf"), "--secrets", filepath.Join(dir, "ipsec.secrets"))
	if err != nil {
		t.Fatal(err)
	}
	// The notes, which go to stderr, come last.
	text, _, _ := strings.Cut(out, "\nnote: ")
	l.configure(t, files{conf: text})
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("%s\nlog of espalierd:\n%s", text, l.log())
		}
	})
}

// stopped stops both daemons and shows that nothing is left.
func (l *lab) stopped(t *testing.T, peer interface{ Stop() error }) {
	t.Helper()
	l.checkLog(t)
	for _, d := range []interface{ Stop() error }{l.esp, peer} {
		if err := d.Stop(); err != nil {
			t.Error(err)
		}
	}
	l.expectNothing(t, l.ours, "after the end")
	l.expectNothing(t, l.theirs, "after the end")
}

func (l *lab) convertedNetworks(t *testing.T) {
	s := shapes[0]
	conns := fmt.Sprintf(`conn ends
	left=%s
	leftid=@gw1.example
	right=%s
	rightid=@gw2.example
	authby=secret
	ikev2=insist
	ike=aes256-sha2_512;dh14
	phase2alg=aes_gcm256
	leftupdown=%%disabled
	rightupdown=%%disabled

conn peer
	also=ends
	leftsubnet=%s
	rightsubnet=%s
	rekeymargin=5m
	auto=add
`, l.GW1.Outer(s.outer), l.GW2.Outer(s.outer), l.GW1.Subnet(s.inner), l.GW2.Subnet(s.inner))
	secrets := fmt.Sprintf("@gw1.example @gw2.example : PSK %q\n", secret)
	swan, err := l.theirs.StartLibreswan(t.Context(), topo.LibreswanConfig{Conns: conns, Secrets: secrets})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("log of libreswan:\n%s", swan.Log())
		}
	})
	l.convert(t, "config setup\n"+conns, secrets)
	l.ask(t, "initiate", "ike", "peer", "child", "peer", "timeout", "30000")
	l.traffic(t, s, false)
	// libreswan uses a key exchange here, which esp= does not name.
	l.rekeyed(t, "CHILD SA installed", func() {
		if out, err := swan.Whack(t.Context(), "--name", "peer", "--rekey-child"); err != nil {
			t.Errorf("%v\n%s", err, out)
		}
	})
	l.traffic(t, s, false)
	l.ask(t, "terminate", "ike", "peer", "timeout", "30000")
	l.stopped(t, swan)
}

func (l *lab) convertedClient(t *testing.T) {
	ours, theirs := l.sides(psk, suites[0], shapes[0])
	_, server := l.virtualSides(ours, theirs)
	swan, err := l.theirs.StartStrongSwan(t.Context(), topo.StrongSwanConfig{Conf: server})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("log of strongSwan:\n%s", swan.Log())
		}
	})
	conf := fmt.Sprintf(`config setup
	uniqueids=no

conn %%default
	keyexchange=ikev2
	ike=%s!
	esp=%s!
	reauth=no

conn peer
	left=%%defaultroute
	leftsourceip=%%config4,%%config6
	leftid=@gw1.example
	right=%s
	rightid=@gw2.example
	rightsubnet=%s,%s
	authby=secret
	keyingtries=1
	auto=start
`, suites[0].ike, suites[0].esp, l.theirs.Outer(topo.IPv4), l.theirs.Subnet(topo.IPv4), l.theirs.Subnet(topo.IPv6))
	l.convert(t, conf, fmt.Sprintf(": PSK %q\n", secret))
	l.event(t, "CHILD SA installed")
	l.expectBox(t, true, true)
	if err := l.wire.Reset(); err != nil {
		t.Fatal(err)
	}
	l.virtualPing(t, l.ours, l.client(l.theirs), false)
	l.ask(t, "terminate", "ike", "peer", "timeout", "30000")
	l.expectBox(t, false, true)
	l.stopped(t, swan)
}
