package config

import (
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"strings"
	"testing"
)

// gw wraps lines into a connection that is right but for them; the lines begin
// in line 4, column 1.
func gw(lines string) string {
	return "connections { gw {\nremote_addrs = 198.51.100.1\nlocal { auth = psk\n }\nremote { auth = psk\n }\n" + lines + "\n} }\n"
}

// net is gw with a child; the lines begin in line 8, column 1.
func net(lines string) string { return gw("children { net {\n" + lines + "\n} }") }

// lines are what Load says, with the main file's path cut.
func mistakes(t *testing.T, fsys memFS) []string {
	t.Helper()
	cfg, err := load(fsys, confPath)
	if err == nil {
		return nil
	}
	if cfg != nil {
		t.Error("a configuration came with the mistakes")
	}
	var list Errors
	if !errors.As(err, &list) || len(list) == 0 {
		t.Fatalf("the error is a %T", err)
	}
	var out []string
	for line := range strings.SplitSeq(err.Error(), "\n") {
		out = append(out, strings.ReplaceAll(line, "/etc/espalier/", ""))
	}
	if len(out) != len(list) {
		t.Errorf("%d mistakes in %d lines", len(list), len(out))
	}
	return out
}

func TestMistakes(t *testing.T) {
	cases := []struct {
		name, conf string
		want       []string
	}{
		// syntax
		{"unclosed section", "connections {\n gw {\n}\n", []string{
			`espalier.conf:1:1: expected "}" to close section "connections", found the end of the file`}},
		{"brace too many", "connections { }\n}\n", []string{
			`espalier.conf:2:1: expected a section or a setting, found "}" without an open section`}},
		{"name alone", "connections\n", []string{
			`espalier.conf:1:1: expected "=" or "{" after "connections", found the end of the line`}},
		{"name alone in a line", "connections {\n gw {\n  encap\n  local { auth = psk }\n }\n}\n", []string{
			`espalier.conf:3:3: expected "=" or "{" after "encap", found the end of the line`}},
		{"equals sign missing", "connections {\n gw {\n  encap yes\n }\n}\n", []string{
			`espalier.conf:3:9: expected "=" or "{" after "encap", found another word`}},
		{"no name", "= 5\n\"x\"\n", []string{
			`espalier.conf:1:1: expected the name of a section or a setting, found "="`,
			`espalier.conf:2:1: expected the name of a section or a setting, found a string`}},
		{"string without end", "secrets { ike { secret = \"abc\n } }\n", []string{
			`espalier.conf:1:26: expected a closing '"' for the string that begins here, found the end of the file`}},
		{"a secret on a broken line stays hidden", "secrets { ike {\n secret hunter2\n hunter3\n} }\n", []string{
			`espalier.conf:2:9: expected "=" or "{" after a name, found another word`,
			`espalier.conf:3:2: expected "=" or "{" after a name, found the end of the line`}},
		{"not text", "connections {\n é\xff }", []string{
			`espalier.conf:2:3: expected UTF-8 text, found the byte 0xff`}},
		{"reference without name", "a : { }\n", []string{
			`espalier.conf:1:5: expected the name of a section to inherit from, found "{"`}},
		{"reference to nothing", "conn-defaults { }\nconnections { a : con-defaults { local { auth = psk }\n remote { auth = psk } } }\n", []string{
			`espalier.conf:1:1: expected connections, secrets, pools, authorities, espalier or a section that another one inherits from, found section "conn-defaults"`,
			`espalier.conf:2:19: expected the absolute name of a section, such as connections.gw or a section beside them, found "con-defaults" (did you mean conn-defaults?)`}},
		{"reference loop", "a : b { }\nb : a { }\n", []string{
			`espalier.conf:1:5: expected a section that does not inherit from itself, found a loop by way of "b"`,
			`espalier.conf:2:5: expected a section that does not inherit from itself, found a loop by way of "a"`}},
		{"include of nothing", "include\t\n", []string{
			`espalier.conf:1:9: expected a file name or pattern after "include", found the end of the line`}},
		{"include of a missing file", "include other.conf\n", []string{
			`espalier.conf:1:9: expected a readable file "other.conf", found no such file`}},
		{"include loop", "include espalier.conf\n", []string{
			`espalier.conf:1:9: expected a file that does not include itself, found a loop: espalier.conf includes espalier.conf`}},

		// unknown keys
		{"unknown key", gw("remote_adrs = 198.51.100.1"), []string{
			`espalier.conf:7:1: expected a key of connections.gw, found "remote_adrs" (did you mean remote_addrs?)`}},
		{"unknown key without a near one", gw("frobnicate = yes"), []string{
			`espalier.conf:7:1: expected a key of connections.gw, found "frobnicate"`}},
		{"key of another section", gw("local_ts = 10.0.0.0/8"), []string{
			`espalier.conf:7:1: expected a key of connections.gw, found "local_ts" (local_ts belongs in connections.<conn>.children.<child>)`}},
		{"unknown section", "conections { }\n", []string{
			`espalier.conf:1:1: expected connections, secrets, pools, authorities, espalier or a section that another one inherits from, found section "conections" (did you mean connections?)`}},
		{"unknown section in a connection", gw("childen { }"), []string{
			`espalier.conf:7:1: expected a section of connections.gw, found "childen" (did you mean children?)`}},
		{"key at the top", "port = 500\n", []string{
			`espalier.conf:1:1: expected a section such as connections or secrets, found the setting "port"`}},
		{"section for a key", gw("encap { }"), []string{
			`espalier.conf:7:1: expected encap = value, found a section of that name`}},
		{"key for a section", gw("children = net"), []string{
			`espalier.conf:7:1: expected a section children { }, found a setting of that name`}},
		{"mistake in an inherited section is said once", "d { encpa = yes }\nconnections {\n" +
			"a : d { local { auth = psk }\n remote { auth = psk\n } }\nb : d { local { auth = psk }\n remote { auth = psk\n } } }\n", []string{
			`espalier.conf:1:5: expected a key of connections.a, found "encpa" (did you mean encap?)`,
			`espalier.conf:1:5: expected a key of connections.b, found "encpa" (did you mean encap?)`}},

		// a second factor is never left out silently
		{"two rounds", gw("remote2 { auth = pubkey\n }"), []string{
			`espalier.conf:1:15: expected one section local and one remote in connections.gw (several rounds, RFC 4739, are not supported yet), found 1 local and 2 remote`}},

		// wrong types
		{"not a bool", gw("encap = maybe"), []string{
			`espalier.conf:7:9: expected yes or no for encap, found "maybe"`}},
		{"not a duration", net("rekey_time = 1 fortnight"), []string{
			`espalier.conf:8:14: expected a duration such as 30s, 10m, 1h or 1d for rekey_time, found "1 fortnight"`}},
		{"not a size", net("life_bytes = 10 potatoes"), []string{
			`espalier.conf:8:14: expected a number of bytes such as 1000000, 512k, 64m or 10g for life_bytes, found "10 potatoes"`}},
		{"number out of range", net("replay_window = 5000"), []string{
			`espalier.conf:8:17: expected a number from 0 to 4096 for replay_window, found "5000"`}},
		{"not a selector", net("remote_ts = 10.2.0.0/33, 10.3.0.0/16"), []string{
			`espalier.conf:8:13: expected a prefix such as 10.1.0.0/16 for remote_ts, found "10.2.0.0/33"`}},
		{"not an address", "connections { gw { remote_addrs = 198.51.100.256\nlocal { auth = psk\n }\nremote { auth = psk\n } } }\n", []string{
			`espalier.conf:1:35: expected addresses, prefixes, ranges, host names or %any with commas between them for remote_addrs, found "198.51.100.256"`}},
		{"not a mark", net("mark_in = %unusual"), []string{
			`espalier.conf:8:11: expected a mark such as 42 or 0x10/0xf0, or %unique or %unique-dir for mark_in, found "%unusual"`}},
		{"what leak = block can't guard", net("mark_out = %unique\ninterface = lan0") + "espalier { leak = block }\n", []string{
			`espalier.conf:7:12: expected marks and interface ids that are numbers in connections.gw.children.net, since leak is block, found unique ones`,
			`espalier.conf:9:1: expected no interface, since leak is block, found "lan0" (what leaves by other interfaces would be blocked, too)`}},
		{"a unique mark on the inbound SA", net("mark_in = %unique\nmark_in_sa = yes"), []string{
			`espalier.conf:9:1: expected a mark_in that is a number, since mark_in_sa is yes, found "%unique" (the SPI is reserved before the mark is chosen)`}},
		{"empty list element", gw("proposals = default,"), []string{
			`espalier.conf:7:13: expected proposals with commas between them for proposals, found "default,"`}},

		// known, not supported
		{"not supported yet", gw("ppk_id = me"), []string{
			`espalier.conf:7:1: expected no ppk_id, since it is not supported yet, found "me"`}},
		{"wrong value of a key not supported yet", gw("unique = perhaps"), []string{
			`espalier.conf:7:10: expected no, never, keep or replace for unique, found "perhaps"`}},
		{"section not supported yet", gw("") + "secrets { eap-carol { secret = x } }\n", []string{
			`espalier.conf:9:11: expected no section eap* in secrets, since it is not supported yet, found section "eap-carol"`}},
		{"pool without addresses", gw("") + "pools { rw { dns = 10.1.0.53 } }\n", []string{
			`espalier.conf:9:9: expected addrs in pools.rw, found none`}},
		{"pool of no addresses", gw("") + "pools { rw { addrs = 10.9.0.9-10.9.0.1 } }\n", []string{
			`espalier.conf:9:22: expected a prefix such as 10.3.0.0/24 or a range such as 10.3.0.10-10.3.0.99 for addrs, found "10.9.0.9-10.9.0.1"`}},
		{"pools that overlap", gw("") + "pools { rw { addrs = 10.9.0.0/24\n }\n more { addrs = 10.0.0.0/8 } }\n", []string{
			`espalier.conf:11:9: expected addresses that no other pool has, found some of rw`}},
		{"unknown pool", gw("pools = rw, none") + "pools { rw { addrs = 10.9.0.0/24 } }\n", []string{
			`espalier.conf:7:1: expected a pool of section pools, found "none"`}},
		{"attributes of pools", gw("") + "pools { rw { addrs = fd00:9::/64\n dns = 10.1.0.0/16\n netmask = ffff::\n 0 = 10.1.0.1\n 25 = 0xgg } }\n", []string{
			`espalier.conf:10:8: expected addresses with commas between them for dns, found "10.1.0.0/16"`,
			`espalier.conf:11:12: expected IPv4 addresses with commas between them for netmask, found "ffff::"`,
			`espalier.conf:12:2: expected an attribute's number from 1 to 32767, found "0"`,
			`espalier.conf:13:7: expected addresses, prefixes, hexadecimal digits after 0x, or text, of at most 1024 octets for 25, found "0xgg"`}},
		{"virtual addresses", gw("vips = %config"), []string{
			`espalier.conf:7:8: expected IP addresses with commas between them for vips, found "%config"`}},
		{"trap without policies", net("start_action = trap\npolicies = no"), []string{
			`espalier.conf:8:1: expected policies = yes, since start_action is trap, found no`}},
		{"shunt that starts", net("mode = pass\nstart_action = trap|start\npolicies = no"), []string{
			`espalier.conf:9:1: expected start_action none or trap, since mode is pass, found "trap|start"`,
			`espalier.conf:10:1: expected policies = yes, since mode is pass, found no`}},
		{"shunt beside a tunnel without authentication", "connections { gw { children {\na { mode = drop }\nb { }\n} } }\n", []string{
			`espalier.conf:1:15: expected a section local in connections.gw, which says how we authenticate, found none`}},
		{"start_action maybe", net("start_action = maybe"), []string{
			`espalier.conf:8:16: expected none, trap or start for start_action, found "maybe"`}},
		{"BEET of networks", net("mode = beet\nlocal_ts = 10.1.0.0/16\nipcomp = yes"), []string{
			`espalier.conf:8:1: expected one host in local_ts and one in remote_ts, since mode is beet, found more`,
			`espalier.conf:10:1: expected ipcomp = no, since mode is beet, found yes`}},
		{"padding outside of tunnels", net("mode = transport\ntfc_padding = 512"), []string{
			`espalier.conf:9:1: expected tfc_padding = 0, since mode is transport, found "512" (the kernel pads packets of plain tunnels only)`}},
		{"one SA a CPU of what is compressed", net("ipcomp = yes\nper_cpu_sas = yes"), []string{
			`espalier.conf:9:1: expected per_cpu_sas = no, since ipcomp is yes, found yes (the kernel looks for one IPComp SA a CPU, too)`}},
		{"padding of what is compressed", net("ipcomp = yes\ntfc_padding = mtu"), []string{
			`espalier.conf:9:1: expected tfc_padding = 0, since ipcomp is yes, found "mtu" (the kernel pads packets of plain tunnels only)`}},
		{"ESN without a window", net("replay_window = 0\nesp_proposals = aes128gcm16-esn"), []string{
			`espalier.conf:8:1: expected a replay_window above 0, since esp_proposals has esn, found 0 (extended sequence numbers do not work without)`}},
		{"IKEv1", gw("version = 1\naggressive = yes"), []string{
			`espalier.conf:7:11: expected 2 or 0 for version, since Espalier speaks IKEv2 only, found "1"`,
			`espalier.conf:8:1: expected aggressive = no, since that belongs to IKEv1 and Espalier speaks IKEv2 only, found "yes"`}},
		{"XAuth", "connections { gw {\nlocal { auth = xauth-eap\n }\nremote { auth = psk\n } } }\n", []string{
			`espalier.conf:2:16: expected pubkey or psk for auth, since XAuth is IKEv1 and Espalier speaks IKEv2 only, found "xauth-eap"`}},
		{"EAP", "connections { gw {\nlocal { auth = psk\n }\nremote { auth = eap-mschapv2\n } } }\n", []string{
			`espalier.conf:4:17: expected pubkey or psk for auth, since EAP is not supported yet, found "eap-mschapv2"`}},
		{"mediation", gw("mediation = yes\nmediated_by = m"), []string{
			`espalier.conf:7:1: expected mediation = no, since Espalier does not do IKEv2 mediation, found "yes"`,
			`espalier.conf:8:1: expected no mediated_by, since Espalier does not do IKEv2 mediation, found "m"`}},

		// duplicates
		{"duplicate section", net("") + "connections {\n gw { }\n}\n", []string{
			`espalier.conf:12:2: expected one section "gw" in connections, found a second one (the first is at espalier.conf:1:15)`}},
		{"duplicate child", gw("children {\n net { }\n net { }\n}"), []string{
			`espalier.conf:9:2: expected one section "net" in connections.gw.children, found a second one (the first is at espalier.conf:8:2)`}},
		{"duplicate key", gw("encap = yes\nencap = no"), []string{
			`espalier.conf:8:1: expected one value of encap in connections.gw, found a second one (the first is at espalier.conf:7:1)`}},

		// contradictions
		{"certificates with a shared key", "connections { gw {\nlocal { auth = psk\ncerts = gw.pem }\nremote { auth = psk\n cacerts = ca.pem } } }\n", []string{
			`espalier.conf:3:1: expected no certs in connections.gw.local, since auth is psk, found "gw.pem" (certificates need auth = pubkey)`,
			`espalier.conf:5:2: expected no cacerts in connections.gw.remote, since auth is psk, found "ca.pem" (certificates need auth = pubkey)`}},
		{"neither certificate nor identity", "connections { gw {\nlocal { }\nremote { } } }\n", []string{
			`espalier.conf:2:1: expected certs or id in connections.gw.local, since auth is pubkey, found neither (auth = psk is for shared keys)`}},
		{"no local", "connections {\n gw { } }\n", []string{
			`espalier.conf:2:2: expected a section local in connections.gw, which says how we authenticate, found none`}},
		{"families", net("local_ts = 10.0.0.0/8\nremote_ts = 2001:db8::/32"), []string{
			`espalier.conf:9:1: expected local_ts and remote_ts with an address family in common, found IPv4 on one side and IPv6 on the other`}},
		{"mark_in_sa alone", net("mark_in_sa = yes"), []string{
			`espalier.conf:8:1: expected a mark_in, since mark_in_sa is yes, found none`}},
		{"policies", net("policies = no\npolicies_fwd_out = yes"), []string{
			`espalier.conf:9:1: expected policies_fwd_out = no, since policies is no, found yes`}},
		{"local port", gw("local_port = 4711"), []string{
			`espalier.conf:7:1: expected local_port 500 or 4500, where the daemon listens, found 4711 (see port in section espalier)`}},
		{"settings", "espalier {\nport = 4500\nretransmit_timeout = 0\nhalf_open_timeout = 0\ncookie_threshold = 9\nhalf_open_limit = 8\nrun_dir = x\nstate_dir = y\nlisten = ::1\ninterfaces = lo\noutside = a, b\ninside = c, b\n}\n", []string{
			`espalier.conf:1:1: expected another port than espalier.port for port_nat_t, found the same`,
			`espalier.conf:3:1: expected a retransmit_timeout of at least 1s, found 0s`,
			`espalier.conf:4:1: expected a half_open_timeout of at least 1s, found 0s`,
			`espalier.conf:5:1: expected a cookie_threshold not above half_open_limit, found one above it`,
			`espalier.conf:7:1: expected an absolute path for run_dir, found "x"`,
			`espalier.conf:8:1: expected an absolute path for state_dir, found "y"`,
			`espalier.conf:10:1: expected one of listen and interfaces in espalier, found both`,
			`espalier.conf:12:1: expected other interfaces than those outside, found "b"`}},

		// files and secrets
		{"missing certificate", "connections { gw {\nlocal {\ncerts = moon.pem }\nremote { } } }\n", []string{
			`espalier.conf:3:9: expected a readable certificate file "x509/moon.pem", found no such file`}},
		{"certificate without private key", "connections { gw {\nlocal {\ncerts = peer.pem }\nremote { } } }\n", []string{
			`espalier.conf:3:9: expected a private key for the certificate "peer.pem", found none that fits in private, rsa, ecdsa and pkcs8`}},
		{"certificate of another identity", "connections { gw {\nlocal {\nid = moon.example.com\n cert1 { file = gw.pem } }\nremote { } } }\n", []string{
			`espalier.conf:4:17: expected a certificate that holds the id "moon.example.com", found subject "CN=gw.example.com,O=Espalier"`}},
		{"no secret", "secrets { ike-x { id = a } }\n", []string{
			`espalier.conf:1:11: expected a secret in secrets.ike-x, found none`}},
		{"bad hex", "secrets { ike-x { secret = 0xabc } }\n", []string{
			`espalier.conf:1:28: expected hexadecimal digits in pairs after 0x for secret, found another value`}},
		{"bad base64", "secrets { ike-x { secret = 0s*** } }\n", []string{
			`espalier.conf:1:28: expected base64 after 0s for secret, found another value`}},
		{"passphrase for no file", "secrets { private-x { file = no.pem\n secret = x } }\n", []string{
			`espalier.conf:1:30: expected a file "private/no.pem", found none`}},
		{"passphrase without anything", "secrets { rsa-x { } }\n", []string{
			`espalier.conf:1:11: expected a file in secrets.rsa-x, found none`}},
		{"authority without certificate", "authorities { a { } }\n", []string{
			`espalier.conf:1:15: expected a cacert in authorities.a, found none`}},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			got := mistakes(t, box(c.conf))
			if strings.Join(got, "\n") != strings.Join(c.want, "\n") {
				t.Errorf("of\n%s\nit says\n%s\nwant\n%s", c.conf, strings.Join(got, "\n"), strings.Join(c.want, "\n"))
			}
		})
	}
}

