package main

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"math/big"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"github.com/rs/zerolog"

	"espalier/dataplane/selector"
	"espalier/ike/auth"
	"espalier/ike/lease"
	"espalier/ike/sa"
	"espalier/ike/sa/satest"
	"espalier/ike/vici"
	"espalier/ike/vici/vicitest"
	"espalier/internal/event"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"espctl": main, "fakectl": fakectl})
}

// The scripts talk to real servers over made-up engines: $SOCKET has the sessions
// of vicitest and one with a hostile peer, $EMPTY has none, $DEAD was left
// behind by a daemon that crashed.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: "testdata/script", UpdateScripts: os.Getenv("UPDATE") != "",
		Setup: func(env *testscript.Env) error {
			// Socket paths are short; a script's folder may not be.
			dir, err := os.MkdirTemp("", "espctl")
			if err != nil {
				return err
			}
			env.Defer(func() { os.RemoveAll(dir) })
			for name, sessions := range map[string][]sa.Info{
				"SOCKET": {vicitest.Gateway(), vicitest.Half(), hostile()}, "EMPTY": nil,
			} {
				path := filepath.Join(dir, name)
				engine := vicitest.New(sessions...)
				if sessions != nil {
					if err := configured(engine); err != nil {
						return err
					}
				}
				if err := serve(env, path, engine); err != nil {
					return err
				}
				env.Setenv(name, path)
			}
			dead := filepath.Join(dir, "DEAD")
			env.Setenv("DEAD", dead)
			return abandon(dead)
		},
	})
}

// configured gives an engine something to show: a certificate of its own and its CA,
// a pool, connections.
func configured(e *vicitest.Engine) error {
	const name = "moon.example.org"
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	creds := auth.NewBuilder()
	issue := func(serial int64, subject string, ca bool) (*x509.Certificate, error) {
		tmpl := &x509.Certificate{SerialNumber: big.NewInt(serial), Subject: pkix.Name{CommonName: subject}, BasicConstraintsValid: true, IsCA: ca,
			NotBefore: time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC), NotAfter: time.Date(2001, 1, 1, 0, 0, 0, 0, time.UTC), DNSNames: []string{subject}}
		der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
		if err != nil {
			return nil, err
		}
		return x509.ParseCertificate(der)
	}
	own, err1 := issue(255, name, false)
	ca, err2 := issue(1, "Root", true)
	if err := errors.Join(err1, err2); err != nil {
		return err
	}
	if err := errors.Join(creds.AddCert(own, "test"), creds.AddCA(ca, "test"), creds.AddKey(key, "test")); err != nil {
		return err
	}
	e.Config.Creds = creds.Build()
	e.Config.Pools = []lease.Status{{Name: "road", Base: netip.MustParseAddr("10.9.0.1"), Size: 254, Online: 1, Offline: 1, Leases: []lease.Lease{
		{Addr: netip.MustParseAddr("10.9.0.1"), Identity: "carol", Online: true}, {Addr: netip.MustParseAddr("10.9.0.2"), Identity: "\x1b[2Jdave"}}}}
	lan := []selector.Spec{satest.Must(selector.Parse("10.1.0.0/16"))}
	e.Config.Conns = []*sa.Connection{
		satest.Conn("gw", name, "sun.example.org", "10.1.0.0/16", "10.2.0.0/16"),
		{Name: "shunts", Shunts: []*sa.ChildConfig{{Name: "lan", Shunt: sa.ShuntPass, LocalTS: lan, RemoteTS: lan}}},
	}
	e.Config.Reloaded = func() error { return errors.New("espalier.conf: no such file") }
	return nil
}

