package config

import (
	"espalier/dataplane"
	"espalier/ike/sa"
	"espalier/ike/suite"
)

func childSpec() *sectionSpec {
	ah := proposals(suite.ParseAH, func() []suite.Proposal { return nil })
	return &sectionSpec{name: "<child>", doc: "A CHILD SA.", keys: []keySpec{
		{name: "esp_proposals", typ: proposals(suite.ParseESP, suite.DefaultESP), def: "default", doc: "ESP proposals in order of preference."},
		{name: "ah_proposals", typ: ah, sup: later, doc: "AH proposals."},
		{name: "sha256_96", typ: yesNo(), def: "no", doc: "Cut SHA-256 to 96 bits, for peers that do it wrong."},
		{name: "local_ts", typ: selectors(), def: "dynamic", doc: "Own traffic selectors: addresses with [protocol/port]."},
		{name: "remote_ts", typ: selectors(), def: "dynamic", doc: "The peer's traffic selectors."},
		{name: "rekey_time", typ: duration(), def: "1h", derived: "1h, or life_time - 10% if only that is given", doc: "Time until the CHILD SA is due for a rekey."},
		{name: "life_time", typ: duration(), derived: "rekey_time + 10%", doc: "Time until the CHILD SA ends."},
		{name: "rand_time", typ: duration(), derived: "life_time - rekey_time", doc: "What is taken off rekey_time at most, at random."},
		{name: "rekey_bytes", typ: size(), def: "0", derived: "0, or life_bytes - 10% if only that is given", doc: "Bytes until the CHILD SA is rekeyed."},
		{name: "life_bytes", typ: size(), derived: "rekey_bytes + 10%", doc: "Bytes until the CHILD SA ends."},
		{name: "rand_bytes", typ: size(), derived: "life_bytes - rekey_bytes", doc: "What is taken off rekey_bytes at most, at random."},
		{name: "rekey_packets", typ: count(), def: "0", derived: "0, or life_packets - 10% if only that is given", doc: "Packets until the CHILD SA is rekeyed."},
		{name: "life_packets", typ: count(), derived: "rekey_packets + 10%", doc: "Packets until the CHILD SA ends."},
		{name: "rand_packets", typ: count(), derived: "life_packets - rekey_packets", doc: "What is taken off rekey_packets at most, at random."},
		{name: "updown", typ: text("command"), doc: "Command, for the shell, that is run when the CHILD SA comes and goes (see updown.md)."},
		{name: "hostaccess", typ: yesNo(), def: "no", doc: "A variable of that script: the box itself may be reached through the tunnel."},
		{name: "mode", typ: childMode(), def: "tunnel", doc: "How packets are wrapped; pass and drop make the child a shunt, whose traffic passes in clear or is dropped."},
		{name: "policies", typ: yesNo(), def: "yes", doc: "Install policies."},
		{name: "policies_fwd_out", typ: yesNo(), def: "no", doc: "Install forward policies for outbound traffic, too."},
		{name: "dpd_action", typ: action("clear, trap or restart"), def: "clear", doc: "What to do when the peer is dead; restart tries until it is up."},
		{name: "ipcomp", typ: yesNo(), def: "no", doc: "Compress with DEFLATE (RFC 3173), if the peer agrees."},
		{name: "inactivity", typ: duration(), def: "0s", doc: "Time without traffic after which the CHILD SA is closed; 0: never. A rekeying begins it anew."},
		{name: "reqid", typ: number(0, 1<<32-1), def: "0", doc: "Fixed request id; 0: chosen by the daemon."},
		{name: "priority", typ: number(0, 1<<32-1), def: "0", doc: "Fixed policy priority; 0: by the selectors' size."},
		{name: "interface", typ: text("name"), doc: "Network interface that the outbound policies apply to; it must be there when the CHILD SA comes up."},
		{name: "mark_in", typ: mark(), def: "0/0x00000000", doc: "Mark of inbound packets; %unique: one for each CHILD SA, %unique-dir: for each direction."},
		{name: "mark_out", typ: mark(), def: "0/0x00000000", doc: "Mark of outbound packets, as mark_in."},
		{name: "mark_in_sa", typ: yesNo(), def: "no", doc: "Put mark_in on the inbound SA, too."},
		{name: "set_mark_in", typ: setMark(), def: "0/0x00000000", doc: "Mark to set on packets after decryption; %same: that of mark_in."},
		{name: "set_mark_out", typ: setMark(), def: "0/0x00000000", doc: "Mark to set on packets after encryption; %same: that of mark_out."},
		{name: "if_id_in", typ: ifID(), derived: "the connection's", doc: "XFRM interface id, inbound; unique ones are for each CHILD SA."},
		{name: "if_id_out", typ: ifID(), derived: "the connection's", doc: "XFRM interface id, outbound."},
		{name: "label", typ: text("label"), sup: later, doc: "Security label."},
		{name: "label_mode", typ: oneOf("system", "simple", "selinux"), def: "system", sup: later, doc: "How labels are used."},
		{name: "tfc_padding", typ: padding(), def: "0", doc: "Pad the packets of a tunnel to this size, or to the path's MTU."},
		{name: "replay_window", typ: number(0, 4096), def: "32", doc: "Replay window in packets; 0: no check."},
		{name: "per_cpu_sas", typ: oneOf("no", "yes", "encap", "auto"), def: "auto", doc: "Further CHILD SAs, each of one CPU (RFC 9611): yes, if the peer and the kernel (6.13) agree; auto, if the box has more than one CPU as well; encap is yes, with a UDP source port for each where ESP is in UDP (`encap = yes`, or a NAT). See [percpu.md](percpu.md)."},
		{name: "hw_offload", typ: oneOf("no", "yes", "auto", "crypto", "packet"), def: "no", sup: later, doc: "Offload to the network card."},
		{name: "copy_df", typ: yesNo(), def: "yes", doc: "Copy the DF bit to the outer header."},
		{name: "copy_ecn", typ: yesNo(), def: "yes", doc: "Copy the ECN bits between the headers."},
		{name: "copy_dscp", typ: oneOf("out", "in", "yes", "no"), def: "out", doc: "Copy the DSCP to the outer header (out), to the inner (in), both or none."},
		{name: "icmp", typ: yesNo(), def: "no", doc: "Let ICMP errors about protected packets pass."},
		{name: "start_action", typ: action("none, trap or start"), def: "none", doc: "What to do when the configuration is loaded: nothing, wait for a packet (trap), initiate (start), or trap|start. A shunt is installed with trap."},
		{name: "close_action", typ: action("none, trap or start"), def: "none", doc: "What to do when the CHILD SA ends unasked: the peer closes it, its hard limit is reached, or a failure takes it."},
	}}
}

