package debian

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"espalier/tools/lab/store"
)

// Recipe says what a guest's root consists of. Its hash names the cached root, so changing anything here builds a new one.
type Recipe struct {
	// Name is the word that --root takes.
	Name string
	// Suite of Debian that all packages come from.
	Suite string
	// Packages beyond Debian's base, each with its dependencies but without what it recommends.
	Packages []string
	// Beside are packages whose files are unpacked beside the others though dpkg would not have them together, without what they depend on: two
	// IKE daemons are one too many for a machine, but not for a lab.
	Beside []string `json:",omitempty"`
	// Exclude are paths that are not unpacked, as dpkg's path-exclude has it.
	Exclude []string
	// Edition is raised when Build changes what it makes of the same recipe.
	Edition int
}

// Recipes are the roots there are. The second one is for what only a newer strongSwan has; it is Debian's unstable as a whole, since its strongSwan
// needs its C library.
func Recipes() []Recipe {
	packages := []string{
		"charon-systemd", "strongswan-swanctl", "strongswan-pki", "libstrongswan-standard-plugins", "libstrongswan-extra-plugins",
		"libcharon-extra-plugins", "libcharon-extauth-plugins",
		"iproute2", "iperf3", "iputils-ping", "tcpdump", "nftables", "ethtool", "procps", "kmod", "openssl", "conntrack", "netcat-openbsd",
	}
	libreswan := []string{"libnss3-tools", "libcap-ng0", "libcurl3t64-gnutls", "libevent-core-2.1-7t64", "libevent-pthreads-2.1-7t64", "libldap2",
		"libldns3t64", "libunbound8"}
	exclude := []string{"/usr/share/doc/*", "/usr/share/man/*", "/usr/share/locale/*"}
	return []Recipe{
		{Name: "default", Suite: "trixie", Packages: append(libreswan, packages...), Beside: []string{"libreswan"}, Exclude: exclude, Edition: 1},
		{Name: "sid", Suite: "sid", Packages: packages, Exclude: exclude, Edition: 1},
	}
}

// FindRecipe returns the recipe of that name.
func FindRecipe(name string) (Recipe, error) {
	var names []string
	for _, r := range Recipes() {
		if r.Name == name {
			return r, nil
		}
		names = append(names, r.Name)
	}
	return Recipe{}, fmt.Errorf("no guest root is named %q; there are: %s", name, strings.Join(names, ", "))
}

// Hash identifies what the recipe makes, as 16 hexadecimal digits. The mirror is no part of it.
func (r Recipe) Hash() string {
	b, err := json.Marshal(r)
	if err != nil {
		panic(err) // strings and numbers always encode
	}
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:8])
}

// Root returns the directory of the guest's root, building it when the store has none for the recipe as it is now.
func (h *Host) Root(ctx context.Context, st *store.Store, r Recipe) (string, error) {
	kind := "root-" + r.Name + "-"
	dir, err := st.Make(kind+r.Hash(), func(dir string) error {
		h.Say("building the guest's root once (Debian %s with strongSwan): about a minute", r.Suite)
		return h.buildRoot(ctx, r, dir)
	})
	if err != nil {
		return "", fmt.Errorf("the guest's root %s: %w", r.Name, err)
	}
	return dir, st.Prune(kind)
}

func (h *Host) buildRoot(ctx context.Context, r Recipe, dir string) error {
	if err := h.Need(ctx, "mmdebstrap", "mmdebstrap"); err != nil {
		return err
	}
	m, err := h.Mirror(ctx)
	if err != nil {
		return err
	}
	args := []string{"--mode=root", "--variant=minbase", "--format=directory", "--architectures=amd64",
		"--dpkgopt=force-unsafe-io", "--include=" + strings.Join(r.Packages, ",")}
	for _, e := range r.Exclude {
		args = append(args, "--dpkgopt=path-exclude="+e)
	}
	for _, p := range r.Beside {
		// APT_CONFIG makes this machine's apt work on the root's lists.
		args = append(args, `--customize-hook=cd "$1" && APT_CONFIG="$MMDEBSTRAP_APT_CONFIG" apt-get download `+p+` && dpkg-deb -x `+p+`_*.deb . && rm `+p+`_*.deb`)
	}
	for _, o := range h.proxyOptions(ctx) {
		args = append(args, "--aptopt="+o)
	}
	// mmdebstrap refuses a directory that has content, not one that exists.
	args = append(args, r.Suite, dir, m.line(r.Suite))
	if _, err := h.run(ctx, nil, "mmdebstrap", args...); err != nil {
		return err
	}
	return os.MkdirAll(filepath.Join(dir, "usr/lib/modules"), 0o755)
}

// proxyOptions are the settings of this machine's apt on how to reach a mirror, which a separate apt has to be told.
func (h *Host) proxyOptions(ctx context.Context) []string {
	quiet := Host{Say: h.Say, Progress: io.Discard}
	dump, err := quiet.run(ctx, nil, "apt-config", "dump")
	if err != nil {
		return nil
	}
	return connectionOptions(dump)
}

// connectionOptions picks the settings of how to reach a mirror from what 'apt-config dump' prints.
func connectionOptions(dump string) []string {
	var out []string
	for line := range strings.Lines(dump) {
		line = strings.TrimSpace(line)
		key, value, _ := strings.Cut(line, " ")
		if (strings.HasPrefix(key, "Acquire::http::") || strings.HasPrefix(key, "Acquire::https::")) && value != `"";` {
			out = append(out, line)
		}
	}
	return out
}
