package host

import (
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Address is one host address (/32, /128) on a network interface.
type Address struct {
	Addr netip.Addr
	Link string // the interface's name
}

// Route is a route of a routing table.
type Route struct {
	Table uint32
	Dst   netip.Prefix
	// Throw: what the destination matches is looked up in the tables that come
	// after. What follows is empty then.
	Throw   bool
	Link    string     // the interface's name
	Gateway netip.Addr // invalid: none
	Src     netip.Addr // source address for the box's own packets
	// MTU and MSS are what packets and TCP segments may measure at most; 0: as the
	// interface has it.
	MTU, MSS int `json:",omitempty"`
}

// Rule makes the kernel look a routing table up, for all packets of a family.
type Rule struct {
	Table, Priority uint32
	V6              bool
}

// Way is how the box reaches an address.
type Way struct {
	Link    string
	Gateway netip.Addr // invalid: none
	MTU     int        // of the link, octets of an IP packet
}

// protoStatic marks routes as an administrator's, as other IKE daemons do: the
// kernel's own and routing daemons' have others.
const protoStatic = unix.RTPROT_STATIC

// AddAddress implements Verbs. An IPv6 address is not checked for duplicates,
// and deprecated: nobody takes it as source who does not ask for it, which
// routes do.
func (Local) AddAddress(a Address) error {
	link, addr, err := a.netlink()
	if err == nil {
		err = netlink.AddrAdd(link, addr)
	}
	if err != nil {
		return fmt.Errorf("add address %s to %s: %w", a.Addr, a.Link, err)
	}
	return nil
}

// RemoveAddress implements Verbs.
func (Local) RemoveAddress(a Address) error {
	link, addr, err := a.netlink()
	if err == nil {
		err = netlink.AddrDel(link, addr)
	}
	if err != nil && !gone(err) {
		return fmt.Errorf("remove address %s from %s: %w", a.Addr, a.Link, err)
	}
	return nil
}

func (a *Address) netlink() (netlink.Link, *netlink.Addr, error) {
	link, err := netlink.LinkByName(a.Link)
	if err != nil {
		return nil, nil, err
	}
	addr := &netlink.Addr{IPNet: ipNet(netip.PrefixFrom(a.Addr, a.Addr.BitLen()))}
	if a.Addr.Is6() {
		addr.Flags, addr.PreferedLft, addr.ValidLft = unix.IFA_F_NODAD, 0, forever
	}
	return link, addr, nil
}

// forever is the kernel's infinite lifetime of an address in seconds.
const forever = 1<<32 - 1

// AddRoute implements Verbs.
func (Local) AddRoute(r Route) error {
	n, err := r.netlink()
	if err == nil {
		err = netlink.RouteReplace(n)
	}
	if err != nil {
		return fmt.Errorf("add route to %s by %s, table %d: %w", r.Dst, r.Link, r.Table, err)
	}
	return nil
}

// RemoveRoute implements Verbs.
func (Local) RemoveRoute(r Route) error {
	n, err := r.netlink()
	if err == nil {
		err = netlink.RouteDel(n)
	}
	if err != nil && !gone(err) {
		return fmt.Errorf("remove route to %s, table %d: %w", r.Dst, r.Table, err)
	}
	return nil
}

func (r *Route) netlink() (*netlink.Route, error) {
	n := &netlink.Route{Table: int(r.Table), Dst: ipNet(r.Dst), Protocol: protoStatic, Family: family(r.Dst.Addr().Is6())}
	if r.Throw {
		n.Type = unix.RTN_THROW
		return n, nil
	}
	link, err := netlink.LinkByName(r.Link)
	if err != nil {
		return nil, err
	}
	n.LinkIndex = link.Attrs().Index
	n.MTU, n.AdvMSS = r.MTU, r.MSS
	if r.Src.IsValid() {
		n.Src = r.Src.AsSlice()
	}
	if r.Gateway.IsValid() {
		// The kernel would look the gateway up in the very table that may lead
		// everything elsewhere.
		n.Gw, n.Flags = r.Gateway.AsSlice(), int(netlink.FLAG_ONLINK)
	} else if r.Dst.Addr().Is4() {
		n.Scope = netlink.SCOPE_LINK
	}
	return n, nil
}

// AddRule implements Verbs.
func (Local) AddRule(r Rule) error {
	if err := netlink.RuleAdd(r.netlink()); err != nil {
		return fmt.Errorf("add rule %d for table %d: %w", r.Priority, r.Table, err)
	}
	return nil
}

// RemoveRule implements Verbs.
func (Local) RemoveRule(r Rule) error {
	if err := netlink.RuleDel(r.netlink()); err != nil && !gone(err) {
		return fmt.Errorf("remove rule %d for table %d: %w", r.Priority, r.Table, err)
	}
	return nil
}

func (r *Rule) netlink() *netlink.Rule {
	n := netlink.NewRule()
	n.Priority, n.Table, n.Family = int(r.Priority), int(r.Table), family(r.V6)
	return n
}

// gone reports that what should go is not there.
func gone(err error) bool {
	var noLink netlink.LinkNotFoundError
	return errors.As(err, &noLink) || errors.Is(err, unix.ESRCH) || errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EADDRNOTAVAIL) || errors.Is(err, unix.ENODEV)
}

