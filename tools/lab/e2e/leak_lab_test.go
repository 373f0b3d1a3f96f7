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
	var sink, source net.Conn
	err := errors.Join(
		to.Do(func() (err error) {
			c, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(addr, 5005)))
			sink = c
			return err
		}),
		from.Do(func() (err error) {
			source, err = net.Dial("udp", netip.AddrPortFrom(addr, 5005).String())
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
				// The socket reports what the kernel refused; the next one is sent all the same.
				if _, err := source.Write(make([]byte, 64)); err == nil || !errors.Is(err, net.ErrClosed) {
					s.sent.Add(1)
				}
			}
		}
	}()
	return s
}

// TestLeak streams datagrams from a client and from the gateway itself through everything that can happen to the daemon and its tunnel: with leak = block not
// one leaves in clear, from before the first start on; and what the other site sends in clear is not let in.
func TestLeak(t *testing.T) {
	l := newLab(t, topo.Config{}, false)
	s := shapes[0]
	ours, theirs := l.sides(psk, suites[1], s)
	ours.child, ours.more = "start_action = trap", "espalier { leak = block }\n"
	if err := l.swan.Configure(theirs.conf(), nil); err != nil {
		t.Fatal(err)
	}
	if err := l.swan.Load(t.Context()); err != nil {
		t.Fatal(err)
	}
	var err error
	if l.esp, err = l.ours.PrepareEspalier(topo.EspalierConfig{Conf: ours.conf(), Args: []string{"--log-level", "debug"}}); err != nil {
		t.Fatal(err)
	}
	once := func(arg, expect string) {
		t.Helper()
		out, err := l.esp.Once(t.Context(), arg)
		if err != nil || !strings.Contains(out, expect) {
			t.Fatalf("espalierd %s: %v, expected %q, got %s", arg, err, expect, out)
		}
	}
	once("--block", `"policies":6`)
	client := l.stream(t, l.client(l.ours), l.client(l.theirs), l.client(l.theirs).Inner(s.inner))
	if err := l.wire.Reset(); err != nil {
		t.Fatal(err)
	}
	protected := 0
	// flows waits until the tunnel carries the stream, blocked until many datagrams have met a policy without it.
	flows := func(when string) {
		t.Helper()
		from := client.received.Load()
		l.eventually(t, "the stream through the tunnel "+when, func() error {
			if n := client.received.Load() - from; n < 100 {
				return fmt.Errorf("%d of 100 datagrams arrived", n)
			}
			return nil
		})
		c := l.counts(t)
		if c.Protected()-protected < 100 || c.Clear != 0 {
			t.Errorf("%s: expected more ESP and no clear text, got %+v", when, c)
		}
		protected = c.Protected()
	}
	blocked := func(when string) {
		t.Helper()
		from := client.sent.Load()
		l.eventually(t, "datagrams to be sent "+when, func() error {
			if client.sent.Load()-from < 200 {
				return errors.New("too few")
			}
			return nil
		})
		if _, err := l.ours.Run(t.Context(), "ping", "-c", "3", "-i", "0.05", "-W", "1", "-I", l.ours.Inner(s.inner).String(), l.client(l.theirs).Inner(s.inner).String()); err == nil {
			t.Errorf("%s: a ping of the gateway's own was answered", when)
		}
		if c := l.counts(t); c.Clear != 0 {
			t.Errorf("%s: expected no clear text, got %+v", when, c)
		}
	}
	start := func() {
		t.Helper()
		if err := l.esp.Restart(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	blocked("before the first start")
	start()
	flows("after the first start")
	if out, err := l.esp.Once(t.Context(), "--unblock"); err == nil {
		t.Errorf("--unblock beside a running daemon: expected an error, got %s", out)
	}
	if err := l.esp.Stop(); err != nil {
		t.Fatal(err)
	}
	blocked("after SIGTERM")
	start()
	flows("after the second start")
	l.esp.Kill()
	flows("without a daemon, after SIGKILL")
	start()
	flows("after the third start")
	if err := l.espalier(t.Context(), "terminate", "ike", "peer", "timeout", "30000"); err != nil {
		t.Fatal(err)
	}
	flows("after a delete by us")
	// It may still have an SA of the run that was killed, whose delete nobody answers.
	if err := l.strongSwan(t.Context(), "terminate", "ike", "peer", "force", "yes", "timeout", "1000"); err != nil {
		t.Logf("strongSwan: %.200v", err)
	}
	flows("after a delete by the peer")
	if err := l.esp.Stop(); err != nil {
		t.Fatal(err)
	}
	blocked("at the end")
	total := l.counts(t)
	t.Logf("%d datagrams sent, %d arrived, %d packets of ESP, %d in clear", client.sent.Load(), client.received.Load(), total.ESP, total.Clear)

	// What comes in clear from the other site is on the wire, and stays there.
	back := l.stream(t, l.client(l.theirs), l.client(l.ours), l.client(l.ours).Inner(s.inner))
	l.eventually(t, "clear text from the other site", func() error {
		if c := l.counts(t); c.Clear < 100 {
			return fmt.Errorf("%+v", c)
		}
		return nil
	})
	if n := back.received.Load(); n != 0 {
		t.Errorf("%d datagrams were let in that came in clear", n)
	}
	once("--unblock", "nothing is blocked any more")
	from := client.received.Load()
	l.eventually(t, "clear text after --unblock, so that the test has a point", func() error {
		if client.received.Load()-from < 100 || back.received.Load() < 100 {
			return errors.New("none")
		}
		return nil
	})
}
