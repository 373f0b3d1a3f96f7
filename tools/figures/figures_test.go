package main

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math"
	"regexp"
	"strings"
	"testing"
	"time"
)

// canned is a source whose values are known, and counts its calls.
type canned struct {
	m     metrics
	err   error
	calls int
}

func (c *canned) String() string { return "canned" }

func (c *canned) measure(context.Context, io.Writer) (metrics, error) {
	c.calls++
	return c.m, c.err
}

func TestTable(t *testing.T) {
	name, word := regexp.MustCompile(`^[a-z][a-z0-9_]*$`), regexp.MustCompile(`^\S+$`)
	seen := map[string]bool{}
	for _, f := range table() {
		if !name.MatchString(f.name) || seen[f.name] {
			t.Errorf("%q: expected a name of its own, lower case with underscores", f.name)
		}
		seen[f.name] = true
		if !word.MatchString(f.unit) || f.op != atMost && f.op != atLeast || f.limit <= 0 || f.metric == "" || f.from == nil {
			t.Errorf("%s: expected unit, operator, limit, source and metric: %+v", f.name, f)
		}
		if !strings.HasSuffix(f.what, ".") || strings.Contains(f.what, "\n") {
			t.Errorf("%s: expected a sentence, got %q", f.name, f.what)
		}
		if n := number(f.limit); n != strings.Split(f.goal(), " ")[1] || !f.met(f.limit) {
			t.Errorf("%s: the limit %v does not print as itself: %s", f.name, f.limit, n)
		}
	}
	for _, n := range []string{"setup_psk_cpu_ms", "setup_psk_over_pubkey", "setup_ecdsa_cpu_ms", "setup_psk_allocs"} {
		if !seen[n] {
			t.Errorf("%s is promised and not in the table", n)
		}
	}
}

func TestNumber(t *testing.T) {
	for v, want := range map[float64]string{0.2864: "0.286", 1.4999: "1.5", 452.4: "452", 12345.6: "12346", 0: "0", 99.96: "100", -250.7: "-251"} {
		if got := number(v); got != want {
			t.Errorf("number(%v): expected %s, got %s", v, want, got)
		}
	}
}

func TestMet(t *testing.T) {
	most, least := figure{op: atMost, limit: 0.29}, figure{op: atLeast, limit: 10}
	for _, c := range []struct {
		f    figure
		v    float64
		want bool
	}{{most, 0.29, true}, {most, 0.2904, true}, {most, 0.291, false}, {least, 10, true}, {least, 9.9, false}, {least, 11, true}} {
		if got := c.f.met(c.v); got != c.want {
			t.Errorf("%v %s: expected %v, got %v", c.v, c.f.goal(), c.want, got)
		}
	}
}

func TestMedian(t *testing.T) {
	m := metrics{"odd": {9, 1, 2}, "even": {4, 1, 2, 9}}
	for name, want := range map[string]float64{"odd": 2, "even": 3} {
		if got, err := m.median(name); err != nil || math.Abs(got-want) > 1e-9 {
			t.Errorf("%s: expected %v, got %v, %v", name, want, got, err)
		}
	}
	if _, err := m.median("other"); err == nil {
		t.Error("a metric that nobody measured has a median")
	}
}

func TestRead(t *testing.T) {
	m := metrics{"a": {0.25}, "b": {47.96}}
	for _, c := range []struct {
		f    figure
		want measured
		ok   bool
	}{
		{figure{metric: "a"}, measured{value: 0.25}, true},
		{figure{metric: "a", beside: "b"}, measured{0.25, "48 b"}, true},
		{figure{metric: "a", beside: "c"}, measured{}, false},
		{figure{metric: "c"}, measured{}, false},
	} {
		if got, err := c.f.read(m); (err == nil) != c.ok || c.ok && got != c.want {
			t.Errorf("%q beside %q: expected %+v, got %+v, %v", c.f.metric, c.f.beside, c.want, got, err)
		}
	}
}

