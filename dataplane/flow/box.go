package flow

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/cilium/ebpf"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"espalier/bpf"
	"espalier/dataplane"
	"espalier/dataplane/host"
)

// ownAddrs are the box's addresses.
type ownAddrs struct {
	mu  sync.Mutex
	set map[netip.Addr]bool
}

// isOwn tells inbound SAs from outbound ones.
func (f *Flow) isOwn(k *dataplane.SAKey) bool {
	f.ownAddrs.mu.Lock()
	defer f.ownAddrs.mu.Unlock()
	return f.ownAddrs.set[k.Dst.Unmap()]
}

// box is what the network namespace has.
type box struct {
	links   []netlink.Link
	vlans   map[int]bool // interfaces that VLANs stand on
	cpus    int          // online ones; 0: not known
	addrs   map[netip.Addr]bool
	outside map[int]bool // interfaces that the default routes lead to
}

// lookAround reads it.
func lookAround() (*box, error) {
	b := &box{addrs: map[netip.Addr]bool{}, outside: map[int]bool{}, vlans: map[int]bool{}}
	var err error
	if b.links, err = netlink.LinkList(); err != nil {
		return nil, fmt.Errorf("list interfaces: %w", err)
	}
	b.vlans = tagged(b.links)
	if cpus, err := host.OnlineCPUs(); err == nil {
		b.cpus = len(cpus)
	}
	addrs, err := netlink.AddrList(nil, netlink.FAMILY_ALL)
	if err != nil {
		return nil, fmt.Errorf("list addresses: %w", err)
	}
	for _, a := range addrs {
		if addr, ok := netip.AddrFromSlice(a.IP); ok {
			b.addrs[addr.Unmap()] = true
		}
	}
	// Where packets to far away leave: documentation addresses are nobody's
	// network, so only a default route leads to them.
	for _, far := range []string{"192.0.2.1", "198.51.100.1", "2001:db8::1"} {
		routes, err := netlink.RouteGet(netip.MustParseAddr(far).AsSlice())
		if err == nil && len(routes) > 0 && routes[0].LinkIndex > 0 {
			b.outside[routes[0].LinkIndex] = true
		}
	}
	return b, nil
}

// tagged are the interfaces whose packets may bear VLAN tags that are the box's: those
// that VLANs stand on, and what these, being bonds or bridges, are made of.
func tagged(links []netlink.Link) map[int]bool {
	out := map[int]bool{}
	for _, l := range links {
		if bridge, ok := l.(*netlink.Bridge); l.Type() == "vlan" || ok && bridge.VlanFiltering != nil && *bridge.VlanFiltering {
			parent := l.Attrs().ParentIndex
			if ok {
				parent = l.Attrs().Index
			}
			out[parent] = true
		}
	}
	for range links { // as deep as they may be stacked
		n := len(out)
		for _, l := range links {
			if out[l.Attrs().MasterIndex] {
				out[l.Attrs().Index] = true
			}
		}
		if len(out) == n {
			break
		}
	}
	delete(out, 0)
	return out
}

// The programs by name, as package bpf has them, and where each belongs.
const (
	progESPIn   = "esp_in"
	progFlowIn  = "flow_in"
	progCPUIn   = "cpu_in"
	progESPOut  = "esp_out"
	progMSSIn   = "mss_in"
	progMSSOut  = "mss_out"
	progMSSXfrm = "mss_xfrm"
)

// Variants of them.
const (
	progESPInStay = "esp_in_stay" // never redirects
	raw           = "_raw"        // suffix: for tc of devices without Ethernet header
)

// tcPrograms have numbers among the filters of clsact; append only.
var tcPrograms = []string{progESPOut, progMSSIn, progMSSOut, progMSSXfrm, progESPIn + raw, progESPOut + raw, progMSSIn + raw, progMSSOut + raw}

// role is what an interface is for us.
type role uint8

const (
	roleNone role = iota
	roleOutside
	roleInside
	roleXfrm
)

// roleOf sorts the interfaces.
func roleOf(b *box, s *Settings, l netlink.Link) role {
	a := l.Attrs()
	switch {
	case l.Type() == "xfrm":
		return roleXfrm
	case a.EncapType == "loopback":
		return roleNone
	case slices.Contains(s.Outside, a.Name):
		return roleOutside
	case slices.Contains(s.Inside, a.Name):
		return roleInside
	case len(s.Outside) == 0 && b.outside[a.Index]:
		return roleOutside
	case len(s.Inside) == 0:
		return roleInside
	}
	return roleNone
}

