package vici

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"espalier/dataplane"
	"espalier/dataplane/selector"
	"espalier/ike/sa"
	"espalier/ike/suite"
	"espalier/ike/wire"
)

var testNow = time.Date(2026, time.March, 4, 12, 0, 0, 0, time.UTC)

func ago(d time.Duration) time.Time { return testNow.Add(-d) }
func in(d time.Duration) time.Time  { return testNow.Add(d) }

// everything has each field of an Info set.
func everything() sa.Info {
	cpu := uint32(3)
	return sa.Info{
		UniqueID: 7, Conn: "gw", State: sa.IKEEstablished, Initiator: true,
		Local: netip.MustParseAddrPort("192.0.2.1:4500"), Remote: netip.MustParseAddrPort("[2001:db8::2]:4501"),
		LocalID: "moon", RemoteID: "CN=sun", RemoteEAPID: "alice", SPIi: 0x0123456789abcdef, SPIr: 2,
		NATLocal: true, NATRemote: true, NATFake: true, IfIDIn: 0x2a, IfIDOut: 0x2b,
		Algorithms: sa.Algorithms{Encr: wire.EncrAESCBC, EncrBits: 256, Integ: wire.IntegHMACSHA2_512_256,
			PRF: wire.PRFHMACSHA2_512, KE: wire.KEMODP3072, FurtherKE: [7]wire.KEMethod{wire.KEMLKEM768, 0, wire.KEECP256}},
		PPK: true, Established: ago(90 * time.Second), RekeyAt: in(time.Hour), ReauthAt: in(2 * time.Hour),
		LocalVIPs: []netip.Addr{netip.MustParseAddr("10.0.0.9")}, RemoteVIPs: []netip.Addr{netip.MustParseAddr("fd00::1"), netip.MustParseAddr("10.0.0.8")},
		TasksQueued: []string{"IKE_REKEY"}, TasksActive: []string{"CHILD_CREATE", "IKE_MOBIKE"}, TasksPassive: []string{"IKE_DELETE"},
		Children: []sa.ChildInfo{{
			UniqueID: 9, Name: "net", ReqID: 4, CPU: &cpu, State: sa.ChildSAInstalled, Mode: dataplane.Tunnel, Proto: dataplane.ESP, Encap: true,
			SPIIn: 0xc1, SPIOut: 0xdeadbeef, CPIIn: 0x1f, CPIOut: 0x2f,
			MarkIn: dataplane.Mark{Value: 1, Mask: 0xffffffff}, MarkOut: dataplane.Mark{Value: 2, Mask: 0xff}, IfIDIn: 1, IfIDOut: 2,
			Algorithms: sa.Algorithms{Encr: wire.EncrAESGCM16, EncrBits: 128, KE: wire.KECurve25519, ESN: true},
			In:         sa.Usage{Bytes: 1000, Packets: 10, LastUse: ago(3 * time.Second)}, Out: sa.Usage{Bytes: 2000, Packets: 20, LastUse: ago(0)},
			InstalledAt: ago(time.Minute), RekeyAt: in(30 * time.Minute), ExpiresAt: in(40 * time.Minute),
			LocalTS: []selector.TS{selector.FromPrefix(netip.MustParsePrefix("10.1.0.0/16"))},
			RemoteTS: []selector.TS{
				{Start: netip.MustParseAddr("10.2.0.3"), End: netip.MustParseAddr("10.2.0.9"), EndPort: 65535},
				selector.Packet(netip.MustParseAddr("10.2.0.1"), 6, 80),
			},
		}},
	}
}

func TestListSAHasCharonsKeysInCharonsOrder(t *testing.T) {
	info := everything()
	want := "gw {uniqueid=7 version=2 state=ESTABLISHED local-host=192.0.2.1 local-port=4500 local-id=moon " +
		"remote-host=2001:db8::2 remote-port=4501 remote-id=CN=sun remote-eap-id=alice initiator=yes " +
		"initiator-spi=0123456789abcdef responder-spi=0000000000000002 nat-local=yes nat-remote=yes nat-fake=yes nat-any=yes " +
		"if-id-in=0000002a if-id-out=0000002b encr-alg=AES_CBC encr-keysize=256 integ-alg=HMAC_SHA2_512_256 " +
		"prf-alg=PRF_HMAC_SHA2_512 dh-group=MODP_3072 ake1=ML_KEM_768 ake3=ECP_256 ppk=yes established=90 rekey-time=3600 reauth-time=7200 " +
		"local-vips=[10.0.0.9] remote-vips=[fd00::1 10.0.0.8] tasks-queued=[IKE_REKEY] tasks-active=[CHILD_CREATE IKE_MOBIKE] tasks-passive=[IKE_DELETE] " +
		"child-sas {net-9 {name=net uniqueid=9 reqid=4 cpu=3 state=INSTALLED mode=TUNNEL protocol=ESP encap=yes spi-in=000000c1 spi-out=deadbeef " +
		"cpi-in=001f cpi-out=002f mark-in=00000001 mark-out=00000002 mark-mask-out=000000ff if-id-in=00000001 if-id-out=00000002 " +
		"encr-alg=AES_GCM_16 encr-keysize=128 dh-group=CURVE_25519 esn=1 bytes-in=1000 packets-in=10 use-in=3 bytes-out=2000 packets-out=20 use-out=0 " +
		"rekey-time=1800 life-time=2400 install-time=60 local-ts=[10.1.0.0/16] remote-ts=[10.2.0.3..10.2.0.9 10.2.0.1/32[tcp/80]]}}}"
	if got := raw((*Names)(nil).listSA(&info, testNow, nil)); got != want {
		t.Errorf("list-sa\n%s\nwant\n%s", got, want)
	}
}

