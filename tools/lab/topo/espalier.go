package topo

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"espalier/dataplane/flow"
)

// Espalier is a running espalierd.
type Espalier struct {
	*Process
	// Dir is the configuration folder; Conf the file in it.
	Dir, Conf string
	// RunDir is what the daemon sees as /run/espalier. It outlives the process, as /run does.
	RunDir string
	// StateDir is what it sees as /var/lib/espalier.
	StateDir string

	host       *Host
	bin        string
	args       []string
	plain      bool
	sys        string // where its own /sys is made ready; empty: it has the machine's
	supervisor *Supervisor
}

// EspalierConfig is what an Espalier is started with.
type EspalierConfig struct {
	// Conf is the text of espalier.conf.
	Conf string
	// Files are further files below the folder, such as x509/gw1.pem or private/gw1.pem.
	Files map[string][]byte
	// Args are further arguments of espalierd.
	Args []string
	// Plain leaves the BPF programs out: an emulated machine verifies them for many seconds at each start.
	Plain bool
	// OwnSys gives the daemon a /sys with its namespace's interfaces, as a container has it. Without, it is the machine's: the daemon finds
	// neither queues nor devices of its interfaces there.
	OwnSys bool
	// KeepSockets has the IKE sockets held while the daemon is dead, as systemd does with FileDescriptorStoreMax=.
	KeepSockets bool
}

// readyTime is how long espalierd may take until it is ready, and as long again until its BPF programs are: an emulated machine verifies
// them for many seconds, and for minutes when it has other work.
const readyTime = 4 * time.Minute

// EspalierdVar names the environment variable with the path of the daemon's binary.
const EspalierdVar = "ESPALIER_ESPALIERD"

// StartEspalier starts espalierd in the namespace, with a /run/espalier of its own, and waits until it says that it is ready.
func (h *Host) StartEspalier(ctx context.Context, cfg EspalierConfig) (*Espalier, error) {
	e, err := h.PrepareEspalier(cfg)
	if err != nil {
		return nil, err
	}
	return e, e.Restart(ctx)
}

// PrepareEspalier is StartEspalier up to the start, which Restart does.
func (h *Host) PrepareEspalier(cfg EspalierConfig) (*Espalier, error) {
	bin, err := program(EspalierdVar, "espalierd")
	if err != nil {
		return nil, err
	}
	e := &Espalier{Dir: filepath.Join(h.net.dir, h.Name+"-espalier"), RunDir: filepath.Join(h.net.dir, h.Name+"-run"),
		StateDir: filepath.Join(h.net.dir, h.Name+"-state"), host: h, bin: bin, args: cfg.Args, plain: cfg.Plain,
		supervisor: &Supervisor{keeps: cfg.KeepSockets}}
	e.Conf = filepath.Join(e.Dir, "espalier.conf")
	dirs := []string{e.RunDir, e.StateDir}
	if cfg.OwnSys {
		e.sys = filepath.Join(h.net.dir, h.Name+"-sys")
		dirs = append(dirs, e.sys)
	}
	for _, dir := range dirs {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return nil, err
		}
	}
	h.net.daemons = append(h.net.daemons, e.supervisor)
	return e, e.Configure(cfg.Conf, cfg.Files)
}

// Configure writes the configuration folder anew; a SIGHUP makes the daemon read it.
func (e *Espalier) Configure(conf string, files map[string][]byte) error {
	if e.plain {
		conf += "\nespalier {\n fast_path = no\n}\n"
	}
	return WriteFiles(e.Dir, "espalier.conf", conf, files)
}

// Restart starts the daemon, again when it was stopped or killed before, and waits until it says that it is ready and its BPF programs are
// at their places, or cannot be.
func (e *Espalier) Restart(ctx context.Context) error {
	if err := e.restart(ctx); err != nil {
		return err
	}
	for deadline := time.Now().Add(readyTime); time.Now().Before(deadline); {
		d, err := flow.ReadDaemon(flow.ReaderOptions{State: filepath.Join(e.RunDir, filepath.Base(flow.DefaultState))})
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
		if err != nil || d.PID != e.PID() || !d.Loading {
			return nil
		}
		select {
		case <-time.After(50 * time.Millisecond):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return fmt.Errorf("the BPF programs of espalierd in %s are not loaded after %s\n%s", e.host.Name, readyTime, e.Log())
}

// restart is Restart up to the daemon's word that it is ready.
func (e *Espalier) restart(ctx context.Context) error {
	v := e.supervisor
	if err := v.listen(filepath.Join(e.RunDir, "notify.sock")); err != nil {
		return err
	}
	defer v.notify.Close()
	argv := e.inMountNamespace(append([]string{e.bin, "--config", e.Conf}, e.args...))
	var err error
	if e.Process, err = e.host.start(v.environment(), v.files, argv...); err != nil {
		return err
	}
	e.Process.name = "espalierd in " + e.host.Name
	for deadline := time.Now().Add(readyTime); time.Now().Before(deadline); {
		if ready, err := v.ready(); ready || err != nil {
			return err
		}
		select {
		case <-e.Exited():
			return fmt.Errorf("espalierd in %s ended at its start: %v\n%s", e.host.Name, e.err, e.Log())
		case <-ctx.Done():
			return ctx.Err()
		default:
		}
	}
	return fmt.Errorf("espalierd in %s is not ready after %s\n%s", e.host.Name, readyTime, e.Log())
}

// Supervisor is what started the daemon.
func (e *Espalier) Supervisor() *Supervisor { return e.supervisor }

// Command runs a program (espctl, say) that finds this daemon's /run/espalier, and returns what it printed.
func (e *Espalier) Command(ctx context.Context, argv ...string) (string, error) {
	return e.host.Run(ctx, e.inMountNamespace(argv)...)
}

// Once runs espalierd with arguments that make it do one thing and exit, such as --block, and returns what it printed.
func (e *Espalier) Once(ctx context.Context, args ...string) (string, error) {
	return e.Command(ctx, append([]string{"sh", "-c", `exec "$@" 2>&1`, "sh", e.bin, "--config", e.Conf}, args...)...)
}

// Espctl runs espctl against this daemon. Its path comes from ESPALIER_ESPCTL, or is bin/espctl.
func (e *Espalier) Espctl(ctx context.Context, args ...string) (string, error) {
	bin, err := program("ESPALIER_ESPCTL", "espctl")
	if err != nil {
		return "", err
	}
	return e.Command(ctx, append([]string{bin}, args...)...)
}

// ownSys has the namespace's interfaces in /sys, and what is mounted there of the machine's.
const ownSys = `mount -t sysfs sysfs "$2" && for at in fs/bpf kernel/tracing; do [ ! -d /sys/$at ] || mount --bind /sys/$at "$2/$at" || exit; done && mount --rbind "$2" /sys && `

// inMountNamespace wraps a command so that RunDir is its /run/espalier and StateDir its /var/lib/espalier.
func (e *Espalier) inMountNamespace(argv []string) []string {
	script := `mkdir -p /run/espalier /var/lib/espalier && mount --bind "$0" /run/espalier && mount --bind "$1" /var/lib/espalier && `
	if e.sys != "" {
		script += ownSys
	}
	script += `shift 2 && export LISTEN_PID=$$ && exec "$@"`
	return append([]string{"unshare", "--mount", "--propagation", "private", "sh", "-c", script, e.RunDir, e.StateDir, e.sys}, argv...)
}

// EspalierdPath is the path of the daemon's program.
func EspalierdPath() (string, error) { return program(EspalierdVar, "espalierd") }
