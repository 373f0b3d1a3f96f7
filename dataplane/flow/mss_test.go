package flow

import (
	"net/netip"
	"reflect"
	"testing"

	"github.com/rs/zerolog"

	"espalier/dataplane"
)

// outPolicy leads what goes to a network into the SAs of a request id.
func outPolicy(owner uint64, to string, reqID uint32) dataplane.Policy {
	return dataplane.Policy{
		PolicyKey: dataplane.PolicyKey{Dir: dataplane.Out, Selector: dataplane.Selector{
			Src: netip.MustParsePrefix("10.1.0.0/24"), Dst: netip.MustParsePrefix(to),
		}},
		Owner:     owner,
		Templates: []dataplane.Template{{Src: here, Dst: there, Proto: dataplane.ESP, Mode: dataplane.Tunnel, ReqID: reqID}},
	}
}

func prefixes(pairs ...any) map[netip.Prefix]MSS {
	m := map[netip.Prefix]MSS{}
	for i := 0; i < len(pairs); i += 2 {
		m[netip.MustParsePrefix(pairs[i].(string))] = pairs[i+1].(MSS)
	}
	return m
}

func TestMSSFollowsTunnels(t *testing.T) {
	table := newFakeMSS()
	link := map[netip.Addr]int{there: 1500, other: 1400}
	m := newMSSKeeper(table, zerolog.Nop(), func(_, dst netip.Addr) int { return link[dst] })
	out, natt, in := sa(dataplane.Out, there, 0x2000), sa(dataplane.Out, there, 0x2001), sa(dataplane.In, here, 0x1000)
	natt.Encap = &dataplane.Encap{SrcPort: 4500, DstPort: 4500}
	pol := outPolicy(1, "10.2.0.0/24", 7)
	clear := dataplane.Policy{PolicyKey: dataplane.PolicyKey{Dir: dataplane.Out, Selector: dataplane.Selector{
		Src: netip.MustParsePrefix("0.0.0.0/0"), Dst: netip.MustParsePrefix("10.2.0.128/25"),
	}}, Owner: 9}
	udp := outPolicy(2, "10.9.0.0/24", 7)
	udp.Selector.Proto = 17
	fwd := outPolicy(3, "10.8.0.0/24", 7)
	fwd.Dir = dataplane.Fwd
	gcm4, natt4 := MSS{1406, 1386}, MSS{1398, 1378}
	apply := func(ops ...dataplane.Op) func() { return func() { m.applied(ops) } }
	for _, c := range []struct {
		name string
		do   func()
		want map[netip.Prefix]MSS
	}{
		{"policies without SA", apply(dataplane.InstallPolicy{Policy: pol}, dataplane.InstallPolicy{Policy: udp}, dataplane.InstallPolicy{Policy: fwd}), prefixes()},
		{"SAs", apply(dataplane.InstallSA{SA: in}, dataplane.InstallSA{SA: out}), prefixes("10.2.0.0/24", gcm4)},
		{"the same policy again", apply(dataplane.InstallPolicy{Policy: pol}), prefixes("10.2.0.0/24", gcm4)},
		{"a hole in clear", apply(dataplane.InstallPolicy{Policy: clear}), prefixes("10.2.0.0/24", gcm4, "10.2.0.128/25", MSS{})},
		{"rekeyed behind a NAT", apply(dataplane.InstallSA{SA: natt}), prefixes("10.2.0.0/24", natt4, "10.2.0.128/25", MSS{})},
		{"the old SA goes", apply(dataplane.DeleteSA{Key: out.SAKey}, dataplane.DeletePolicy{Key: clear.PolicyKey, Owner: 9}), prefixes("10.2.0.0/24", natt4)},
		// 1280-20-8-32 = 1220; -2-40 = 1178.
		{"path MTU", func() { m.pathMTU(here, there, 1280) }, prefixes("10.2.0.0/24", MSS{1178, 1158})},
		{"unknown again", func() { m.pathMTU(here, there, 0) }, prefixes("10.2.0.0/24", natt4)},
		// 1400-20-32 = 1348; -2-40 = 1306.
		{"moved without NAT", apply(dataplane.MoveSA{Key: natt.SAKey, Dir: dataplane.Out, NewSrc: here, NewDst: other}), prefixes("10.2.0.0/24", MSS{1306, 1286})},
		{"the link's MTU has changed", func() { link[other] = 1500; m.network() }, prefixes("10.2.0.0/24", gcm4)},
		{"a NAT comes", apply(dataplane.UpdateSA{SA: func() dataplane.SA {
			s := natt
			s.Dst = other
			return s
		}()}), prefixes("10.2.0.0/24", natt4)},
		{"a second network", apply(dataplane.InstallPolicy{Policy: outPolicy(1, "10.3.0.0/24", 7)}), prefixes("10.2.0.0/24", natt4, "10.3.0.0/24", natt4)},
		{"gone", apply(dataplane.DeletePolicy{Key: pol.PolicyKey, Owner: 1}, dataplane.DeleteSA{Key: dataplane.SAKey{Dst: other, Proto: dataplane.ESP, SPI: 0x2001}}), prefixes()},
	} {
		c.do()
		if !reflect.DeepEqual(table.prefixes, c.want) {
			t.Errorf("%s: expected %v, got %v", c.name, c.want, table.prefixes)
		}
	}
	if len(m.sas) != 0 || len(m.paths) != 0 {
		t.Errorf("left over: %d SAs, %d paths", len(m.sas), len(m.paths))
	}
}

