package flow

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rs/zerolog"
	"golang.org/x/sys/unix"

	"espalier/bpf"
	"espalier/dataplane"
	"espalier/dataplane/flow/table"
	"espalier/dataplane/host"
)

// Settings are what the configuration says. Those below Interfaces may change
// while it runs (Set).
type Settings struct {
	Outside, Inside []string // network interfaces; empty: found
	MaxSPIs         int

	Guard     GuardMode
	Steering  Steering
	MSS       bool
	InitRate  int // IKE_SA_INIT requests a second from one prefix; 0: any number
	InitBurst int
	Prefix4   int // lengths of those prefixes
	Prefix6   int

	IKEPort, NATTPort uint16
}

// Options for Open.
type Options struct {
	Settings
	Pins  string // folder of pins on a BPF file system; empty: DefaultPins of this network namespace
	State string // state file; empty: DefaultState
	Verbs host.Verbs
	Log   zerolog.Logger

	// MTU is that of the link from one address to another, 0 when not known; nil:
	// asks the kernel.
	MTU func(src, dst netip.Addr) int

	objects []object // nil: those of package bpf
}

// Flow is the loaded fast path of one network namespace. Its methods are safe
// for concurrent use.
type Flow struct {
	o       Options
	log     zerolog.Logger
	lock    *os.File // of the pins: one daemon at a time
	maps    *maps
	tab     *table.Table
	spis    *spiTable
	shifter *Shifter
	mss     *mssKeeper
	keep    *spiKeeper

	mu     sync.Mutex // guards what follows, and is never held for long
	set    Settings
	loaded bool // Load has done its part
	closed bool
	peers  map[netip.Prefix]bool

	// work is held while programs are loaded and attached, which may take many
	// seconds. It guards what follows.
	work   sync.Mutex
	progs  *programs
	moving *moving // a table of another size that is being left; nil: none is
	hooks  map[hook]*attached
	failed map[Part]bool // what could not be attached, to say it once
	// redirects: a program that gives packets to other CPUs is at an outside interface.
	redirects atomic.Bool

	ownAddrs ownAddrs
	watch    *boxWatch
	follow   sync.WaitGroup // what ends with stop
	stop     chan struct{}  // closed by Close
}

// Errors of Open and Load.
var (
	// ErrInUse: another daemon has the pins.
	ErrInUse = errors.New("another daemon keeps the fast path of this network namespace")
	// ErrClosed: Close was called meanwhile.
	ErrClosed = errors.New("the fast path is closed")
)

// Open makes the maps that the programs and the daemon share, or takes over what a
// former daemon left, with their counts as they are; its programs work on. It is
// quick: what it returns keeps SPIs, peers and limits from the first one on, and
// Load brings the programs. Errors: nothing can work: no BPF in the kernel, no
// rights, no memory.
func Open(o Options) (_ *Flow, err error) {
	if o.Verbs == nil {
		o.Verbs = host.Local{}
	}
	if o.objects == nil {
		o.objects = objects()
	}
	if o.MTU == nil {
		o.MTU = linkMTU
	}
	if o.State == "" {
		o.State = DefaultState
	}
	if o.Pins == "" {
		if err := o.Verbs.MountBPF(bpfRoot); err != nil {
			return nil, err
		}
		if o.Pins, err = pinsHere(); err != nil {
			return nil, err
		}
	}
	f := &Flow{
		o: o, log: o.Log, set: o.Settings, stop: make(chan struct{}),
		hooks: map[hook]*attached{}, failed: map[Part]bool{}, peers: map[netip.Prefix]bool{},
	}
	defer func() {
		if err != nil {
			close(f.stop)
			f.follow.Wait()
			err = errors.Join(err, f.unpinUseless(), f.release())
		}
	}()
	if f.lock, err = lockPins(o.Pins); err != nil {
		return nil, err
	}
	if err := f.load(); err != nil {
		return nil, err
	}
	f.spis = newSPITable(f.tab)
	f.shifter = NewShifter(f.tab, f.maps.byID["cpus"])
	f.mss = newMSSKeeper(&mssTable{f.maps}, o.Log, o.MTU)
	f.keep = newSPIKeeper(f.spis, o.Log, f.isOwn)
	f.adopt()
	f.ageIKE()
	f.forgetPeers()
	f.vouch()
	f.configure()
	if _, err := f.look(); err != nil {
		return nil, err
	}
	if f.watch, err = watchBox(f.refresh); err != nil {
		return nil, err
	}
	f.writeState(os.Getpid())
	return f, nil
}

