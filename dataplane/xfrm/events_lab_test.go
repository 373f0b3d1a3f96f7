//go:build lab

package xfrm

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"net"
	"net/netip"

	"github.com/rs/zerolog"

	"espalier/dataplane"
	"espalier/dataplane/host"
)

func containsAll(s string, parts ...string) bool {
	for _, p := range parts {
		if !strings.Contains(s, p) {
			return false
		}
	}
	return true
}

func (s *side) xfrmStat() string {
	s.enter()
	b, _ := os.ReadFile("/proc/thread-self/net/xfrm_stat")
	var out []string
	for _, l := range strings.Split(string(b), "\n") {
		if f := strings.Fields(l); len(f) == 2 && f[1] != "0" {
			out = append(out, strings.Join(f, " "))
		}
	}
	return s.outer4.String() + ": " + strings.Join(out, ", ") + "\n"
}

func (s *side) counts() (sas, policies int, err error) {
	snap, err := s.x.List()
	return len(snap.SAs), len(snap.Policies), err
}

func (s *side) sendTo(to netip.AddrPort) error {
	s.enter()
	c, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(to))
	if err != nil {
		return err
	}
	defer c.Close()
	_, err = c.Write(magic)
	return err
}

// down takes the tunnel out again.
func (w *tunnel) down(t *testing.T, a, b *side) {
	t.Helper()
	for s, peer := range map[*side]*side{a: b, b: a} {
		ops := []dataplane.Op{dataplane.DeleteSA{Key: w.ab.SAKey}, dataplane.DeleteSA{Key: w.ba.SAKey}}
		for _, op := range w.policies(s, peer) {
			ops = append(ops, dataplane.DeletePolicy{Key: op.(dataplane.InstallPolicy).Policy.PolicyKey, Owner: 1})
		}
		must(t, s.x.Apply(ops))
		if sas, policies, err := s.counts(); err != nil || sas+policies != 0 {
			t.Errorf("%d SAs, %d policies left, %v", sas, policies, err)
		}
	}
}

// TestStopLeavesNothing: what was installed and deleted is gone from the kernel
// and from the journal.
func TestStopLeavesNothing(t *testing.T) {
	a, b := pair(t)
	w := tunnel{mode: dataplane.Tunnel}
	w.up(t, a, b)
	w.down(t, a, b)
	if live, err := a.x.journal.live(); err != nil || len(live) != 0 {
		t.Errorf("%d records live, %v: expected none", len(live), err)
	}
}

func TestExpireByPackets(t *testing.T) {
	a, b := pair(t)
	w := tunnel{mode: dataplane.Tunnel, change: func(sa *dataplane.SA) {
		if sa.Dir == dataplane.Out {
			sa.Limits = dataplane.Limits{SoftPackets: 2, HardPackets: 4}
		}
	}}
	w.up(t, a, b)
	w.send(t, a, b, 40) // ICMP errors that come back end some of the calls
	e := event(t, a.x, func(e dataplane.Expire) bool { return true })
	if e.Key != w.ab.SAKey || e.Hard || e.ReqID != reqID {
		t.Errorf("%+v, expected the soft limit of %s", e, w.ab.SAKey)
	}
	e = event(t, a.x, func(e dataplane.Expire) bool { return true })
	if e.Key != w.ab.SAKey || !e.Hard {
		t.Errorf("%+v, expected the hard limit of %s", e, w.ab.SAKey)
	}
	if _, err := a.x.QuerySA(w.ab.SAKey); !errors.Is(err, dataplane.ErrNotFound) {
		t.Errorf("after the hard limit: %v, expected ErrNotFound", err)
	}
	must(t, a.x.Apply([]dataplane.Op{dataplane.InstallSA{SA: w.ab}})) // its place is free again
}

func TestExpireByTime(t *testing.T) {
	a, b := pair(t)
	w := tunnel{mode: dataplane.Tunnel}
	sa := w.sa(a, b, 0x1000, dataplane.Out)
	sa.Limits = dataplane.Limits{SoftTime: time.Second, HardTime: 2 * time.Second}
	must(t, a.x.Apply([]dataplane.Op{dataplane.InstallSA{SA: sa}}))
	for _, hard := range []bool{false, true} {
		if e := event(t, a.x, func(dataplane.Expire) bool { return true }); e.Key != sa.SAKey || e.Hard != hard {
			t.Errorf("%+v, expected hard %v", e, hard)
		}
	}
}