// hooksOf are the places of programs on an interface; not says of one that has no
// place there, why.
func hooksOf(b *box, r role, s *Settings, l netlink.Link) (hooks []hook, not map[string]string) {
	a := l.Attrs()
	kind := "" // of the programs for its packets
	if a.EncapType != "ether" {
		kind = raw
	}
	tc := func(program string, at where) { hooks = append(hooks, hook{program + kind, at, a.Index}) }
	switch r {
	case roleOutside:
		if kind == raw {
			tc(progESPIn, atIngress) // counts and guards, does not steer
		} else {
			hooks = append(hooks, hook{progESPIn, atXDP, a.Index})
		}
		tc(progESPOut, atEgress)
		if s.MSS {
			tc(progMSSOut, atIngress) // decrypted packets pass a second time
		}
	case roleInside:
		switch wanted, why := steersClear(b, s, l); {
		case why != "":
			not = map[string]string{progFlowIn: why}
		case wanted:
			hooks = append(hooks, hook{progFlowIn, atXDP, a.Index})
		}
		if s.MSS {
			tc(progMSSIn, atIngress)
			tc(progMSSOut, atEgress)
		}
	case roleXfrm:
		if s.MSS {
			hooks = append(hooks, hook{progMSSXfrm, atIngress, a.Index}, hook{progMSSXfrm, atEgress, a.Index})
		}
	}
	return hooks, not
}

// steersClear tells whether the clear packets of an inside interface are to be steered,
// and if they are but cannot be, why. An XDP program costs a device some of what it
// does for packets, so unless it is named, auto leaves those alone that are no cards:
// what comes from containers and guests mostly has a checksum that is yet to be computed.
func steersClear(b *box, s *Settings, l netlink.Link) (wanted bool, why string) {
	a := l.Attrs()
	card := l.Type() == "device" || l.Type() == "bond"
	switch mode := s.Steering.flows(); {
	case mode == bpf.FlowStay, mode == bpf.FlowGroup && (b.cpus == 1 || !card && !slices.Contains(s.Inside, a.Name)):
		return false, ""
	case a.EncapType != "ether":
		return true, "packets of this interface have no Ethernet header (" + a.EncapType + ")"
	case b.vlans[a.Index]:
		return true, "packets of this interface have VLAN tags, which a device may keep beside them, where a redirect would lose them"
	}
	return true, ""
}

// variant is the program that a hook has on this box, attached like this: a redirect would lose the
// VLAN tag that the device keeps beside the packet, and, from generic XDP, the packet. Empty: none.
func (b *box) variant(h hook, how string) string {
	switch {
	case h.program == progESPIn && (b.vlans[h.ifIndex] || how == generic):
		return progESPInStay
	case h.program == progFlowIn && how == generic:
		return ""
	}
	return h.program
}

// refresh brings attachments, own addresses and what follows from interfaces in
// line with what the box has now.
func (f *Flow) refresh() {
	f.mu.Lock()
	ready := f.loaded
	f.mu.Unlock()
	if ready {
		f.work.Lock()
		defer f.work.Unlock()
	}
	b, err := f.look()
	if err != nil {
		f.log.Warn().Err(err).Msg("the box's interfaces could not be read")
		return
	}
	if !ready || f.stopped() {
		return
	}
	set := f.settings()
	f.attachAll(b, &set)
	f.writeStateLocked(os.Getpid())
}

// look brings own addresses and what follows from interfaces in line with what the
// box has now, which it returns.
func (f *Flow) look() (*box, error) {
	b, err := lookAround()
	if err != nil {
		return nil, err
	}
	f.refreshAddrs(b.addrs)
	xfrmIfs := map[uint32]map[int]bool{}
	for _, l := range b.links {
		if x, ok := l.(*netlink.Xfrmi); ok {
			if xfrmIfs[x.Ifid] == nil {
				xfrmIfs[x.Ifid] = map[int]bool{}
			}
			xfrmIfs[x.Ifid][x.Index] = true
		}
	}
	f.mss.interfaces(xfrmIfs)
	f.mss.network()
	return b, nil
}

// refreshAddrs makes own_addrs the box's addresses.
func (f *Flow) refreshAddrs(now map[netip.Addr]bool) {
	f.ownAddrs.mu.Lock()
	was := f.ownAddrs.set
	f.ownAddrs.set = now
	f.ownAddrs.mu.Unlock()
	m := f.maps.byID["own_addrs"]
	changed := false
	for a := range now {
		if !was[a] {
			changed = true
			_ = f.put(m, "own_addrs", bpf.MakeAddrKey(a), uint32(1)) // logged; without, its packets count as transit
		}
	}
	for a := range was {
		if !now[a] {
			changed = true
			f.take(m, bpf.MakeAddrKey(a))
		}
	}
	if was == nil {
		f.forgetAddrs(m, now)
	}
	if changed {
		f.keep.turn()
	}
}