func TestMistakesOfFiles(t *testing.T) {
	p := makePKI()
	psk := "connections { gw {\nlocal { auth = psk\n }\nremote { auth = psk\n } } }\nsecrets { ike {\n secret = x } }\n"
	cert := "connections { gw {\nlocal { certs = gw.pem }\nremote { } } }\n"
	for _, c := range []struct {
		name, conf string
		files      map[string]memFile
		want       string
	}{
		{"secret readable by all", psk, map[string]memFile{"espalier.conf": {psk, 0o644}},
			`espalier.conf:7:2: expected a file that only its owner can read, since it holds a secret, found mode 0644 (chmod 600 espalier.conf)`},
		{"secret readable by the group, included", "include conf.d/*.conf\n", map[string]memFile{"conf.d/s.conf": {"secrets { ike { secret = x } }", 0o640}},
			`conf.d/s.conf:1:17: expected a file that only its owner can read, since it holds a secret, found mode 0640 (chmod 600 conf.d/s.conf)`},
		{"connections readable by all are fine", cert, map[string]memFile{"espalier.conf": {cert, 0o644}}, ``},
		{"private key readable by all", cert, map[string]memFile{"private/gw.pem": {p.gwKey, 0o604}},
			`private/gw.pem: expected a private key that only its owner can read, found mode 0604 (chmod 600 private/gw.pem)`},
		{"private key unreadable", cert, map[string]memFile{"private/gw.pem": {p.gwKey, 0o200}},
			`private/gw.pem: expected a readable private key file, found one that may not be read`},
		{"included file unreadable", "include a.conf\n", map[string]memFile{"a.conf": {"", 0o200}},
			`espalier.conf:1:9: expected a readable file "a.conf", found one that may not be read`},
		{"end entity among the CAs", cert, map[string]memFile{"x509ca/gw.pem": {p.gw, 0o644}},
			`x509ca/gw.pem: expected a CA certificate, found one that is not (basicConstraints) (end-entity certificates belong in x509)`},
		{"huge certificate", cert, map[string]memFile{"x509/big.pem": {strings.Repeat("x", maxCredential+1), 0o644}},
			`x509/big.pem: expected a readable certificate file, found more than the limit of bytes`},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := strings.Join(mistakes(t, box(c.conf).with(c.files)), "\n")
			if got != c.want {
				t.Errorf("it says\n%s\nwant\n%s", got, c.want)
			}
		})
	}
	if got := mistakes(t, memFS{}); fmt.Sprint(got) != "[espalier.conf: expected a readable configuration file, found no such file]" {
		t.Error(got)
	}
}

