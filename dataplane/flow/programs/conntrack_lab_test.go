//go:build lab

package programs

import (
	"os"
	"testing"

	"espalier/bpf"
)

// IKE and ESP in UDP for a host behind us that shares our address pass a guard that is on: conntrack translates their connection. An
// entry of a connection that is not translated means nothing.
func TestGuardAsksConntrack(t *testing.T) {
	if _, err := os.Stat("/proc/sys/net/core/bpf_jit_enable"); err != nil {
		t.Skip("this kernel interprets programs (User-Mode Linux), and they cannot ask conntrack")
	}
	sh(t, `modprobe -q nf_conntrack_netlink nf_nat 2>/dev/null || true
		ip netns add near; ip -n near link set lo up
		for port in 500 4500; do
			ip netns exec near conntrack -I -p udp -s 10.9.0.2 -d 203.0.113.9 --sport $port --dport $port --src-nat 192.0.2.1 -t 600
			ip netns exec near conntrack -I -p udp -s 192.0.2.1 -d 203.0.113.10 --sport $port --dport $port -t 600
		done`)
	defer sh(t, "ip netns del near")
	b := inboundBox(t)
	c := b.table.Programs()
	c.Guard, c.TailKnown = uint32(bpf.GuardOn), 1
	ikeFrom := func(src string) packet { return message(src, ike(peerIKE, 77, 35, 8)) }
	espFrom := func(src string) packet {
		l := esp(0xdead0000, 1)
		return packet{eth(ethIP4), ip4(src, us4, 17, udp(4500, 4500, l), l), udp(4500, 4500, l), l}
	}
	const behind, known, unknown = "203.0.113.9", "203.0.113.10", "203.0.113.11"
	dropped := []bpf.Total{bpf.TotalIKE, bpf.TotalGuardIKESPI}
	nobody := []bpf.Total{bpf.TotalESPUnknown, bpf.TotalGuardUnknownSPI}
	inNamespace(t, "near", func() {
		for _, r := range []struct {
			name   string
			packet packet
			pass   bool
			want   []bpf.Total
		}{
			{"IKE of a host behind", ikeFrom(behind), true, []bpf.Total{bpf.TotalIKE}},
			{"IKE of a connection of ours", ikeFrom(known), false, dropped},
			{"IKE that conntrack does not know", ikeFrom(unknown), false, dropped},
			{"ESP in UDP of a host behind", espFrom(behind), true, []bpf.Total{bpf.TotalESPBehind}},
			{"ESP in UDP of a connection of ours", espFrom(known), false, nobody},
			{"ESP in UDP that conntrack does not know", espFrom(unknown), false, nobody},
		} {
			run := testCase{name: r.name, program: "esp_in", packet: r.packet.bytes(), action: xdpDrop, counts: counts{totals: r.want}}
			if r.pass {
				run.action = xdpPass
			}
			b.run(t, run)
			run.program, run.packet, run.action = "esp_in_raw", run.packet[14:], tcShot
			if r.pass {
				run.action = tcNext
			}
			b.run(t, run)
			if t.Failed() {
				t.Fatalf("the first that failed: %s", r.name)
			}
		}
	})
}