// forgetAddrs removes a former run's addresses that the box has no more.
func (f *Flow) forgetAddrs(m *ebpf.Map, now map[netip.Addr]bool) {
	if m == nil {
		return
	}
	keep := map[bpf.AddrKey]bool{}
	for a := range now {
		keep[bpf.MakeAddrKey(a)] = true
	}
	var k bpf.AddrKey
	var v uint32
	var old []bpf.AddrKey
	for it := m.Iterate(); it.Next(&k, &v); {
		if !keep[k] {
			old = append(old, k)
		}
	}
	for _, k := range old {
		f.take(m, k)
	}
}

// put writes an entry of a map that a program may not have.
func (f *Flow) put(m *ebpf.Map, name string, k, v any) error {
	if m == nil {
		return nil
	}
	err := putEntry(m, k, v)
	if err != nil {
		f.log.Error().Err(err).Str("map", name).Uint32("room", m.MaxEntries()).Msg("the fast path does not know all")
	}
	return err
}

// putEntry writes an entry. The kernel takes memory for it from a store that it
// fills again a little later: an empty one is no failure.
func putEntry(m *ebpf.Map, k, v any) (err error) {
	for range 50 {
		if err = m.Put(k, v); !errors.Is(err, unix.ENOMEM) {
			return err
		}
		time.Sleep(100 * time.Microsecond)
	}
	return err
}

func (f *Flow) take(m *ebpf.Map, k any) {
	if m != nil {
		_ = m.Delete(k) // not there: fine
	}
}

// attachAll attaches what is missing and removes what belongs nowhere any more. It
// does nothing more once Close was called.
func (f *Flow) attachAll(b *box, set *Settings) {
	want := map[hook]*netlink.LinkAttrs{}
	failed := map[Part]bool{}
	for _, l := range b.links {
		hooks, not := hooksOf(b, roleOf(b, set, l), set, l)
		for _, h := range hooks {
			want[h] = l.Attrs()
		}
		for p, why := range not {
			failed[Part{Program: p, Interface: l.Attrs().Name, IfIndex: l.Attrs().Index, Reason: why}] = true
		}
	}
	names := map[string]bool{}
	for h := range want {
		names[b.variant(h, "")] = true
	}
	f.need(func(name string, spec *ebpf.ProgramSpec) bool { return names[name] || spec.Type == ebpf.Tracing })
	if f.stopped() {
		return
	}
	for _, p := range f.progs.names() {
		if f.progs.loaded[p].Type() == ebpf.Tracing {
			want[hook{p, atTrace, 0}] = nil
		}
	}
	f.removeOthers(want)
	for h, dev := range want {
		if a := f.hooks[h]; a != nil && f.leave(b, a) {
			continue
		}
		name := b.variant(h, "")
		p := f.progs.loaded[name]
		part := Part{Program: h.program, IfIndex: h.ifIndex}
		if dev != nil {
			part.Interface = dev.Name
		}
		if p == nil {
			continue // said once, without interface
		}
		a, err := f.attach(h, p, dev, func() *ebpf.Program { return f.program(b.variant(h, generic)) })
		if err != nil {
			part.Reason = reason(err)
			failed[part] = true
			continue
		}
		a.variant = b.variant(h, a.how)
		f.hooks[h] = a
		f.log.Info().Str("program", a.variant).Str("interface", part.Interface).Str("how", a.how).Msg("BPF program attached")
	}
	for p := range failed {
		if !f.failed[p] {
			f.log.Warn().Str("program", p.Program).Str("interface", p.Interface).Str("reason", p.Reason).Msg("BPF program not attached")
		}
	}
	f.failed = failed
	redirects := false
	for _, a := range f.hooks {
		redirects = redirects || a.variant == progESPIn
	}
	f.redirects.Store(redirects)
}

// leave leaves what is attached at its place, with the program that belongs there by
// now; false: none does, and it is gone.
func (f *Flow) leave(b *box, a *attached) bool {
	name := b.variant(a.hook, a.how)
	if name == "" { // of a former version
		f.removeHook(a)
		return false
	}
	if a.variant == name || a.link == nil {
		return true
	}
	if p := f.program(name); p != nil && a.link.Update(p) == nil {
		a.variant = name
	}
	return true
}

