package route

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/rs/zerolog"

	"espalier/dataplane"
	"espalier/dataplane/host"
)

// box is a Box in memory.
type box struct {
	host.Verbs
	addrs  map[netip.Addr]string
	routes map[netip.Prefix]host.Route
	rules  map[host.Rule]bool
	fail   func(what string) error
}

func newBox(own ...string) *box {
	b := &box{addrs: map[netip.Addr]string{}, routes: map[netip.Prefix]host.Route{}, rules: map[host.Rule]bool{}}
	for _, a := range own {
		b.addrs[netip.MustParseAddr(a)] = "eth0"
	}
	return b
}

func (b *box) failing(what string) error {
	if b.fail != nil {
		return b.fail(what)
	}
	return nil
}

func (b *box) AddAddress(a host.Address) error {
	if err := b.failing("address"); err != nil {
		return err
	}
	b.addrs[a.Addr] = a.Link
	return nil
}
func (b *box) RemoveAddress(a host.Address) error { delete(b.addrs, a.Addr); return nil }
func (b *box) AddRoute(r host.Route) error {
	if err := b.failing("route"); err != nil {
		return err
	}
	if r.Src.IsValid() && b.addrs[r.Src] == "" {
		return fmt.Errorf("source %s is not there", r.Src)
	}
	b.routes[r.Dst] = r
	return nil
}
func (b *box) RemoveRoute(r host.Route) error {
	if b.routes[r.Dst] == r {
		delete(b.routes, r.Dst)
	}
	return nil
}
func (b *box) AddRule(r host.Rule) error         { b.rules[r] = true; return nil }
func (b *box) RemoveRule(r host.Rule) error      { delete(b.rules, r); return nil }
func (b *box) HasRule(r host.Rule) (bool, error) { return b.rules[r], nil }
func (b *box) WayTo(local, to netip.Addr) (host.Way, error) {
	if to.Is4() && to.As4()[0] == 198 {
		return host.Way{Link: "eth1", Gateway: netip.MustParseAddr("192.0.2.254")}, nil
	}
	return host.Way{Link: "eth0"}, nil
}
func (b *box) MainSource(netip.Addr) (netip.Addr, error) {
	return netip.MustParseAddr("192.0.2.1"), nil
}
func (b *box) Addresses() ([]netip.Addr, error) {
	var out []netip.Addr
	for a := range b.addrs {
		out = append(out, a)
	}
	slices.SortFunc(out, netip.Addr.Compare)
	return out, nil
}

// String is what the box has, for comparisons.
func (b *box) String() string {
	var out []string
	for a, l := range b.addrs {
		out = append(out, a.String()+"@"+l)
	}
	for _, r := range b.routes {
		s := r.Dst.String() + ">"
		if r.Throw {
			s += "throw"
		} else {
			s += r.Link + ">" + r.Src.String()
		}
		if r.Gateway.IsValid() {
			s += ">" + r.Gateway.String()
		}
		if r.MTU != 0 || r.MSS != 0 {
			s += fmt.Sprintf(">%d/%d", r.MTU, r.MSS)
		}
		out = append(out, s)
	}
	for r := range b.rules {
		out = append(out, fmt.Sprintf("rule%d:%d:%v", r.Priority, r.Table, r.V6))
	}
	slices.Sort(out)
	return strings.Join(out, " ")
}

