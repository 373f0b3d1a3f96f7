package ipsecconf

import (
	"maps"
	"slices"
	"strings"
)

// leftover says what is to be told of a key that nothing is made of.
type leftover struct {
	same   []string // values that ask for what Espalier does anyway: nothing is told
	reason string
	lost   bool
}

const (
	ownWay   = "Espalier needs no such setting"
	notThere = "there is no equivalent"
	useConf  = "see section espalier of docs/configuration.md: "
)

// connLeftovers are the keys of conn, sides taken off.
var connLeftovers = map[string]leftover{
	"authby": {}, "auth": {}, "also": {}, "auto": {}, "keyexchange": {}, "ikev2": {}, "type": {},
	"nexthop": {reason: ownWay}, "sendcert": {reason: "the peer decides when it sends its certificate"}, "subnet": {},
	"modecfgserver": {reason: ownWay}, "modecfgclient": {reason: ownWay}, "modecfgpull": {reason: ownWay}, "modeconfig": {reason: ownWay},
	"ca": {reason: "which certificate we show follows from those that the peer asks for"}, "cert2": {reason: ownWay}, "id2": {reason: ownWay}, "ca2": {reason: ownWay},
	"sourceip": {reason: "it is the peer's matter here"}, "dns": {reason: "name servers from the peer are in the event log, not put anywhere", lost: true},
	"updown": {reason: "the peer's script is not ours"}, "firewall": {same: []string{"no"}, reason: "the peer's firewall is not ours"}, "hostaccess": {same: []string{"no"}, reason: "the peer's firewall is not ours"},
	"xauth": {reason: "IKEv1 only"}, "xauth-identity": {reason: "IKEv1 only"}, "xauthserver": {same: []string{"no"}, reason: "IKEv1 only"}, "xauthclient": {same: []string{"no"}, reason: "IKEv1 only"},
	"xauthby": {reason: "IKEv1 only"}, "xauthfail": {reason: "IKEv1 only"}, "username": {reason: "IKEv1 only"}, "xauthusername": {reason: "IKEv1 only"},
	"initial-contact": {same: []string{"yes", "no"}}, "send-vendorid": {same: []string{"no"}, reason: ownWay}, "sareftrack": {reason: ownWay}, "overlapip": {same: []string{"no"}, reason: notThere, lost: true},
	"narrowing": {same: []string{"yes", "no"}}, "ikepad": {same: []string{"yes"}, reason: ownWay}, "hostaddrfamily": {reason: ownWay}, "clientaddrfamily": {reason: ownWay},
	"ms-dh-downgrade": {same: []string{"no"}, reason: notThere, lost: true}, "dns-match-id": {same: []string{"no"}, reason: notThere, lost: true}, "require-id-on-certificate": {same: []string{"yes"}, reason: "identities must always stand in the certificate", lost: true},
	"metric": {reason: "routes have the metric that routing_table has", lost: true}, "mtu": {reason: "the path's MTU is used, see mss and path_mtu", lost: true}, "nflog-group": {reason: notThere, lost: true},
	"vti-routing": {reason: ownWay}, "vti-shared": {reason: ownWay}, "nat-ikev1-method": {reason: ownWay}, "cisco-unity": {same: []string{"no"}, reason: notThere}, "remote-peer-type": {reason: ownWay},
	"retransmit-timeout": {reason: useConf + "retransmit_tries, retransmit_timeout, retransmit_base", lost: true}, "retransmit-interval": {reason: useConf + "retransmit_timeout", lost: true},
	"nat-keepalive": {same: []string{"yes"}, reason: useConf + "keep_alive", lost: true}, "accept-redirect": {same: []string{"yes"}, reason: useConf + "follow_redirects", lost: true},
	"send-redirect": {same: []string{"no"}, reason: notThere, lost: true}, "redirect-to": {reason: "espctl conn redirect sends clients to another gateway", lost: true}, "accept-redirect-to": {reason: notThere, lost: true},
	"ppk": {same: []string{"no"}, reason: "post-quantum preshared keys are not supported yet", lost: true}, "labeled-ipsec": {same: []string{"no"}, reason: notThere, lost: true}, "policy-label": {reason: notThere, lost: true}, "sec-label": {reason: notThere, lost: true},
	"mediation": {same: []string{"no"}, reason: "Espalier does not do IKEv2 mediation", lost: true}, "mediated-by": {reason: "Espalier does not do IKEv2 mediation", lost: true}, "me-peerid": {reason: "Espalier does not do IKEv2 mediation", lost: true},
	"modecfgdomains": {reason: notThere, lost: true}, "modecfgbanner": {reason: notThere, lost: true}, "modecfgdns": {reason: "there is no addresspool that it could belong to", lost: true}, "pfs": {same: []string{"yes", "no"}},
	"failureshunt": {same: []string{"none"}, reason: useConf + "leak = block", lost: true}, "negotiationshunt": {same: []string{"hold"}, reason: "packets that wait for a tunnel are dropped", lost: true}, "ikev2-allow-narrowing": {same: []string{"yes", "no"}},
	"cat": {same: []string{"no"}, reason: notThere, lost: true}, "xfrm-if-id": {reason: "use ipsec-interface", lost: true}, "esn": {reason: "say it in esp: -esn", lost: true}, "pam-authorize": {same: []string{"no"}, reason: notThere, lost: true},
	"aaa-identity": {reason: "nobody authenticates by EAP"}, "fake-strongswan": {reason: ownWay}, "sha2-truncbug": {}, "rekeyfuzz": {}, "margintime": {}, "closeaction": {}, "connalias": {reason: ownWay},
	"ikelifetime": {}, "lifetime": {}, "reauth": {}, "mobike": {}, "dpddelay": {}, "dpdtimeout": {}, "dpdaction": {}, "keyingtries": {}, "fragmentation": {}, "rekey": {}, "ike": {}, "esp": {}, "compress": {same: []string{"no"}, reason: ownWay},
}