// What the packages for certificates, keys, proposals and identities say is
// theirs; that it comes with the right place is ours.
func TestMistakesFoundByOthers(t *testing.T) {
	p := makePKI()
	cert := "connections { gw {\nlocal {\n certs = gw.pem }\nremote { } } }\n"
	for _, c := range []struct {
		name, conf   string
		files        map[string]memFile
		prefix, part string
	}{
		{"certificate that is none", cert, map[string]memFile{"x509/gw.pem": {"hello", 0o644}}, `espalier.conf:3:10: expected `, `in "x509/gw.pem", found `},
		{"certificate beside that is none", cert, map[string]memFile{"x509/readme.pem": {"hello", 0o644}}, `x509/readme.pem: expected `, `, found `},
		{"key that is none", cert, map[string]memFile{"private/gw.pem": {"hello", 0o600}}, `private/gw.pem: expected `, `, found `},
		{"certificate in place of a key", cert, map[string]memFile{"private/gw.pem": {p.gw, 0o600}}, `private/gw.pem: expected `, `, found `},
		{"unknown algorithm", gw("proposals = aes257-sha256-modp2048"), nil, `espalier.conf:7:13: expected a known algorithm for proposals, found "aes257" in `, `(did you mean aes256?)`},
		{"AEAD without PRF", gw("proposals = aes256gcm16-modp2048"), nil, `espalier.conf:7:13: expected `, ` for proposals, found none in "aes256gcm16-modp2048"`},
		{"AEAD and classic mixed", net("esp_proposals = aes256gcm16-aes256-sha256"), nil, `espalier.conf:8:17: expected `, ` in "aes256gcm16-aes256-sha256"`},
		{"identity", "connections { gw {\nlocal { auth = psk\n id = \"ipv4:#zz\" }\nremote { auth = psk\n } } }\n", nil, `espalier.conf:3:7: expected `, ` for id, found "#zz"`},
		{"method", "connections { gw {\nlocal { auth = psk\n }\nremote { auth = rot13\n } } }\n", nil, `espalier.conf:4:17: expected `, `found "rot13"`},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := mistakes(t, box(c.conf).with(c.files))
			if len(got) != 1 || !strings.HasPrefix(got[0], c.prefix) || !strings.Contains(got[0], c.part) {
				t.Errorf("it says\n%s\nwant %s ... %s", strings.Join(got, "\n"), c.prefix, c.part)
			}
		})
	}
}

