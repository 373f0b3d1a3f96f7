package host

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// LinkShape is what a network interface is.
type LinkShape struct {
	Name   string
	Device bool // there is one behind it: it may have interrupts and features
	// Queues are those whose packets can be spread over CPUs: a VLAN has none, since its
	// packets stay where the device beneath it has received them.
	Queues, SendQueues int
	IRQs               []int // of the device
}

// LinkStat is what an interface counted since it appeared.
type LinkStat struct {
	LinkShape
	Received, Sent           uint64
	ReceivedBytes, SentBytes uint64
	Missed                   uint64   // packets that the device had no room for
	Shares                   []uint64 // packets by receive queue, where the driver counts them; nil: not
}

// ShapeOf looks at an interface in /sys, which changes rarely.
func ShapeOf(link string) LinkShape { return Local{}.shapeOf(link) }

// LinkStats reads the counters of interfaces; one that has gone is left out.
func LinkStats(links []LinkShape) ([]LinkStat, error) { return Local{}.linkStats(links, queueShares) }

func (l Local) linkStats(links []LinkShape, shares func(link string) (queues []uint64, missed uint64)) ([]LinkStat, error) {
	text, err := l.read("/proc/thread-self/net/dev")
	if err != nil {
		return nil, fmt.Errorf("counters of interfaces: %w", err)
	}
	var out []LinkStat
	for line := range strings.Lines(text) {
		name, counts, is := strings.Cut(line, ":")
		name = strings.TrimSpace(name)
		i := slices.IndexFunc(links, func(s LinkShape) bool { return s.Name == name })
		if !is || i < 0 {
			continue
		}
		v := strings.Fields(counts)
		if len(v) < 10 {
			return nil, fmt.Errorf("counters of interfaces: line %q: expected at least 10 numbers", line)
		}
		n := make([]uint64, 10) // received: bytes, packets, errors, drops, fifo, frame, compressed, multicast; sent: bytes, packets
		for i := range n {
			if n[i], err = strconv.ParseUint(v[i], 10, 64); err != nil {
				return nil, fmt.Errorf("counters of interface %s: expected numbers, got %q", name, v[i])
			}
		}
		s := LinkStat{LinkShape: links[i], ReceivedBytes: n[0], Received: n[1], SentBytes: n[8], Sent: n[9]}
		if s.Device {
			if missed, err := l.read("/sys/class/net/" + name + "/statistics/rx_missed_errors"); err == nil {
				s.Missed, _ = strconv.ParseUint(missed, 10, 64)
			}
			var missed uint64
			s.Shares, missed = shares(name)
			s.Missed = max(s.Missed, missed)
		}
		out = append(out, s)
	}
	return out, nil
}

func (l Local) shapeOf(link string) LinkShape {
	at := "/sys/class/net/" + link
	s := LinkShape{Name: link, Device: l.exists(at + "/device")}
	s.Queues, s.SendQueues = l.queues(at)
	if l.passedOn(at) {
		s.Queues = 0
	}
	if !s.Device {
		return s
	}
	// A virtio device has none of its own: they are those of the PCI device that it is on.
	device, err := filepath.EvalSymlinks(l.path(at + "/device"))
	if err != nil {
		return s
	}
	for _, dir := range []string{device, filepath.Dir(device)} {
		list, err := os.ReadDir(filepath.Join(dir, "msi_irqs"))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		for _, e := range list {
			if n, err := strconv.Atoi(e.Name()); err == nil {
				s.IRQs = append(s.IRQs, n)
			}
		}
		break
	}
	slices.Sort(s.IRQs)
	return s
}

// passedOn tells whether the packets of an interface are another one's first, which the
// kernel passes on without a look at RPS. A bridge's and a tunnel's are received anew.
func (l Local) passedOn(link string) bool {
	text, _ := l.read(link + "/uevent")
	for line := range strings.Lines(text) {
		switch strings.TrimSpace(line) {
		case "DEVTYPE=vlan", "DEVTYPE=bond", "DEVTYPE=macvlan":
			return true
		}
	}
	return false
}

// queues counts an interface's receive and transmit queues.
func (l Local) queues(link string) (receive, send int) {
	list, _ := os.ReadDir(l.path(link + "/queues"))
	for _, q := range list {
		if strings.HasPrefix(q.Name(), "rx-") {
			receive++
		} else if strings.HasPrefix(q.Name(), "tx-") {
			send++
		}
	}
	return receive, send
}

// Interrupts are how many each CPU has served, by interrupt and CPU, of those with
// numbers.
func Interrupts() (map[int]map[int]uint64, error) { return Local{}.interrupts() }

