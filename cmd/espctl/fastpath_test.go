package main

import (
	"context"
	"errors"
	"io/fs"
	"net/netip"
	"os"
	"slices"
	"time"

	"espalier/dataplane"
	"espalier/dataplane/flow"
	"espalier/dataplane/host"
)

// fake is a made-up fast path, chosen by the folder of pins: "full", "empty",
// "new" (a daemon tried and could not), "loading", "none" or "forbidden".
type fake struct {
	guard flow.GuardMode
	reads int

	immeasurable bool // where nothing is pinned that a daemon "tried and could not"
}

var fakeNow = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// fakectl is espctl over the fake.
func fakectl() {
	now := fakeNow
	os.Exit(run(os.Args[1:], os.Stdout, os.Stderr, &fake{guard: flow.GuardLog}, func() time.Time {
		now = now.Add(time.Second) // each look at the clock is a second later than the last
		return now
	}))
}

func (f *fake) open(o flow.ReaderOptions) (fastPath, error) {
	switch o.Pins {
	case "full":
		return f, nil
	case "empty":
		return emptyPath{f}, nil
	case "forbidden":
		return nil, &fs.PathError{Op: "open", Path: o.Pins, Err: fs.ErrPermission}
	}
	return nil, flow.ErrNotLoaded
}

func (f *fake) daemon(o flow.ReaderOptions) (flow.Daemon, error) {
	switch o.Pins {
	case "loading":
		return flow.Daemon{PID: 8, Loading: true}, nil
	case "new":
		f.immeasurable = true
		return flow.Daemon{PID: 7, Parts: []flow.Part{{Program: "esp_in", Interface: "eth0", IfIndex: 2, Reason: "operation not supported\x1b"}}}, nil
	}
	return flow.Daemon{}, fs.ErrNotExist
}

func (f *fake) inventory(context.Context) host.Inventory {
	return host.Inventory{
		Kernel:  host.Kernel{Release: "6.1.0-42-amd64", Machine: "x86_64", Features: []host.Feat{{Name: "xfrm statistics", Has: true}, {Name: "tcx (6.6)"}}},
		CPU:     host.CPU{Model: "Some Processor", Online: 4, Flags: []string{"aes", "vaes"}},
		Ciphers: []host.Cipher{{Name: "rfc4106(gcm(aes))", Driver: "rfc4106-gcm-aesni", Module: "aesni_intel", Priority: 400}},
		NICs:    []host.NIC{{Name: "eth0", Driver: "ixgbe", MTU: 1500, RXQueues: 1, TXQueues: 4, On: []string{"rx-gro"}, Off: []string{"esp-hw-offload"}}},
		Entropy: host.Entropy{CPU: true},
		Modules: []host.Module{{Name: "esp4", State: host.ModuleLoaded}, {Name: "xfrm_interface", State: host.ModuleLoadable}},
		Findings: []host.Finding{
			{Severity: host.Problem, Topic: "service", Cause: "charon (process 77) has UDP port 500 and 4500 open", Fix: "stop it"},
			{Severity: host.Note, Topic: "module", Cause: "kernel module x\x1b is not loaded"},
		},
	}
}

func (f *fake) measure(context.Context, time.Duration) (host.Speed, error) {
	if f.immeasurable {
		return host.Speed{}, errors.New("no AF_ALG")
	}
	return host.Speed{Cipher: "rfc4106(gcm(aes))", Driver: "rfc4106-gcm-aesni", By: host.ByAlg, Piece: 16384, BytesPerSecond: 2.5e9}, nil
}

func (f *fake) SPIs() ([]flow.SPI, error) {
	f.reads++
	moved := uint64(f.reads - 1)
	at := func(dir dataplane.Direction, dst string, spi uint32) flow.Key {
		return flow.Key{Dir: dir, Dst: netip.MustParseAddr(dst), SPI: spi}
	}
	list := []flow.SPI{
		{
			Key: at(dataplane.In, "192.0.2.1", 0xc0ffee01), Slot: 3, Generation: 1, CPU: 1, Own: true, ReqID: 5, IfID: 0x2a,
			Counters: flow.Counters{Packets: 1000 + 500*moved, Bytes: 1_400_000 + 125_000*moved, LastUsed: fakeNow.Add(-90 * time.Second)},
			Drops:    []flow.Drop{{Reason: 1, Packets: 3}, {Reason: 2, Packets: 1}},
		},
		{Key: at(dataplane.In, "2001:db8::1", 0x1001), Slot: 4, Generation: 3, CPU: -1, Own: true, Reserved: true},
		{Key: at(dataplane.Out, "198.51.100.7", 0xc0ffee01), Slot: 0, Generation: 1, CPU: -1, ReqID: 9, Counters: flow.Counters{Packets: 1, Bytes: 120, LastUsed: fakeNow}},
	}
	if f.reads > 1 { // the second one has gone, and another came
		list[1].Key.SPI, list[1].Generation = 0x1002, 5
	}
	return list, nil
}

