//go:build lab

package e2e

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"espalier/tools/lab/topo"
)

// stream sends datagrams one way, one every 2 ms, until the test ends.
type stream struct{ sent, received atomic.Int64 }

func (l *lab) stream(t *testing.T, from, to *topo.Host, addr netip.Addr) *stream {
	t.Helper()
	s := new(stream)
	var sink, source *net.UDPConn
	target := netip.AddrPortFrom(addr, 5005)
	err := errors.Join(
		to.Do(func() (err error) {
			sink, err = net.ListenUDP("udp", net.UDPAddrFromAddrPort(target))
			return err
		}),
		from.Do(func() (err error) {
			source, err = net.ListenUDP("udp", nil) // not connected: the kernel refuses that where it blocks
			return err
		}))
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	t.Cleanup(func() { close(done); source.Close(); sink.Close() })
	go func() {
		buf := make([]byte, 100)
		for {
			if _, err := sink.Read(buf); err != nil {
				return
			}
			s.received.Add(1)
		}
	}()
	go func() {
		tick := time.NewTicker(2 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-done:
				return
			case <-tick.C:
				_, _ = source.WriteToUDPAddrPort(make([]byte, 64), target) // refused by the kernel or not
				s.sent.Add(1)
			}
		}
	}()
	return s
}

// leak is a running case of TestLeak.
type leak struct {
	*lab
	stream    *stream
	from, to  netip.Addr // of pings from our gateway
	protected int        // packets of ESP at the last look
}

// begin installs the guards before any daemon runs, and starts the stream.
func (l *lab) leak(t *testing.T, s shape, action string) *leak {
	t.Helper()
	ours, theirs := l.sides(psk, suites[1], s)
	ours.child, ours.more = "start_action = "+action, "espalier { leak = block }\n"
	if err := l.swan.Configure(theirs.conf(), nil); err != nil {
		t.Fatal(err)
	}
	if err := l.swan.Load(t.Context()); err != nil {
		t.Fatal(err)
	}
	conf := topo.EspalierConfig{Conf: ours.conf(), Args: []string{"--log-level", "debug"}, Plain: true}
	var err error
	if l.esp == nil {
		l.esp, err = l.ours.PrepareEspalier(conf)
	} else {
		err = l.esp.Configure(conf.Conf, nil)
	}
	if err != nil {
		t.Fatal(err)
	}
	a, b := l.client(l.ours), l.client(l.theirs)
	k := &leak{lab: l, from: l.ours.Inner(s.inner), to: b.Inner(s.inner)}
	guards := 6 // out, in and fwd, for either value of a bit of the mark
	if s.transport {
		a, b, guards = l.ours, l.theirs, 4
		if s.outer == topo.IPv6 {
			guards += 4 // neighbour discovery passes
		}
		k.from, k.to = a.Outer(s.outer), b.Outer(s.outer)
	}
	k.once(t, "--block", fmt.Sprintf(`"policies":%d`, guards))
	k.stream = l.stream(t, a, b, k.to)
	if err := l.wire.Reset(); err != nil {
		t.Fatal(err)
	}
	return k
}

// once runs espalierd to do one thing.
func (k *leak) once(t *testing.T, arg, expect string) {
	t.Helper()
	if out, err := k.esp.Once(t.Context(), arg); err != nil || !strings.Contains(out, expect) {
		t.Fatalf("espalierd %s: %v, expected %q, got %s", arg, err, expect, out)
	}
}

// flows waits until the tunnel carries the stream.
func (k *leak) flows(t *testing.T, when string) {
	t.Helper()
	from := k.stream.received.Load()
	k.eventually(t, "the stream through the tunnel "+when, func() error {
		if n := k.stream.received.Load() - from; n < 100 {
			return fmt.Errorf("%d of 100 datagrams arrived", n)
		}
		return nil
	})
	c := k.counts(t)
	if c.Protected()-k.protected < 100 || c.Clear != 0 {
		t.Errorf("%s: expected more ESP and no clear text, got %+v", when, c)
	}
	k.protected = c.Protected()
}

// blocked waits until many datagrams have been sent without a tunnel.
func (k *leak) blocked(t *testing.T, when string) {
	t.Helper()
	from := k.stream.sent.Load()
	k.eventually(t, "datagrams to be sent "+when, func() error {
		if k.stream.sent.Load()-from < 200 {
			return errors.New("too few")
		}
		return nil
	})
	if _, err := k.ours.Run(t.Context(), "ping", "-c", "3", "-i", "0.05", "-W", "1", "-I", k.from.String(), k.to.String()); err == nil {
		t.Errorf("%s: a ping of the gateway's own was answered", when)
	}
	if c := k.counts(t); c.Clear != 0 {
		t.Errorf("%s: expected no clear text, got %+v", when, c)
	}
}