// Load loads the programs and attaches them, in the place of a former daemon's one
// by one, each in one step. The verifier takes up to a second for it, on an emulated
// CPU half a minute; everything else works meanwhile. What cannot be attached is
// among Parts with the kernel's reason, and the rest works. It is called once.
// Errors: the kernel takes none of the programs, and nothing stays pinned;
// ErrClosed.
func (f *Flow) Load() error {
	f.work.Lock()
	defer f.work.Unlock()
	if f.stopped() {
		return ErrClosed // with the maps gone
	}
	if err := f.finishMoving(); err != nil {
		return err
	}
	for loaded := false; !loaded; {
		set := f.settings()
		f.steer(set.Steering)
		// Twice: what came while programs were loaded is picked up without them.
		for range 2 {
			b, err := f.look()
			if err != nil {
				return err
			}
			f.attachAll(b, &set)
		}
		if f.stopped() {
			return ErrClosed
		}
		// Who changes settings from now on attaches what they need.
		f.mu.Lock()
		loaded = reflect.DeepEqual(set, f.set)
		f.loaded = loaded
		f.mu.Unlock()
	}
	if why := f.progs.refused(); len(f.progs.loaded) == 0 && len(why) > 0 {
		return errors.Join(fmt.Errorf("the kernel takes none of the BPF programs: %v", why), f.unpinUseless())
	}
	f.writeStateLocked(os.Getpid())
	return nil
}

// settings are those of now.
func (f *Flow) settings() Settings {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.set
}

// unpinUseless removes the maps' pins when no program is at work: there is nothing
// to keep them for.
func (f *Flow) unpinUseless() error {
	if pins, _ := os.ReadDir(f.linkPins()); f.maps != nil && len(pins) == 0 {
		return os.RemoveAll(f.o.Pins)
	}
	return nil
}

// stopped reports whether Close was called.
func (f *Flow) stopped() bool {
	select {
	case <-f.stop:
		return true
	default:
		return false
	}
}

// vouchEvery is how often the guard is told that the daemon lives.
const vouchEvery = time.Second

// vouch tells it until Close: a killed daemon cannot take back that all SPIs are
// known, and other programs install SAs meanwhile.
func (f *Flow) vouch() {
	vouch := func() {
		if err := f.tab.Vouch(); err != nil {
			f.log.Error().Err(err).Msg("the guard cannot be told that the daemon lives, and only logs")
		}
	}
	vouch()
	f.follow.Go(func() {
		tick := time.NewTicker(vouchEvery)
		defer tick.Stop()
		for {
			select {
			case <-f.stop:
				return
			case <-tick.C:
				vouch()
			}
		}
	})
}

// bpfRoot is where the system has its BPF file system.
const bpfRoot = "/sys/fs/bpf"

// pinsHere is the folder of pins of the network namespace: interfaces and SAs are
// of one, the file system may be shared by several.
func pinsHere() (string, error) {
	var own, first unix.Stat_t
	if err := unix.Stat("/proc/thread-self/ns/net", &own); err != nil {
		return "", fmt.Errorf("network namespace: %w", err)
	}
	if err := unix.Stat("/proc/1/ns/net", &first); err == nil && first.Ino != own.Ino {
		return filepath.Join(bpfRoot, "espalier", fmt.Sprintf("netns-%d", own.Ino), filepath.Base(DefaultPins)), nil
	}
	return DefaultPins, nil
}

// lockPins makes the folder and takes it for this process.
func lockPins(dir string) (*os.File, error) {
	if err := os.MkdirAll(filepath.Join(dir, linkFolder), 0o700); err != nil {
		return nil, fmt.Errorf("folder of pinned maps: %w", err)
	}
	d, err := os.Open(dir)
	if err != nil {
		return nil, fmt.Errorf("folder of pinned maps: %w", err)
	}
	if err := unix.Flock(int(d.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		d.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, ErrInUse
		}
		return nil, fmt.Errorf("lock %s: %w", dir, err)
	}
	return d, nil
}

// Wrap makes a data plane keep the table of SPIs in step.
func (f *Flow) Wrap(dp dataplane.DataPlane) (dataplane.DataPlane, error) {
	return wrap(dp, f.keep, f.mss, f.log)
}

