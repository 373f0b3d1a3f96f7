package debian

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
)

// apt is an apt with sources of its own beside the machine's.
type apt struct {
	h   *Host
	dir string
	env []string
}

// newApt makes an apt that knows just the suites, in dir, and has it read their lists. With installs, it works on what is installed on
// this machine; otherwise it thinks that nothing is.
func (h *Host) newApt(ctx context.Context, dir string, m Mirror, suites []string, installs bool) (*apt, error) {
	for _, d := range []string{"state/lists/partial", "cache/archives/partial"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			return nil, err
		}
	}
	var sources strings.Builder
	for _, s := range suites {
		sources.WriteString(m.line(s) + "\n")
	}
	conf := fmt.Sprintf(`Dir::State::Lists %q;
Dir::Cache %q;
Dir::Etc::SourceList %q;
Dir::Etc::SourceParts "/dev/null";
Dir::Etc::Preferences "/dev/null";
Dir::Etc::PreferencesParts "/dev/null";
APT::Sandbox::User "root";
Acquire::Languages "none";
Acquire::IndexTargets::deb::DEP-11::DefaultEnabled "false";
`, dir+"/state/lists", dir+"/cache", dir+"/sources.list")
	if !installs {
		conf += fmt.Sprintf("Dir::State %q;\nDir::State::status %q;\n", dir+"/state", dir+"/status")
	}
	for name, text := range map[string]string{"sources.list": sources.String(), "apt.conf": conf, "status": ""} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			return nil, err
		}
	}
	a := &apt{h: h, dir: dir, env: []string{"APT_CONFIG=" + filepath.Join(dir, "apt.conf")}}
	_, err := h.run(ctx, a.env, "apt-get", "-qq", "update")
	return a, err
}

// show prints what apt knows of a package, or of one version of it (package=version).
func (a *apt) show(ctx context.Context, what string) (string, error) {
	quiet := Host{Say: a.h.Say, Progress: io.Discard}
	return quiet.run(ctx, a.env, "apt-cache", "show", what)
}

// download fetches packages into the apt's directory.
func (a *apt) download(ctx context.Context, want []string) error {
	here := Host{Say: a.h.Say, Progress: a.h.Progress, dir: a.dir}
	_, err := here.run(ctx, a.env, "apt-get", append([]string{"-qq", "download"}, want...)...)
	return err
}

// installArgs are the arguments of apt-get for an installation without questions.
func installArgs(packages ...string) []string {
	return append([]string{"-qq", "-y", "-o", "Dpkg::Use-Pty=0", "-o", "DPkg::Lock::Timeout=300", "--no-install-recommends", "install"}, packages...)
}

// noQuestions is the environment for it.
func noQuestions() []string { return []string{"DEBIAN_FRONTEND=noninteractive"} }
