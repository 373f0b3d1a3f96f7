package host

import (
	"errors"
	"io/fs"
	"net"
	"os"
	"slices"
	"testing"
)

func TestLinkStats(t *testing.T) {
	const pci = "/sys/devices/pci0000:00/0000:00:03.0"
	l := fakeRoot(t, map[string]string{
		"/proc/thread-self/net/dev": "Inter-|   Receive |  Transmit\n face |bytes packets\n    lo: 1 1 0 0 0 0 0 0 1 1 0 0 0 0 0 0\n" +
			"  eth0: 1000 10 0 0 0 0 0 0 3000 30 0 0 0 0 0 0\n  veth1: 5 1 0 0 0 0 0 0 7 2 0 0 0 0 0 0\n",
		pci + "/virtio0/features": "", pci + "/msi_irqs/25": "msix", pci + "/msi_irqs/24": "msix",
		"/sys/class/net/eth0/statistics/rx_missed_errors": "4", "/sys/class/net/veth1/statistics/rx_missed_errors": "0",
		"/sys/class/net/eth0/queues/rx-0/rps_cpus": "0", "/sys/class/net/eth0/queues/rx-1/rps_cpus": "0", "/sys/class/net/eth0/queues/tx-0/xps_cpus": "0",
		"/sys/class/net/veth1/queues/rx-0/rps_cpus":   "0",
		"/sys/class/net/eth0.10/queues/rx-0/rps_cpus": "0", "/sys/class/net/eth0.10/uevent": "DEVTYPE=vlan\nINTERFACE=eth0.10\nIFINDEX=4\n",
		"/sys/class/net/br0/queues/rx-0/rps_cpus": "0", "/sys/class/net/br0/uevent": "DEVTYPE=bridge\nINTERFACE=br0\nIFINDEX=5\n",
	})
	must(t, os.Symlink(l.path(pci+"/virtio0"), l.path("/sys/class/net/eth0/device")))
	got, err := l.linkStats([]LinkShape{l.shapeOf("eth0"), l.shapeOf("veth1"), l.shapeOf("gone")}, func(link string) ([]uint64, uint64) {
		if link != "eth0" {
			t.Errorf("the driver of %s was asked", link)
		}
		return []uint64{7, 3}, 6
	})
	if err != nil || len(got) != 2 {
		t.Fatalf("%+v, %v", got, err)
	}
	e, v := got[0], got[1]
	if !e.Device || e.Received != 10 || e.ReceivedBytes != 1000 || e.Sent != 30 || e.SentBytes != 3000 || e.Missed != 6 || e.Queues != 2 || e.SendQueues != 1 ||
		!slices.Equal(e.IRQs, []int{24, 25}) || !slices.Equal(e.Shares, []uint64{7, 3}) {
		t.Errorf("eth0: %+v", e)
	}
	if v.Device || v.Received != 1 || v.IRQs != nil || v.Shares != nil || v.Queues != 1 {
		t.Errorf("veth1: %+v", v)
	}
	if vlan, bridge := l.shapeOf("eth0.10"), l.shapeOf("br0"); vlan.Queues != 0 || bridge.Queues != 1 {
		t.Errorf("%+v, %+v: expected no queue to spread of the VLAN, and the bridge's", vlan, bridge)
	}
	for _, text := range []string{"eth0: 1 2 3\n", "eth0: a b c d e f g h i j\n"} {
		l := fakeRoot(t, map[string]string{"/proc/thread-self/net/dev": text})
		if got, err := l.linkStats([]LinkShape{{Name: "eth0"}}, queueShares); err == nil {
			t.Errorf("%q: %+v, expected an error", text, got)
		}
	}
}

