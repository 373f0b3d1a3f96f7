package tune

import (
	"errors"
	"net/netip"
	"reflect"
	"testing"
	"time"

	"espalier/dataplane"
	"espalier/dataplane/flow"
	"espalier/dataplane/host"
)

// stillNetwork has nothing that counts.
func stillNetwork() *network {
	none := errors.New("not here")
	return &network{
		links: func() ([]flow.Link, error) { return nil, nil }, shape: func(link string) host.LinkShape { return host.LinkShape{Name: link} }, stats: func([]host.LinkShape) ([]host.LinkStat, error) { return nil, none },
		irqs: func() (map[int]map[int]uint64, error) { return nil, none }, ip: func() (host.IPStat, error) { return host.IPStat{}, none },
		xfrm: func() ([]flow.Stat, error) { return nil, none }, runs: func(string) bool { return false },
	}
}

// TestNetwork: what is observed is what grew; SAs are listed only when some lost
// packets, and not each round.
func TestNetwork(t *testing.T) {
	n := stillNetwork()
	eth := host.LinkStat{LinkShape: host.LinkShape{Name: "eth0", Device: true, Queues: 2, SendQueues: 2, IRQs: []int{24, 25, 26}}, Shares: []uint64{100, 100}}
	lan := host.LinkStat{LinkShape: host.LinkShape{Name: "lan0", Queues: 1}}
	irqs := map[int]map[int]uint64{24: {0: 10, 1: 10}, 25: {0: 5, 1: 0}, 26: {0: 1, 1: 1}}
	ip := host.IPStat{TooBig: 10, Segments: 1000, Retransmitted: 5}
	seqErrors, lists := uint64(3), 0
	key := flow.Key{Dir: dataplane.In, Dst: netip.MustParseAddr("192.0.2.1"), SPI: 100}
	loss := flow.Loss{Key: key, Window: 32, Late: 50}
	n.links = func() ([]flow.Link, error) {
		return []flow.Link{{Name: "eth0"}, {Name: "lan0", Inside: true}, {Name: "gone"}}, nil
	}
	n.stats = func([]host.LinkShape) ([]host.LinkStat, error) {
		e := eth
		e.Shares = append([]uint64(nil), eth.Shares...)
		return []host.LinkStat{e, lan}, nil
	}
	n.irqs = func() (map[int]map[int]uint64, error) {
		out := map[int]map[int]uint64{}
		for k, v := range irqs {
			out[k] = map[int]uint64{0: v[0], 1: v[1]}
		}
		return out, nil
	}
	n.ip = func() (host.IPStat, error) { return ip, nil }
	n.xfrm = func() ([]flow.Stat, error) {
		return []flow.Stat{{Name: "XfrmInStateSeqError", Packets: seqErrors}, {Name: "XfrmOutStateModeError", Packets: ip.TooBig / 10}}, nil
	}
	other := loss // not in the fast path's list
	other.Key.SPI = 102
	n.losses = func() ([]flow.Loss, error) { lists++; return []flow.Loss{loss, other}, nil }
	n.runs = func(p string) bool { return p == "irqbalance" }
	now := time.Unix(1000, 0)
	observe := func(passed time.Duration) Observation {
		now = now.Add(passed)
		o := Observation{Interval: passed, SAs: []SA{{SPI: 100}, {SPI: 101}}}
		n.observe(&o, now)
		return o
	}
	if o := observe(0); len(o.Links) > 0 || o.System.TooBig > 0 || lists > 0 {
		t.Errorf("the first look: %+v", o)
	}
	eth.Received, eth.ReceivedBytes, eth.Sent, eth.Missed, eth.Shares = 300, 3000, 20, 2, []uint64{300, 200}
	irqs[24][1], irqs[25][0] = 40, 6
	ip = host.IPStat{TooBig: 40, Segments: 1500, Retransmitted: 15}
	seqErrors = 13
	o := observe(time.Second)
	want := []Link{{Name: "eth0", Device: true, Queues: 2, SendQueues: 2, Received: 300, ReceivedBytes: 3000, Sent: 20, Missed: 2, Shares: []uint64{200, 100},
		IRQs: []IRQ{{24, 1, 30}, {25, 0, 1}}}, {Name: "lan0", Inside: true, Queues: 1}}
	if !reflect.DeepEqual(o.Links, want) {
		t.Errorf("links %+v\nwant  %+v", o.Links, want)
	}
	if s := o.System; s.TooBig != 33 || s.Segments != 500 || s.Retransmitted != 10 || s.XFRM["XfrmInStateSeqError"] != 10 {
		t.Errorf("system %+v", s)
	}
	if !n.balance || lists != 1 || o.SAs[0].Late != 50 || o.SAs[0].Window != 32 || o.SAs[1].Window != 0 || len(o.Losing) != 1 || o.Losing[0].SPI != 102 || o.Losing[0].Late != 50 {
		t.Errorf("irqbalance %v, listed %d times, SAs %+v", n.balance, lists, o.SAs)
	}
	// A device that came anew counts from 0; a list is too dear for each round.
	eth.Received, seqErrors, loss.Late = 1, 20, 57
	if o = observe(time.Second); len(o.Links) != 1 || lists != 1 || o.SAs[0].Late != 0 {
		t.Errorf("listed %d times, %+v", lists, o)
	}
	if o = observe(lossesEvery); lists != 2 || o.SAs[0].Late != 7 || len(o.Losing) != 0 {
		t.Errorf("listed %d times, SAs %+v; want the 7 since", lists, o.SAs)
	}
	if observe(2 * lossesEvery); lists != 2 {
		t.Errorf("listed %d times, though nothing was lost", lists)
	}
}

// TestLinkSettings: only what the box has is read, and not each round; what was set is
// read anew, what could not be is told once.
func TestLinkSettings(t *testing.T) {
	s := newSettings()
	s.now["rps/lan0/0"], s.now["irq/24"], s.now["feature/eth0/rx-gro"] = "", "0-1", "on"
	s.missing = true
	reads := 0
	s.read = func(string) { reads++ }
	o := &Observation{Links: []Link{{Name: "eth0", Device: true, Queues: 1, SendQueues: 1, IRQs: []IRQ{{Number: 24}}}, {Name: "lan0", Inside: true, Queues: 1},
		{Name: "lan1", Inside: true, Steered: true, Queues: 1}}}
	var l linkSettings
	now := time.Unix(1000, 0)
	got := map[Setting]string{}
	l.read(s, now, o, got)
	want := map[Setting]string{"rps/lan0/0": "", "irq/24": "0-1", "feature/eth0/rx-gro": "on"}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("%v; want %v", got, want)
	}
	before := reads
	if l.read(s, now.Add(time.Second), o, got); reads != before {
		t.Error("read again after a second")
	}
	s.now["rps/lan9/0"] = ""
	with := *o
	with.Links = append([]Link{{Name: "lan9", Inside: true, Queues: 1}}, o.Links...)
	l.read(s, now.Add(time.Second), &with, got)
	if _, there := got["rps/lan9/0"]; !there {
		t.Error("an interface that has just come was not looked at")
	}
	if err := l.set(s, Set{Setting: "irq/24", From: "0-1", To: "1"}); err != nil {
		t.Error(err)
	}
	if l.read(s, now.Add(2*time.Second), o, got); got["irq/24"] != "1" {
		t.Errorf("%v after it was set", got)
	}
	if err := l.set(s, Set{Setting: "irq/24", To: ""}); err == nil || len(l.refused) != 1 {
		t.Errorf("%v, refused %v", err, l.refused)
	}
}
