package topo

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// startTime is how long a daemon may take until it is ready.
const startTime = 30 * time.Second

// StrongSwan is a running charon-systemd, without systemd, with a vici socket and a configuration folder of its own.
type StrongSwan struct {
	*Process
	// Dir is the folder that swanctl reads (swanctl.conf, x509, x509ca, private ...).
	Dir string
	// URI is the vici socket, as swanctl --uri takes it.
	URI string

	host *Host
	log  string
	env  []string
}

// StrongSwanConfig is what a StrongSwan is started with.
type StrongSwanConfig struct {
	// Conf is the text of swanctl.conf; secrets go there too.
	Conf string
	// Files are further files below the folder, such as x509/gw2.pem or private/gw2.pem.
	Files map[string][]byte
	// Options are further lines for the charon-systemd section of strongswan.conf, such as "retransmit_tries = 1".
	Options []string
}

// StartStrongSwan starts strongSwan in the namespace, waits until it listens and loads the configuration.
func (h *Host) StartStrongSwan(ctx context.Context, cfg StrongSwanConfig) (*StrongSwan, error) {
	dir := filepath.Join(h.net.dir, h.Name+"-swan")
	socket := filepath.Join(dir, "vici.sock")
	s := &StrongSwan{Dir: filepath.Join(dir, "swanctl"), URI: "unix://" + socket, host: h, log: filepath.Join(dir, "charon.log")}
	s.env = []string{"STRONGSWAN_CONF=" + filepath.Join(dir, "strongswan.conf"), "SWANCTL_DIR=" + s.Dir}
	if err := os.MkdirAll(s.Dir, 0o700); err != nil {
		return nil, err
	}
	if err := os.WriteFile(filepath.Join(dir, "strongswan.conf"), []byte(s.conf(cfg.Options)), 0o600); err != nil {
		return nil, err
	}
	if err := s.Configure(cfg.Conf, cfg.Files); err != nil {
		return nil, err
	}
	var err error
	if s.Process, err = h.Start(s.env, "/usr/sbin/charon-systemd"); err != nil {
		return nil, err
	}
	if err := s.ready(ctx, socket); err != nil {
		return nil, err
	}
	h.net.replaceLast(s)
	return s, s.Load(ctx)
}

// replaceLast puts the daemon in the place of its bare process, so that its own log is shown.
func (n *Net) replaceLast(d stopper) { n.daemons[len(n.daemons)-1] = d }

// swanctlPlugins are what swanctl needs to read keys and certificates: with all that Debian has, each call takes three times as long.
const swanctlPlugins = "random nonce openssl pem pkcs1 pkcs8 pkcs12 x509 pubkey"

// plugins are what charon loads: its crypto, XFRM, sockets, vici. What would change the routing or the kernel's choice is left out.
const plugins = "random nonce openssl aes sha1 sha2 md5 hmac kdf drbg gcm ccm chapoly ctr xcbc cmac curve25519 gmp mgf1 pem pkcs1 pkcs8 pkcs12 " +
	"x509 revocation constraints pubkey counters kernel-netlink socket-default vici updown eap-identity eap-md5 eap-mschapv2 eap-gtc eap-tls"

func (s *StrongSwan) conf(options []string) string {
	return fmt.Sprintf(`charon-systemd {
  load = %s
  install_routes = no
  install_virtual_ip = yes
  plugins { vici { socket = %s } }
  journal { default = -1 }
  filelog { lab { path = %s
    flush_line = yes
    default = 1
    ike = 2
    cfg = 2
    knl = 2
    chd = 2 } }
  %s
}
swanctl { load = %s }
`, plugins, s.URI, s.log, strings.Join(options, "\n  "), swanctlPlugins)
}

// ready waits until the socket takes connections.
func (s *StrongSwan) ready(ctx context.Context, socket string) error {
	for deadline := time.Now().Add(startTime); ; time.Sleep(20 * time.Millisecond) {
		if c, err := net.Dial("unix", socket); err == nil {
			return c.Close()
		}
		select {
		case <-s.Exited():
			return fmt.Errorf("strongSwan in %s ended at its start: %v\n%s", s.host.Name, s.err, s.Log())
		case <-ctx.Done():
			return ctx.Err()
		default:
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("strongSwan in %s does not listen on %s after %s\n%s", s.host.Name, socket, startTime, s.Log())
		}
	}
}

// Configure writes the configuration folder anew; Load makes charon read it.
func (s *StrongSwan) Configure(conf string, files map[string][]byte) error {
	return WriteFiles(s.Dir, "swanctl.conf", conf, files)
}

// WriteFiles writes a configuration and its files below dir, readable by root only.
func WriteFiles(dir, name, conf string, files map[string][]byte) error {
	all := map[string][]byte{name: []byte(conf)}
	for k, v := range files {
		all[k] = v
	}
	for k, v := range all {
		path := filepath.Join(dir, k)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			return err
		}
		if err := os.WriteFile(path, v, 0o600); err != nil {
			return err
		}
	}
	return nil
}

// Swanctl runs swanctl against this charon and returns what it printed. A verb that needs arguments gets them all here: Swanctl(ctx, "--initiate", "--child", "net").
func (s *StrongSwan) Swanctl(ctx context.Context, args ...string) (string, error) {
	argv := append([]string{"swanctl"}, args...)
	return s.host.run(ctx, s.env, "", append(argv, "--uri", s.URI)...)
}

// Load makes charon read the configuration folder.
func (s *StrongSwan) Load(ctx context.Context) error {
	_, err := s.Swanctl(ctx, "--load-all", "--noprompt", "--clear")
	return err
}

// Initiate brings a CHILD SA up and waits for it.
func (s *StrongSwan) Initiate(ctx context.Context, child string) error {
	_, err := s.Swanctl(ctx, "--initiate", "--child", child, "--timeout", "30")
	return err
}

// Terminate takes an IKE SA with its CHILD SAs down and waits for it.
func (s *StrongSwan) Terminate(ctx context.Context, ike string) error {
	_, err := s.Swanctl(ctx, "--terminate", "--ike", ike, "--timeout", "30")
	return err
}

// SAs is what swanctl --list-sas prints; empty when there are none.
func (s *StrongSwan) SAs(ctx context.Context) (string, error) {
	return s.Swanctl(ctx, "--list-sas")
}

// Log is charon's log.
func (s *StrongSwan) Log() string {
	b, err := os.ReadFile(s.log)
	if err != nil {
		return s.Process.Log()
	}
	return string(b) + s.Process.Log()
}

func (s *StrongSwan) title() string { return "strongSwan in " + s.host.Name }

// Restart starts strongSwan again after it was stopped or killed, with the configuration that stands in its folder.
func (s *StrongSwan) Restart(ctx context.Context) error {
	var err error
	if s.Process, err = s.host.Start(s.env, "/usr/sbin/charon-systemd"); err != nil {
		return err
	}
	if err := s.ready(ctx, strings.TrimPrefix(s.URI, "unix://")); err != nil {
		return err
	}
	s.host.net.replaceLast(s)
	return s.Load(ctx)
}
