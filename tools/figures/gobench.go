package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
)

// goBench measures a Go benchmark in a process of its own, with GOMAXPROCS=1 unless
// procs says otherwise.
// Its metrics have the names that the benchmark reports.
type goBench struct {
	pkg   string // import path
	bench string // name, with the sub-benchmark's
	time  string // -benchtime
	count int    // how often; odd, for the median
	procs int    // GOMAXPROCS; 0: 1
}

func (g *goBench) String() string { return fmt.Sprintf("%s of %s", g.bench, g.pkg) }

func (g *goBench) measure(ctx context.Context, progress io.Writer) (metrics, error) {
	procs := strconv.Itoa(max(g.procs, 1))
	cmd := exec.CommandContext(ctx, "go", "test", "-run=^$", "-bench="+g.pattern(), "-benchtime="+g.time,
		"-count="+strconv.Itoa(g.count), "-cpu="+procs, g.pkg)
	cmd.Env = append(os.Environ(), "GOMAXPROCS="+procs)
	cmd.Stderr = progress
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("go test: %w", err)
	}
	// What the benchmark prints is the progress, and says why it fails.
	name := g.bench
	if g.procs > 1 {
		name += "-" + procs // as go test prints it
	}
	m, readErr := readBench(io.TeeReader(out, progress), name)
	if err := cmd.Wait(); err != nil {
		return nil, fmt.Errorf("go test -bench %s %s: %w", g.bench, g.pkg, err)
	}
	return m, readErr
}

// pattern matches the benchmark alone, for -bench.
func (g *goBench) pattern() string {
	parts := strings.Split(g.bench, "/")
	for i, p := range parts {
		parts[i] = "^" + regexp.QuoteMeta(p) + "$"
	}
	return strings.Join(parts, "/")
}

// readBench collects a benchmark's metrics from what go test prints: the name,
// the iterations, and pairs of value and metric.
func readBench(r io.Reader, bench string) (metrics, error) {
	m := metrics{}
	lines := bufio.NewScanner(r)
	for lines.Scan() {
		f := strings.Fields(lines.Text())
		if len(f) < 4 || f[0] != bench {
			continue
		}
		for i := 2; i+1 < len(f); i += 2 {
			v, err := strconv.ParseFloat(f[i], 64)
			if err != nil {
				_, _ = io.Copy(io.Discard, r) // the process must not wait for us
				return nil, fmt.Errorf("%s: expected a number for %s, found %q", bench, f[i+1], f[i])
			}
			m[f[i+1]] = append(m[f[i+1]], v)
		}
	}
	return m, lines.Err()
}