func TestAcquire(t *testing.T) {
	for name, w := range map[string]tunnel{
		"Tunnel4in4": {mode: dataplane.Tunnel}, "Tunnel6in4": {mode: dataplane.Tunnel, inner6: true},
		"Tunnel4in6": {mode: dataplane.Tunnel, outer6: true}, "Transport6": {mode: dataplane.Transport, outer6: true},
	} {
		t.Run(name, func(t *testing.T) {
			a, b := pair(t)
			ops := w.policies(a, b)
			must(t, a.x.Apply(ops))
			w.send(t, a, b, 1)
			e := event(t, a.x, func(dataplane.Acquire) bool { return true })
			ownOuter, ownInner := w.addrs(a)
			peerOuter, peerInner := w.addrs(b)
			want := dataplane.PolicyKey{Dir: dataplane.Out, Selector: dataplane.Selector{
				Src: netip.PrefixFrom(ownInner, ownInner.BitLen()), Dst: netip.PrefixFrom(peerInner, peerInner.BitLen())}}
			if e.Policy != want || e.ReqID != reqID || e.Src != ownOuter || e.Dst != peerOuter || e.CPU != nil {
				t.Errorf("%+v, expected policy %v, %s -> %s, request id %d", e, want, ownOuter, peerOuter, reqID)
			}
			if p := e.Packet; p.Src != want.Selector.Src || p.Dst != want.Selector.Dst || p.Proto != 17 || p.DstPort != 9 {
				t.Errorf("packet %s, expected UDP to port 9", p)
			}
			// The SA that answers takes the place of the kernel's waiting entry.
			sa := w.sa(a, b, 0x1000, dataplane.Out)
			must(t, a.x.Apply([]dataplane.Op{dataplane.InstallSA{SA: sa}}))
			w.send(t, a, b, 1)
			if st := a.status(sa.SAKey); st.Packets != 1 {
				t.Errorf("%d packets through the SA, expected 1", st.Packets)
			}
		})
	}
}

func TestMapping(t *testing.T) {
	a, b := pair(t)
	w := tunnel{mode: dataplane.Tunnel, change: natT}
	w.up(t, a, b)
	b.openESPinUDP(b.outer4)
	b.enter()
	other := openIn(t, t.TempDir())
	// A's NAT gives it another port.
	must(t, a.x.Apply([]dataplane.Op{dataplane.MoveSA{Key: w.ab.SAKey, Dir: dataplane.Out, NewSrc: a.outer4,
		Encap: &dataplane.Encap{SrcPort: 4600, DstPort: 4500}}}))
	w.send(t, a, b, 1)
	e := event(t, b.x, func(dataplane.Mapping) bool { return true })
	if e.Key != w.ab.SAKey || e.ReqID != reqID || e.OldAddr != netip.AddrPortFrom(a.outer4, 4500) || e.NewAddr != netip.AddrPortFrom(a.outer4, 4600) {
		t.Errorf("%+v, expected port 4500 -> 4600 of %s", e, w.ab.SAKey)
	}
	// Another program hears nothing of it: the first that it hears is its own.
	own := w.sa(a, b, 0x2000, dataplane.Out)
	own.Limits.HardTime = time.Second
	must(t, other.Apply([]dataplane.Op{dataplane.InstallSA{SA: own}}))
	if e, ok := (<-other.Events()).(dataplane.Expire); !ok || e.Key != own.SAKey {
		t.Errorf("another program got %+v", e)
	}
}

// TestOverrun: when nobody reads, one Overrun ends the queue; others' events
// are not reported at all.
func TestOverrun(t *testing.T) {
	namespace(t)
	x, err := Open(Options{JournalDir: t.TempDir(), Events: 4})
	must(t, err)
	t.Cleanup(func() { x.Close() })
	other := openIn(t, t.TempDir())
	sa := func(spi uint32) dataplane.SA {
		a := addrs(1)
		b := addrs(2)
		s := (&tunnel{mode: dataplane.Tunnel}).sa(&a, &b, spi, dataplane.Out)
		s.Limits.HardTime = time.Second
		return s
	}
	for spi := range uint32(10) {
		must(t, x.Apply([]dataplane.Op{dataplane.InstallSA{SA: sa(0x1000 + spi)}}))
	}
	must(t, other.Apply([]dataplane.Op{dataplane.InstallSA{SA: sa(0x2000)}}))
	if e := event(t, other, func(dataplane.Expire) bool { return true }); e.Key.SPI != 0x2000 {
		t.Errorf("%+v of another program's SA was reported", e)
	}
	deadline := time.Now().Add(30 * time.Second)
	for snap, _ := x.List(); len(snap.SAs) > 0 && time.Now().Before(deadline); snap, _ = x.List() {
		time.Sleep(50 * time.Millisecond)
	}
	for len(x.events.C()) < 4 && time.Now().Before(deadline) {
		time.Sleep(10 * time.Millisecond)
	}
	for i := range 4 {
		e := <-x.Events()
		if _, overrun := e.(dataplane.Overrun); overrun != (i == 3) {
			t.Errorf("event %d: %+v, expected three Expire and an Overrun", i, e)
		}
	}
}

