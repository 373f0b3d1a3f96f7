package selector

import "strconv"

// named pairs a name with its number; the first name of a number is the one
// that String writes.
type named struct {
	name string
	num  uint16
}

// protocols returns the IP protocols with names (IANA, as /etc/protocols
// spells them). The box's own files are not read: a configuration means the
// same everywhere.
func protocols() []named {
	return []named{
		{"icmp", 1}, {"igmp", 2}, {"ipip", 4}, {"ipencap", 4}, {"tcp", 6}, {"egp", 8}, {"udp", 17},
		{"dccp", 33}, {"ipv6", 41}, {"rsvp", 46}, {"gre", 47}, {"esp", 50}, {"ah", 51},
		{"icmpv6", 58}, {"ipv6-icmp", 58}, {"eigrp", 88}, {"ospf", 89}, {"pim", 103}, {"ipcomp", 108}, {"vrrp", 112},
		{"l2tp", 115}, {"sctp", 132}, {"mh", 135}, {"mobility-header", 135}, {"udplite", 136},
	}
}

// protoNumber finds a protocol by name or number.
func protoNumber(s string) (uint8, bool) {
	for _, p := range protocols() {
		if p.name == s {
			return uint8(p.num), true
		}
	}
	n, err := strconv.ParseUint(s, 0, 8)
	return uint8(n), err == nil
}

// protoName writes a protocol; 0 is "any".
func protoName(n uint8) string {
	if n == 0 {
		return "any"
	}
	for _, p := range protocols() {
		if p.num == uint16(n) {
			return p.name
		}
	}
	return strconv.Itoa(int(n))
}

// servicePort finds the port of a well-known service by its IANA name.
func servicePort(s string) (uint16, bool) {
	for _, p := range []named{
		{"ftp", 21}, {"ssh", 22}, {"telnet", 23}, {"smtp", 25}, {"domain", 53}, {"bootps", 67}, {"bootpc", 68},
		{"tftp", 69}, {"http", 80}, {"kerberos", 88}, {"pop3", 110}, {"sunrpc", 111}, {"ntp", 123}, {"netbios-ns", 137},
		{"netbios-dgm", 138}, {"netbios-ssn", 139}, {"imap2", 143}, {"snmp", 161}, {"snmp-trap", 162}, {"bgp", 179},
		{"ldap", 389}, {"https", 443}, {"microsoft-ds", 445}, {"isakmp", 500}, {"syslog", 514}, {"submission", 587},
		{"ldaps", 636}, {"imaps", 993}, {"pop3s", 995}, {"l2f", 1701}, {"l2tp", 1701}, {"radius", 1812}, {"radius-acct", 1813},
		{"nfs", 2049}, {"mysql", 3306}, {"ms-wbt-server", 3389}, {"ipsec-nat-t", 4500}, {"sip", 5060}, {"sips", 5061},
		{"postgresql", 5432},
	} {
		if p.name == s {
			return p.num, true
		}
	}
	return 0, false
}