// TestQueueShares: drivers say the same in many words.
func TestQueueShares(t *testing.T) {
	for _, names := range [][]string{
		{"rx_queue_0_packets", "rx_queue_1_packets", "rx_queue_0_drops", "tx_queue_0_packets", "rx_queue_1_xdp_packets"},
		{"rx0_packets", "rx1_packets", "rx0_bytes", "tx0_packets", "rx1_xdp_drop"},
		{"rx-0.packets", "rx-1.packets", "rx-0.dropped", "tx-0.packets", "rx-1.bytes"},
		{"rx_packets_0", "rx_packets_1", "rx_packets", "tx_packets_0", "rx_bytes_0"},
	} {
		var stats []DriverStat
		for i, n := range names {
			stats = append(stats, DriverStat{n, uint64(10 + i)})
		}
		stats = append(stats, DriverStat{"rx_no_buffer_count", 3}, DriverStat{"tx_dropped", 9}, DriverStat{"rx_out_of_buffer", 5})
		if queues, missed := sharesOf(stats); !slices.Equal(queues, []uint64{10, 11}) || missed != 5 {
			t.Errorf("%v: %v, missed %d; expected [10 11], 5", names, queues, missed)
		}
	}
}

func TestInterrupts(t *testing.T) {
	l := fakeRoot(t, map[string]string{"/proc/interrupts": "           CPU0       CPU2\n  1:          9          0   IO-APIC  1-edge\n" +
		" 24:       1000         50   PCI-MSI 1  virtio0-input.0\nNMI:          0          0   Non-maskable interrupts\nERR:          0\n"})
	got, err := l.interrupts()
	if err != nil || len(got) != 2 || got[24][0] != 1000 || got[24][2] != 50 {
		t.Errorf("%v, %v", got, err)
	}
	for _, text := range []string{" 1: 3 4\n", "CPU0\n24: x PCI-MSI\n"} {
		if got, err := fakeRoot(t, map[string]string{"/proc/interrupts": text}).interrupts(); err == nil {
			t.Errorf("%q: %v, expected an error", text, got)
		}
	}
	if _, err := Interrupts(); err != nil {
		t.Errorf("of this machine: %v", err)
	}
}

func TestIPStats(t *testing.T) {
	l := fakeRoot(t, map[string]string{
		"/proc/thread-self/net/snmp":  "Ip: Forwarding FragOKs FragFails\nIp: 1 2 30\nTcp: RtoMin RetransSegs OutSegs\nTcp: 200 7 900\n",
		"/proc/thread-self/net/snmp6": "Ip6InReceives 	1\nIp6FragFails  	4\n",
	})
	if got, err := l.ipStats(); err != nil || got != (IPStat{TooBig: 34, Segments: 900, Retransmitted: 7}) {
		t.Errorf("%+v, %v", got, err)
	}
	before, err := IPStats()
	must(t, err)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	defer ln.Close()
	c, err := net.Dial("tcp", ln.Addr().String())
	must(t, err)
	defer c.Close()
	if got, err := IPStats(); err != nil || got.Segments <= before.Segments {
		t.Errorf("of this machine: %+v, %v, expected more than the %d segments before a connection", got, err, before.Segments)
	}
}

// TestDriverStats asks the kernel; a veth counts by queue.
func TestDriverStats(t *testing.T) {
	inOwnNamespace(t, func() {
		must(t, addVeth("vt0", "vt1"))
		stats, err := DriverStats("vt0")
		if err != nil || len(stats) == 0 {
			t.Errorf("veth: %v, %v, expected counters", stats, err)
		}
		if _, err := DriverStats("no-such-link"); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%v, expected fs.ErrNotExist", err)
		}
		got, err := LinkStats([]LinkShape{ShapeOf("vt0"), ShapeOf("lo")})
		if err != nil || len(got) != 2 || slices.ContainsFunc(got, func(s LinkStat) bool { return s.Device || s.Queues == 0 }) {
			t.Errorf("%+v, %v, expected two links without a device", got, err)
		}
		// What nobody may change is no setting.
		if v, err := (Local{}).Setting(Feature("vt0", "esp-hw-offload")); err == nil && v == "on" {
			t.Errorf("a veth that encrypts: %q, %v", v, err)
		}
		if _, err := (Local{}).Setting(Feature("lo", "loopback")); !errors.Is(err, fs.ErrPermission) {
			t.Errorf("%v, expected fs.ErrPermission", err)
		}
	})
}