// crash ends an XFRM as a killed daemon does: files closed, nothing else done.
func (x *XFRM) crash() {
	x.reader.stop()
	x.conn.close()
	x.journal.close()
	x.closed = true
}

// TestCrash: a start after a crash finds and removes what was journalled and
// still is ours, and nothing of another daemon.
func TestCrash(t *testing.T) {
	a, b := pair(t)
	a.enter()
	dir := t.TempDir()
	x := openIn(t, dir)
	w := tunnel{mode: dataplane.Tunnel}
	// Another daemon's.
	other := w.sa(a, b, 0x9000, dataplane.Out)
	must(t, a.x.Apply(append(w.policies(a, b), dataplane.InstallSA{SA: other})))
	// Ours: an SA, a reservation, two policies of which one was changed, an SA that is gone.
	first, gone := w.sa(a, b, 0x1000, dataplane.Out), w.sa(a, b, 0x1001, dataplane.Out)
	spi, err := x.ReserveSPI(dataplane.SPIRequest{Src: b.outer4, Dst: a.outer4, Proto: dataplane.ESP, Min: 0x5000, Max: 0x5fff})
	must(t, err)
	six := tunnel{mode: dataplane.Tunnel, inner6: true}
	must(t, x.Apply(append(six.policies(a, b), dataplane.InstallSA{SA: first}, dataplane.InstallSA{SA: gone}, dataplane.DeleteSA{Key: gone.SAKey})))
	must(t, x.Apply(six.policies(a, b)[:1]))
	// Journalled long ago, and another daemon has the same key now: once by its
	// age, once by its request id.
	late, foreign := other.SAKey, w.sa(a, b, 0x9001, dataplane.Out)
	foreign.ReqID = 5
	must(t, a.x.Apply([]dataplane.Op{dataplane.InstallSA{SA: foreign}}))
	must(t, x.journal.addSA(&late, &ownSA{reqID: reqID, added: time.Now().Unix() - 1000}))
	must(t, x.journal.addSA(&foreign.SAKey, &ownSA{reqID: reqID, added: time.Now().Unix()}))
	key := a.policyKey(b, &w)
	must(t, x.journal.addPolicy(&key, time.Now().Unix()-1000))
	x.crash()

	x = openIn(t, dir)
	left, err := x.Leftovers()
	must(t, err)
	if len(left.SAs) != 2 || len(left.Policies) != 3 {
		t.Fatalf("left: %+v, expected an SA, a reservation and three policies", left)
	}
	for _, sa := range left.SAs {
		if sa.SPI != 0x1000 && !(sa.SPI == spi && sa.Reserved) {
			t.Errorf("left: %+v", sa)
		}
	}
	x.crash() // before it removed anything: nothing is forgotten
	x = openIn(t, dir)
	must(t, x.RemoveLeftovers())
	if len(x.left.sas)+len(x.left.policies) != 0 {
		t.Errorf("still known as left: %+v", x.left)
	}
	snap, err := x.List()
	must(t, err)
	if len(snap.SAs) != 2 || len(snap.Policies) != 3 {
		t.Errorf("after the removal: %+v, expected the other daemon's two SAs and three policies", snap)
	}
	if left, err := x.Leftovers(); err != nil || len(left.SAs)+len(left.Policies) != 0 {
		t.Errorf("left after the removal: %+v, %v", left, err)
	}
	must(t, x.Close())
	x = openIn(t, dir)
	if left, err := x.Leftovers(); err != nil || len(left.SAs)+len(left.Policies) != 0 {
		t.Errorf("left at the next start: %+v, %v", left, err)
	}
}

