package flow

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// where is the place of a program on an interface.
type where uint8

const (
	atXDP where = iota
	atIngress
	atEgress
	atTrace // in the kernel, not on an interface
)

// hook is a program's place.
type hook struct {
	program string
	at      where
	ifIndex int
}

// pinName is the name of the hook's pinned link; a name in a BPF file system has no dots.
func (h hook) pinName() string {
	return fmt.Sprintf("%s-%s-%d", h.program, [...]string{"xdp", "in", "out", "trace"}[h.at], h.ifIndex)
}

// parsePinName is the reverse.
func parsePinName(s string) (h hook, ok bool) {
	i := strings.LastIndexByte(s, '-')
	if i < 0 {
		return h, false
	}
	n, err := strconv.Atoi(s[i+1:])
	j := strings.LastIndexByte(s[:i], '-')
	if err != nil || j < 0 {
		return h, false
	}
	for at, name := range [...]string{"xdp", "in", "out", "trace"} {
		if s[j+1:i] == name {
			return hook{s[:j], where(at), n}, true
		}
	}
	return h, false
}

// attached is a program at its place.
type attached struct {
	hook
	variant string    // of the program
	link    link.Link // nil: a filter of clsact
	how     string
	reason  string // why not in the better way
}

func (a *attached) close() error {
	if a.link == nil {
		return nil
	}
	return a.link.Close()
}

// remove takes the program away from its place.
func (a *attached) remove() error {
	if a.link == nil {
		return errors.Join(removeFilter(a.hook))
	}
	return errors.Join(a.link.Unpin(), a.link.Close())
}

// attach puts a program at its place: into the pinned link of a former run, in one
// step, or by a link of its own. dev is what is known of the interface, other gives
// the program for generic XDP.
func (f *Flow) attach(h hook, p *ebpf.Program, dev *netlink.LinkAttrs, other func() *ebpf.Program) (*attached, error) {
	pin := filepath.Join(f.linkPins(), h.pinName())
	if a, err := takeOver(h, p, pin, dev, other); a != nil || err != nil {
		return a, err
	}
	a := &attached{hook: h}
	var err error
	switch h.at {
	case atXDP:
		err = a.attachXDP(p, other)
	case atTrace:
		a.how = "fentry"
		a.link, err = link.AttachTracing(link.TracingOptions{Program: p})
	default:
		err = a.attachTC(p)
	}
	if err != nil {
		return nil, err
	}
	if a.link == nil {
		return a, nil
	}
	if err := a.link.Pin(pin); err != nil {
		return nil, errors.Join(fmt.Errorf("pin the link: %w", err), a.link.Close())
	}
	return a, nil
}

// How XDP is attached.
const (
	native  = "native" // in the driver
	generic = "generic"
)

// takeOver replaces the program of a former run's link; nil when there is none
// that fits.
func takeOver(h hook, p *ebpf.Program, pin string, dev *netlink.LinkAttrs, other func() *ebpf.Program) (*attached, error) {
	l, err := link.LoadPinnedLink(pin, nil)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("pinned link: %w", err)
	}
	a := &attached{hook: h, link: l}
	// The program of a tracing link cannot be replaced.
	if h.at != atTrace && a.fits(dev) == nil {
		if a.how == generic {
			p = other()
		}
		if p != nil && l.Update(p) == nil {
			return a, nil
		}
	}
	// The interface is another one by now, or the program does not fit the link.
	return nil, errors.Join(os.Remove(pin), l.Close())
}

// fits reports whether the link is on the hook's interface, and how.
func (a *attached) fits(dev *netlink.LinkAttrs) error {
	info, err := a.link.Info()
	if err != nil {
		return err
	}
	got := -1
	switch a.at {
	case atXDP:
		if x := info.XDP(); x != nil {
			got = int(x.Ifindex)
		}
		a.how = generic
		if dev != nil && dev.Xdp != nil && dev.Xdp.AttachMode == nlXDPDriver {
			a.how = native
		}
	default:
		if x := info.TCX(); x != nil {
			got = int(x.Ifindex)
		}
		a.how = "tcx"
	}
	if got != a.ifIndex {
		return fmt.Errorf("link of interface %d: expected %d", got, a.ifIndex)
	}
	return nil
}

// nlXDPDriver is XDP_ATTACHED_DRV.
const nlXDPDriver = 1