// modes are the data plane's by their names in configurations.
var modes = map[string]dataplane.Mode{"tunnel": dataplane.Tunnel, "transport": dataplane.Transport, "beet": dataplane.BEET, "iptfs": dataplane.IPTFS}

// shunts are the modes of children that are not negotiated.
var shunts = map[string]sa.Shunt{"pass": sa.ShuntPass, "drop": sa.ShuntDrop}

// childMode reads the modes that there are and refuses those still to come.
func childMode() valueType {
	words := oneOf("tunnel", "transport", "transport_proxy", "beet", "iptfs", "pass", "drop")
	const known = "tunnel, transport, beet, iptfs, pass or drop"
	return valueType{name: known, parse: func(s string) (any, *problem) {
		v, wrong := words.parse(s)
		if wrong == nil && modes[v.(string)] == 0 && shunts[v.(string)] == 0 && v != "transport" {
			wrong = &problem{expected: known, reason: ", since other modes are not supported yet"}
		}
		return v, wrong
	}}
}

// sharedSpec is a kind of secret that belongs to identities.
func sharedSpec(name, doc string, sup support) *sectionSpec {
	id := identity()
	if sup != supported {
		id = text("identity")
	}
	return &sectionSpec{name: name, doc: doc, sup: sup, keys: []keySpec{
		{name: "secret", typ: secretText("text, 0x hex or 0s base64"), doc: "The secret."},
		{name: "id*", typ: id, doc: "An identity that it belongs to; none: any."},
	}}
}