// TestMSSOfTwoTunnels: one network behind two children has the smaller limit.
func TestMSSOfTwoTunnels(t *testing.T) {
	table := newFakeMSS()
	m := newMSSKeeper(table, zerolog.Nop(), func(_, _ netip.Addr) int { return 1500 })
	a, b := sa(dataplane.Out, there, 0x2000), sa(dataplane.Out, there, 0x2001)
	b.ReqID, b.Encap = 8, &dataplane.Encap{SrcPort: 4500, DstPort: 4500}
	m.applied([]dataplane.Op{
		dataplane.InstallSA{SA: a}, dataplane.InstallSA{SA: b},
		dataplane.InstallPolicy{Policy: outPolicy(1, "10.2.0.0/24", 7)}, dataplane.InstallPolicy{Policy: outPolicy(2, "10.2.0.0/24", 8)},
	})
	if want := prefixes("10.2.0.0/24", MSS{1398, 1378}); !reflect.DeepEqual(table.prefixes, want) {
		t.Errorf("expected %v, got %v", want, table.prefixes)
	}
	// The first child's policy leads into the second's SAs from now on, and back.
	m.applied([]dataplane.Op{dataplane.DeletePolicy{Key: outPolicy(2, "10.2.0.0/24", 8).PolicyKey, Owner: 2}, dataplane.InstallPolicy{Policy: outPolicy(1, "10.2.0.0/24", 8)}})
	m.applied([]dataplane.Op{dataplane.InstallPolicy{Policy: outPolicy(1, "10.2.0.0/24", 7)}})
	if want := prefixes("10.2.0.0/24", MSS{1406, 1386}); !reflect.DeepEqual(table.prefixes, want) {
		t.Errorf("with the first alone: expected %v, got %v", want, table.prefixes)
	}
	m.applied([]dataplane.Op{dataplane.DeleteSA{Key: b.SAKey}})
	if want := prefixes("10.2.0.0/24", MSS{1406, 1386}); !reflect.DeepEqual(table.prefixes, want) {
		t.Errorf("without the second: expected %v, got %v", want, table.prefixes)
	}
}