// adopt makes what the table has from a former run known to the keeper, as
// somebody's: the first list of the kernel's SAs says what of it still is.
func (f *Flow) adopt() {
	n := 0
	f.keep.mu.Lock()
	defer f.keep.mu.Unlock()
	for _, sa := range f.tab.All() {
		if sa.Key.Dir == bpf.DirFlow {
			continue // no SA
		}
		e := entry{keyFrom(&sa.Key), attrsFrom(&sa)}
		k := dataplane.SAKey{Dst: e.key.Dst, Proto: dataplane.ESP, SPI: e.key.SPI}
		if e.attrs.Own {
			e.attrs.Own = false
			_ = f.spis.Insert(e.key, e.attrs) // it is there: nothing can be full
		}
		f.keep.sas[k] = e
		f.keep.refs[e.key]++
		n++
	}
	f.keep.stepLocked()
	if n > 0 {
		f.log.Info().Int("spis", n).Msg("the table of SPIs of a former run is taken over")
	}
}

// Set takes changed settings over, but for interfaces and the table's size. While
// programs are being loaded it does not wait for them: Load sees to the rest.
func (f *Flow) Set(s Settings) {
	f.mu.Lock()
	s.Outside, s.Inside, s.MaxSPIs = f.set.Outside, f.set.Inside, f.set.MaxSPIs
	f.set = s
	loaded := f.loaded
	f.mu.Unlock()
	f.configure()
	if !loaded {
		return
	}
	f.work.Lock()
	f.steer(s.Steering)
	f.work.Unlock()
	f.refresh()
}

// configure writes the settings where the programs read them, but for steering.
func (f *Flow) configure() {
	s := f.settings()
	c := f.tab.Programs()
	ports := [len(bpf.Config{}.Ports)]bpf.Port{
		{Port: s.IKEPort, Kind: bpf.PortIKE}, {Port: s.NATTPort, Kind: bpf.PortNATT},
	}
	c.Ports = ports
	c.InitRate, c.InitBurst = uint32(s.InitRate), uint32(s.InitBurst)
	c.Prefix4, c.Prefix6 = uint8(s.Prefix4), uint8(s.Prefix6)
	c.Mss = boolByte(s.MSS)
	f.mss.fits(s.MSS)
	c.Guard = uint32(s.Guard)
}

func boolByte(b bool) uint8 {
	if b {
		return 1
	}
	return 0
}

// Close ends the daemon's part. While other programs' SAs are counted, the
// programs stay with what they know, and the guard only logs; otherwise all of it
// goes. It waits for a Load that is under way, which ends after the program that the
// kernel is verifying.
func (f *Flow) Close() error {
	f.mu.Lock()
	if f.closed {
		f.mu.Unlock()
		return nil
	}
	f.closed = true
	f.mu.Unlock()
	close(f.stop)
	f.follow.Wait()
	var errs []error
	if f.watch != nil {
		errs = append(errs, f.watch.close())
	}
	f.spis.InStep(false)
	f.work.Lock()
	defer f.work.Unlock()
	if f.spis.sas() == 0 {
		errs = append(errs, f.detach())
	} else {
		f.writeStateLocked(0)
	}
	return errors.Join(append(errs, f.release())...)
}

// release gives back what this process holds; what is pinned stays.
func (f *Flow) release() error {
	var errs []error
	for _, a := range f.hooks {
		errs = append(errs, a.close())
	}
	clear(f.hooks)
	if f.moving != nil {
		errs = append(errs, f.moving.end())
		f.moving = nil
	}
	if f.shifter != nil {
		f.shifter.Close()
	}
	if f.progs != nil {
		f.progs.close()
	}
	if f.tab != nil {
		errs = append(errs, f.tab.Close())
	}
	if f.maps != nil {
		f.maps.close()
	}
	if f.lock != nil {
		errs = append(errs, f.lock.Close())
	}
	return errors.Join(errs...)
}

// TakeDown removes what a former run left: programs, filters and pins. Errors:
// ErrInUse.
func TakeDown(o Options) error {
	if o.State == "" {
		o.State = DefaultState
	}
	if o.Pins == "" {
		var err error
		if o.Pins, err = pinsHere(); err != nil {
			return err
		}
	}
	if _, err := os.Stat(filepath.Join(o.Pins, linkFolder)); errors.Is(err, os.ErrNotExist) {
		return nil // nothing is there, nor a BPF file system, perhaps
	}
	lock, err := lockPins(o.Pins)
	if err != nil {
		return err
	}
	defer lock.Close()
	return takeDown(o)
}

// takeDown removes everything; the caller has the lock.
func takeDown(o Options) error {
	err := removeFilters()
	_ = os.Remove(o.State) // there may be none
	return errors.Join(err, os.RemoveAll(o.Pins))
}

// linkMTU asks the kernel.
func linkMTU(src, dst netip.Addr) int {
	way, err := host.WayTo(src, dst)
	if err != nil {
		return 0
	}
	return way.MTU
}