// program is one of the programs, loaded; nil: it cannot be, or there is no such.
func (f *Flow) program(name string) *ebpf.Program {
	f.need(func(n string, _ *ebpf.ProgramSpec) bool { return n == name })
	return f.progs.loaded[name]
}

// need loads programs and says which are refused.
func (f *Flow) need(wanted func(string, *ebpf.ProgramSpec) bool) {
	said := len(f.progs.failed)
	f.progs.need(wanted, f.stopped)
	if len(f.progs.failed) == said {
		return
	}
	for why, names := range f.progs.refused() {
		f.log.Warn().Strs("programs", names).Str("reason", why).Msg("BPF programs not loaded")
	}
}

// removeOthers removes what is attached and not wanted, by a former run, too.
func (f *Flow) removeOthers(want map[hook]*netlink.LinkAttrs) {
	for h, a := range f.hooks {
		if _, ok := want[h]; ok {
			continue
		}
		f.removeHook(a)
	}
	pins, _ := os.ReadDir(f.linkPins()) // not there: nothing is pinned
	for _, e := range pins {
		h, ok := parsePinName(e.Name())
		if _, wanted := want[h]; ok && !wanted {
			_ = os.Remove(filepath.Join(f.linkPins(), e.Name()))
		}
	}
}

func (f *Flow) removeHook(a *attached) {
	if err := a.remove(); err != nil {
		f.log.Warn().Err(err).Str("program", a.program).Int("ifindex", a.ifIndex).Msg("BPF program not taken away")
	}
	delete(f.hooks, a.hook)
}

// replaceAll puts the new programs in the place of a former run's.
func (f *Flow) replaceAll() {
	pins, _ := os.ReadDir(f.linkPins())
	links, err := netlink.LinkList()
	if err != nil {
		return
	}
	names := map[string]bool{}
	for _, e := range pins {
		if h, ok := parsePinName(e.Name()); ok {
			names[h.program] = true
		}
	}
	f.need(func(name string, _ *ebpf.ProgramSpec) bool { return names[name] })
	for _, e := range pins {
		h, ok := parsePinName(e.Name())
		p := f.progs.loaded[h.program]
		if !ok || p == nil {
			continue
		}
		var dev *netlink.LinkAttrs
		for _, l := range links {
			if l.Attrs().Index == h.ifIndex {
				dev = l.Attrs()
			}
		}
		if a, err := takeOver(h, p, filepath.Join(f.linkPins(), e.Name()), dev, func() *ebpf.Program { return f.program(new(box).variant(h, generic)) }); a != nil && err == nil {
			f.hooks[h] = a
		}
	}
}

// detach takes all of it down: programs, filters, pins.
func (f *Flow) detach() error {
	f.removeOthers(nil)
	return takeDown(f.o)
}

// boxWatch calls refresh after changes of interfaces and addresses.
type boxWatch struct {
	file *os.File
	done chan struct{}
	wg   sync.WaitGroup
}

const (
	// settle is how long changes are waited for that belong together.
	settle = 50 * time.Millisecond
	// lookAgain finds what is not told: a default route that leads elsewhere.
	lookAgain = 30 * time.Second
)

// watchBox subscribes to the calling thread's network namespace.
func watchBox(refresh func()) (*boxWatch, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("watch interfaces: netlink socket: %w", err)
	}
	const groups = unix.RTMGRP_LINK | unix.RTMGRP_IPV4_IFADDR | unix.RTMGRP_IPV6_IFADDR
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: groups}); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("watch interfaces: netlink groups: %w", err)
	}
	w := &boxWatch{file: os.NewFile(uintptr(fd), "rtnetlink"), done: make(chan struct{})}
	changed := make(chan struct{}, 1)
	w.wg.Go(func() {
		b := make([]byte, 1<<16)
		for {
			// What was lost (ENOBUFS) may have been a change, too.
			if _, err := w.file.Read(b); err != nil && !errors.Is(err, unix.ENOBUFS) {
				return
			}
			select {
			case changed <- struct{}{}:
			default:
			}
		}
	})
	w.wg.Go(func() {
		again := time.NewTicker(lookAgain)
		defer again.Stop()
		for {
			select {
			case <-w.done:
				return
			case <-again.C:
			case <-changed:
				select {
				case <-time.After(settle):
				case <-w.done:
					return
				}
			}
			refresh()
		}
	})
	return w, nil
}

func (w *boxWatch) close() error {
	close(w.done)
	err := w.file.Close()
	w.wg.Wait()
	return err
}