func (k *leak) start(t *testing.T) {
	t.Helper()
	if err := k.esp.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
}

func (k *leak) stop(t *testing.T) {
	t.Helper()
	if err := k.esp.Stop(); err != nil {
		t.Fatal(err)
	}
}

// sum tells what passed.
func (k *leak) sum(t *testing.T) {
	t.Helper()
	total := k.counts(t)
	t.Logf("%d datagrams sent, %d arrived, %d packets of ESP, %d in clear", k.stream.sent.Load(), k.stream.received.Load(), total.ESP, total.Clear)
}

// TestLeak streams datagrams from a client, and pings from the gateway itself, through everything that can happen to the daemon and its tunnel: with leak = block
// not one leaves in clear, from before the first start on; and what the other site sends in clear is not let in.
func TestLeak(t *testing.T) {
	l := newLab(t, topo.Config{}, false)
	k := l.leak(t, shapes[0], "trap")
	k.blocked(t, "before the first start")
	k.start(t)
	k.flows(t, "after the first start")
	if out, err := l.esp.Once(t.Context(), "--unblock"); err == nil {
		t.Errorf("--unblock beside a running daemon: expected an error, got %s", out)
	}
	k.stop(t)
	k.blocked(t, "after SIGTERM")
	k.start(t)
	k.flows(t, "after the second start")
	l.esp.Kill()
	k.flows(t, "without a daemon, after SIGKILL")
	k.start(t)
	k.flows(t, "after the third start")
	if err := l.espalier(t.Context(), "terminate", "ike", "peer", "timeout", "30000"); err != nil {
		t.Fatal(err)
	}
	k.flows(t, "after a delete by us")
	// It may still have an SA of the run that was killed, whose delete nobody answers.
	if err := l.strongSwan(t.Context(), "terminate", "ike", "peer", "force", "yes", "timeout", "1000"); err != nil {
		t.Logf("strongSwan: %.200v", err)
	}
	k.flows(t, "after a delete by the peer")
	if got, err := kernelOf(l.ours); err != nil || len(got.policies) != 6+3 {
		t.Errorf("expected 6 policies that block beside the tunnel's 3, got %v\n%s", err, got)
	}
	k.stop(t)
	k.blocked(t, "at the end")
	k.sum(t)

	// What comes in clear from the other site is on the wire, and stays there.
	back := l.stream(t, l.client(l.theirs), l.client(l.ours), l.client(l.ours).Inner(topo.IPv4))
	l.eventually(t, "clear text from the other site", func() error {
		if c := l.counts(t); c.Clear < 100 {
			return fmt.Errorf("%+v", c)
		}
		return nil
	})
	if n := back.received.Load(); n != 0 {
		t.Errorf("%d datagrams were let in that came in clear", n)
	}
	k.once(t, "--unblock", "nothing is blocked any more")
	from := k.stream.received.Load()
	l.eventually(t, "clear text after --unblock, so that the test has a point", func() error {
		if k.stream.received.Load()-from < 100 || back.received.Load() < 100 {
			return errors.New("none")
		}
		return nil
	})
}

// TestLeakResponder is the same where only the other site brings tunnels up.
func TestLeakResponder(t *testing.T) {
	l := newLab(t, topo.Config{}, false)
	k := l.leak(t, shapes[0], "none")
	k.start(t)
	k.blocked(t, "before the peer begins")
	l.mustInitiate(t, false)
	k.flows(t, "after the peer has begun")
	l.esp.Kill()
	k.flows(t, "without a daemon, after SIGKILL")
	k.start(t)
	k.blocked(t, "after the second start, which has removed the tunnel")
	// The peer has the old one still, as far as it knows.
	if err := l.strongSwan(t.Context(), "terminate", "ike", "peer", "force", "yes", "timeout", "1000"); err != nil {
		t.Logf("strongSwan: %.200v", err)
	}
	l.mustInitiate(t, false)
	k.flows(t, "after the peer has begun again")
	k.stop(t)
	k.blocked(t, "after SIGTERM")
	k.sum(t)
	k.once(t, "--unblock", "nothing is blocked any more")
}

// TestLeakTransport is the same between the gateways themselves, where IKE and ESP fall under the selectors, too, and so does neighbour discovery.
func TestLeakTransport(t *testing.T) {
	l := newLab(t, topo.Config{}, false)
	k := l.leak(t, shapes[5], "start")
	k.blocked(t, "before the first start")
	k.start(t)
	k.flows(t, "after the first start")
	k.stop(t)
	k.blocked(t, "after SIGTERM")
	k.sum(t)
	k.once(t, "--unblock", `"policies":8`)
}