// leftover notes a setting that nothing was made of.
func (c *converter) leftover(s *setting, table map[string]leftover) {
	key := strings.TrimPrefix(strings.TrimPrefix(s.key, "left"), "right")
	l, ok := table[key]
	switch {
	case !ok:
		c.lose(s, "it is no known setting")
	case l.reason == "" || slices.Contains(l.same, s.value):
	case l.lost:
		c.lose(s, l.reason)
	default:
		c.tell(s, l.reason)
	}
}

// setupLeftovers are the keys of config setup.
var setupLeftovers = map[string]leftover{
	"uniqueids": {}, "strictcrlpolicy": {}, "protostack": {reason: ownWay}, "interfaces": {same: []string{"%defaultroute"}, reason: useConf + "interfaces", lost: true}, "nssdir": {reason: ownWay}, "ipsecdir": {reason: ownWay}, "dumpdir": {reason: ownWay},
	"charondebug": {reason: "espalierd --log-level, or filelog of strongswan.conf", lost: true}, "plutodebug": {same: []string{"none"}, reason: "espalierd --log-level", lost: true}, "logfile": {reason: "the log goes to stderr and the journal", lost: true},
	"logappend": {reason: ownWay}, "logtime": {reason: ownWay}, "logip": {reason: ownWay}, "audit-log": {reason: notThere}, "virtual-private": {reason: "a peer's address behind a NAT needs no permission"}, "nat-traversal": {same: []string{"yes"}, reason: "NAT traversal is always on", lost: true},
	"cachecrls": {same: []string{"no"}, reason: "CRLs are not supported yet", lost: true}, "crl-strict": {same: []string{"no"}, reason: "CRLs are not supported yet", lost: true}, "crlcheckinterval": {reason: "CRLs are not supported yet", lost: true}, "ocsp-enable": {same: []string{"no"}, reason: "OCSP is not supported yet", lost: true},
	"ocsp-strict": {same: []string{"no"}, reason: "OCSP is not supported yet", lost: true}, "ocsp-uri": {reason: "OCSP is not supported yet", lost: true}, "ocsp-trustname": {reason: "OCSP is not supported yet", lost: true}, "curl-timeout": {reason: ownWay}, "curl-iface": {reason: notThere, lost: true},
	"ikev1-policy": {same: []string{"drop", "reject"}, reason: "Espalier speaks IKEv2 only", lost: true}, "nhelpers": {reason: ownWay}, "seedbits": {reason: ownWay}, "secctx-attr-type": {reason: ownWay}, "myvendorid": {reason: notThere}, "ddos-mode": {same: []string{"auto"}, reason: useConf + "cookie_threshold", lost: true},
	"ddos-ike-threshold": {reason: useConf + "half_open_limit", lost: true}, "max-halfopen-ike": {reason: useConf + "half_open_limit", lost: true}, "force-busy": {reason: useConf + "cookie_threshold", lost: true}, "dnssec-enable": {reason: notThere}, "dnssec-rootkey-file": {reason: notThere}, "dnssec-anchors": {reason: notThere},
	"plutostderrlog": {reason: "the log goes to stderr and the journal"}, "plutofork": {reason: ownWay}, "pluto": {reason: ownWay}, "charonstart": {reason: ownWay}, "plutostart": {reason: ownWay}, "oe": {same: []string{"no", "off"}, reason: "opportunistic encryption is not supported", lost: true},
	"perpeerlog": {reason: notThere, lost: true}, "perpeerlogdir": {reason: notThere, lost: true}, "statsbin": {reason: notThere, lost: true}, "syslog": {reason: notThere}, "seccomp": {same: []string{"disabled"}, reason: ownWay}, "expire-shunt-interval": {reason: ownWay}, "global-redirect": {same: []string{"no"}, reason: notThere, lost: true},
	"global-redirect-to": {reason: notThere, lost: true}, "fragicmp": {reason: ownWay}, "hidetos": {reason: ownWay}, "overridemtu": {reason: notThere, lost: true}, "nflog-all": {reason: notThere, lost: true}, "ike-socket-bufsize": {reason: ownWay}, "ike-socket-errqueue": {reason: ownWay}, "shuntlifetime": {reason: ownWay}, "listen-tcp": {same: []string{"no"}, reason: "IKE over TCP is not supported", lost: true},
}

