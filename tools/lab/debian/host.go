package debian

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// Host is this machine as far as apt goes.
type Host struct {
	// Say reports in one line what is being done while somebody waits.
	Say func(format string, args ...any)
	// Progress takes what the programs print that are run.
	Progress io.Writer

	// dir is where programs are run; empty is the current directory.
	dir string
}

// Need installs the Debian packages of the programs that are missing. It takes pairs: program, package.
func (h *Host) Need(ctx context.Context, pairs ...string) error {
	var missing []string
	for i := 0; i+1 < len(pairs); i += 2 {
		if _, err := exec.LookPath(pairs[i]); err != nil {
			missing = append(missing, pairs[i+1])
		}
	}
	if len(missing) == 0 {
		return nil
	}
	return h.Install(ctx, missing...)
}

// Install installs the packages with apt-get, without questions.
func (h *Host) Install(ctx context.Context, packages ...string) error {
	h.Say("installing with apt-get: %s", strings.Join(packages, " "))
	if os.Getuid() != 0 {
		return fmt.Errorf("missing on this machine: %s; run the lab as root, or install them with apt-get", strings.Join(packages, " "))
	}
	if _, err := h.run(ctx, nil, "apt-get", "-qq", "update"); err != nil {
		return err
	}
	_, err := h.run(ctx, noQuestions(), "apt-get", installArgs(packages...)...)
	return err
}

// InstallBackports installs the packages from the backports of the suite that this machine runs, whether or not apt is set up with them.
func (h *Host) InstallBackports(ctx context.Context, packages ...string) error {
	name, err := codename("/etc/os-release")
	if err != nil {
		return err
	}
	m, err := h.Mirror(ctx)
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "espalier-apt-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	backports := name + "-backports"
	h.Say("installing from %s with apt-get: %s", backports, strings.Join(packages, " "))
	apt, err := h.newApt(ctx, dir, m, []string{name, backports}, true)
	if err != nil {
		return err
	}
	_, err = h.run(ctx, append(apt.env, noQuestions()...), "apt-get", append([]string{"-t", backports}, installArgs(packages...)...)...)
	return err
}

// Codename is the suite that this machine runs, or empty when it does not say.
func (h *Host) Codename() string {
	name, err := codename("/etc/os-release")
	if err != nil {
		return ""
	}
	return name
}

// Mirror is the mirror this machine is set up with, and a keyring that knows the releases the lab needs.
func (h *Host) Mirror(ctx context.Context) (Mirror, error) {
	sources, err := machineSources("/etc/apt")
	if err != nil {
		return Mirror{}, fmt.Errorf("reading apt's sources: %w", err)
	}
	name, err := codename("/etc/os-release")
	if err != nil {
		return Mirror{}, err
	}
	m, err := FindMirror(sources, name)
	if err != nil {
		return Mirror{}, err
	}
	if m.Keyring != "" && !isDebianKeyring(m.Keyring) {
		return m, nil // a mirror that signs with keys of its own
	}
	if m.Keyring, err = archiveKeyring("/usr/share/keyrings"); err == nil {
		return m, nil
	}
	// A bookworm from before trixie's release lacks trixie's keys; its updated package has them.
	if err := h.Install(ctx, "debian-archive-keyring"); err != nil {
		return Mirror{}, err
	}
	m.Keyring, err = archiveKeyring("/usr/share/keyrings")
	return m, err
}

// archiveKeyring is Debian's keyring in dir, provided that it comes with trixie's keys.
func archiveKeyring(dir string) (string, error) {
	trixie, err := filepath.Glob(filepath.Join(dir, "debian-archive-trixie-*"))
	if err != nil {
		return "", err
	}
	for _, ext := range []string{".gpg", ".pgp"} {
		path := filepath.Join(dir, "debian-archive-keyring"+ext)
		if _, err := os.Stat(path); err == nil && len(trixie) > 0 {
			return path, nil
		}
	}
	return "", fmt.Errorf("expected Debian's archive keys, trixie's among them, in %s; package debian-archive-keyring has them", dir)
}

// run runs a program, passes what it prints to Progress, and returns its standard output. Its error ends with the last lines printed. When the context
// ends, the program is interrupted and has half a minute to clean up.
func (h *Host) run(ctx context.Context, env []string, name string, args ...string) (string, error) {
	var out, tail bytes.Buffer
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir = h.dir
	cmd.Env = append(append(os.Environ(), "LC_ALL=C"), env...)
	cmd.Stdout = io.MultiWriter(&out, &tail, h.Progress)
	cmd.Stderr = io.MultiWriter(&tail, h.Progress)
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = 30 * time.Second
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // so that a Ctrl-C arrives once, from here
	if err := cmd.Run(); err != nil {
		if ctx.Err() != nil {
			err = errors.Join(ctx.Err(), err)
		}
		return "", fmt.Errorf("%s: %w; its last words:\n%s", name, err, lastLines(tail.String(), 12))
	}
	return out.String(), nil
}

// lastLines is the end of the text, indented.
func lastLines(text string, n int) string {
	all := strings.Split(strings.TrimSpace(text), "\n")
	return "  " + strings.Join(all[max(0, len(all)-n):], "\n  ")
}
