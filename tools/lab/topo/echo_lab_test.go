//go:build lab

package topo

import (
	"fmt"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"
)

// echoes sends 25 requests from client1 to client2, which drops or refuses those with the given numbers.
func echoes(t *testing.T, n *Net, f Family, verdict string, numbers ...int) Answers {
	t.Helper()
	rules := "table inet some {\n chain pre { type filter hook input priority 0;\n"
	for _, number := range numbers {
		rules += fmt.Sprintf("icmp type echo-request icmp sequence %d %s\nicmpv6 type echo-request icmpv6 sequence %d %s\n", number, verdict, number, verdict)
	}
	if _, err := n.Client2.RunInput(t.Context(), rules+"}\n}\n", "nft", "-f", "-"); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if _, err := n.Client2.Run(t.Context(), "nft", "delete", "table", "inet", "some"); err != nil {
			t.Error(err)
		}
	}()
	a, err := n.Client1.Echo(t.Context(), Echo{To: n.Client2.Inner(f), Count: 25, Interval: 20 * time.Millisecond, Wait: 5 * time.Second})
	t.Log(a)
	if (err == nil) != (len(a.Missing) == 0) {
		t.Errorf("%d missing, and the error is %v", len(a.Missing), err)
	}
	return a
}

// TestEchoesLost shows with a real network what TestEchoes shows with one that is made up.
func TestEchoesLost(t *testing.T) {
	n := New(t, Config{})
	for _, f := range []Family{IPv4, IPv6} {
		if a := echoes(t, n, f, "drop"); a.Sent != 25 || a.Answered != 25 || a.Slowest <= 0 {
			t.Errorf("%s: expected 25 answers, got %+v", f, a)
		}
		for _, lost := range map[Family][][]int{IPv4: {{13}, {25}}, IPv6: {{1, 7, 8, 25}}}[f] {
			if a := echoes(t, n, f, "drop", lost...); !slices.Equal(numbers(a), lost) || a.Sent != 25 || a.Lost() != len(lost) {
				t.Errorf("%s: expected %v to be missing, got %+v", f, lost, a)
			}
		}
		began := time.Now()
		a := echoes(t, n, f, "reject", 13)
		if !slices.Equal(numbers(a), []int{13}) || a.Lost() != 0 || !strings.Contains(a.Missing[0].Why, n.Client2.Inner(f).String()) {
			t.Errorf("%s: expected 13 to be refused by client2, got %+v", f, a)
		}
		if took := time.Since(began); took > 5*time.Second {
			t.Errorf("%s: a refusal is an answer that need not be waited for, but it took %s", f, took)
		}
	}
	if err := n.GW1.PingFrom(t.Context(), n.GW1.Inner(IPv6), n.Client2.Inner(IPv6), 2); err != nil {
		t.Error(err)
	}
	e, err := n.Client1.StartEcho(Echo{To: n.GW1.Inner(IPv4), Size: 1000, Interval: 10 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	for began := time.Now(); e.Answered() < 10; time.Sleep(time.Millisecond) {
		if time.Since(began) > 20*time.Second {
			t.Fatalf("no answers: %s", e.answers())
		}
	}
	if a := e.Stop(); a.Err() != nil || a.Answered < 10 {
		t.Error(a)
	}
	if err := n.Client1.Ping(t.Context(), n.Client1.Subnet(IPv4).Addr().Prev(), 1); err == nil {
		t.Error("nobody is at that address, but it answered")
	}
}

// TestEchoLate: the answer to the last request comes 300 ms after it, the others at once. ping(8) takes that for a loss.
func TestEchoLate(t *testing.T) {
	n := New(t, Config{})
	for _, line := range []string{
		"qdisc add dev eth0 root handle 1: prio",
		"qdisc add dev eth0 parent 1:3 handle 30: netem delay 300ms",
		"filter add dev eth0 parent 1: protocol ip u32 match ip protocol 1 0xff match u16 25 0xffff at 26 flowid 1:3",
	} {
		if out, err := n.Client2.Run(t.Context(), append([]string{"tc"}, strings.Fields(line)...)...); err != nil {
			if strings.Contains(err.Error(), "qdisc kind is unknown") {
				t.Skipf("this kernel cannot hold packets back: %v %s", err, out)
			}
			t.Fatal(err)
		}
	}
	// An earlier one may take longer still: the first waits until neighbours are known.
	if a := echoes(t, n, IPv4, "drop"); a.Err() != nil || a.Answered != 25 || a.came[24].Sub(a.went[24]) < 300*time.Millisecond {
		t.Errorf("expected the last answer after 300 ms, got %+v", a)
	}
}

// TestEchoCPU: requests leave on the CPU that was asked for.
func TestEchoCPU(t *testing.T) {
	n := New(t, Config{})
	if runtime.NumCPU() < 2 {
		t.Skip("one CPU")
	}
	for cpu := range 2 {
		rules := fmt.Sprintf("table inet sends {\n counter here { }\n chain out { type filter hook output priority 0;\n icmp type echo-request meta cpu %d counter name \"here\"\n}\n}\n", cpu)
		if _, err := n.Client1.RunInput(t.Context(), rules, "nft", "-f", "-"); err != nil {
			t.Fatal(err)
		}
		if _, err := n.Client1.Echo(t.Context(), Echo{To: n.Client2.Inner(IPv4), Count: 20, Interval: 5 * time.Millisecond, CPU: &cpu}); err != nil {
			t.Error(err)
		}
		if out, err := n.Client1.Run(t.Context(), "nft", "list", "table", "inet", "sends"); err != nil || !strings.Contains(out, "packets 20 ") {
			t.Errorf("expected 20 packets of CPU %d, got %v\n%s", cpu, err, out)
		}
		if _, err := n.Client1.Run(t.Context(), "nft", "delete", "table", "inet", "sends"); err != nil {
			t.Error(err)
		}
	}
	if a, err := n.Client1.Echo(t.Context(), Echo{To: n.Client2.Inner(IPv4), Count: 1, CPU: new(1000)}); err == nil || a.Sent != 0 {
		t.Errorf("sent on a CPU that there is not: %v %s", err, a)
	}
}