func family(v6 bool) int {
	if v6 {
		return netlink.FAMILY_V6
	}
	return netlink.FAMILY_V4
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

// WayTo asks the kernel how it would reach an address from the local one.
func WayTo(local, to netip.Addr) (Way, error) {
	routes, err := netlink.RouteGetWithOptions(to.AsSlice(), &netlink.RouteGetOptions{SrcAddr: local.AsSlice()})
	if err != nil {
		return Way{}, fmt.Errorf("route to %s: %w", to, err)
	}
	if len(routes) == 0 {
		return Way{}, fmt.Errorf("route to %s: the kernel has none", to)
	}
	link, err := netlink.LinkByIndex(routes[0].LinkIndex)
	if err != nil {
		return Way{}, fmt.Errorf("route to %s: %w", to, err)
	}
	w := Way{Link: link.Attrs().Name, MTU: link.Attrs().MTU}
	if gw, ok := netip.AddrFromSlice(routes[0].Gw); ok {
		w.Gateway = gw.Unmap()
	}
	return w, nil
}

// Addresses are the addresses of the box that reach beyond a link, in the order
// of the interfaces.
func Addresses() ([]netip.Addr, error) {
	list, err := netlink.AddrList(nil, netlink.FAMILY_ALL)
	if err != nil {
		return nil, fmt.Errorf("list addresses: %w", err)
	}
	var out []netip.Addr
	for _, a := range list {
		if addr, ok := netip.AddrFromSlice(a.IP); ok && a.Scope == int(netlink.SCOPE_UNIVERSE) {
			out = append(out, addr.Unmap())
		}
	}
	return out, nil
}

// HasRule reports whether the kernel has the rule already.
func HasRule(r Rule) (bool, error) {
	list, err := netlink.RuleList(family(r.V6))
	if err != nil {
		return false, fmt.Errorf("list rules: %w", err)
	}
	for _, x := range list {
		if x.Priority == int(r.Priority) && x.Table == int(r.Table) {
			return true, nil
		}
	}
	return false, nil
}

// MainSource is the address that the box would send from to another, by its main
// routing table alone.
func MainSource(to netip.Addr) (netip.Addr, error) {
	list, err := netlink.RouteListFiltered(family(to.Is6()), &netlink.Route{Table: unix.RT_TABLE_MAIN}, netlink.RT_FILTER_TABLE)
	if err != nil {
		return netip.Addr{}, fmt.Errorf("list routes: %w", err)
	}
	best, found := bestRoute(list, to)
	if !found {
		return netip.Addr{}, fmt.Errorf("route to %s: the main table has none", to)
	}
	if src, ok := netip.AddrFromSlice(best.Src); ok {
		return src.Unmap(), nil
	}
	link, err := netlink.LinkByIndex(linkOf(&best))
	if err != nil {
		return netip.Addr{}, fmt.Errorf("route to %s: %w", to, err)
	}
	addrs, err := netlink.AddrList(link, family(to.Is6()))
	if err != nil {
		return netip.Addr{}, fmt.Errorf("list addresses: %w", err)
	}
	for _, a := range addrs {
		addr, ok := netip.AddrFromSlice(a.IP)
		deprecated := a.ValidLft > 0 && a.PreferedLft == 0
		if ok && a.Scope == int(netlink.SCOPE_UNIVERSE) && !deprecated {
			return addr.Unmap(), nil
		}
	}
	return netip.Addr{}, fmt.Errorf("route to %s: %s has no address of its family", to, link.Attrs().Name)
}

// bestRoute is the route with the longest prefix that has the address, of those
// the one with the least metric.
func bestRoute(list []netlink.Route, to netip.Addr) (best netlink.Route, found bool) {
	bits := -1
	for _, r := range list {
		n := 0
		if r.Dst != nil {
			addr, ok := netip.AddrFromSlice(r.Dst.IP)
			n, _ = r.Dst.Mask.Size()
			if p := netip.PrefixFrom(addr.Unmap(), n); !ok || !p.Contains(to) {
				continue
			}
		}
		if r.Type == unix.RTN_UNICAST && (n > bits || n == bits && r.Priority < best.Priority) {
			best, bits, found = r, n, true
		}
	}
	return best, found
}

// linkOf is the interface of a route, of its first hop if it has several.
func linkOf(r *netlink.Route) int {
	if r.LinkIndex == 0 && len(r.MultiPath) > 0 {
		return r.MultiPath[0].LinkIndex
	}
	return r.LinkIndex
}