func (l Local) interrupts() (map[int]map[int]uint64, error) {
	text, err := l.read("/proc/interrupts")
	if err != nil {
		return nil, fmt.Errorf("interrupts: %w", err)
	}
	var cpus []int
	out := map[int]map[int]uint64{}
	for line := range strings.Lines(text) {
		fields := strings.Fields(line)
		if len(fields) == 0 {
			continue
		}
		if cpus == nil { // the first line: CPU0 CPU1 ..., those that are online
			for _, f := range fields {
				n, err := strconv.Atoi(strings.TrimPrefix(f, "CPU"))
				if err != nil {
					return nil, fmt.Errorf("interrupts: expected CPUs in the first line, got %q", f)
				}
				cpus = append(cpus, n)
			}
			continue
		}
		irq, err := strconv.Atoi(strings.TrimSuffix(fields[0], ":"))
		if err != nil || len(fields) < 1+len(cpus) {
			continue // NMI, LOC and the like
		}
		counts := make(map[int]uint64, len(cpus))
		for i, cpu := range cpus {
			if counts[cpu], err = strconv.ParseUint(fields[1+i], 10, 64); err != nil {
				return nil, fmt.Errorf("interrupt %d: expected numbers, got %q", irq, fields[1+i])
			}
		}
		out[irq] = counts
	}
	return out, nil
}

// queueShares takes from a driver's own statistics what each receive queue got and
// what the device had no room for; nil and 0 where it has none.
func queueShares(link string) (queues []uint64, missed uint64) {
	stats, err := DriverStats(link)
	if err != nil {
		return nil, 0 // most virtual devices
	}
	return sharesOf(stats)
}

// Drivers name their statistics as they like: rx_queue_0_packets, rx0_packets,
// rx-0.packets, rx_packets_0 and more mean the same.
var oneNumber = regexp.MustCompile(`^\D*(\d+)\D*$`)

func sharesOf(stats []DriverStat) (queues []uint64, missed uint64) {
	const mostQueues = 1024
	for _, s := range stats {
		name := strings.ToLower(s.Name)
		if !strings.Contains(name, "rx") && !strings.Contains(name, "receive") {
			continue
		}
		for _, word := range []string{"no_buf", "nobuf", "missed", "out_of_buffer", "no_desc", "no_dma"} {
			if strings.Contains(name, word) && !oneNumber.MatchString(name) { // all queues together
				missed = max(missed, s.Value)
			}
		}
		m := oneNumber.FindStringSubmatch(name)
		if m == nil || !strings.HasSuffix(strings.TrimRight(name, "0123456789_-.[]"), "packets") || strings.Contains(name, "xdp") {
			continue
		}
		if q, err := strconv.Atoi(m[1]); err == nil && q < mostQueues {
			for len(queues) <= q {
				queues = append(queues, 0)
			}
			queues[q] = s.Value
		}
	}
	return queues, missed
}

// IPStat is what the IP stack of a network namespace counted since it began.
type IPStat struct {
	TooBig                  uint64 // packets that may not be cut and did not fit their way
	Segments, Retransmitted uint64 // TCP of the box's own
}

// IPStats reads /proc/net/snmp and snmp6; no IPv6: none of it.
func IPStats() (IPStat, error) { return Local{}.ipStats() }

func (l Local) ipStats() (s IPStat, err error) {
	text, err := l.read("/proc/thread-self/net/snmp")
	if err != nil {
		return s, fmt.Errorf("counters of IP: %w", err)
	}
	into := map[string]*uint64{"Ip.FragFails": &s.TooBig, "Tcp.OutSegs": &s.Segments, "Tcp.RetransSegs": &s.Retransmitted}
	var names []string
	for line := range strings.Lines(text) { // a line of names, then one of numbers
		fields := strings.Fields(line)
		if len(names) != len(fields) || len(fields) == 0 || names[0] != fields[0] {
			names = fields
			continue
		}
		for i, name := range names {
			if to := into[strings.TrimSuffix(fields[0], ":")+"."+name]; to != nil && i > 0 {
				if *to, err = strconv.ParseUint(fields[i], 10, 64); err != nil {
					return s, fmt.Errorf("counters of IP: %s: expected a number, got %q", name, fields[i])
				}
			}
		}
	}
	text, _ = l.read("/proc/thread-self/net/snmp6")
	for line := range strings.Lines(text) {
		if f := strings.Fields(line); len(f) == 2 && f[0] == "Ip6FragFails" {
			n, _ := strconv.ParseUint(f[1], 10, 64)
			s.TooBig += n
		}
	}
	return s, nil
}
