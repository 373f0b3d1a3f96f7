//go:build lab

package fastpath

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"espalier/tools/lab/topo"
)

// boxDaemon is a daemon in the guest's own network namespace, whose settings are the whole machine's.
type boxDaemon struct {
	testing.TB
	dir, bin string
	cmd      *exec.Cmd
}

// log is what all runs have said.
func (d *boxDaemon) log() string {
	b, _ := os.ReadFile(filepath.Join(d.dir, "log"))
	return string(b)
}

func (d *boxDaemon) start(tune string) {
	d.Helper()
	conf := filepath.Join(d.dir, "espalier.conf")
	must(d, os.WriteFile(conf, []byte("espalier {\n fast_path = no\n tune = "+tune+"\n}\n"), 0o600))
	d.cmd = exec.Command(d.bin, "--config", conf, "--run-dir", d.dir, "--state-dir", d.dir)
	out := need[*os.File](d)(os.OpenFile(filepath.Join(d.dir, "log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600))
	defer out.Close()
	d.cmd.Stdout, d.cmd.Stderr = out, out
	const started = "espalierd started"
	before := strings.Count(d.log(), started)
	must(d, d.cmd.Start())
	// An emulated machine loads modules for long, whose ciphers test themselves.
	for began := time.Now(); strings.Count(d.log(), started) == before; time.Sleep(25 * time.Millisecond) {
		if time.Since(began) > 2*time.Minute {
			d.Fatalf("espalierd has not started\n%s", d.log())
		}
	}
}

// end ends it by a signal.
func (d *boxDaemon) end(s syscall.Signal) {
	d.Helper()
	must(d, d.cmd.Process.Signal(s))
	if err := d.cmd.Wait(); err != nil && s != syscall.SIGKILL {
		d.Errorf("%v\n%s", err, d.log())
	}
}

func coreSetting(t testing.TB, name string) string {
	t.Helper()
	return strings.TrimSpace(string(need[[]byte](t)(os.ReadFile("/proc/sys/net/core/" + name))))
}

// TestHostSettings: the daemon changes the box's settings, and gives them back when it stops, and after SIGKILL with its next start. Advising changes nothing.
func TestHostSettings(t *testing.T) {
	const name, raised = "rmem_max", "16777216"
	d := &boxDaemon{TB: t, dir: t.TempDir(), bin: need[string](t)(topo.EspalierdPath())}
	t.Cleanup(func() {
		if t.Failed() {
			t.Log(d.log())
		}
	})
	before := coreSetting(t, name)
	if before == raised {
		t.Fatalf("%s is %s before anything has begun", name, before)
	}
	is := func(want string) {
		t.Helper()
		until(t, name, func() (bool, string) {
			got := coreSetting(t, name)
			return got == want, fmt.Sprintf("%s, expected %s\n%s", got, want, d.log())
		})
	}
	d.start("on")
	is(raised)
	d.end(syscall.SIGTERM)
	if got := coreSetting(t, name); got != before {
		t.Errorf("after the stop it is %s, expected %s as before", got, before)
	}
	d.start("on")
	is(raised)
	d.end(syscall.SIGKILL)
	if got := coreSetting(t, name); got != raised {
		t.Errorf("after SIGKILL it is %s, expected %s", got, raised)
	}
	d.start("advise")
	is(before)
	until(t, "advice", func() (bool, string) {
		return strings.Contains(d.log(), "net.core."+name), d.log()
	})
	if got := coreSetting(t, name); got != before {
		t.Errorf("after advice it is %s, expected %s", got, before)
	}
	d.end(syscall.SIGTERM)
}

// TestReplayWindowGrows: packets overtake each other on the path, by more than the replay window of a tunnel allows. The tuner sees that, says so, and has the SA rekeyed
// with a wider one.
func TestReplayWindowGrows(t *testing.T) {
	if !userModeLinux() {
		t.Skip("takes minutes on an emulated processor, seconds in User-Mode Linux (make fast-test)")
	}
	n := topo.New(t, topo.Config{})
	daemon(t, n.GW2, tunnelConf(n.GW2, n.GW1, topo.IPv4, ""))
	e := daemon(t, n.GW1, tunnelConf(n.GW1, n.GW2, topo.IPv4, "tune = on"))
	if out, err := e.Espctl(t.Context(), "conn", "up", "peer", "net"); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	windows := func() string {
		t.Helper()
		return need[string](t)(n.GW1.Run(t.Context(), "sh", "-c", "ip xfrm state | grep -o 'replay[-_]window [0-9]*' | sort -u"))
	}
	t.Log(windows())
	// Each second packet waits for 50 ms, while hundreds go by.
	need[string](t)(n.GW2.Run(t.Context(), "tc", "qdisc", "add", "dev", "out0", "root", "netem", "limit", "10000", "delay", "50ms", "reorder", "50%"))
	var sender sync.WaitGroup
	defer sender.Wait()
	ctx, end := context.WithCancel(t.Context())
	defer end()
	sender.Go(func() {
		err := n.Client2.Do(func() error { return sendBursts(ctx, netip.AddrPortFrom(n.Client1.Inner(topo.IPv4), sinkPort)) })
		if err != nil {
			t.Error(err)
		}
	})
	until(t, "a wider replay window", func() (bool, string) {
		w := windows()
		return strings.Contains(w, "window 256"), fmt.Sprint(w, xfrmErrors(t, n.GW1))
	})
	var h tuneHistory
	must(t, json.Unmarshal([]byte(need[string](t)(e.Espctl(ctx, "-j", "tune", "history"))), &h))
	for _, entry := range h.Entries {
		if entry.Kind == "renew" && entry.Error == "" && strings.Contains(entry.Reason, "dropped as replays") {
			t.Log(entry.Action, "since", entry.Reason)
			return
		}
	}
	t.Errorf("no rekey in the journal: %+v", h.Entries)
}

// sendBursts sends datagrams, 200 at once and ten times a second, until ctx ends.
func sendBursts(ctx context.Context, to netip.AddrPort) error {
	c, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(to))
	if err != nil {
		return err
	}
	defer c.Close()
	pause := time.NewTicker(100 * time.Millisecond)
	defer pause.Stop()
	for data := make([]byte, 100); ; {
		for range 200 {
			_, _ = c.Write(data) // nobody has to be there
		}
		select {
		case <-ctx.Done():
			return nil
		case <-pause.C:
		}
	}
}