// TestMSSOfInterfaces: SAs with an interface id limit their xfrm interfaces.
func TestMSSOfInterfaces(t *testing.T) {
	table := newFakeMSS()
	m := newMSSKeeper(table, zerolog.Nop(), func(_, _ netip.Addr) int { return 1500 })
	out := sa(dataplane.Out, there, 0x2000)
	out.IfID = 42
	pol := outPolicy(1, "0.0.0.0/0", 7)
	pol.IfID = 42
	m.applied([]dataplane.Op{dataplane.InstallSA{SA: out}, dataplane.InstallPolicy{Policy: pol}})
	links := map[int]MSS{}
	check := func(what string) {
		t.Helper()
		if !reflect.DeepEqual(table.links, links) || len(table.prefixes) != 0 {
			t.Errorf("%s: expected %v, got %v and %v", what, links, table.links, table.prefixes)
		}
	}
	check("no interface")
	m.interfaces(map[uint32]map[int]bool{42: {5: true, 6: true}, 43: {7: true}})
	links[5], links[6] = MSS{1406, 1386}, MSS{1406, 1386}
	check("interfaces come")
	m.interfaces(map[uint32]map[int]bool{42: {6: true}})
	delete(links, 5)
	check("one goes")
	m.pathMTU(here, there, 1280)
	links[6] = MSS{1186, 1166}
	check("path MTU")
	m.applied([]dataplane.Op{dataplane.DeleteSA{Key: out.SAKey}})
	delete(links, 6)
	check("without SA")
}

// TestMSSOfCompression: IPComp makes the tunnel, ESP carries it.
func TestMSSOfCompression(t *testing.T) {
	table := newFakeMSS()
	m := newMSSKeeper(table, zerolog.Nop(), func(_, _ netip.Addr) int { return 1500 })
	out, comp := sa(dataplane.Out, there, 0x2000), sa(dataplane.Out, there, 0x20)
	out.Mode, comp.Proto = dataplane.Transport, dataplane.IPComp
	m.applied([]dataplane.Op{dataplane.InstallSA{SA: comp}, dataplane.InstallSA{SA: out}, dataplane.InstallPolicy{Policy: outPolicy(1, "10.2.0.0/24", 7)}})
	if want := prefixes("10.2.0.0/24", MSS{1406, 1386}); !reflect.DeepEqual(table.prefixes, want) {
		t.Errorf("expected %v, got %v", want, table.prefixes)
	}
}

// TestMSSOfOwnRoutes: who looks after the box's routes learns each limit, what is
// there already first.
func TestMSSOfOwnRoutes(t *testing.T) {
	m := newMSSKeeper(newFakeMSS(), zerolog.Nop(), func(_, _ netip.Addr) int { return 1500 })
	out := sa(dataplane.Out, there, 0x2000)
	six := outPolicy(1, "2001:db8:2::/64", 7)
	six.Selector.Src = netip.MustParsePrefix("2001:db8:1::/64")
	m.applied([]dataplane.Op{dataplane.InstallSA{SA: out}, dataplane.InstallPolicy{Policy: outPolicy(1, "10.2.0.0/24", 7)}})
	got := map[string]int{}
	m.fits(true)
	m.routes(func(to netip.Prefix, mss int) error { got[to.String()] = mss; return nil })
	want := map[string]int{"10.2.0.0/24": 1406}
	check := func(what string) {
		t.Helper()
		if !reflect.DeepEqual(got, want) {
			t.Errorf("%s: %v, expected %v", what, got, want)
		}
	}
	check("there already")
	m.applied([]dataplane.Op{dataplane.InstallPolicy{Policy: six}})
	want["2001:db8:2::/64"] = 1386
	check("another")
	m.pathMTU(here, there, 1280)
	want["10.2.0.0/24"], want["2001:db8:2::/64"] = 1186, 1166
	check("path MTU")
	m.fits(false)
	want["10.2.0.0/24"], want["2001:db8:2::/64"] = 0, 0
	check("switched off")
	m.pathMTU(here, there, 1300)
	check("another path MTU meanwhile")
	m.fits(true)
	want["10.2.0.0/24"], want["2001:db8:2::/64"] = 1206, 1186
	check("switched on")
	m.applied([]dataplane.Op{dataplane.DeleteSA{Key: out.SAKey}})
	want["10.2.0.0/24"], want["2001:db8:2::/64"] = 0, 0
	check("gone")
}
