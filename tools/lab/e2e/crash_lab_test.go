//go:build lab

package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"espalier/tools/lab/topo"
)

// TestQuickCrashDetection kills one of two espalierds and starts it again. The other one believes what it then says, and sets the tunnel up anew: by DPD
// and retransmissions it would do so in hours.
func TestQuickCrashDetection(t *testing.T) {
	n, err := topo.Build(t.Context(), topo.Config{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := n.Close(); err != nil {
			t.Error(err)
		}
	})
	l := &lab{Net: n, ours: n.GW1, theirs: n.GW2, pki: &pkis{}}
	ours, theirs := l.sides(psk, suites[0], shapes[0])
	ours.child = "dpd_action = restart\n    per_cpu_sas = no"
	ours.more = "espalier {\n retransmit_tries = 20\n retransmit_timeout = 2s\n retransmit_base = 1.0\n}\n"
	other, err := theirs.self.StartEspalier(t.Context(), topo.EspalierConfig{Conf: theirs.conf(), Plain: true})
	if err != nil {
		t.Fatal(err)
	}
	l.esp, err = ours.self.StartEspalier(t.Context(), topo.EspalierConfig{Conf: connection(ours, "dpd_delay = 1h"), Args: []string{"--log-level", "debug"}, Plain: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("log of the one:\n%s\nlog of the other one:\n%s", l.esp.Log(), other.Log())
		}
	})
	l.mustInitiate(t, true)
	for round, ike := range []bool{false, true} { // what meets the one that has crashed is a rekeying of either kind, from an IKE SA that was rekeyed before
		l.rekeyed(t, "IKE SA rekeyed", func() { l.rekey(t, true) })
		if err := n.Client1.Ping(t.Context(), n.Client2.Inner(topo.IPv4), 2); err != nil {
			t.Fatal(err)
		}
		other.Kill()
		if err := other.Restart(t.Context()); err != nil {
			t.Fatal(err)
		}
		l.espLog = len(l.esp.Log())
		what := []string{"child", "net"}
		if ike {
			what = []string{"ike", "peer"}
		}
		if err := l.espalier(t.Context(), "rekey", what...); err != nil {
			t.Fatal(err)
		}
		l.event(t, "negotiation failed", "cause", "PEER_LOST_IKE_SA")
		l.event(t, "CHILD SA installed")
		if err := n.Client1.Ping(t.Context(), n.Client2.Inner(topo.IPv4), 2); err != nil {
			t.Errorf("round %d: %v", round, err)
		}
		for _, h := range []*topo.Host{n.GW1, n.GW2} {
			k, err := kernelOf(h)
			if err != nil || len(k.states) != 2 {
				t.Errorf("round %d: expected one tunnel in %s, got %v\n%s", round, h.Name, err, k)
			}
		}
	}
	for _, e := range []*topo.Espalier{l.esp, other} {
		path := filepath.Join(e.StateDir, "crash-detection.secret")
		info, err := os.Stat(path)
		if err != nil || info.Mode() != 0o600 || info.Size() != 32 {
			t.Errorf("expected 32 octets of mode 0600 in %s, got %v, %v", path, info, err)
		}
		if strings.Contains(e.Log(), "PEER_TIMEOUT") || strings.Contains(e.Log(), `"level":"error"`) {
			t.Error("a timeout or an error is in the log")
		}
		if err := e.Stop(); err != nil {
			t.Error(err)
		}
	}
	l.expectNothing(t, n.GW1, "after the stop")
	l.expectNothing(t, n.GW2, "after the stop")
}