func (f *fake) Totals() (out []flow.TotalCount, err error) {
	for i, n := range []uint64{4, 9, 12, 0, 0, 77, 0, 0, 2, 0, 5, 0, 0, 0, 1} {
		out = append(out, flow.TotalCount{Total: flow.Total(i), Count: n})
	}
	return out, nil
}

func (f *fake) KernelStats() ([]flow.Stat, error) {
	return []flow.Stat{
		{Name: "XfrmInStateSeqError", Reason: flow.Reason(1), Packets: 3}, // of an SA
		{Name: "XfrmOutBundleGenError", Reason: flow.Reason(15)}, {Name: "XfrmOutNoStates", Reason: flow.Reason(13), Packets: 6},
	}, nil
}

func (f *fake) Guard() (flow.Guard, error) {
	totals, _ := f.Totals() // never fails
	return flow.Guard{
		Mode: f.guard, InStep: true, PeersOnly: true, Peers: []netip.Prefix{netip.MustParsePrefix("198.51.100.7/32"), netip.MustParsePrefix("2001:db8:7::/48")},
		InitRate: 100, InitBurst: 200, Prefix4: 32, Prefix6: 64, IKESPIs: 2,
		Totals: slices.DeleteFunc(totals, func(t flow.TotalCount) bool { return t.Total < 10 }),
	}, nil
}

func (f *fake) SetGuard(m flow.GuardMode) error { f.guard = m; return nil }

func (f *fake) State() (flow.State, error) {
	return flow.State{
		Layout: 1, Capacity: 65536, Used: 3, CPUs: 4, Steering: flow.SteerHash, SteerCPUs: []int{0, 1}, MSS: true, MemoryBytes: 12 << 20,
		Daemon: flow.Daemon{PID: 4711, Parts: []flow.Part{
			{Program: "esp_in", Interface: "eth0", IfIndex: 2, How: "generic", Reason: "native: operation not supported"},
			{Program: "esp_out", Interface: "eth0", IfIndex: 2, Direction: "egress", How: "tcx"},
			{Program: "drops", Reason: "fentry: no BTF of the kernel"},
		}},
	}, nil
}

func (f *fake) Samples() (samples, error) {
	return &fakeSamples{list: []flow.Sample{
		{Since: 1500 * time.Millisecond, Key: flow.Key{Dir: dataplane.In, Dst: netip.MustParseAddr("192.0.2.1"), SPI: 0xc0ffee01}, Seq: 17, Reason: 1, IfIndex: 2, Length: 140, Src: netip.MustParseAddr("198.51.100.7")},
		{Since: 2 * time.Second, Key: flow.Key{Dir: dataplane.In, Dst: netip.MustParseAddr("192.0.2.1"), SPI: 0xbad}, Guard: true, Total: 10, IfIndex: 2, Length: 90},
	}}, nil
}

func (f *fake) Close() error { return nil }

// fakeSamples ends as if interrupted.
type fakeSamples struct{ list []flow.Sample }

func (s *fakeSamples) Next() (flow.Sample, error) {
	if len(s.list) == 0 {
		return flow.Sample{}, os.ErrClosed
	}
	next := s.list[0]
	s.list = s.list[1:]
	return next, nil
}

func (s *fakeSamples) Close() error { return nil }

// emptyPath has no SA, and lost nothing.
type emptyPath struct{ *fake }

func (emptyPath) SPIs() ([]flow.SPI, error)          { return nil, nil }
func (emptyPath) Totals() ([]flow.TotalCount, error) { return nil, nil }
func (emptyPath) KernelStats() ([]flow.Stat, error)  { return nil, nil }
func (emptyPath) Guard() (flow.Guard, error) {
	return flow.Guard{Mode: flow.GuardOn, Prefix4: 32, Prefix6: 64}, nil
}
func (emptyPath) SetGuard(flow.GuardMode) error { return errors.New("read-only") }
func (emptyPath) State() (flow.State, error)    { return flow.State{Layout: 1, Capacity: 64}, nil }
func (emptyPath) Samples() (samples, error)     { return &fakeSamples{}, nil }
