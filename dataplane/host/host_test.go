package host

import (
	"net"
	"net/netip"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

func TestBestRoute(t *testing.T) {
	route := func(dst string, metric, link, kind int) netlink.Route {
		r := netlink.Route{Priority: metric, LinkIndex: link, Type: kind}
		if dst != "" {
			_, r.Dst, _ = net.ParseCIDR(dst)
		}
		return r
	}
	list := []netlink.Route{
		route("", 100, 1, unix.RTN_UNICAST), route("0.0.0.0/0", 50, 2, unix.RTN_UNICAST), route("10.0.0.0/8", 0, 3, unix.RTN_UNICAST),
		route("10.1.0.0/16", 0, 4, unix.RTN_BLACKHOLE), route("192.0.2.0/24", 0, 5, unix.RTN_UNICAST),
	}
	for to, link := range map[string]int{"198.51.100.1": 2, "10.1.2.3": 3, "192.0.2.9": 5} {
		if r, ok := bestRoute(list, netip.MustParseAddr(to)); !ok || r.LinkIndex != link {
			t.Errorf("to %s: by %d (%v), expected by %d", to, r.LinkIndex, ok, link)
		}
	}
	if r, ok := bestRoute(list[2:], netip.MustParseAddr("198.51.100.1")); ok {
		t.Errorf("expected none, got %v", r)
	}
}

func TestNamesStayInTheirFolder(t *testing.T) {
	for _, name := range []string{"", "..", "net..core", "net/core", "net.core/../x", "-a", ".net", "a b"} {
		if p, err := sysctlPath(name); err == nil {
			t.Errorf("sysctl %q: got %s, expected an error", name, p)
		}
		if err := (Local{}).LoadModule(name); err == nil && name != "net..core" {
			t.Errorf("module %q was loaded, expected an error", name)
		}
	}
	if p, err := sysctlPath("net.core.xfrm_acq_expires"); err != nil || p != "/proc/sys/net/core/xfrm_acq_expires" {
		t.Errorf("got %s, %v", p, err)
	}
}

func TestSysctlReadsAndRefuses(t *testing.T) {
	if v, err := (Local{}).Sysctl("kernel.ostype"); err != nil || v != "Linux" {
		t.Errorf("kernel.ostype: %q, %v, expected Linux", v, err)
	}
	if _, err := (Local{}).Sysctl("kernel.no_such_setting"); err == nil {
		t.Error("a setting that does not exist was read")
	}
	if err := (Local{}).SetSysctl("kernel.no_such_setting", "1"); err == nil {
		t.Error("a setting that does not exist was set")
	}
}
