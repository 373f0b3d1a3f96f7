package programs

import (
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"espalier/bpf"
)

// TestMoving: an SA goes over to another CPU with exactly the packet that user space said, by what was counted before it; else its packets
// go where they went. While it sheds they are dropped, but not for ever.
func TestMoving(t *testing.T) {
	here(t)
	b := inboundBox(t)
	packet := packet{eth(ethIP4), ip4(peer4, us4, 50, esp(0x1000, 1), data(20)), esp(0x1000, 1), data(20)}.bytes()
	slot := b.slots["4"]
	sa, _ := b.table.Slot(slot)
	g := sa.Generation
	send := func(what string, action uint32, totals ...bpf.Total) {
		t.Helper()
		t.Run(what, func(t *testing.T) {
			b.run(t, testCase{program: "esp_in", packet: packet, action: action, counts: counts{sa: "4", bytes: 48, totals: totals}})
		})
	}
	try := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	place := func(from, to uint32) {
		t.Helper()
		p, err := b.table.Place(slot, g)
		if err != nil || p.From != from || p.To != to {
			t.Errorf("place %+v, error %v; expected from %#x to %#x", p, err, from, to)
		}
	}
	send("before", xdpPass)
	try(b.table.Depart(slot, g, 1))
	send("nothing seen", xdpPass)
	try(b.table.Seen(slot, g, 0))
	send("one that was not seen is under way", xdpPass)
	place(bpf.NoCPU, 1)
	try(b.table.Seen(slot, g, 2))
	try(b.table.Unsee(slot, g))
	send("seen, and taken back", xdpPass)
	try(b.table.Seen(slot, g, 3))
	send("the next one", xdpRedirect, bpf.TotalRedirected)
	place(1, 1)
	send("all that follow", xdpRedirect, bpf.TotalRedirected)
	try(b.table.Arrive(slot, g, true))
	send("arrived", xdpRedirect, bpf.TotalRedirected)

	var now unix.Timespec
	try(unix.ClockGettime(unix.CLOCK_MONOTONIC, &now))
	try(b.table.Depart(slot, g, bpf.NoCPU))
	send("on its way back", xdpRedirect, bpf.TotalRedirected)
	try(b.table.Shed(slot, g, time.Duration(now.Nano())+time.Hour))
	send("shed", xdpDrop, bpf.TotalShed)
	try(b.table.Shed(slot, g, time.Duration(now.Nano())))
	send("shed for long enough", xdpPass)
	try(b.table.Arrive(slot, g, false))
	send("arrived at home", xdpPass)
}
