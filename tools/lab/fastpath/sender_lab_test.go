//go:build lab

package fastpath

import (
	"fmt"
	"testing"

	"espalier/dataplane"
	"espalier/tools/bench/esp"
	"espalier/tools/lab/topo"
)

// TestSender: the kernel decrypts every packet that tools/bench/esp made, with the replay check on, whichever way it was sent, and counts
// no error.
func TestSender(t *testing.T) {
	for _, outer := range []topo.Family{topo.IPv4, topo.IPv6} {
		t.Run(outer.String(), func(t *testing.T) {
			n := topo.New(t, topo.Config{})
			x := dataPlane(t, n.GW1)
			encapSockets(t, n.GW1)
			sink(t, n, true)
			passXDP(t, n.GW1, "out0")
			must(t, x.Apply(allowInbound(n.GW1, n.GW2, outer)))
			next := 0
			for _, kind := range []cipherKind{gcm, gcmESN, gcmUDP, cbc} {
				for _, via := range []string{"live frames", "packet socket"} {
					t.Run(kind.name+" by "+via, func(t *testing.T) {
						var streams []esp.Stream
						for i := range 4 {
							sa := inbound(n, kind, outer, spiOf(next), 64)
							next++
							must(t, x.Apply([]dataplane.Op{dataplane.InstallSA{SA: sa}}))
							inner := [][]byte{innerPacket(t, n, topo.IPv4, uint16(i), 100+i), innerPacket(t, n, topo.IPv6, uint16(i), 1300+i)}
							streams = append(streams, esp.Stream{SA: sa, Inner: inner})
						}
						g := need[*esp.Generator](t)(esp.NewGenerator(fromWire(t, n), esp.Mix{Skew: 1, Seed: 7}, streams...))
						var s esp.Sender
						if via == "live frames" {
							s = liveFrames(t, n, 2048)
						} else {
							s = packetSocket(t, n, 2048)
						}
						before := datagrams(t, n)
						const count = 2000
						must(t, s.Ring().Fill(g, count))
						report := send(t, n, s, esp.Pace{Count: count, Rate: 10_000, CPU: 0})
						t.Log(report)
						if report.Sent != count {
							t.Fatalf("expected %d frames to be sent, got %s", count, report)
						}
						until(t, "packets at the client", func() (bool, string) {
							got := datagrams(t, n) - before
							return got == count, fmt.Sprintf("expected %d, got %d; %v", count, got, xfrmErrors(t, n.GW1))
						})
						for i, made := range g.Counts() {
							if got := packets(t, x, streams[i].SA.SAKey); got != made || made == 0 {
								t.Errorf("%s: expected the SA to count %d, got %d", streams[i].SA.SAKey, made, got)
							}
						}
						if errs := xfrmErrors(t, n.GW1); len(errs) != 0 {
							t.Errorf("expected no errors, got %v", errs)
						}
					})
				}
			}
		})
	}
}
