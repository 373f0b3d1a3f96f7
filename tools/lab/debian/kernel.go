package debian

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"espalier/tools/lab/store"
)

// Kernel is an unpacked kernel of Debian's.
type Kernel struct {
	// Release is what uname -r prints in it.
	Release string
	// Image is the bootable kernel.
	Image string
	// Modules is a directory that stands for /lib/modules, with modules.dep made.
	Modules string
}

// metaPackage depends on the newest kernel of a suite.
const metaPackage = "linux-image-amd64"

// recheck is how long the answer to which kernel a suite has is believed without asking the mirror again.
const recheck = 7 * 24 * time.Hour

// KernelSuites returns the suites that the word of --kernel stands for: newest is trixie's or its backports'.
func KernelSuites(word string) ([]string, error) {
	known := []string{"bookworm", "bookworm-backports", "trixie", "trixie-backports", "forky", "sid"}
	switch {
	case word == "newest":
		return []string{"trixie-backports", "trixie"}, nil
	case slices.Contains(known, word):
		return []string{word}, nil
	}
	return nil, fmt.Errorf("no suite %q for a kernel; there are: newest, %s", word, strings.Join(known, ", "))
}

// Kernel returns the newest kernel of the suites, fetched when the store does not have it. Without the mirror, a kernel that the store
// has for them does.
func (h *Host) Kernel(ctx context.Context, st *store.Store, word string) (*Kernel, error) {
	suites, err := KernelSuites(word)
	if err != nil {
		return nil, err
	}
	unlock, err := st.Lock("current-" + word)
	if err != nil {
		return nil, err
	}
	defer unlock()
	current := st.Path("current-" + word)
	name, _ := os.ReadFile(current) // missing at first
	if info, err := os.Stat(current); err == nil && time.Since(info.ModTime()) < recheck {
		if k, err := openKernel(st.Path(string(name))); err == nil {
			return k, nil
		}
	}
	entry, err := h.fetchKernel(ctx, st, word, suites)
	if err != nil {
		if k, e := openKernel(st.Path(string(name))); e == nil && ctx.Err() == nil {
			h.Say("keeping the kernel %s, as the mirror does not answer: %v", k.Release, err)
			return k, nil
		}
		return nil, fmt.Errorf("the guest's kernel from %s: %w", strings.Join(suites, " or "), err)
	}
	if err := os.WriteFile(current, []byte(filepath.Base(entry)), 0o644); err != nil {
		return nil, err
	}
	return openKernel(entry)
}

// openKernel reads an entry of the store.
func openKernel(dir string) (*Kernel, error) {
	releases, err := filepath.Glob(filepath.Join(dir, "modules", "*", "modules.dep"))
	if err != nil || len(releases) != 1 {
		return nil, fmt.Errorf("%s: expected one kernel's modules, found %d", dir, len(releases))
	}
	k := &Kernel{Release: filepath.Base(filepath.Dir(releases[0])), Image: filepath.Join(dir, "vmlinuz"), Modules: filepath.Join(dir, "modules")}
	_, err = os.Stat(k.Image)
	return k, err
}

// fetchKernel asks the mirror which kernel is the newest, and gets it.
func (h *Host) fetchKernel(ctx context.Context, st *store.Store, word string, suites []string) (string, error) {
	if err := h.Need(ctx, "depmod", "kmod"); err != nil {
		return "", err
	}
	m, err := h.Mirror(ctx)
	if err != nil {
		return "", err
	}
	dir, err := os.MkdirTemp(st.Dir(), ".apt-"+word+"-")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(dir)
	h.Say("asking the mirror for the newest kernel of %s", strings.Join(suites, " and "))
	apt, err := h.newApt(ctx, dir, m, suites, false)
	if err != nil {
		return "", err
	}
	want, err := apt.kernelPackages(ctx)
	if err != nil {
		return "", err
	}
	name := "kernel-" + strings.NewReplacer("=", "-", "~", "-", "+", "-", "/", "-").Replace(want[len(want)-1])
	entry, err := st.Make(name, func(dir string) error {
		h.Say("fetching %s (about 100 MB) and unpacking it", strings.Join(want, " "))
		return apt.unpackKernel(ctx, want, dir)
	})
	if err != nil {
		return "", err
	}
	return entry, st.Prune("kernel-")
}

