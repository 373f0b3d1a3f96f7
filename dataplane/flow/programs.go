package flow

import (
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"

	"espalier/bpf"
	"espalier/dataplane/flow/table"
)

// object is one of package bpf's.
type object struct {
	name string
	spec func(bpf.Sizes) (*ebpf.CollectionSpec, error)
}

// objects are package bpf's.
func objects() []object { return []object{{"xdp", bpf.XDP}, {"tc", bpf.TC}, {"drops", drops}} }

// drops is the object that says why packets are lost, as this kernel can have it:
// one without CONFIG_AUDITSYSCALL does not call the functions that name an SA.
func drops(s bpf.Sizes) (*ebpf.CollectionSpec, error) {
	audited := false
	if kernel, err := btf.LoadKernelSpec(); err == nil {
		var fn *btf.Func
		audited = kernel.TypeByName("xfrm_audit_state_notfound", &fn) == nil
	}
	return bpf.Drops(s, audited)
}

// programs are the loaded ones, by name, and why others are not. Each is loaded
// when it is needed first: the kernel verifies some for long.
type programs struct {
	specs  []*ebpf.CollectionSpec
	maps   *maps
	loaded map[string]*ebpf.Program
	failed map[string]error
}

func (p *programs) close() {
	for _, x := range p.loaded {
		x.Close()
	}
}

// shared reports whether a map is one for all objects; what the compiler made for
// one object's constants and variables is not.
func shared(name string) bool { return !strings.HasPrefix(name, ".") }

// load makes or takes over the maps and loads the programs, which do not run yet.
func (f *Flow) load() error {
	sizes, err := sizesFor(f.set.MaxSPIs)
	if err != nil {
		return err
	}
	want, specs := map[string]*ebpf.MapSpec{}, make([]*ebpf.CollectionSpec, len(f.o.objects))
	for i, o := range f.o.objects {
		if specs[i], err = o.spec(sizes); err != nil {
			return fmt.Errorf("BPF object %s: %w", o.name, err)
		}
		for name, m := range specs[i].Maps {
			if shared(name) {
				want[name] = m
			}
		}
	}
	maps, former, err := openMaps(f.o.Pins, want)
	if err != nil {
		return err
	}
	f.maps = maps
	if former != nil {
		f.moving = &moving{former: former}
	}
	if f.tab, err = table.Open(maps.table()); err != nil {
		if former != nil || !f.pinnedTable() {
			return err
		}
		// The maps have the right sizes and another layout: they begin anew.
		return fmt.Errorf("pinned maps in %s: %w", f.o.Pins, err)
	}
	f.progs = newPrograms(specs, maps)
	if former == nil || former.byID["index"] == nil {
		return maps.pin()
	}
	return f.startMoving()
}

// pinnedTable reports whether the table's maps are a former run's.
func (f *Flow) pinnedTable() bool { return f.maps.byID["config"].IsPinned() }

// moving is a table of another size that is being left for the new one.
type moving struct {
	former     *maps
	*migration // nil: the former table could not be read
}

// end lets go of the former maps.
func (m *moving) end() (err error) {
	if m.migration != nil {
		err = m.close()
	}
	m.former.close()
	return err
}

// startMoving fills the new table from the former one, whose programs work on until
// finishMoving. They do not learn of new SPIs, so their guard only logs.
func (f *Flow) startMoving() error {
	former := f.moving.former.table()
	m, err := startMigration(former, f.tab)
	if err != nil {
		f.log.Warn().Err(err).Msg("the table of SPIs of a former run cannot be read: counts begin anew")
		return f.maps.pin()
	}
	f.moving.migration = m
	f.log.Info().Int("spis", len(m.sas)).Int("from", m.old.Sizes().Slots).Int("to", f.tab.Sizes().Slots).Uint32("layout", m.old.Config().Layout).
		Msg("the table of SPIs has another size or layout: it is carried over with its counts")
	// The settings first, or the new programs would count for a moment without.
	*f.tab.Programs() = carryConfig(*f.tab.Programs(), m.old.Config())
	return notInStep(former.Config)
}

// finishMoving replaces the programs, and adds what the former ones counted until
// then.
func (f *Flow) finishMoving() error {
	if f.moving == nil {
		return nil
	}
	if f.moving.migration != nil {
		f.replaceAll()
		if f.stopped() {
			return ErrClosed // with the programs of both at work the former table stays the pinned one
		}
		f.moving.carry()
	}
	if err := f.moving.end(); err != nil {
		f.log.Warn().Err(err).Msg("counts of the last moment are lost")
	}
	f.moving = nil
	return f.maps.pin()
}

// carryConfig is the former configuration with the new table's own fields.
func carryConfig(now, was bpf.Config) bpf.Config {
	was.Layout, was.Slots, was.Buckets, was.Cpus, was.HashKey, was.JiffiesHz = now.Layout, now.Slots, now.Buckets, now.Cpus, now.HashKey, now.JiffiesHz
	return was
}

func newPrograms(specs []*ebpf.CollectionSpec, m *maps) *programs {
	return &programs{specs: specs, maps: m, loaded: map[string]*ebpf.Program{}, failed: map[string]error{}}
}

// need loads those of the programs that are not loaded, each for itself, so that
// one which this kernel refuses keeps no other from working, and that it can stop
// between two. What was refused once is not tried again.
func (p *programs) need(wanted func(name string, spec *ebpf.ProgramSpec) bool, stopped func() bool) {
	for _, spec := range p.specs {
		for _, name := range sortedNames(spec.Programs) {
			x := spec.Programs[name]
			if p.loaded[name] != nil || p.failed[name] != nil || !wanted(name, x) {
				continue
			}
			if stopped() {
				return
			}
			one := *spec
			one.Programs = map[string]*ebpf.ProgramSpec{name: x}
			if err := p.load(one.Copy()); err != nil {
				p.failed[name] = err
			}
		}
	}
}

// load loads all programs of an object, or none. It changes spec.
func (p *programs) load(spec *ebpf.CollectionSpec) error {
	replace := map[string]*ebpf.Map{}
	for name, x := range spec.Maps {
		x.Pinning = ebpf.PinNone
		if shared(name) {
			replace[name] = p.maps.byID[name]
		}
	}
	c, err := ebpf.NewCollectionWithOptions(spec, ebpf.CollectionOptions{MapReplacements: replace})
	if err != nil {
		return err
	}
	for name := range spec.Programs {
		p.loaded[name] = c.DetachProgram(name)
	}
	c.Close()
	return nil
}

// reason is the kernel's own, in one line.
func reason(err error) string {
	var v *ebpf.VerifierError
	if errors.As(err, &v) && len(v.Log) > 0 {
		return fmt.Sprintf("%v: %s", v.Cause, strings.TrimSpace(v.Log[len(v.Log)-1]))
	}
	text, _, _ := strings.Cut(err.Error(), "\n")
	return text
}

// refused are the programs that are not loaded, by the reason.
func (p *programs) refused() map[string][]string {
	out := map[string][]string{}
	for name, err := range p.failed {
		why := strings.TrimPrefix(reason(err), "program "+name+": ")
		out[why] = append(out[why], name)
	}
	for _, names := range out {
		slices.Sort(names)
	}
	return out
}

// names of programs, sorted.
func (p *programs) names() []string { return sortedNames(p.loaded) }

func sortedNames[T any](m map[string]T) []string {
	var out []string
	for n := range m {
		out = append(out, n)
	}
	slices.Sort(out)
	return out
}

// linkPins is the folder of pinned links.
func (f *Flow) linkPins() string { return filepath.Join(f.o.Pins, linkFolder) }

const linkFolder = "links"