// setup converts config setup.
func (c *converter) setup(set map[string]*setting) {
	into := map[string]string{"ikeport": "port", "ike-port": "port", "nat-ikeport": "port_nat_t", "listen": "listen", "keep-alive": "keep_alive"}
	for _, key := range slices.Sorted(maps.Keys(set)) {
		s := set[key]
		switch to := into[key]; {
		case key == "uniqueids":
			c.unique = map[string]string{"yes": "replace"}[s.value]
			if c.unique == "" {
				c.unique = s.value
			}
			if why := c.schema.Refusal([]string{"connections", "any"}, "unique", c.unique); why != "" {
				c.unique = "replace"
				c.lose(s, why)
			}
		case key == "strictcrlpolicy" && s.value != "no":
			c.strict = s
		case to != "":
			if why := c.putTop(to, s.value); why != "" {
				c.lose(s, why)
			}
		default:
			c.leftover(s, setupLeftovers)
		}
	}
}

// ca converts a ca section.
func (c *converter) ca(s *section) {
	list, why := c.inherit.of(s)
	if why != "" {
		c.notes.lost(s.file, s.line, "ca "+s.name, why)
		return
	}
	set := settled(list)
	if auto := set["auto"]; auto == nil || auto.value != "add" || set["cacert"] == nil {
		return
	}
	name := c.free("ca", s.name)
	into := map[string]string{"cacert": "cacert", "crluri": "crl_uris", "crluri1": "crl_uris", "ocspuri": "ocsp_uris", "ocspuri1": "ocsp_uris", "certuribase": "cert_uri_base"}
	sec := open(c.top("authorities"), name)
	for _, key := range slices.Sorted(maps.Keys(set)) {
		set := set[key]
		switch to := into[key]; {
		case key == "auto":
		case to != "":
			if why := c.put(sec, []string{"authorities", name}, to, set.value); why != "" {
				c.lose(set, why)
			}
		case key == "crluri2" || key == "ocspuri2":
			c.lose(set, "CRLs and OCSP are not supported yet")
		default:
			c.lose(set, "it is no known setting")
		}
	}
}
