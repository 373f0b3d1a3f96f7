package programs

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"espalier/bpf"
)

// budget is the most that a program may cost the verifier, on any kernel: instructions that it walks through (it gives up at a million), and
// bytes of stack with the deepest of its functions (512 is the end).
type budget struct{ instructions, stack int }

var budgets = map[string]budget{
	"esp_in": {300_000, 512}, "esp_in_stay": {300_000, 512}, "flow_in": {60_000, 200}, "cpu_in": {100, 16},
	"esp_in_raw": {150_000, 512}, "esp_out": {120_000, 160}, "esp_out_raw": {50_000, 160},
	"mss_xfrm": {60_000, 400}, "mss_in": {120_000, 400}, "mss_in_raw": {60_000, 400}, "mss_out": {120_000, 400}, "mss_out_raw": {60_000, 400},
	"audit_notfound": {10_000, 400}, "audit_replay": {10_000, 400}, "audit_icvfail": {10_000, 400}, "audit_overflow": {10_000, 400},
	"input_begins": {10_000, 400}, "input_ends": {20_000, 500}, "policy_begins": {10_000, 400}, "policy_ends": {20_000, 500},
	"output_begins": {10_000, 400}, "output_ends": {20_000, 500},
}

// cost reads what a program cost from the verifier's log.
func cost(t *testing.T, p *ebpf.Program) budget {
	t.Helper()
	log := p.VerifierLog
	var b budget
	deepest := 0
	processed := regexp.MustCompile(`processed (\d+) insns`).FindStringSubmatch(log)
	// All frames, "136+120+184"; kernels from 7.2 on sum up, "max 320".
	stack := regexp.MustCompile(`stack depth (?:max )?([\d+]+)`).FindStringSubmatch(log)
	if processed == nil || stack == nil {
		t.Fatalf("the verifier's log says neither instructions nor stack: %q", log)
	}
	b.instructions, _ = strconv.Atoi(processed[1])
	for i, s := range strings.Split(stack[1], "+") {
		n, _ := strconv.Atoi(s)
		if i == 0 {
			b.stack = n
		} else {
			deepest = max(deepest, n)
		}
	}
	b.stack += deepest // functions of ours call none of ours
	return b
}

func release(t *testing.T) string {
	t.Helper()
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		t.Fatal(err)
	}
	return string(bytes.TrimRight(u.Release[:], "\x00"))
}

// Each program loads on this kernel, within its budget. With -v it prints the rows of the table in docs/bpf.md.
func TestBudget(t *testing.T) {
	s := bpf.Sizes{Slots: 64, CPUs: ebpf.MustPossibleCPU()}
	kernel := release(t)
	seen := map[string]bool{}
	for _, load := range []func(bpf.Sizes) (*ebpf.CollectionSpec, error){bpf.XDP, bpf.TC, dropsIfTracing(t)} {
		spec, err := load(s)
		if err != nil {
			t.Fatal(err)
		}
		if spec == nil {
			continue
		}
		c, err := ebpf.NewCollectionWithOptions(spec, ebpf.CollectionOptions{Programs: ebpf.ProgramOptions{LogLevel: ebpf.LogLevelStats}})
		needBPF(t, err)
		defer c.Close()
		for _, name := range slices.Sorted(maps.Keys(c.Programs)) {
			got, limit := cost(t, c.Programs[name]), budgets[name]
			t.Logf("| %s | %s | %d | %d |", name, kernel, got.instructions, got.stack)
			if got.instructions > limit.instructions || got.stack > limit.stack {
				t.Errorf("%s: %+v; expected at most %+v", name, got, limit)
			}
			seen[name] = true
		}
	}
	for name := range budgets {
		if !seen[name] {
			t.Logf("not on this kernel: %s", name)
		}
	}
}

// dropsIfTracing loads the object drops where programs can be attached to kernel functions; elsewhere it says so. A Debian kernel can.
func dropsIfTracing(t *testing.T) func(bpf.Sizes) (*ebpf.CollectionSpec, error) {
	t.Helper()
	return func(s bpf.Sizes) (*ebpf.CollectionSpec, error) {
		spec, err := bpf.Drops(s, true)
		if err != nil {
			return nil, err
		}
		c, err := ebpf.NewCollection(spec)
		if err == nil {
			c.Close()
			return spec, nil
		}
		if strings.Contains(release(t), "+deb") || strings.HasSuffix(release(t), "-amd64") {
			return nil, err
		}
		t.Logf("no programs at kernel functions here: %.200v", err)
		return nil, nil
	}
}

// The programs at kernel functions attach, all of them, on a kernel that can.
func TestDropsAttach(t *testing.T) {
	spec, err := dropsIfTracing(t)(bpf.Sizes{Slots: 64, CPUs: ebpf.MustPossibleCPU()})
	if err != nil {
		var v *ebpf.VerifierError
		if errors.As(err, &v) {
			fmt.Fprintf(os.Stderr, "%+v\n", v)
		}
		t.Fatal(err)
	}
	if spec == nil {
		t.Skip("this kernel has no programs at kernel functions (User-Mode Linux, or built without)")
	}
	c, err := ebpf.NewCollection(spec)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for name, p := range c.Programs {
		l, err := link.AttachTracing(link.TracingOptions{Program: p})
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	}
}
