package sa

import (
	"net/netip"
	"strconv"

	"espalier/ike/suite"
	"espalier/ike/wire"
)

func itoa(n int) string { return strconv.Itoa(n) }

func withPort(a netip.AddrPort, port uint16) netip.AddrPort {
	return netip.AddrPortFrom(a.Addr(), port)
}

// keText is a key exchange method as configurations spell it.
func keText(m wire.KEMethod) string {
	return suite.Transform{Type: wire.TransformKE, ID: uint16(m)}.String()
}
