//go:build lab

package e2e

import (
	"context"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"espalier/tools/lab/topo"
)

// readme returns the fenced block that follows a comment with the name in README.md.
func readme(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile("../../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, ok := strings.Cut(string(text), "<!-- "+name+" -->\n```")
	_, rest, ok2 := strings.Cut(rest, "\n")
	block, _, ok3 := strings.Cut(rest, "```\n")
	if !ok || !ok2 || !ok3 {
		t.Fatalf("README.md has no block %q", name)
	}
	return block
}

// TestReadme shows that the README's configuration works as it stands, next to the gateway's own masquerade.
func TestReadme(t *testing.T) {
	l := newLab(t, topo.Config{}, false)
	l.fast = true
	rules := readme(t, "nftables.conf")
	firewall := func(text string) {
		t.Helper()
		if _, err := l.ours.RunInput(t.Context(), "add table inet espalier\ndelete table inet espalier\n"+text, "nft", "-f", "-"); err != nil {
			t.Fatal(err)
		}
	}
	firewall(rules)
	to, back := l.Client2.Inner(topo.IPv4), l.Client1.Inner(topo.IPv4)

	if _, err := l.Client1.Run(t.Context(), "ping", "-n", "-q", "-c", "2", "-i", "0.05", "-W", "1", to.String()); err == nil {
		t.Error("without a tunnel: expected no answer to a ping")
	}
	if _, err := l.Client2.Run(t.Context(), "ping", "-n", "-q", "-c", "2", "-i", "0.05", "-W", "1", back.String()); err == nil {
		t.Error("without a tunnel: expected no answer to a ping in clear from outside")
	}
	for _, sample := range l.counts(t).ClearSamples {
		if strings.HasPrefix(sample, back.String()) || strings.HasPrefix(sample, l.ours.Outer(topo.IPv4).String()) {
			t.Errorf("without a tunnel something of ours left in clear: %s", sample)
		}
	}

	l.startWith(t, files{conf: readme(t, "espalier.conf")}, files{conf: readme(t, "swanctl.conf")})
	l.event(t, "CHILD SA installed")
	l.traffic(t, shapes[0], false)
	table, err := l.esp.Espctl(t.Context(), "sa", "show")
	for _, part := range []string{"peer #", "lisbon.example.com", "net #", "10.1.0.0/24", "10.2.0.0/24"} {
		if err != nil || !strings.Contains(table, part) {
			t.Fatalf("expected espctl sa show to print %q, got %v:\n%s", part, err, table)
		}
	}
	logMemory(t, l.esp.PID())

	// What is not for the other site is masqueraded still: the peer's gateway answers to our outer address.
	if err := l.Client1.Ping(t.Context(), l.GW2.Outer(topo.IPv4), 1); err != nil {
		t.Error(err)
	}
	ours, theirs := l.ours.Outer(topo.IPv4), l.theirs.Outer(topo.IPv4)
	if got := l.counts(t); got.Clear != 2 || !strings.HasPrefix(got.ClearSamples[0], fmt.Sprintf("%s > %s ", ours, theirs)) {
		t.Errorf("expected an echo request from %s and its reply in clear, got %+v", ours, got)
	}

	// Without the exception the same rules break the tunnel. This shows that the test sees it.
	firewall(strings.Replace(strings.Replace(rules, "rt ipsec exists accept", "", 1), "rt ipsec missing drop", "accept", 1))
	if err := l.wire.Reset(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	_, err = l.Client1.Run(ctx, "ping", "-n", "-q", "-c", "1", "-W", "1", to.String())
	if got := l.counts(t); got.Clear == 0 {
		t.Errorf("expected clear text once the masquerade has no exception, got %v, %+v", err, got)
	}
}

// logMemory prints what the daemon takes, for the README.
func logMemory(t *testing.T, pid int) {
	t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range strings.Split(string(status), "\n") {
		if strings.HasPrefix(line, "VmRSS") || strings.HasPrefix(line, "VmHWM") {
			t.Log(line)
		}
	}
}