// An encrypted key opens with its passphrase and nothing else.
func TestPassphrase(t *testing.T) {
	block, _ := pem.Decode([]byte(makePKI().gwKey))
	//lint:ignore SA1019 what older boxes have
	locked, err := x509.EncryptPEMBlock(rand.Reader, "PRIVATE KEY", block.Bytes, []byte("open sesame"), x509.PEMCipherAES256)
	if err != nil {
		t.Fatal(err)
	}
	file := map[string]memFile{"private/gw.pem": {string(pem.EncodeToMemory(locked)), 0o600}}
	conf := "connections { gw {\nlocal { certs = gw.pem }\nremote { } } }\n"
	for secret, want := range map[string]string{
		"": "private/gw.pem: expected the passphrase of the private key",
		"secrets { private-1 { file = gw.pem\n secret = \"open sesame\" } }": "",
		"secrets { private-1 { file = gw.pem\n secret = 0x6f70656e } }":      "private/gw.pem: expected ",
		"secrets { ecdsa-1 { file = gw.pem\n secret = \"open sesame\" } }":   "espalier.conf:4:28: expected a file \"ecdsa/gw.pem\", found none",
	} {
		got := mistakes(t, box(conf+secret).with(file))
		if want == "" && len(got) > 0 || want != "" && !strings.HasPrefix(strings.Join(got, "\n"), want) {
			t.Errorf("with %q it says\n%s\nwant\n%s", secret, strings.Join(got, "\n"), want)
		}
		if strings.Contains(strings.Join(got, ""), "sesame") {
			t.Errorf("the passphrase is in %s", got)
		}
	}
}