func (s *side) policyKey(peer *side, w *tunnel) dataplane.PolicyKey {
	return w.policies(s, peer)[0].(dataplane.InstallPolicy).Policy.PolicyKey
}

// TestTakeOver: policies and SAs of a former run give way to new ones with the
// same key, which the removal then leaves alone.
func TestTakeOver(t *testing.T) {
	a, b := pair(t)
	a.enter()
	dir := t.TempDir()
	x := openIn(t, dir)
	w := tunnel{mode: dataplane.Tunnel}
	sa := w.sa(a, b, 0x1000, dataplane.Out)
	must(t, x.Apply(append(w.policies(a, b), dataplane.InstallSA{SA: sa})))
	x.crash()
	x = openIn(t, dir)
	must(t, x.Apply(append(w.policies(a, b)[:2], dataplane.InstallSA{SA: sa})))
	must(t, x.RemoveLeftovers())
	snap, err := x.List()
	must(t, err)
	if len(snap.SAs) != 1 || len(snap.Policies) != 2 {
		t.Errorf("%+v, expected one SA and two policies", snap)
	}
	for _, p := range snap.Policies {
		if p.Owner != 1 {
			t.Errorf("policy %+v, expected owner 1", p)
		}
	}
}

// TestForeignPolicyStays: another program's policy with the same key is neither
// replaced nor removed.
func TestForeignPolicyStays(t *testing.T) {
	a, b := pair(t)
	a.enter()
	x := openIn(t, t.TempDir())
	w := tunnel{mode: dataplane.Tunnel}
	ops := w.policies(a, b)
	must(t, a.x.Apply(ops))
	if err := x.Apply(ops[:1]); !errors.Is(err, dataplane.ErrPolicyExists) {
		t.Errorf("%v, expected ErrPolicyExists", err)
	}
	must(t, x.Apply([]dataplane.Op{dataplane.DeletePolicy{Key: a.policyKey(b, &w), Owner: 1}}))
	sa := w.sa(a, b, 0x1000, dataplane.Out)
	must(t, a.x.Apply([]dataplane.Op{dataplane.InstallSA{SA: sa}}))
	if err := x.Apply([]dataplane.Op{dataplane.InstallSA{SA: sa}}); !errors.Is(err, dataplane.ErrExists) {
		t.Errorf("%v, expected ErrExists", err)
	}
	must(t, x.Apply([]dataplane.Op{dataplane.DeleteSA{Key: sa.SAKey}}))
	if sas, policies, err := a.counts(); err != nil || sas != 1 || policies != 3 {
		t.Errorf("%d SAs, %d policies, %v: expected the other program's 1 and 3", sas, policies, err)
	}
	if live, err := x.journal.live(); err != nil || len(live) != 0 {
		t.Errorf("%d records live, %v: expected none", len(live), err)
	}
}

// TestExpiresIsRaised while open and put back by Close, in its namespace only.
func TestExpiresIsRaised(t *testing.T) {
	namespace(t)
	must(t, host.Local{}.SetSysctl(acqExpires, "30"))
	x, err := Open(Options{JournalDir: t.TempDir(), Log: zerolog.Nop()})
	must(t, err)
	if v, err := (host.Local{}).Sysctl(acqExpires); err != nil || v != "180" {
		t.Errorf("while open: %s, %v, expected 180", v, err)
	}
	must(t, x.Close())
	if v, err := (host.Local{}).Sysctl(acqExpires); err != nil || v != "30" {
		t.Errorf("after Close: %s, %v, expected 30", v, err)
	}
	must(t, host.Local{}.SetSysctl(acqExpires, "300"))
	x, err = Open(Options{JournalDir: t.TempDir()})
	must(t, err)
	if v, err := (host.Local{}).Sysctl(acqExpires); err != nil || v != "300" {
		t.Errorf("a larger value became %s, %v", v, err)
	}
	must(t, x.Close())
}

// TestKeysStayOutOfTheJournal of a whole tunnel's life.
func TestKeysStayOutOfTheJournal(t *testing.T) {
	a, b := pair(t)
	w := tunnel{mode: dataplane.Tunnel}
	w.up(t, a, b)
	b1, err := os.ReadFile(filepath.Join(a.x.journal.dir, journalName))
	must(t, err)
	if strings.Contains(string(b1), string(w.ab.AEAD.Key[:8])) || len(b1) < 200 {
		t.Errorf("%d bytes, a key among them", len(b1))
	}
}