// kernelPackages lists, as package=version, what the newest kernel consists of: the image and, where Debian has split it, the packages with
// the modules and the bare binary.
func (a *apt) kernelPackages(ctx context.Context) ([]string, error) {
	out, err := a.show(ctx, metaPackage)
	if err != nil {
		return nil, err
	}
	newest, ok := newestOf(ParseControl(out))
	if !ok {
		return nil, fmt.Errorf("package %s: expected a version in the suite, found none", metaPackage)
	}
	version := newest["version"]
	seen := map[string]bool{}
	var want []string
	for queue := kernelDepends(newest["depends"]); len(queue) > 0; queue = queue[1:] {
		name := queue[0]
		if seen[name] {
			continue
		}
		seen[name] = true
		out, err := a.show(ctx, name+"="+version)
		if err != nil {
			return nil, err
		}
		want = append(want, name+"="+version)
		for _, p := range ParseControl(out) {
			queue = append(queue, kernelDepends(p["depends"])...)
		}
	}
	slices.Sort(want)
	return want, nil
}

// unpackKernel downloads the packages and puts the kernel and its modules below dir.
func (a *apt) unpackKernel(ctx context.Context, want []string, dir string) error {
	tree := filepath.Join(dir, "tree")
	if err := os.Mkdir(tree, 0o755); err != nil {
		return err
	}
	if err := a.download(ctx, want); err != nil {
		return err
	}
	debs, err := filepath.Glob(filepath.Join(a.dir, "*.deb"))
	if err != nil || len(debs) != len(want) {
		return fmt.Errorf("expected %d packages after the download, found %d", len(want), len(debs))
	}
	for _, deb := range debs {
		if _, err := a.h.run(ctx, nil, "dpkg-deb", "-x", deb, tree); err != nil {
			return err
		}
	}
	image, err := findOne(filepath.Join(tree, "boot/vmlinuz-*"), filepath.Join(tree, "usr/lib/modules/*/vmlinuz"))
	if err != nil {
		return err
	}
	modules, err := findOne(filepath.Join(tree, "lib/modules/*/kernel"), filepath.Join(tree, "usr/lib/modules/*/kernel"))
	if err != nil {
		return err
	}
	if err := os.Rename(image, filepath.Join(dir, "vmlinuz")); err != nil {
		return err
	}
	if err := os.Rename(filepath.Dir(filepath.Dir(modules)), filepath.Join(dir, "modules")); err != nil {
		return err
	}
	if err := os.RemoveAll(tree); err != nil {
		return err
	}
	return a.depmod(ctx, dir, filepath.Base(filepath.Dir(modules)))
}

// depmod makes modules.dep and its like; the packages leave that to the machine they are installed on.
func (a *apt) depmod(ctx context.Context, dir, release string) error {
	base := filepath.Join(dir, "base")
	if err := os.MkdirAll(filepath.Join(base, "lib"), 0o755); err != nil {
		return err
	}
	if err := os.Symlink("../../modules", filepath.Join(base, "lib/modules")); err != nil {
		return err
	}
	defer os.RemoveAll(base)
	_, err := a.h.run(ctx, nil, "depmod", "-b", base, release)
	return err
}

// findOne is the one path that the patterns match.
func findOne(patterns ...string) (string, error) {
	var found []string
	for _, p := range patterns {
		m, err := filepath.Glob(p)
		if err != nil {
			return "", err
		}
		found = append(found, m...)
	}
	if len(found) != 1 {
		return "", fmt.Errorf("expected one of %s, found %d", strings.Join(patterns, ", "), len(found))
	}
	return found[0], nil
}
