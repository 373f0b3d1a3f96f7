package topo

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// Libreswan is a running pluto with a configuration folder of its own.
type Libreswan struct {
	*Process

	host *Host
	dir  string
}

// LibreswanConfig is what a Libreswan is started with.
type LibreswanConfig struct {
	// Conns are the sections of ipsec.conf but "config setup". Connections with auto=add are loaded.
	Conns string
	// Secrets is the text of ipsec.secrets.
	Secrets string
	// Cert is the own certificate with its key, under the nickname "own"; nil for none. CA is the authority that is trusted.
	Cert, CA *Cert
}

// pluto's programs, which Debian keeps out of the path.
const (
	pluto = "/usr/libexec/ipsec/pluto"
	whack = "/usr/libexec/ipsec/whack"
)

// StartLibreswan starts libreswan in the namespace and waits until it listens and has its connections.
func (h *Host) StartLibreswan(ctx context.Context, cfg LibreswanConfig) (*Libreswan, error) {
	dir, err := os.MkdirTemp(h.net.dir, h.Name+"-libreswan-")
	if err != nil {
		return nil, err
	}
	l := &Libreswan{host: h, dir: dir}
	for name, text := range map[string]string{"ipsec.conf": "config setup\n\tlogtime=yes\n" + cfg.Conns, "ipsec.secrets": cfg.Secrets} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			return nil, err
		}
	}
	if err := l.certificates(ctx, cfg); err != nil {
		return nil, err
	}
	l.Process, err = h.Start(nil, pluto, "--nofork", "--stderrlog", "--config", l.path("ipsec.conf"), "--secretsfile", l.path("ipsec.secrets"),
		"--rundir", dir, "--ipsecdir", dir, "--nssdir", l.path("nss"), "--no-dnssec", "--nhelpers", "1")
	if err != nil {
		return nil, err
	}
	l.Process.name = l.title()
	return l, l.ready(ctx)
}

func (l *Libreswan) path(name string) string { return filepath.Join(l.dir, name) }

func (l *Libreswan) title() string { return "libreswan in " + l.host.Name }

// certificates fills the NSS database, which takes a key as PKCS#12 only.
func (l *Libreswan) certificates(ctx context.Context, cfg LibreswanConfig) error {
	if err := os.Mkdir(l.path("nss"), 0o700); err != nil {
		return err
	}
	db := "sql:" + l.path("nss")
	if _, err := l.host.Run(ctx, "certutil", "-N", "--empty-password", "-d", db); err != nil {
		return err
	}
	if cfg.Cert != nil {
		if err := os.WriteFile(l.path("own.pem"), append(append([]byte(nil), cfg.Cert.Cert...), cfg.Cert.Key...), 0o600); err != nil {
			return err
		}
		if _, err := l.host.Run(ctx, "openssl", "pkcs12", "-export", "-in", l.path("own.pem"), "-out", l.path("own.p12"), "-name", "own", "-passout", "pass:lab"); err != nil {
			return err
		}
		if _, err := l.host.Run(ctx, "pk12util", "-i", l.path("own.p12"), "-d", db, "-W", "lab"); err != nil {
			return err
		}
	}
	if cfg.CA != nil {
		if err := os.WriteFile(l.path("ca.pem"), cfg.CA.Cert, 0o600); err != nil {
			return err
		}
		if _, err := l.host.Run(ctx, "certutil", "-A", "-n", "ca", "-t", "CT,,", "-d", db, "-i", l.path("ca.pem")); err != nil {
			return err
		}
	}
	return nil
}

// ready waits until pluto has its connections, listens and has read its secrets: it does so in this order, by an addconn that it starts itself.
func (l *Libreswan) ready(ctx context.Context) error {
	for deadline := time.Now().Add(startTime); ; time.Sleep(20 * time.Millisecond) {
		log := l.Log()
		switch {
		case strings.Contains(log, "failed to add connection"):
			return fmt.Errorf("%s does not take its configuration:\n%s", l.title(), log)
		case strings.Contains(log, "loading secrets from"):
			return nil
		case time.Now().After(deadline):
			return fmt.Errorf("%s is not ready after %s\n%s", l.title(), startTime, log)
		}
		select {
		case <-l.Exited():
			return fmt.Errorf("%s ended at its start: %v\n%s", l.title(), l.err, l.Log())
		case <-ctx.Done():
			return ctx.Err()
		default:
		}
	}
}

// Whack has pluto do something and returns what it printed; commands such as --initiate wait for their end.
func (l *Libreswan) Whack(ctx context.Context, args ...string) (string, error) {
	return l.host.Run(ctx, append([]string{whack, "--ctlsocket", l.path("pluto.ctl")}, args...)...)
}