// passphraseSpec is a kind of secret that opens a file.
func passphraseSpec(name, folder string, sup support) *sectionSpec {
	return &sectionSpec{name: name, doc: "Opens a key file in " + folder + ".", sup: sup, keys: []keySpec{
		{name: "file", typ: text("file"), doc: "The file in " + folder + "."},
		{name: "secret", typ: secretText("text, 0x hex or 0s base64"), doc: "The passphrase."},
	}}
}

func secretsSpec() *sectionSpec {
	token := &sectionSpec{name: "token*", doc: "A private key on a token.", sup: later, keys: append(tokenKeys(),
		keySpec{name: "pin", typ: secretText("text"), sup: later, doc: "The token's PIN."})}
	return &sectionSpec{name: "secrets", doc: "Shared keys and passphrases.", subs: []*sectionSpec{
		sharedSpec("ike*", "A shared key for IKE (auth = psk).", supported),
		sharedSpec("eap*", "A password for EAP.", later),
		sharedSpec("xauth*", "A password for XAuth.", ikev1),
		sharedSpec("ntlm*", "An NT hash for EAP-MSCHAPv2.", later),
		sharedSpec("ppk*", "A post-quantum preshared key (RFC 8784).", later),
		passphraseSpec("private*", "private", supported),
		passphraseSpec("rsa*", "rsa", supported),
		passphraseSpec("ecdsa*", "ecdsa", supported),
		passphraseSpec("pkcs8*", "pkcs8", supported),
		passphraseSpec("pkcs12*", "pkcs12", supported),
		token,
	}}
}

func authoritySpec() *sectionSpec {
	return &sectionSpec{name: "<ca>", doc: "A certification authority.", keys: append([]keySpec{
		{name: "cacert", typ: text("file"), content: true, doc: "Its certificate, absolute or in x509ca."},
		{name: "file", typ: text("file"), doc: "The same, another name."},
		{name: "crl_uris", typ: uris(), doc: "Where its CRLs are: http, https or file. They are fetched when this is loaded and when the next is due."},
		{name: "ocsp_uris", typ: words("URIs"), sup: later, doc: "Where its OCSP responders are."},
		{name: "cert_uri_base", typ: text("URI"), sup: later, doc: "Where its certificates are (hash and URL)."},
	}, tokenKeys()...)}
}

