package host

import (
	"errors"
	"path/filepath"
	"slices"
	"strings"
)

// Module is a kernel module that a gateway has use for.
type Module struct {
	Name  string      `json:"name"`
	State ModuleState `json:"state"`
}

// ModuleState is where a module is.
type ModuleState string

// States of modules.
const (
	ModuleLoaded   ModuleState = "loaded"
	ModuleBuiltIn  ModuleState = "built in"
	ModuleLoadable ModuleState = "not loaded" // its file is there
	ModuleAbsent   ModuleState = "absent"
	ModuleUnknown  ModuleState = "unknown" // the kernel came without a list of its modules
)

// Modules are those that the kernel does not load by itself, or later than it
// should: the fast ciphers are to be there before the first SA chooses.
var Modules = []string{"xfrm_user", "esp4", "esp6", "esp4_offload", "esp6_offload", "xfrm_interface", "aesni_intel", "veth"}

// wantedModules leaves out what the processors have no use for.
func wantedModules(c *CPU) []string {
	return slices.DeleteFunc(slices.Clone(Modules), func(m string) bool { return m == "aesni_intel" && !(c.Has("aes") && c.Has("pclmulqdq")) })
}

// LoadModules loads the modules that are not there. What the kernel has none of is
// no error: it may have it built in, without telling, and the inventory says so.
func (l Local) LoadModules() error {
	var errs []error
	cpu, k := l.cpu(), l.kernel()
	for _, name := range wantedModules(&cpu) {
		if l.moduleState(name, k.modules) == ModuleLoadable {
			errs = append(errs, l.LoadModule(name))
		}
	}
	return errors.Join(errs...)
}

// moduleSet are the modules that a kernel release came with.
type moduleSet struct{ builtIn, files map[string]bool }

func (l Local) modulesOf(release string) moduleSet {
	read := func(file string) map[string]bool {
		out := map[string]bool{}
		for _, dir := range []string{"/lib/modules", "/usr/lib/modules"} {
			text, err := l.read(filepath.Join(dir, release, file))
			if err != nil {
				continue
			}
			for line := range strings.Lines(text) {
				path, _, _ := strings.Cut(strings.TrimSpace(line), ":")
				name, _, _ := strings.Cut(filepath.Base(path), ".")
				out[strings.ReplaceAll(name, "-", "_")] = true
			}
			break
		}
		return out
	}
	return moduleSet{read("modules.builtin"), read("modules.dep")}
}

// moduleState looks among the running ones first: /sys has those that are built in
// only when they have parameters.
func (l Local) moduleState(name string, all moduleSet) ModuleState {
	switch {
	case all.builtIn[name]:
		return ModuleBuiltIn
	case l.exists("/sys/module/" + name):
		return ModuleLoaded
	case all.files[name]:
		return ModuleLoadable
	}
	if len(all.builtIn) == 0 && len(all.files) == 0 {
		return ModuleUnknown
	}
	return ModuleAbsent
}