func TestRun(t *testing.T) {
	good := &canned{m: metrics{"a": {0.25}, "b": {2}}}
	bad := &canned{err: errors.New("boom")}
	all := []figure{
		{name: "one_a", unit: "ms", op: atMost, limit: 0.29, from: good, metric: "a", what: "A."},
		{name: "one_b", unit: "ratio", op: atMost, limit: 1.5, from: good, metric: "b", what: "B."},
		{name: "two", unit: "Gbps", op: atLeast, limit: 10, from: bad, metric: "a", what: "C."},
	}
	for _, c := range []struct {
		name, stdout, stderr string
		args                 []string
		env                  string
		code                 int
	}{
		{name: "prefix", args: []string{"one"}, stdout: "figure one_a 0.25 ms goal <= 0.29\nfigure one_b 2 ratio goal <= 1.5\n", stderr: "one_b misses its goal"},
		{name: "environment", env: "one_a", stdout: "figure one_a 0.25 ms goal <= 0.29\n", stderr: "measuring canned"},
		{name: "failure", code: exitFailed, stdout: "figure one_a 0.25 ms goal <= 0.29\nfigure one_b 2 ratio goal <= 1.5\n", stderr: "two could not be measured: boom"},
		{name: "unknown", args: []string{"three"}, code: exitUsage, stderr: `no figure begins with "three"`},
		{name: "flag", args: []string{"--nosuch"}, code: exitUsage, stderr: "--nosuch"},
		{name: "list", args: []string{"--list", "two"}, stdout: "two Gbps goal >= 10: C.\n"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Setenv("ONLY", c.env)
			good.calls = 0
			var stdout, stderr bytes.Buffer
			if code := run(t.Context(), c.args, all, &stdout, &stderr); code != c.code {
				t.Errorf("expected exit code %d, got %d", c.code, code)
			}
			if stdout.String() != c.stdout {
				t.Errorf("stdout: expected\n%s\ngot\n%s", c.stdout, stdout.String())
			}
			if !strings.Contains(stderr.String(), c.stderr) {
				t.Errorf("stderr: expected %q in\n%s", c.stderr, stderr.String())
			}
			if good.calls > 1 {
				t.Errorf("figures of one source measured it %d times", good.calls)
			}
		})
	}
}

func TestReadBench(t *testing.T) {
	const printed = `goos: linux
cpu: Intel(R) Xeon(R) Processor @ 2.80GHz
BenchmarkSetup/PSK         	    2000	    420646 ns/op	     452.5 allocs/setup	         0.3931 cpu-ms/setup
BenchmarkSetup/PSK-other   	    2000	    1 ns/op	     9 allocs/setup
BenchmarkSetup/PSK         	    2000	    420646 ns/op	     451.5 allocs/setup	         0.3831 cpu-ms/setup
PASS
`
	m, err := readBench(strings.NewReader(printed), "BenchmarkSetup/PSK")
	if err != nil {
		t.Fatal(err)
	}
	if v, err := m.median("allocs/setup"); err != nil || v != 452 || len(m["cpu-ms/setup"]) != 2 {
		t.Errorf("expected 452 and two values of cpu-ms/setup, got %v, %v, %v", v, err, m)
	}
	if _, err := readBench(strings.NewReader("BenchmarkX 1 nonsense ns/op\n"), "BenchmarkX"); err == nil {
		t.Error("a value that is no number was read")
	}
}

func TestPattern(t *testing.T) {
	g := goBench{bench: "BenchmarkSetup/ECDSA-P256.x"}
	if got, want := g.pattern(), `^BenchmarkSetup$/^ECDSA-P256\.x$`; got != want {
		t.Errorf("expected %s, got %s", want, got)
	}
}

func TestPage(t *testing.T) {
	all := []figure{
		{name: "a", unit: "ms", op: atMost, limit: 1, what: "First."},
		{name: "b", unit: "ms", op: atMost, limit: 1, what: "Second."},
		{name: "c", unit: "ms", op: atMost, limit: 1, what: "Third."},
	}
	m := machine{cpu: "CPU", kernel: "6.12", goVersion: "go1", date: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)}
	first := page(all, nil, map[string]measured{"a": {value: 0.5, beside: "48 us/op"}, "b": {value: 2}}, m)
	for _, want := range []string{
		"| a | 0.5 | ms | <= 1 | yes | 48 us/op | 2026-01-02 | CPU, Linux 6.12, go1 |\n",
		"| b | 2 | ms | <= 1 | no |  | 2026-01-02 | CPU, Linux 6.12, go1 |\n",
		"- **c**: Third.\n",
	} {
		if !strings.Contains(first, want) {
			t.Errorf("expected %q in\n%s", want, first)
		}
	}
	m.kernel = "7.0"
	second := page(all[1:], kept(first), map[string]measured{"c": {value: 0.25}}, m)
	for want, in := range map[string]bool{
		"| a |": false, "| b | 2 | ms | <= 1 | no |  | 2026-01-02 | CPU, Linux 6.12, go1 |\n": true, "| c | 0.25 | ms | <= 1 | yes |  | 2026-01-02 | CPU, Linux 7.0, go1 |\n": true,
	} {
		if strings.Contains(second, want) != in {
			t.Errorf("%q: expected it to be there: %v, in\n%s", want, in, second)
		}
	}
	if again := page(all[1:], kept(second), nil, m); again != second {
		t.Errorf("a page with nothing new changes:\n%s\n%s", second, again)
	}
}

func TestCPUModel(t *testing.T) {
	if got := cpuModel("processor\t: 0\nmodel\t\t: 106\nmodel name\t: Intel(R)  Xeon(R) @ 2.80GHz\n"); got != "Intel(R) Xeon(R) @ 2.80GHz" {
		t.Errorf("got %q", got)
	}
	if got := cpuModel("Processor: x\n"); got != "unknown processor" {
		t.Errorf("got %q", got)
	}
}