func settingsSpec() *sectionSpec {
	return &sectionSpec{name: "espalier", doc: "Settings of the daemon.", keys: []keySpec{
		{name: "port", typ: number(1, 65535), def: "500", doc: "IKE port."},
		{name: "port_nat_t", typ: number(1, 65535), def: "4500", doc: "IKE port with NAT traversal."},
		{name: "listen", typ: ipList(), derived: "all addresses", doc: "Own addresses to listen on; not with interfaces."},
		{name: "interfaces", typ: words("names"), derived: "all interfaces", doc: "Network interfaces to listen on; not with listen."},
		{name: "cookie_threshold", typ: number(0, 1<<24), def: "30", doc: "Half-open IKE SAs from which on cookies are asked for; 0: always."},
		{name: "half_open_limit", typ: number(1, 1<<24), def: "16384", doc: "Half-open IKE SAs at most; further requests are dropped."},
		{name: "half_open_limit_prefix", typ: number(1, 1<<24), def: "1024", doc: "The same for the peers of one prefix, so that a flood from one place leaves room for others."},
		{name: "half_open_prefix_v4", typ: number(8, 32), def: "32", doc: "Length of that prefix for IPv4 peers."},
		{name: "half_open_prefix_v6", typ: number(16, 128), def: "64", doc: "Length of that prefix for IPv6 peers."},
		{name: "half_open_timeout", typ: duration(), def: "30s", doc: "Time from IKE_SA_INIT to a complete IKE_AUTH as responder."},
		{name: "fragment_size", typ: number(576, 65535), def: "1280", doc: "IKE messages that make a longer IP packet are sent in fragments of at most this size."},
		{name: "path_mtu", typ: yesNo(), def: "no", doc: "Look for the path MTU to each peer with padded IKE messages, without ICMP."},
		{name: "path_mtu_interval", typ: duration(), def: "10m", doc: "Time between two searches for it, less a random part of a tenth; 0: only when addresses or routes change."},
		{name: "retransmit_tries", typ: number(0, 20), def: "5", doc: "Retransmissions before giving up."},
		{name: "retransmit_timeout", typ: duration(), def: "4s", doc: "Time before the first retransmission."},
		{name: "retransmit_base", typ: decimal(1, 10), def: "1.8", doc: "Growth of each further wait."},
		{name: "retransmit_limit", typ: duration(), def: "0s", doc: "Longest wait between two retransmissions; 0: an hour."},
		{name: "keep_alive", typ: duration(), def: "20s", doc: "Silence of ours after which a NAT before us is sent a keepalive (RFC 3948); 0: never."},
		{name: "keep_alive_by", typ: oneOf("kernel", "daemon"), def: "kernel", doc: "Who sends them: the kernel, which counts ESP as no silence, while a CHILD SA stands and where it can (Linux 6.11), else the daemon; or always the daemon. A change counts for CHILD SAs that are made from then on."},
		{name: "retransmit_jitter", typ: number(0, 20), def: "0", doc: "Percent of a wait that is taken off at most, at random."},
		{name: "max_selectors", typ: number(1, 65536), def: "256", doc: "Kernel policies a CHILD SA may need, a direction."},
		{name: "follow_redirects", typ: yesNo(), def: "yes", doc: "Go to the gateway that a peer names in a REDIRECT (RFC 5685)."},
		{name: "quick_crash_detection", typ: yesNo(), def: "yes", doc: "Quick crash detection (RFC 6290): peers get a token for each IKE SA, by which they believe us when we say that we have lost it in a crash, and we them (see state_dir)."},
		{name: "prefer_peer_proposal", typ: yesNo(), def: "no", doc: "Choose proposals by the peer's order instead of our own."},
		{name: "send_vendor_id", typ: yesNo(), def: "no", doc: "Send strongSwan's vendor id, by which it knows its own."},
		{name: "install_routes", typ: yesNo(), def: "yes", doc: "Lead the box's own traffic into its tunnels by routes, with a source address that they protect."},
		{name: "install_virtual_ip", typ: yesNo(), def: "yes", doc: "Put received virtual addresses on the box."},
		{name: "install_virtual_ip_on", typ: text("interface"), derived: "the one towards the peer", doc: "Network interface for virtual addresses."},
		{name: "routing_table", typ: number(1, 1<<32-1), def: "220", doc: "Routing table for those routes."},
		{name: "routing_table_prio", typ: number(0, 32765), def: "220", doc: "Priority of the rule that looks that table up."},
		{name: "leak", typ: oneOf("pass", "block"), def: "pass", doc: "What becomes of the children's traffic while they have no CHILD SA: it passes in clear, or is blocked, also before the daemon starts and after it stops (see leak.md)."},
		{name: "bypass_lan", typ: yesNo(), def: "no", doc: "Let traffic within each directly connected network pass by wider tunnels, such as those to 0.0.0.0/0."},
		{name: "fast_path", typ: yesNo(), def: "yes", doc: "Count, fit and guard packets with BPF programs, where the kernel has what they need; no takes them down (see fastpath.md)."},
		{name: "outside", typ: words("names"), derived: "those with a default route", doc: "Network interfaces that ESP comes and goes by."},
		{name: "inside", typ: words("names"), derived: "all but those outside", doc: "Network interfaces of the networks that tunnels connect. xfrm interfaces are not named."},
		{name: "guard", typ: oneOf("off", "log", "on"), def: "log", doc: "What becomes of ESP that no SA is for, and of IKE that is nobody's: it goes on to the kernel, the same but counted, or is dropped where it arrives."},
		{name: "steering", typ: oneOf("off", "hash", "pinned", "auto"), def: "auto", doc: "Which CPU decrypts: the one that the network card chose, one by hash of SPI and addresses, one that each SA is given in turn, or the one that the network card chose until the tuner chooses another (off on a box with one CPU)."},
		{name: "tune", typ: oneOf("off", "advise", "on"), def: "on", doc: "What the tuner may do: nothing, only say what it would do, or move SAs between CPUs and change settings of the box, which it gives back at the end (see tuner.md)."},
		{name: "tune_moves", typ: number(0, 1<<16), def: "64", doc: "SAs that it moves to other CPUs in a round; 0: none."},
		{name: "tune_splits", typ: number(0, 1<<10), def: "1", doc: "Per-CPU SAs (RFC 9611) that it asks for in a round; 0: none."},
		{name: "tune_settings", typ: number(0, 1<<10), def: "8", doc: "Settings of the box that it changes in a round; 0: none."},
		{name: "tune_queues", typ: number(0, 1<<10), def: "8", doc: "Receive and transmit queues and interrupts of network cards that it gives to other CPUs in a round; 0: none."},
		{name: "tune_offloads", typ: number(0, 1<<10), def: "1", doc: "Features of network cards (GRO, GSO, ESP offload) that it switches in a round; 0: none."},
		{name: "tune_rekeys", typ: number(0, 1<<10), def: "1", doc: "SAs that it has rekeyed in a round, for a wider replay window or to spread their packets over CPUs (pcrypt); 0: none."},
		{name: "mss", typ: yesNo(), def: "yes", doc: "Lower the MSS of TCP connections through tunnels to what fits, by the path's MTU and the SA's overhead."},
		{name: "max_spis", typ: number(1024, 1<<20), def: "65536", doc: "SPIs that can be counted, both directions together."},
		{name: "init_rate", typ: number(0, 1<<20), def: "100", doc: "IKE_SA_INIT requests a second that the guard lets pass from one prefix; 0: any number."},
		{name: "init_burst", typ: number(1, 1<<20), def: "200", doc: "How many of them may come at once."},
		{name: "init_prefix_v4", typ: number(24, 32), def: "32", doc: "Length of that prefix for IPv4 peers."},
		{name: "init_prefix_v6", typ: number(56, 128), def: "64", doc: "Length of that prefix for IPv6 peers."},
		{name: "firewall", typ: yesNo(), def: "no", doc: "Have the box's packet filter let tunnels through, and keep what goes into them from being masqueraded, with nftables (see updown.md)."},
		{name: "updown_timeout", typ: duration(), def: "30s", doc: "How long an updown script may take before it is killed."},
		{name: "run_dir", typ: text("folder"), def: DefaultRunDir, doc: "Folder of the journal and the control socket."},
		{name: "swanctl_socket", typ: yesNo(), def: "yes", doc: "Listen on /var/run/charon.vici, too, where swanctl looks, unless strongSwan's daemon does."},
		{name: "socket_group", typ: text("group"), derived: "none", doc: "Group, by name or number, whose members may use the control sockets beside root. They are then as good as root where IPsec is concerned."},
		{name: "state_dir", typ: text("folder"), def: DefaultStateDir, doc: "Folder of what outlives a reboot: the secret of quick crash detection, which no other gateway may have but one that takes over from this one."},
	}}
}
