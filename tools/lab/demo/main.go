// Demo shows a tunnel: inside a lab guest it builds two sites and the wire between them, has Espalier and strongSwan agree on keys, pushes
// traffic through and tells what the wire saw. It is what make run runs.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"time"

	"espalier/tools/lab/topo"
)

// limit is how long the whole may take, in the slowest of machines.
const limit = 5 * time.Minute

// transferBytes is what goes through the tunnel by TCP.
const transferBytes = 5 << 20

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	if err := run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "demo:", err)
		os.Exit(1)
	}
}

// say prints a line of the story.
func say(format string, args ...any) { fmt.Printf(format+"\n", args...) }

// step says what is being done.
func step(format string, args ...any) { say("\n== "+format, args...) }

func run(ctx context.Context) (err error) {
	step("building two sites and the wire between them, each machine a network namespace")
	n, err := topo.Build(ctx, topo.Config{})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, n.Close()) }()
	say("   client1 %s -- gw1 %s (Espalier) ==wire== gw2 %s (strongSwan) -- client2 %s",
		n.Client1.Inner(topo.IPv4), n.GW1.Outer(topo.IPv4), n.GW2.Outer(topo.IPv4), n.Client2.Inner(topo.IPv4))
	wire, err := n.Capture()
	if err != nil {
		return err
	}
	defer wire.Close()

	step("client1 pings client2 without a tunnel")
	if err := n.Client1.Ping(ctx, n.Client2.Inner(topo.IPv4), 3); err != nil {
		return err
	}
	clear, err := wire.Counts()
	if err != nil {
		return err
	}
	say("   who listens on the wire reads all of it: %d packets in clear, such as\n   %s", clear.Clear, strings.Join(clear.ClearSamples[:min(1, len(clear.ClearSamples))], ""))

	step("starting strongSwan in gw2, and espalierd in gw1, which has start_action = start")
	if _, err := n.GW2.StartStrongSwan(ctx, topo.StrongSwanConfig{Conf: config(n.GW2, n.GW1, "")}); err != nil {
		return err
	}
	if err := wire.Reset(); err != nil {
		return err
	}
	e, err := n.GW1.StartEspalier(ctx, topo.EspalierConfig{Conf: config(n.GW1, n.GW2, "start_action = start")})
	if err != nil {
		return err
	}
	if err := waitTunnel(ctx, e); err != nil {
		return err
	}
	say("   the gateways know each other by a shared key, and their kernels have fresh keys for the traffic")
	if err := push(ctx, n, wire); err != nil {
		return err
	}
	table, err := e.Espctl(ctx, "sa", "show")
	if err != nil {
		return err
	}
	step("espctl sa show, in gw1")
	say("%s", indent(table))
	return end(ctx, n, e)
}

// config is one gateway's configuration; both daemons read the same words.
func config(self, peer *topo.Host, more string) string {
	return fmt.Sprintf(`connections { sites {
  local_addrs = %s
  remote_addrs = %s
  proposals = aes256-sha256-modp2048
  local { auth = psk
    id = %s.example }
  remote { auth = psk
    id = %s.example }
  children { net {
    local_ts = %s
    remote_ts = %s
    esp_proposals = aes256gcm16-modp2048
    %s
  } }
} }
secrets { ike-sites { secret = "shown to nobody" } }
`, self.Outer(topo.IPv4), peer.Outer(topo.IPv4), self.Name, peer.Name, self.Subnet(topo.IPv4), peer.Subnet(topo.IPv4), more)
}

// waitTunnel waits until the CHILD SA is installed.
func waitTunnel(ctx context.Context, e *topo.Espalier) error {
	for ctx.Err() == nil {
		if strings.Contains(e.Log(), `"CHILD SA installed"`) {
			return nil
		}
		if strings.Contains(e.Log(), `"negotiation failed"`) {
			break
		}
		time.Sleep(20 * time.Millisecond)
	}
	return fmt.Errorf("the tunnel did not come up; espalierd says:\n%s", e.Log())
}

// push sends traffic from site to site and says what the wire saw. Clear text there is an error.
func push(ctx context.Context, n *topo.Net, wire *topo.Capture) error {
	setup, err := wire.Counts()
	if err != nil {
		return err
	}
	step("client1 pings client2, then sends it %d MB over TCP", transferBytes>>20)
	if err := n.Client1.Ping(ctx, n.Client2.Inner(topo.IPv4), 10); err != nil {
		return err
	}
	say("   10 pings, 10 answers")
	took, err := n.Client1.Transfer(ctx, n.Client2, n.Client2.Inner(topo.IPv4), transferBytes)
	if err != nil {
		return err
	}
	say("   %d bytes arrived whole (their digest came back) in %s", transferBytes, took.Round(time.Millisecond))
	got, err := wire.Counts()
	if err != nil {
		return err
	}
	step("what somebody on the wire saw")
	say("   %6d IKE messages, in which the gateways agreed on keys", setup.IKE)
	say("   %6d ESP packets, %d bytes, all encrypted", got.Protected(), got.Bytes)
	say("   %6d packets in clear", got.Clear)
	if got.Clear != 0 || got.Lost != 0 || got.Bytes < transferBytes {
		return fmt.Errorf("expected %d bytes in ESP, nothing in clear and nothing lost by the capture, got %+v", transferBytes, got)
	}
	return nil
}

// end stops the daemon and looks whether the kernel is as it was.
func end(ctx context.Context, n *topo.Net, e *topo.Espalier) error {
	step("stopping espalierd")
	if err := e.Stop(); err != nil {
		return err
	}
	for _, h := range []*topo.Host{n.GW1, n.GW2} {
		left, err := h.Run(ctx, "ip", "xfrm", "state")
		if err != nil {
			return err
		}
		if left != "" {
			return fmt.Errorf("%s: expected no SA to be left, found:\n%s", h.Name, left)
		}
	}
	say("   the peer was told, and no SA is left in either kernel")
	say("\nIt works. README.md has a configuration for your own gateways; make test runs the tests.")
	return nil
}

// indent moves a text to the right.
func indent(text string) string {
	return "   " + strings.ReplaceAll(strings.TrimRight(text, "\n"), "\n", "\n   ")
}