// planned is what a daemon would say to plan.
func planned(context.Context, vici.Message) (vici.Message, error) {
	return vici.Message{
		vici.KeyValue{Name: "differs", Value: "yes"}, vici.List{Name: "added", Items: []string{"new"}}, vici.List{Name: "removed", Items: []string{"old", "older"}},
		vici.Section{Name: "changed", Body: vici.Message{vici.Section{Name: "gw", Body: vici.Message{
			vici.KeyValue{Name: "ike", Value: "yes"}, vici.List{Name: "changed", Items: []string{"net"}}}}}},
		vici.KeyValue{Name: "unchanged", Value: "3"}, vici.KeyValue{Name: "credentials", Value: "yes"}, vici.List{Name: "settings", Items: []string{"port", "leak"}},
		vici.List{Name: "restart", Items: []string{"port"}}, vici.List{Name: "started", Items: []string{"new/net"}},
		vici.Section{Name: "ended", Body: vici.Message{vici.Section{Name: "7", Body: vici.Message{
			vici.KeyValue{Name: "ike", Value: "old"}, vici.KeyValue{Name: "remote-host", Value: "192.0.2.9"}, vici.KeyValue{Name: "remote-id", Value: "sun"}}}}},
	}, nil
}

// What is followed is printed as it comes, until there is enough.
func TestLog(t *testing.T) {
	dir, err := os.MkdirTemp("", "espctl")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	path, engine := filepath.Join(dir, "s"), vicitest.New()
	l, err := vici.Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	s := vici.NewServer(vici.Config{Engine: engine, Events: &engine.Bus, Log: zerolog.Nop()})
	go s.Serve(l)
	t.Cleanup(s.Close)
	for args, want := range map[string]string{
		"log monitor":   "IKE <gw|7> negotiation failed: ",
		"log alerts":    "TS_MISMATCH <gw|7> negotiation failed: ",
		"-j log alerts": `{"version":1,"ike":"gw","ike_id":"7","child":"net","alert":"TS_MISMATCH","cause":"TS_UNACCEPTABLE","text":"negotiation failed: `,
	} {
		ended := make(chan struct{})
		go func() { // it may come before somebody listens
			for {
				select {
				case <-ended:
					return
				case <-time.After(time.Millisecond):
					engine.Bus.Publish(vicitest.Now, event.Failed{IKE: event.IKE{Conn: "gw", UniqueID: 7}, ChildName: "net", Cause: event.TSUnacceptable})
				}
			}
		}()
		var stdout, stderr bytes.Buffer
		code := run(append(strings.Fields(args), "-n", "2", "--socket", path), &stdout, &stderr, nil, time.Now)
		close(ended)
		if lines := strings.Split(stdout.String(), "\n"); code != 0 || len(lines) != 3 || !strings.HasPrefix(lines[0], want) {
			t.Errorf("%s: code %d, %q, %s", args, code, stdout.String(), stderr.String())
		}
	}
}

// hostile is a session whose peer chose an identity that clears terminals.
func hostile() sa.Info {
	s := vicitest.Gateway()
	s.UniqueID, s.Conn, s.RemoteID = 5, "evil", "\x1b[2Jadmin"
	s.Children = nil
	return s
}

func serve(env *testscript.Env, path string, engine *vicitest.Engine) error {
	l, err := vici.Listen(path)
	if err != nil {
		return err
	}
	s := vici.NewServer(vici.Config{
		Engine: engine, Events: &engine.Bus, Log: zerolog.Nop(), Now: func() time.Time { return vicitest.Now },
		Version: vici.Version{Daemon: "espalierd", Version: "1.2.3", SysName: "Linux", Release: "6.12", Machine: "x86_64"},
		More:    withPlan(tunerOf()),
	})
	done := make(chan error, 1)
	go func() { done <- s.Serve(l) }()
	env.Defer(func() {
		s.Close()
		if err := <-done; !errors.Is(err, vici.ErrClosed) {
			panic(fmt.Sprintf("Serve: %v", err))
		}
	})
	return nil
}

func withPlan(m map[string]vici.Command) map[string]vici.Command {
	m["plan"] = planned
	return m
}

// abandon leaves a socket at which nobody listens.
func abandon(path string) error {
	l, err := vici.Listen(path + ".then")
	if err != nil {
		return err
	}
	if err := os.Rename(path+".then", path); err != nil {
		return err
	}
	return l.Close()
}