func open(t *testing.T, b *box, dir string) *Keeper {
	t.Helper()
	k, err := Open(Options{Box: b, JournalDir: dir, VirtualIP: true, Table: 220, Priority: 220, Log: zerolog.Nop()})
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func wish(peer string, addrs string, routes ...string) dataplane.Wish {
	w := dataplane.Wish{Local: netip.MustParseAddr("192.0.2.1"), Peer: netip.MustParseAddr(peer)}
	for _, a := range strings.Fields(addrs) {
		w.Addrs = append(w.Addrs, netip.MustParseAddr(a))
	}
	for _, r := range routes {
		dst, within, _ := strings.Cut(r, "<")
		w.Routes = append(w.Routes, dataplane.Route{Dst: netip.MustParsePrefix(dst), Within: netip.MustParsePrefix(within)})
	}
	return w
}

func wishes(t *testing.T, k *Keeper, owner uint64, w dataplane.Wish) {
	t.Helper()
	if err := k.Want(owner, w); err != nil {
		t.Error(err)
	}
}

func expect(t *testing.T, b *box, what string) {
	t.Helper()
	if b.String() != what {
		t.Errorf("the box has\n%s, want\n%s", b, what)
	}
}

func TestVirtualAddressAndRoutes(t *testing.T) {
	b, dir := newBox("192.0.2.1"), t.TempDir()
	k := open(t, b, dir)
	w := wish("198.51.100.1", "10.3.0.1 fec3::1", "0.0.0.0/0<10.3.0.1/32", "fd00:2::/32<fec3::1/128")
	wishes(t, k, 1, w)
	if got := fmt.Sprint(k.Addrs()); got != "[10.3.0.1 fec3::1]" {
		t.Errorf("virtual addresses: %s", got)
	}
	all := "0.0.0.0/0>eth1>10.3.0.1>192.0.2.254 10.3.0.1@eth1 192.0.2.1@eth0 198.51.100.1/32>throw fd00:2::/32>eth1>fec3::1 fec3::1@eth1 rule220:220:false rule220:220:true"
	expect(t, b, all)
	wishes(t, k, 2, w) // the successor
	wishes(t, k, 1, dataplane.Wish{})
	expect(t, b, all)
	wishes(t, k, 2, dataplane.Wish{})
	expect(t, b, "192.0.2.1@eth0 rule220:220:false rule220:220:true")
	wishes(t, k, 3, w)
	if err := k.Close(); err != nil {
		t.Error(err)
	}
	expect(t, b, "192.0.2.1@eth0")
}

// TestCrash: what a killed daemon left is removed by the next start, what is not
// ours stays.
func TestCrash(t *testing.T) {
	b, dir := newBox("192.0.2.1", "10.9.0.9"), t.TempDir()
	b.rules[host.Rule{Table: 220, Priority: 220}] = true // charon's, say
	k := open(t, b, dir)
	wishes(t, k, 1, wish("198.51.100.1", "10.3.0.1 10.9.0.9", "10.2.0.0/16<10.3.0.1/32", "10.4.0.0/16<10.9.0.9/32"))
	expect(t, b, "10.2.0.0/16>eth1>10.3.0.1>192.0.2.254 10.3.0.1@eth1 10.4.0.0/16>eth1>10.9.0.9>192.0.2.254 10.9.0.9@eth0 192.0.2.1@eth0 rule220:220:false")
	// The crash cuts a line short.
	f, err := os.OpenFile(filepath.Join(dir, journalName), os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	fmt.Fprintf(f, `+{"Address":{"Addr":"192.0.2.1","Li`)
	f.Close()
	open(t, b, dir)
	expect(t, b, "10.9.0.9@eth0 192.0.2.1@eth0 rule220:220:false")
}

func TestSourceOfOwnTraffic(t *testing.T) {
	b := newBox("10.1.0.1", "192.0.2.1")
	k := open(t, b, t.TempDir())
	// A route to the peer alone would catch the tunnel's packets.
	wishes(t, k, 1, wish("192.0.2.2", "", "10.2.0.0/16<10.1.0.0/16", "10.5.0.0/16<10.6.0.0/16", "192.0.2.2/32<10.1.0.0/16"))
	expect(t, b, "10.1.0.1@eth0 10.2.0.0/16>eth0>10.1.0.1>192.0.2.2 192.0.2.1@eth0 rule220:220:false")
	// Two tunnels to one network: the younger one's route stands, then the other's again.
	wishes(t, k, 2, wish("198.51.100.7", "", "10.2.0.0/16<10.1.0.0/16"))
	expect(t, b, "10.1.0.1@eth0 10.2.0.0/16>eth1>10.1.0.1>192.0.2.254 192.0.2.1@eth0 rule220:220:false")
	wishes(t, k, 2, dataplane.Wish{})
	expect(t, b, "10.1.0.1@eth0 10.2.0.0/16>eth0>10.1.0.1>192.0.2.2 192.0.2.1@eth0 rule220:220:false")
}

func TestWhatFailsIsNotJournalled(t *testing.T) {
	b, dir := newBox("192.0.2.1"), t.TempDir()
	k := open(t, b, dir)
	b.fail = func(what string) error { return errors.New("planted") }
	if err := k.Want(1, wish("192.0.2.2", "10.3.0.1", "10.2.0.0/16<10.3.0.1/32")); err == nil {
		t.Error("expected an error")
	}
	if live := k.journal.live(); len(live) != 0 {
		t.Errorf("the journal has %+v", live)
	}
	b.fail = nil
	wishes(t, k, 1, wish("192.0.2.2", "10.3.0.1", "10.2.0.0/16<10.3.0.1/32"))
	expect(t, b, "10.2.0.0/16>eth0>10.3.0.1>192.0.2.2 10.3.0.1@eth0 192.0.2.1@eth0 rule220:220:false")
}

// TestSpared: local networks are left alone, by a route that is wished for one of
// them, too, until they are no longer spared.
func TestSpared(t *testing.T) {
	b := newBox("192.0.2.1")
	k := open(t, b, t.TempDir())
	wishes(t, k, 1, wish("192.0.2.2", "10.3.0.1", "0.0.0.0/0<10.3.0.1/32", "10.9.0.0/16<10.3.0.1/32"))
	all := b.String()
	if err := k.Spare([]netip.Prefix{netip.MustParsePrefix("10.9.0.7/16"), netip.MustParsePrefix("192.0.2.0/24")}); err != nil {
		t.Error(err)
	}
	expect(t, b, "0.0.0.0/0>eth0>10.3.0.1>192.0.2.2 10.3.0.1@eth0 10.9.0.0/16>throw 192.0.2.0/24>throw 192.0.2.1@eth0 192.0.2.2/32>throw rule220:220:false")
	if err := k.Spare(nil); err != nil {
		t.Error(err)
	}
	expect(t, b, all)
}

// TestLostIsPutBack: the same wish again restores what went with an interface.
func TestLostIsPutBack(t *testing.T) {
	b, dir := newBox("192.0.2.1"), t.TempDir()
	k := open(t, b, dir)
	w := wish("192.0.2.2", "10.3.0.1", "10.2.0.0/16<10.3.0.1/32")
	wishes(t, k, 1, w)
	all := b.String()
	delete(b.addrs, netip.MustParseAddr("10.3.0.1"))
	clear(b.routes)
	wishes(t, k, 1, w)
	expect(t, b, all)
	wishes(t, k, 1, dataplane.Wish{})
	expect(t, b, "192.0.2.1@eth0 rule220:220:false")
	if live := k.journal.live(); len(live) != 1 {
		t.Errorf("the journal has %+v", live)
	}
}

func TestRouteThatFailsIsNotJournalled(t *testing.T) {
	b := newBox("192.0.2.1")
	k := open(t, b, t.TempDir())
	b.fail = func(what string) error {
		if what == "route" {
			return errors.New("planted")
		}
		return nil
	}
	if err := k.Want(1, wish("192.0.2.2", "10.3.0.1", "10.2.0.0/16<10.3.0.1/32")); err == nil {
		t.Error("expected an error")
	}
	for _, x := range k.journal.live() {
		if x.Route != nil {
			t.Errorf("the journal has %+v", x.Route)
		}
	}
	wishes(t, k, 1, dataplane.Wish{})
	expect(t, b, "192.0.2.1@eth0 rule220:220:false")
}

func TestJournalIsCompacted(t *testing.T) {
	b, dir := newBox("192.0.2.1"), t.TempDir()
	k := open(t, b, dir)
	wishes(t, k, 1, wish("192.0.2.2", "10.3.0.1"))
	for i := range 2 * compactLines {
		wishes(t, k, uint64(2+i), wish("192.0.2.2", "10.3.0.2"))
		wishes(t, k, uint64(2+i), dataplane.Wish{})
	}
	if text, err := os.ReadFile(filepath.Join(dir, journalName)); err != nil || strings.Count(string(text), "\n") > compactLines+10 {
		t.Errorf("%d lines, %v", strings.Count(string(text), "\n"), err)
	}
	open(t, b, dir)
	expect(t, b, "192.0.2.1@eth0")
}

// TestFit: a route has the size of the tunnel that it leads into, whichever came
// first, and loses it with the tunnel.
func TestFit(t *testing.T) {
	b := newBox("192.0.2.1", "10.1.0.1", "2001:db8:1::1")
	k := open(t, b, t.TempDir())
	dst4, dst6 := netip.MustParsePrefix("10.2.0.0/24"), netip.MustParsePrefix("2001:db8:2::/64")
	fit := func(dst netip.Prefix, mss int) {
		t.Helper()
		if err := k.Fit(dst, mss); err != nil {
			t.Error(err)
		}
	}
	check := func(what, want string) {
		t.Helper()
		if got := b.String(); !strings.Contains(got, want) {
			t.Errorf("%s: %s, expected %s in it", what, got, want)
		}
	}
	fit(dst4, 1186)
	wishes(t, k, 1, wish("192.0.2.2", "", "10.2.0.0/24<10.1.0.0/24", "2001:db8:2::/64<2001:db8:1::/64"))
	check("known before the route", "10.2.0.0/24>eth0>10.1.0.1>192.0.2.2>1226/1186")
	fit(dst6, 1166)
	check("no IPv6 route below 1280", "2001:db8:2::/64>eth0>2001:db8:1::1>1280/1166")
	fit(dst6, 1366)
	check("a larger one", "2001:db8:2::/64>eth0>2001:db8:1::1>1426/1366")
	b.fail = func(string) error { return errors.New("boom") }
	if err := k.Fit(dst4, 1406); err == nil {
		t.Error("expected the kernel's error")
	}
	b.fail = nil
	fit(dst4, 0)
	fit(dst6, 0)
	check("gone", "10.2.0.0/24>eth0>10.1.0.1>192.0.2.2 192.0.2.1@eth0 ")
	wishes(t, k, 1, dataplane.Wish{})
	fit(dst4, 1000)
	if len(b.routes) != 0 {
		t.Errorf("routes that nobody wishes: %s", b)
	}
	if err := k.Close(); err != nil {
		t.Error(err)
	}
}
