package vici

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"espalier/dataplane"
	"espalier/dataplane/selector"
	"espalier/ike/auth"
	"espalier/ike/pki"
	"espalier/ike/sa"
	"espalier/ike/suite"
	"espalier/internal/event"
)

func spec(t *testing.T, s string) selector.Spec {
	t.Helper()
	out, err := selector.Parse(s)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func addr(s string) netip.Addr { return netip.MustParseAddr(s) }

// Keys, order and spellings were taken from charon 6.0.1's answers in the lab.
func TestListConnHasCharonsKeysInCharonsOrder(t *testing.T) {
	creds := auth.NewBuilder().Build()
	conn := &sa.Connection{
		Name: "gw", LocalAddrs: []sa.AddrSpec{{Family: 6}, {Host: "moon.example"}},
		RemoteAddrs: []sa.AddrSpec{{Start: addr("192.0.2.2"), End: addr("192.0.2.2")}, {Start: addr("203.0.113.0"), End: addr("203.0.113.255")}, {Start: addr("10.0.0.3"), End: addr("10.0.0.9")}},
		ReauthTime:  time.Hour, RekeyTime: 2 * time.Hour, Unique: sa.UniquenessKeep, DPDDelay: 30 * time.Second,
		Local: []auth.Local{{Method: auth.MethodPSK, ID: auth.ID{Type: 2, Data: "moon"}}},
		Remote: []auth.Remote{{Method: auth.MethodPubkey}, {Method: auth.MethodPubkey, ID: auth.ID{Type: 2, Data: "sun"}, CAID: auth.ID{Type: 2, Data: "ca"},
			Keys: make([]pki.Fingerprint, 1), Policies: []string{"1.2.3"}, Revocation: pki.RevocationStrict}},
		Children: []*sa.ChildConfig{{Name: "net", Mode: dataplane.Transport, RekeyTime: time.Minute, RekeyBytes: 5, RekeyPackets: 6,
			DPDAction: sa.FollowStart, CloseAction: sa.FollowTrap, Interface: "eth0", Priority: 7,
			LocalTS: []selector.Spec{spec(t, "dynamic")}, RemoteTS: []selector.Spec{spec(t, "10.2.0.3-10.2.0.9"), spec(t, "10.3.0.0/16")}}},
	}
	want := "gw {local_addrs=[%any6 moon.example] remote_addrs=[192.0.2.2 203.0.113.0/24 10.0.0.3-10.0.0.9] version=IKEv2 reauth_time=3600 rekey_time=7200 " +
		"unique=UNIQUE_KEEP dpd_delay=30 local-1 {id=moon class=pre-shared key groups=[] cert_policy=[] certs=[] cacerts=[]} " +
		"remote-1 {class=public key groups=[] cert_policy=[] certs=[] cacerts=[]} " +
		"remote-2 {ca_id=ca revocation=GOOD id=sun class=public key groups=[] cert_policy=[1.2.3] certs=[sun] cacerts=[]} children {net {mode=TRANSPORT rekey_time=60 rekey_bytes=5 rekey_packets=6 " +
		"dpd_action=start close_action=trap local-ts=[dynamic] remote-ts=[10.2.0.3..10.2.0.9 10.3.0.0/16] interface=eth0 priority=7}}}"
	if got := raw((*Names)(nil).listConn(conn, creds, Release{6, 0, 1})); got != want {
		t.Errorf("list-conn\n%s\nwant\n%s", got, want)
	}
}

// What later releases have besides stands where charon 6.1.0 has it.
func TestListConnOfLaterReleases(t *testing.T) {
	ike, err := suite.ParseIKE("aes256-aes128ctr-sha256-x25519-ke1_ecp256")
	if err != nil {
		t.Fatal(err)
	}
	esp, err := suite.ParseESP("aes256gcm16-chacha20poly1305-esn")
	if err != nil {
		t.Fatal(err)
	}
	conn := &sa.Connection{Name: "gw", RemotePort: 4500, Proposals: []suite.Proposal{ike}, Children: []*sa.ChildConfig{{Name: "net", Proposals: []suite.Proposal{esp, esp}}}}
	ports := "local_port=500 remote_port=4500 version="
	proposals := "unique=UNIQUE_NO proposals {0 {encr=[AES_CBC_256 AES_CTR_128] integ=[HMAC_SHA2_256_128] prf=[PRF_HMAC_SHA2_256] ke=[CURVE_25519] ake1=[ECP_256]}} children"
	one := "{encr=[AES_GCM_16_256 CHACHA20_POLY1305] sn=[EXT_SEQ]}"
	child := "close_action=none esp_proposals {0 " + one + " 1 " + one + "} ah_proposals {} local-ts="
	for _, tc := range []struct {
		r                Release
		ports, proposals bool
	}{{Release{6, 0, 2}, false, false}, {Release{6, 0, 3}, true, false}, {Release{6, 1, 0}, true, true}, {Release{}, true, true}} {
		got := raw((*Names)(nil).listConn(conn, auth.NewBuilder().Build(), tc.r))
		if strings.Contains(got, ports) != tc.ports || strings.Contains(got, proposals) != tc.proposals || strings.Contains(got, child) != tc.proposals {
			t.Errorf("%v: %s\nwant ports: %v, proposals: %v", tc.r, got, tc.ports, tc.proposals)
		}
		policy := raw((*Names)(nil).listPolicy(&Policy{Conn: "gw", Child: conn.Children[0], ReqID: 7}, tc.r))
		if strings.HasPrefix(policy, "gw/net {child=net reqid=7 ike=gw mode=") != tc.ports {
			t.Errorf("%v: %s, want the reqid: %v", tc.r, policy, tc.ports)
		}
	}
}

func TestParseRelease(t *testing.T) {
	for line, want := range map[string]Release{
		"strongSwan 6.0.1 swanctl": {6, 0, 1}, "strongSwan 6.1.0 swanctl (--list-conns/-L)": {6, 1, 0}, "strongSwan 6.2rc1 swanctl": {6, 2, 0},
	} {
		if got, err := ParseRelease(line); got != want || err != nil {
			t.Errorf("%q: %v, %v, want %v", line, got, err, want)
		}
	}
	for _, line := range []string{"", "swanctl 6.0.1", "strongSwan swanctl", "strongSwan 6.0.1 pki"} {
		if got, err := ParseRelease(line); err == nil {
			t.Errorf("%q: %v, want an error", line, got)
		}
	}
}

func TestListConnOfShuntsAlone(t *testing.T) {
	conn := &sa.Connection{Name: "lan", Local: []auth.Local{{}}, Remote: []auth.Remote{{}},
		Shunts: []*sa.ChildConfig{{Name: "p", Shunt: sa.ShuntPass}, {Name: "d", Shunt: sa.ShuntDrop}}}
	rest := "rekey_time=0 rekey_bytes=0 rekey_packets=0 dpd_action=none close_action=none local-ts=[] remote-ts=[]}"
	want := "lan {local_addrs=[%any] remote_addrs=[%any] version=IKEv2 reauth_time=0 rekey_time=0 unique=UNIQUE_NO " +
		"local-1 {groups=[] cert_policy=[] certs=[] cacerts=[]} remote-1 {groups=[] cert_policy=[] certs=[] cacerts=[]} " +
		"children {p {mode=PASS " + rest + " d {mode=DROP " + rest + "}}"
	if got := raw((*Names)(nil).listConn(conn, auth.NewBuilder().Build(), Release{6, 0, 1})); got != want {
		t.Errorf("list-conn\n%s\nwant\n%s", got, want)
	}
}

func TestCountersHaveCharonsKeysInCharonsOrder(t *testing.T) {
	n := Counters{1, 2, 3, 4, 5, MessageCounters{6, 7, 8, 9}, MessageCounters{10, 11, 12, 13}, MessageCounters{14, 15, 16, 17}, MessageCounters{18, 19, 20, 21}}
	want := "ike-rekey-init=1 ike-rekey-resp=2 child-rekey=3 invalid=4 invalid-spi=5 " +
		"ike-init-in-req=6 ike-init-in-resp=7 ike-init-out-req=8 ike-init-out-resp=9 " +
		"ike-auth-in-req=10 ike-auth-in-resp=11 ike-auth-out-req=12 ike-auth-out-resp=13 " +
		"create-child-in-req=14 create-child-in-resp=15 create-child-out-req=16 create-child-out-resp=17 " +
		"info-in-req=18 info-in-resp=19 info-out-req=20 info-out-resp=21"
	if got := raw(countersSection(&n)); got != want {
		t.Errorf("counters\n%s\nwant\n%s", got, want)
	}
}

// A CHILD SA that is gone is told by what its event says of it.
func TestChildThatIsGone(t *testing.T) {
	c := &event.Child{Name: "net", UniqueID: 3, ReqID: 1, SPIIn: 0xc1, SPIOut: 0xc2, Mode: "TRANSPORT", LocalTS: []string{"10.1.0.0/16"}, RemoteTS: []string{"10.2.0.0/16"}}
	ch := childOf(&sa.Info{Children: []sa.ChildInfo{{UniqueID: 4, Name: "net"}}}, c)
	want := "name=net uniqueid=3 reqid=1 state=DESTROYING mode=TRANSPORT local-ts=[10.1.0.0/16] remote-ts=[10.2.0.0/16]"
	if got := raw((*Names)(nil).childSection(&ch, testNow)); got != want {
		t.Errorf("got %s\nwant %s", got, want)
	}
}
