package sa

import (
	"net/netip"
	"strconv"
)

func itoa(n int) string { return strconv.Itoa(n) }

func withPort(a netip.AddrPort, port uint16) netip.AddrPort {
	return netip.AddrPortFrom(a.Addr(), port)
}