// attachXDP tries the driver first.
func (a *attached) attachXDP(p *ebpf.Program, other func() *ebpf.Program) error {
	o := link.XDPOptions{Program: p, Interface: a.ifIndex, Flags: link.XDPDriverMode}
	l, driver := link.AttachXDP(o)
	if driver == nil {
		a.link, a.how = l, native
		return nil
	}
	o.Flags, o.Program = link.XDPGenericMode, other()
	if o.Program == nil {
		return fmt.Errorf("native: %w; generic: a redirect from there loses packets", driver)
	}
	l, err := link.AttachXDP(o)
	if err != nil {
		return fmt.Errorf("native: %w; generic: %w", driver, err)
	}
	a.link, a.how, a.reason = l, generic, "not native: "+reason(driver)
	return nil
}

// attachTC uses TCX of Linux 6.6, and a filter of clsact below.
func (a *attached) attachTC(p *ebpf.Program) error {
	at := ebpf.AttachTCXIngress
	if a.at == atEgress {
		at = ebpf.AttachTCXEgress
	}
	l, err := link.AttachTCX(link.TCXOptions{Program: p, Interface: a.ifIndex, Attach: at})
	if err == nil {
		a.link, a.how = l, "tcx"
		return nil
	}
	if !errors.Is(err, ebpf.ErrNotSupported) {
		return err
	}
	if e := replaceFilter(a.hook, p); e != nil {
		return fmt.Errorf("tcx: %w; clsact: %w", err, e)
	}
	a.how, a.reason = "clsact", "no tcx: "+reason(err)
	return nil
}

// filterPriority is where our filters stand among those of clsact: before those
// that do not say where they want to be.
const filterPriority = 0x2e59

// filterOf is the filter of clsact for a hook: a program has one at each place.
func filterOf(h hook, p *ebpf.Program) *netlink.BpfFilter {
	parent := uint32(netlink.HANDLE_MIN_INGRESS)
	if h.at == atEgress {
		parent = netlink.HANDLE_MIN_EGRESS
	}
	f := &netlink.BpfFilter{
		FilterAttrs: netlink.FilterAttrs{LinkIndex: h.ifIndex, Parent: parent, Handle: 1, Protocol: unix.ETH_P_ALL, Priority: filterPriority + filterNumber(h.program)},
		Name:        filterName(h.program), DirectAction: true,
	}
	if p != nil {
		f.Fd = p.FD()
	}
	return f
}

func filterName(program string) string { return "espalier_" + program }

// filterNumber keeps programs at one place apart.
func filterNumber(program string) uint16 {
	for i, n := range tcPrograms {
		if n == program {
			return uint16(i)
		}
	}
	return uint16(len(tcPrograms))
}

func replaceFilter(h hook, p *ebpf.Program) error {
	q := &netlink.GenericQdisc{
		QdiscAttrs: netlink.QdiscAttrs{LinkIndex: h.ifIndex, Handle: netlink.MakeHandle(0xffff, 0), Parent: netlink.HANDLE_CLSACT},
		QdiscType:  "clsact",
	}
	if err := netlink.QdiscAdd(q); err != nil && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("queueing discipline clsact: %w", err)
	}
	return netlink.FilterReplace(filterOf(h, p))
}

// removeFilter removes a filter; nil when it is not there.
func removeFilter(h hook) error {
	err := netlink.FilterDel(filterOf(h, nil))
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENODEV) || errors.Is(err, unix.EINVAL) {
		return nil
	}
	return err
}

// removeFilters removes all filters of ours, whichever run left them. The queueing
// discipline stays: it may be another's.
func removeFilters() error {
	links, err := netlink.LinkList()
	if err != nil {
		return fmt.Errorf("list interfaces: %w", err)
	}
	var errs []error
	for _, l := range links {
		for _, parent := range []uint32{netlink.HANDLE_MIN_INGRESS, netlink.HANDLE_MIN_EGRESS} {
			list, err := netlink.FilterList(l, parent)
			if err != nil {
				continue // no queueing discipline of this kind
			}
			for _, x := range list {
				if b, ok := x.(*netlink.BpfFilter); ok && strings.HasPrefix(b.Name, filterName("")) {
					errs = append(errs, netlink.FilterDel(b))
				}
			}
		}
	}
	return errors.Join(errs...)
}
