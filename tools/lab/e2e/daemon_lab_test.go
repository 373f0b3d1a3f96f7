//go:build lab

package e2e

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"espalier/tools/lab/topo"
)

// spis are those in our kernel.
func (l *lab) spis(t *testing.T) []int {
	t.Helper()
	k, err := kernelOf(l.ours)
	if err != nil {
		t.Fatal(err)
	}
	var out []int
	for _, s := range k.states {
		out = append(out, s.Spi)
	}
	slices.Sort(out)
	return out
}

// TestReload shows that a tunnel does not notice what happens to others, nor a configuration with mistakes.
func TestReload(t *testing.T) {
	l := newLab(t, topo.Config{}, false)
	ours, theirs := l.sides(psk, suites[1], shapes[0])
	other, otherPeer := l.sides(psk, suites[1], shapes[1]) // IPv6 in IPv6: addresses of its own
	rename := func(s side) string {
		return strings.Replace(strings.Replace(s.conf(), "{ peer {", "{ other {", 1), "{ net {", "{ net6 {", 1)
	}
	secretOf := fmt.Sprintf("secrets { ike-1 { secret = %q } }\n", secret)
	one, two := ours.conf(), ours.conf()+strings.Replace(rename(other), secretOf, "", 1)
	l.startWith(t, files{conf: one}, files{conf: theirs.conf() + strings.Replace(rename(otherPeer), secretOf, "", 1)})
	l.mustInitiate(t, true)
	before := l.spis(t)

	ping := l.pings(t, shapes[0], 20*time.Millisecond)
	flows := func(when string) {
		t.Helper()
		from := ping.Answered()
		l.eventually(t, "answers to pings "+when, func() error {
			if n := ping.Answered() - from; n < 10 {
				return fmt.Errorf("%d of 10", n)
			}
			return nil
		})
	}
	same := func(when string) {
		t.Helper()
		if got := l.spis(t); !slices.Equal(got, before) {
			t.Errorf("%s: expected the SPIs %x, got %x", when, before, got)
		}
	}
	flows("before anything")

	set := func(conf string) {
		t.Helper()
		if err := l.esp.Configure(conf, nil); err != nil {
			t.Fatal(err)
		}
	}
	set(two)
	l.reload(t)
	same("a connection added")
	if err := l.espalier(t.Context(), "initiate", "ike", "other", "child", "net6", "timeout", "30000"); err != nil {
		t.Fatal(err)
	}
	if err := l.Client1.Ping(t.Context(), l.Client2.Inner(topo.IPv6), 2); err != nil {
		t.Error(err)
	}
	if got := l.spis(t); len(got) != 4 {
		t.Errorf("expected the new connection's SAs beside the old ones, got %x", got)
	}
	flows("beside another tunnel")
	set(one)
	l.reload(t)
	l.eventually(t, "the removed connection's SAs to go", func() error {
		if got := l.spis(t); len(got) != 2 {
			return fmt.Errorf("%x", got)
		}
		return nil
	})
	same("a connection removed")

	l.checkLog(t)
	l.refused(t, strings.Replace(strings.Replace(two, "version = 2", "version = two", 1), "remote_ts", "remote_tz", 1))
	same("a configuration with mistakes")
	flows("after it")
	l.stopPings(t, ping)
	if got := l.counts(t); got.Clear != 0 {
		t.Errorf("expected no clear text, got %+v", got)
	}
	set(one)
	l.espLog = len(l.esp.Log()) // what follows is in order again
}

