// Package dptest is the suite that every dataplane.DataPlane passes: the Fake
// in plain unit tests, kernel XFRM in the lab. It asserts on what the interface
// promises, never on how.
package dptest

import (
	"net/netip"
	"testing"

	"espalier/dataplane"
	"espalier/internal/secret"
)

// Run runs the suite; open returns an empty data plane of its own for each test
// (in a network namespace of its own, say) and arranges for it to be closed.
func Run(t *testing.T, open func(t *testing.T) dataplane.DataPlane) {
	for _, c := range []struct {
		name string
		run  func(*testing.T, dataplane.DataPlane)
	}{
		{"ReserveAndTakeOver", reserveAndTakeOver},
		{"ReserveExhausted", reserveExhausted},
		{"ReserveRefused", reserveRefused},
		{"InstallExists", installExists},
		{"DeleteAbsent", deleteAbsent},
		{"ListSAs", listSAs},
		{"RefusedSAs", refusedSAs},
		{"RefusedPolicies", refusedPolicies},
		{"UndoInstalls", undoInstalls},
		{"UndoTakesReservationBack", undoTakesReservationBack},
		{"UndoDeletes", undoDeletes},
		{"UndoUpdateAndMove", undoUpdateAndMove},
		{"Query", query},
		{"Advance", advance},
		{"Update", update},
		{"Move", move},
		{"Watch", watch},
		{"Keepalives", keepalives},
		{"KeepalivesInbound", keepalivesInbound},
		{"PolicyKinds", policyKinds},
		{"PolicyIdentity", policyIdentity},
		{"PolicyOwners", policyOwners},
		{"PolicyReplaceBelow", policyReplaceBelow},
		{"PolicyUndo", policyUndo},
		{"PolicyLayers", policyLayers},
		{"UnknownOp", unknownOp},
		{"Closed", closed},
	} {
		t.Run(c.name, func(t *testing.T) { c.run(t, open(t)) })
	}
}

// Addresses of the tests, from the documentation ranges.
var (
	here4  = netip.MustParseAddr("192.0.2.1")
	there4 = netip.MustParseAddr("192.0.2.2")
	other4 = netip.MustParseAddr("192.0.2.3")
	here6  = netip.MustParseAddr("2001:db8::1")
	there6 = netip.MustParseAddr("2001:db8::2")
)

// gcm is AES-128-GCM with a 16 byte ICV and a key of 16 + 4 times fill.
func gcm(fill byte) dataplane.Algorithm {
	key := make(secret.Bytes, 20)
	for i := range key {
		key[i] = fill
	}
	return dataplane.Algorithm{Name: "rfc4106(gcm(aes))", Key: key, ICVBits: 128}
}

// inSA is a plain inbound tunnel SA from there4 to here4.
func inSA(spi uint32) dataplane.SA {
	return dataplane.SA{
		SAKey: dataplane.SAKey{Dst: here4, Proto: dataplane.ESP, SPI: spi},
		Src:   there4, Dir: dataplane.In, Mode: dataplane.Tunnel, ReqID: 7,
		AEAD: gcm(byte(spi)), ReplayWindow: 32,
	}
}

// outSA is a plain outbound tunnel SA from here4 to there4.
func outSA(spi uint32) dataplane.SA {
	sa := inSA(spi)
	sa.Src, sa.Dst, sa.Dir = here4, there4, dataplane.Out
	return sa
}

// policy is an outbound policy of owner over prefixes of documentation nets.
func policy(owner uint64, priority uint32) dataplane.Policy {
	return dataplane.Policy{
		PolicyKey: dataplane.PolicyKey{
			Selector: dataplane.Selector{
				Src: netip.MustParsePrefix("198.51.100.0/24"),
				Dst: netip.MustParsePrefix("203.0.113.0/24"),
			},
			Dir: dataplane.Out,
		},
		Owner: owner, Priority: priority,
		Templates: []dataplane.Template{{Src: here4, Dst: there4, Proto: dataplane.ESP, Mode: dataplane.Tunnel, ReqID: 7}},
	}
}

func mustApply(t *testing.T, dp dataplane.DataPlane, ops ...dataplane.Op) {
	t.Helper()
	if err := dp.Apply(ops); err != nil {
		t.Fatalf("Apply: %v", err)
	}
}

func mustList(t *testing.T, dp dataplane.DataPlane) dataplane.Snapshot {
	t.Helper()
	snap, err := dp.List()
	if err != nil {
		t.Fatalf("List: %v", err)
	}
	return snap
}

// findSA returns the listed SA with the key, nil when there is none.
func findSA(t *testing.T, dp dataplane.DataPlane, k dataplane.SAKey) *dataplane.InstalledSA {
	t.Helper()
	for _, sa := range mustList(t, dp).SAs {
		if sa.SAKey == k {
			return &sa
		}
	}
	return nil
}

// findPolicy returns the listed policy with the key, nil when there is none.
func findPolicy(t *testing.T, dp dataplane.DataPlane, k dataplane.PolicyKey) *dataplane.Policy {
	t.Helper()
	for _, p := range mustList(t, dp).Policies {
		if p.PolicyKey == k {
			return &p
		}
	}
	return nil
}

// wantCounts asserts on how much is installed.
func wantCounts(t *testing.T, dp dataplane.DataPlane, sas, policies int) {
	t.Helper()
	snap := mustList(t, dp)
	if len(snap.SAs) != sas || len(snap.Policies) != policies {
		t.Fatalf("listed %d SAs and %d policies, expected %d and %d: %+v", len(snap.SAs), len(snap.Policies), sas, policies, snap)
	}
}
