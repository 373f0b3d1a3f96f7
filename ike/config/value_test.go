package config

import (
	"net/netip"
	"reflect"
	"testing"
	"time"

	"espalier/dataplane"
	"espalier/ike/sa"
	"espalier/internal/secret"
)

func TestValues(t *testing.T) {
	a4 := netip.MustParseAddr("192.0.2.1")
	for _, c := range []struct {
		typ  valueType
		in   string
		want any // nil: a mistake
	}{
		{yesNo(), "Yes", true}, {yesNo(), "enabled", true}, {yesNo(), "1", true}, {yesNo(), "true", true},
		{yesNo(), "no", false}, {yesNo(), "Disabled", false}, {yesNo(), "0", false}, {yesNo(), "false", false},
		{yesNo(), "on", nil}, {yesNo(), "2", nil},
		{duration(), "3600", time.Hour}, {duration(), "30m", 30 * time.Minute}, {duration(), "1H", time.Hour},
		{duration(), "2d", 48 * time.Hour}, {duration(), "7 s", 7 * time.Second}, {duration(), "0x10", 16 * time.Second},
		{duration(), "-1", nil}, {duration(), "1.5h", nil}, {duration(), "h", nil}, {duration(), "1w", nil}, {duration(), "40000d", nil},
		{size(), "1000", uint64(1000)}, {size(), "2k", uint64(2048)}, {size(), "3M", uint64(3 << 20)}, {size(), "4 g", uint64(4 << 30)},
		{size(), "17179869184g", nil}, {size(), "k", nil}, {size(), "5t", nil},
		{count(), "18446744073709551615", uint64(1<<64 - 1)}, {count(), "-1", nil},
		{number(1, 9), "9", uint32(9)}, {number(1, 9), "0x5", uint32(5)}, {number(1, 9), "0", nil}, {number(1, 9), "10", nil},
		{decimal(1, 10), "1.8", 1.8}, {decimal(1, 10), "0.9", nil}, {decimal(1, 10), "NaN", nil},
		{oneOf("a", "b"), "B", "b"}, {oneOf("a", "b"), "c", nil},
		{action("none, trap or start"), "restart", "start"}, {action("none, trap or start"), "trap|start", "trap|start"},
		{action("clear, trap or restart"), "route", "trap"}, {action("clear, trap or restart"), "trap|start", nil},
		{mark(), "0x13/0xf0", markValue{mark: dataplane.Mark{Value: 0x10, Mask: 0xf0}}}, {mark(), "42", markValue{mark: dataplane.Mark{Value: 42, Mask: 0xffffffff}}},
		{mark(), "%unique", markValue{mark: dataplane.Mark{Mask: 0xffffffff}, unique: sa.UniqueChild}},
		{mark(), "%unique-dir/0xff", markValue{mark: dataplane.Mark{Mask: 0xff}, unique: sa.UniqueChildDir}}, {mark(), "%same", nil},
		{setMark(), "%same/0xf", markValue{mark: dataplane.Mark{Mask: 0xf}, same: true}}, {setMark(), "%unique", nil},
		{mark(), "1/", nil}, {mark(), "4294967296", nil},
		{ifID(), "0x2a", ifIDValue{id: 42}}, {ifID(), "%unique-dir", ifIDValue{unique: sa.UniqueChildDir}}, {ifID(), "%same", nil},
		{bits6(), "101110", uint8(46)}, {bits6(), "10", uint8(2)}, {bits6(), "102110", nil},
		{padding(), "mtu", int64(-1)}, {padding(), "100", int64(100)},
		{words("names"), "a, b,c", []string{"a", "b", "c"}}, {words("names"), "a,,b", nil},
		{secretText("x"), "plain", secret.Bytes("plain")}, {secretText("x"), "0x706c", secret.Bytes("pl")},
		{secretText("x"), "0scGw=", secret.Bytes("pl")}, {secretText("x"), "0scGw", secret.Bytes("pl")}, {secretText("x"), "0x", nil},
		{ipList(), "192.0.2.1", []netip.Addr{a4}}, {ipList(), "192.0.2.1/24", nil}, {ipList(), "::ffff:192.0.2.1", nil},
		{addresses(), "192.0.2.1", []sa.AddrSpec{{Start: a4, End: a4}}},
		{addresses(), "%any", []sa.AddrSpec{{}}},
		{addresses(), "%any4, ::/0", []sa.AddrSpec{{Family: 4}, {Family: 6}}},
		{addresses(), "GW.example.com", []sa.AddrSpec{{Host: "gw.example.com"}}},
		{addresses(), "192.0.2.0-192.0.2.1", []sa.AddrSpec{{Start: a4.Prev(), End: a4}}},
		{addresses(), "1.2.3", nil}, {addresses(), "gw_1.example.com", []sa.AddrSpec{{Host: "gw_1.example.com"}}},
		{addresses(), "-gw", nil}, {addresses(), "gw..com", nil}, {addresses(), "%any5", nil}, {addresses(), "a b", nil},
	} {
		v, wrong := c.typ.parse(c.in)
		if (wrong == nil) != (c.want != nil) || c.want != nil && !reflect.DeepEqual(v, c.want) {
			t.Errorf("%s %q is %v (%v), want %v", c.typ.name, c.in, v, wrong, c.want)
		}
	}
}