// No message holds a secret, however broken the file is around it.
func TestMessagesHoldNoSecret(t *testing.T) {
	const hidden = "Xyzzy9"
	for _, conf := range []string{
		"secrets { ike { secret = " + hidden,
		"secrets { ike { secret = \"" + hidden,
		"secrets { ike { secret " + hidden + "\n } }",
		"secrets { ike { secret\n" + hidden + "\n } }",
		"secrets { ike { secret = 0x" + hidden + "\n } }",
		"secrets { ike { secret = 0s*" + hidden + "\n } }",
		"secrets { ike { secret = a\n secret = " + hidden + "\n } }",
		"secrets { eap { secret = " + hidden + "\n } }",
		"secrets { ike { secrte = " + hidden + "\n } }",
		"secrets { token { pin = " + hidden + "\n } }",
		"secrets { ike { secret { " + hidden + " = 1 } } }",
	} {
		got := mistakes(t, box(conf).with(map[string]memFile{"espalier.conf": {conf, 0o644}}))
		if len(got) == 0 {
			t.Errorf("no mistake in %s", conf)
		}
		for _, line := range got {
			if strings.Contains(line, hidden) {
				t.Errorf("%s", line)
			}
		}
	}
}

func TestManyMistakesAreBounded(t *testing.T) {
	got := mistakes(t, box("espalier {\n"+strings.Repeat("x\n", 10000)+"}\n"))
	if len(got) != maxErrors {
		t.Errorf("%d lines", len(got))
	}
	var b strings.Builder
	for i := range 10 * maxErrors {
		fmt.Fprintf(&b, "key%d = x\n", i)
	}
	if got := mistakes(t, box("espalier {\n"+b.String()+"}\n")); len(got) != maxErrors {
		t.Errorf("%d lines of unknown keys", len(got))
	}
}