// refused sends a SIGHUP with a configuration that has two mistakes, and expects a line of the log for each.
func (l *lab) refused(t *testing.T, bad string) {
	t.Helper()
	if err := os.WriteFile(l.esp.Conf, []byte(bad), 0o600); err != nil {
		t.Fatal(err)
	}
	from := len(l.esp.Log())
	if err := l.esp.Signal(syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	l.event(t, "reload refused, the running configuration stays")
	if n := strings.Count(l.esp.Log()[from:], "mistake in the configuration"); n < 2 {
		t.Errorf("expected a line for each of 2 mistakes, got %d:\n%s", n, l.esp.Log()[from:])
	}
	for _, m := range []struct{ key, value string }{{"version", "two"}, {"remote_tz", "remote_tz"}} {
		at := 1 + strings.Count(bad[:strings.Index(bad, m.key+" = ")], "\n")
		line := l.event(t, "mistake in the configuration", "file", l.esp.Conf, "line", fmt.Sprint(at))
		if !strings.Contains(fmt.Sprint(line["found"]), m.value) || line["expected"] == "" {
			t.Errorf("expected what was found (%s) and what was expected, got %v", m.value, line)
		}
	}
}

// TestForeign shows that SAs and policies that others made stay, whatever happens to the daemon.
func TestForeign(t *testing.T) {
	l := newLab(t, topo.Config{}, false)
	for _, args := range []string{
		"state add src 192.0.2.1 dst 192.0.2.9 proto esp spi 0x1001 reqid 1 mode tunnel aead rfc4106(gcm(aes)) 0x000102030405060708090a0b0c0d0e0f10111213 128",
		"state add src 192.0.2.9 dst 192.0.2.1 proto esp spi 0x1002 reqid 1 mode tunnel aead rfc4106(gcm(aes)) 0x000102030405060708090a0b0c0d0e0f10111213 128",
		"policy add src 10.1.0.0/24 dst 10.9.0.0/24 dir out tmpl src 192.0.2.1 dst 192.0.2.9 proto esp reqid 1 mode tunnel",
		"policy add src 10.9.0.0/24 dst 10.1.0.0/24 dir in tmpl src 192.0.2.9 dst 192.0.2.1 proto esp reqid 1 mode tunnel",
		"policy add src 10.9.0.0/24 dst 10.1.0.0/24 dir fwd tmpl src 192.0.2.9 dst 192.0.2.1 proto esp reqid 1 mode tunnel",
	} {
		if _, err := l.ours.Run(t.Context(), append([]string{"ip", "xfrm"}, strings.Fields(args)...)...); err != nil {
			t.Fatal(err)
		}
	}
	defer func() {
		for _, what := range []string{"state", "policy"} {
			if _, err := l.ours.Run(t.Context(), "ip", "xfrm", what, "flush"); err != nil {
				t.Error(err)
			}
		}
	}()
	foreign, err := kernelOf(l.ours)
	if err != nil {
		t.Fatal(err)
	}
	expect := func(when string, more int) {
		t.Helper()
		got, err := kernelOf(l.ours)
		if err != nil || len(got.states) != len(foreign.states)+more {
			t.Errorf("%s: expected the 2 foreign states and %d more, got %v\n%s", when, more, err, got)
		}
		for _, line := range strings.Split(strings.TrimSpace(foreign.String()), "\n") {
			if !strings.Contains(got.String(), line) {
				t.Errorf("%s: this has gone: %s", when, line)
			}
		}
	}
	ours, theirs := l.sides(psk, suites[1], shapes[0])
	if err := l.swan.Configure(theirs.conf(), nil); err != nil {
		t.Fatal(err)
	}
	if err := l.swan.Load(t.Context()); err != nil {
		t.Fatal(err)
	}
	l.configure(t, files{conf: ours.conf()})
	expect("after the start", 0)
	l.mustInitiate(t, true)
	expect("with a tunnel", 2)
	l.esp.Kill()
	expect("after SIGKILL", 2)
	if err := l.esp.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	expect("after a start", 0)
	l.mustInitiate(t, true)
	expect("with a tunnel again", 2)
	if err := l.esp.Stop(); err != nil {
		t.Fatal(err)
	}
	expect("after the stop", 0)
	l.checkLog(t)
}
