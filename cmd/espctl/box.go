package main

import (
	"bytes"
	"fmt"
	"strings"
	"time"

	"espalier/dataplane/host"
)

// measureTime is how long a cipher is measured: enough for a figure, too short to
// disturb anybody.
const measureTime = 300 * time.Millisecond

// box is the inventory in a result.
type box struct {
	host.Inventory
	Speed *host.Speed `json:"speed,omitempty"` // not there: not asked for, or not to be had
	// NotMeasured says why it is not to be had.
	NotMeasured string `json:"not_measured,omitempty"`
}

// boxOf takes the inventory, and the cipher's speed when that is asked for.
func boxOf(e *env, measure bool) *box {
	b := &box{}
	if measure {
		if s, err := e.pinned.measure(e.ctx, measureTime); err != nil {
			b.NotMeasured = err.Error()
		} else {
			b.Speed = &s
		}
	}
	b.Inventory = e.pinned.inventory(e.ctx) // afterwards: the cipher is chosen by now
	return b
}

func (x *box) write(b *bytes.Buffer) {
	var lacks []string
	for _, f := range x.Kernel.Features {
		if !f.Has {
			lacks = append(lacks, f.Name)
		}
	}
	line(b, 0, "kernel", fmt.Sprintf("%s, %s, lacks: %s", printable(x.Kernel.Release), printable(x.Kernel.Machine), orNone(lacks)))
	line(b, 0, "cpu", fmt.Sprintf("%d × %s: %s", x.CPU.Online, printable(x.CPU.Model), orNone(x.CPU.Flags)))
	cipher := "AES-GCM: the kernel has not chosen yet"
	if len(x.Ciphers) > 0 {
		cipher = "AES-GCM: " + printable(x.Ciphers[0].Driver)
	}
	if x.Speed != nil {
		cipher += fmt.Sprintf(", %.2f Gbit/s on one CPU", x.Speed.BytesPerSecond*8/1e9)
		if x.Speed.By == host.BySA {
			cipher += " by an SA"
		}
	}
	line(b, 0, "cipher", cipher)
	if x.NotMeasured != "" {
		line(b, 0, "", printable(x.NotMeasured))
	}
	for _, n := range x.NICs {
		line(b, 0, "nic", fmt.Sprintf("%s %s, MTU %d, %s, %s, on: %s, off: %s", printable(n.Name), printable(n.Driver), n.MTU,
			number(uint64(n.RXQueues), "receive queue", "receive queues"), number(uint64(n.TXQueues), "send queue", "send queues"), orNone(n.On), orNone(n.Off)))
	}
	random := []string{}
	if x.Entropy.CPU {
		random = append(random, "the processors")
	}
	if x.Entropy.Device != "" {
		random = append(random, printable(x.Entropy.Device))
	}
	line(b, 0, "random", orNone(random))
	var modules []string
	for _, m := range x.Modules {
		modules = append(modules, m.Name+" "+string(m.State))
	}
	line(b, 0, "modules", orNone(modules))
	if len(x.Findings) == 0 {
		line(b, 0, "found", "nothing to say")
	}
	for _, f := range x.Findings {
		fmt.Fprintf(b, "%s (%s): %s\n", f.Severity, f.Topic, printable(f.Cause))
		if f.Fix != "" {
			fmt.Fprintf(b, "  -> %s\n", printable(f.Fix))
		}
	}
}

func orNone(list []string) string {
	if len(list) == 0 {
		return "none"
	}
	return strings.Join(list, ", ")
}
