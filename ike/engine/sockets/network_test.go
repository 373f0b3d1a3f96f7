package sockets

import (
	"encoding/binary"
	"net/netip"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// netMessage builds one netlink message: a fixed part and attributes by type.
func netMessage(typ, flags uint16, fixed []byte, attrs map[uint16][]byte) []byte {
	b := make([]byte, syscall.SizeofNlMsghdr)
	b = append(b, fixed...)
	for t := range uint16(64) {
		if v, ok := attrs[t]; ok {
			b = binary.NativeEndian.AppendUint16(b, uint16(4+len(v)))
			b = binary.NativeEndian.AppendUint16(b, t)
			b = append(b, v...)
			for len(b)%4 != 0 {
				b = append(b, 0)
			}
		}
	}
	binary.NativeEndian.PutUint32(b, uint32(len(b)))
	binary.NativeEndian.PutUint16(b[4:], typ)
	binary.NativeEndian.PutUint16(b[6:], flags)
	return b
}

func addrMessage(typ uint16, flags, scope uint8, addr string) []byte {
	a := netip.MustParseAddr(addr)
	fam := uint8(unix.AF_INET6)
	if a.Is4() {
		fam = unix.AF_INET
	}
	return netMessage(typ, 0, []byte{fam, 24, flags, scope, 2, 0, 0, 0}, map[uint16][]byte{unix.IFA_ADDRESS: a.AsSlice()})
}

func routeMessage(typ, flags uint16, fam, bits uint8, gateway string) []byte {
	fixed := []byte{fam, bits, 0, 0, unix.RT_TABLE_MAIN, 0, 0, unix.RTN_UNICAST, 0, 0, 0, 0}
	return netMessage(typ, flags, fixed, map[uint16][]byte{
		unix.RTA_GATEWAY: netip.MustParseAddr(gateway).AsSlice(), unix.RTA_OIF: {2, 0, 0, 0}, unix.RTA_PRIORITY: {0, 1, 0, 0}})
}

// inTable puts a route's message into another table.
func inTable(table byte, msg []byte) []byte {
	msg[unix.SizeofNlMsghdr+4] = table
	return msg
}

func TestNetworkLearns(t *testing.T) {
	const v4, v6 = unix.AF_INET, unix.AF_INET6
	k := known{}
	for _, step := range []struct {
		name string
		msg  []byte
		news bool
	}{
		{"an address", addrMessage(unix.RTM_NEWADDR, 0, 0, "192.0.2.1"), true},
		{"the same again", addrMessage(unix.RTM_NEWADDR, 0, 0, "192.0.2.1"), false},
		{"it goes", addrMessage(unix.RTM_DELADDR, 0, 0, "192.0.2.1"), true},
		{"it comes back", addrMessage(unix.RTM_NEWADDR, 0, 0, "192.0.2.1"), true},
		{"not usable yet", addrMessage(unix.RTM_NEWADDR, unix.IFA_F_TENTATIVE, 0, "2001:db8::1"), false},
		{"usable", addrMessage(unix.RTM_NEWADDR, 0, 0, "2001:db8::1"), true},
		{"link-local", addrMessage(unix.RTM_NEWADDR, 0, unix.RT_SCOPE_LINK, "fe80::1"), false},
		{"a default route", routeMessage(unix.RTM_NEWROUTE, 0, v6, 0, "2001:db8::fe"), true},
		{"advertised again", routeMessage(unix.RTM_NEWROUTE, 0, v6, 0, "2001:db8::fe"), false},
		{"another in its place", routeMessage(unix.RTM_NEWROUTE, unix.NLM_F_REPLACE, v6, 0, "2001:db8::ff"), true},
		{"and back", routeMessage(unix.RTM_NEWROUTE, unix.NLM_F_REPLACE, v6, 0, "2001:db8::fe"), true},
		{"a network's route", routeMessage(unix.RTM_NEWROUTE, 0, v4, 24, "192.0.2.254"), false},
		{"an IPv4 default route", routeMessage(unix.RTM_NEWROUTE, 0, v4, 0, "192.0.2.254"), true},
		{"again, after its interface was down", routeMessage(unix.RTM_NEWROUTE, 0, v4, 0, "192.0.2.254"), true},
		{"one goes that was there from the start", routeMessage(unix.RTM_DELROUTE, 0, v4, 0, "192.0.2.253"), true},
		{"our own table's", inTable(220, routeMessage(unix.RTM_NEWROUTE, unix.NLM_F_REPLACE, v4, 0, "192.0.2.254")), false},
		{"cut off", routeMessage(unix.RTM_NEWROUTE, 0, v4, 0, "192.0.2.254")[:30], false},
		{"cut off within", netMessage(unix.RTM_NEWROUTE, 0, []byte{v4, 0}, nil), false},
	} {
		if got := k.learn(step.msg, 220); got != step.news {
			t.Errorf("%s: news %v, expected %v", step.name, got, step.news)
		}
	}
	for i := range uint32(2 * maxKnown) {
		k.note(netItem{index: i}, true)
	}
	if len(k) > maxKnown {
		t.Errorf("%d items remembered, expected at most %d", len(k), maxKnown)
	}
}

func TestWatchNetworkOpensAndCloses(t *testing.T) {
	n, err := WatchNetwork(220)
	if err != nil {
		t.Fatal(err)
	}
	if err := n.Close(); err != nil {
		t.Error(err)
	}
}