func TestWarnings(t *testing.T) {
	p := makePKI()
	psk := "connections { gw {\nlocal { auth = psk\n }\nremote { auth = psk\n } } }\n"
	cfg, err := load(box(psk).with(map[string]memFile{
		"private/stray.pem": {p.strayKey, 0o600}, "x509aa/aa.pem": {"x", 0o644},
	}), confPath)
	if err != nil {
		t.Fatal(err)
	}
	want := `/etc/espalier/espalier.conf: expected a section ike in secrets, since connection gw uses a shared key, found none
/etc/espalier/private/stray.pem: expected a certificate in x509 that holds this key's public key, found none
/etc/espalier/x509aa/aa.pem: expected nothing in x509aa, since its content is not used yet, found 1 files`
	if got := cfg.Warnings.Error(); got != want {
		t.Errorf("it warns\n%s\nwant\n%s", got, want)
	}
}

// What works, if not as it was perhaps meant, is taken with a warning.
func TestOddities(t *testing.T) {
	anywhere := func(action string) string {
		return "connections { gw {\nremote_addrs = 198.51.100.0/24\nlocal { auth = psk\n }\nremote { auth = psk\n }\nchildren { net {\nstart_action = " + action + " } } } }\n"
	}
	for _, c := range []struct {
		name, conf string
		want       []string
	}{
		{"rekey after life", net("rekey_time = 2h\nlife_time = 1h"), []string{
			`espalier.conf:8:1: expected a rekey_time below life_time (1h0m0s), found one that is not, so the CHILD SA ends without being replaced`}},
		{"rekey at life", net("rekey_time = 1h\nlife_time = 60m"), []string{
			`espalier.conf:8:1: expected a rekey_time below life_time (1h0m0s), found one that is not, so the CHILD SA ends without being replaced`}},
		{"volumes", net("rekey_bytes = 1000\nlife_bytes = 900\nrekey_packets = 10\nlife_packets = 10"), []string{
			`espalier.conf:8:1: expected a rekey_bytes below life_bytes (900), found one that is not, so the CHILD SA ends without being replaced`,
			`espalier.conf:10:1: expected a rekey_packets below life_packets (10), found one that is not, so the CHILD SA ends without being replaced`}},
		{"trap to anywhere", anywhere("trap|start"), []string{
			`espalier.conf:8:1: expected a single address or host name in remote_addrs, since start_action is trap|start, found none, so it is taken as none`}},
		{"start to anywhere", anywhere("start"), []string{
			`espalier.conf:8:1: expected a single address or host name in remote_addrs, since start_action is start, found none, so it is taken as none`}},
		{"IKEv1's time limit", gw("dpd_timeout = 150s"), []string{
			`espalier.conf:7:1: expected no dpd_timeout, since it is for IKEv1, found "150s", which has no effect (retransmit_tries decides)`}},
	} {
		t.Run(c.name, func(t *testing.T) {
			cfg, err := load(box(c.conf+"secrets { ike { secret = x } }\n"), confPath)
			if err != nil {
				t.Fatal(err)
			}
			if got, want := strings.ReplaceAll(cfg.Warnings.Error(), "/etc/espalier/", ""), strings.Join(c.want, "\n"); got != want {
				t.Errorf("it warns\n%s\nwant\n%s", got, want)
			}
			for _, ch := range cfg.Connections[0].Children {
				if ch.Start || ch.Trap {
					t.Errorf("%s starts or is trapped", ch.Name)
				}
			}
		})
	}
}