func TestListSALeavesOutWhatIsNot(t *testing.T) {
	info := sa.Info{UniqueID: 1, State: sa.IKEConnecting, Established: testNow, RemoteEAPID: "",
		Local: netip.MustParseAddrPort("[::ffff:192.0.2.1]:500"),
		Children: []sa.ChildInfo{{UniqueID: 2, Name: "t", State: sa.ChildSACreated, Mode: dataplane.Transport, SPIIn: 5,
			Algorithms: sa.Algorithms{Encr: wire.EncrAESGCM16}}}}
	want := "(unnamed) {uniqueid=1 version=2 state=CONNECTING local-host=192.0.2.1 local-port=500 local-id=%any " +
		"remote-host=%any remote-port=0 remote-id=%any initiator-spi=0000000000000000 responder-spi=0000000000000000 " +
		"child-sas {t-2 {name=t uniqueid=2 reqid=0 state=CREATED mode=TRANSPORT local-ts=[] remote-ts=[]}}}"
	if got := raw((*Names)(nil).listSA(&info, testNow, nil)); got != want {
		t.Errorf("list-sa\n%s\nwant\n%s", got, want)
	}
}

func TestSpellings(t *testing.T) {
	for got, want := range map[string]string{
		suite.AlgorithmName(wire.TransformENCR, uint16(wire.Encr3DES)):               "3DES_CBC",
		suite.AlgorithmName(wire.TransformENCR, uint16(wire.EncrAESCTR)):             "AES_CTR",
		suite.AlgorithmName(wire.TransformENCR, uint16(wire.EncrAESCCM16)):           "AES_CCM_16",
		suite.AlgorithmName(wire.TransformENCR, uint16(wire.EncrChaCha20Poly1305)):   "CHACHA20_POLY1305",
		suite.AlgorithmName(wire.TransformENCR, uint16(wire.EncrNull)):               "NULL",
		suite.AlgorithmName(wire.TransformENCR, uint16(wire.EncrNullAuthAESGMAC)):    "NULL_AES_GMAC",
		suite.AlgorithmName(wire.TransformENCR, uint16(wire.EncrCamelliaCBC)):        "CAMELLIA_CBC",
		suite.AlgorithmName(wire.TransformINTEG, uint16(wire.IntegHMACSHA1_96)):      "HMAC_SHA1_96",
		suite.AlgorithmName(wire.TransformINTEG, uint16(wire.IntegHMACSHA2_256_128)): "HMAC_SHA2_256_128",
		suite.AlgorithmName(wire.TransformINTEG, uint16(wire.IntegAESXCBC_96)):       "AES_XCBC_96",
		suite.AlgorithmName(wire.TransformINTEG, uint16(wire.IntegAESCMAC_96)):       "AES_CMAC_96",
		suite.AlgorithmName(wire.TransformPRF, uint16(wire.PRFAES128XCBC)):           "PRF_AES128_XCBC",
		suite.AlgorithmName(wire.TransformPRF, uint16(wire.PRFAES128CMAC)):           "PRF_AES128_CMAC",
		suite.AlgorithmName(wire.TransformKE, uint16(wire.KEMODP2048)):               "MODP_2048",
		suite.AlgorithmName(wire.TransformKE, uint16(wire.KEMODP2048S256)):           "MODP_2048_256",
		suite.AlgorithmName(wire.TransformKE, uint16(wire.KEECP521)):                 "ECP_521",
		suite.AlgorithmName(wire.TransformKE, uint16(wire.KEBrainpoolP256r1)):        "ECP_256_BP",
		suite.AlgorithmName(wire.TransformKE, uint16(wire.KECurve448)):               "CURVE_448",
		suite.AlgorithmName(wire.TransformKE, uint16(wire.KEMLKEM1024)):              "ML_KEM_1024",
		sa.IKERekeyed.String():                "REKEYED",
		sa.ChildSARekeying.String():           "REKEYING",
		elapsed(time.Second):                  "1 second",
		elapsed(120 * time.Second):            "120 seconds",
		elapsed(121 * time.Second):            "2 minutes",
		elapsed(2*time.Hour + time.Second):    "2 hours",
		elapsed(48 * time.Hour):               "48 hours",
		elapsed(3*24*time.Hour + 5*time.Hour): "3 days",
	} {
		if got != want {
			t.Errorf("%s; want %s", got, want)
		}
	}
}

// Every method that this program can negotiate has a name without blanks, as
// scripts split at them.
func TestNamesHaveNoBlanks(t *testing.T) {
	for id := wire.KEMethod(1); id <= wire.KEMLKEM1024; id++ {
		if name := suite.AlgorithmName(wire.TransformKE, uint16(id)); strings.Contains(name, " ") {
			t.Errorf("key exchange %d: %q", id, name)
		}
	}
}
