// Figures measures what the project promises and prints one line a figure:
//
//	figure NAME VALUE UNIT goal OP LIMIT
//
// Progress and missed goals go to stderr. A missed goal is no failure: the exit
// code is 0 when all that was asked for was measured, 1 when something could
// not be, 2 when the command line is not understood. --write keeps the values
// in docs/figures.md.
package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"

	"github.com/alecthomas/kong"
)

// Exit codes.
const (
	exitFailed = 1
	exitUsage  = 2
)

type flags struct {
	Only  string `arg:"" optional:"" env:"ONLY" placeholder:"PREFIX" help:"Measure only the figures whose names begin with this."`
	List  bool   `help:"Print the figures and their goals, measure nothing."`
	Write bool   `help:"Keep the values in docs/figures.md."`
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := run(ctx, os.Args[1:], table(), os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

// run is main with its surroundings as arguments; it returns the exit code.
func run(ctx context.Context, args []string, all []figure, stdout, stderr io.Writer) int {
	var f flags
	code, done := 0, false
	parser, err := kong.New(&f, kong.Name("figures"), kong.Description("Measures what the project promises."),
		kong.Writers(stdout, stderr), kong.Exit(func(c int) { code, done = c, true }))
	if err != nil {
		fmt.Fprintf(stderr, "figures: %v\n", err)
		return exitFailed
	}
	_, err = parser.Parse(args)
	if done { // --help
		return code
	}
	if err != nil {
		fmt.Fprintf(stderr, "figures: %v (see --help)\n", err)
		return exitUsage
	}
	wanted := selected(all, f.Only)
	if len(wanted) == 0 {
		fmt.Fprintf(stderr, "figures: no figure begins with %q (see --list)\n", f.Only)
		return exitUsage
	}
	if f.List {
		for _, w := range wanted {
			fmt.Fprintf(stdout, "%s %s goal %s: %s\n", w.name, w.unit, w.goal(), w.what)
		}
		return 0
	}
	values, failed := measureAll(ctx, wanted, stdout, stderr)
	if f.Write && len(values) > 0 {
		if err := keep(ctx, all, values); err != nil {
			fmt.Fprintf(stderr, "figures: %v\n", err)
			failed = true
		}
	}
	if failed {
		return exitFailed
	}
	return 0
}

// measureAll measures the figures in order and prints each as soon as it is
// known. What cannot be measured is reported, and the rest goes on.
func measureAll(ctx context.Context, wanted []figure, stdout, stderr io.Writer) (values map[string]measured, failed bool) {
	values = map[string]measured{}
	type outcome struct {
		m   metrics
		err error
	}
	sources := map[source]outcome{}
	for _, w := range wanted {
		o, ok := sources[w.from]
		if !ok {
			fmt.Fprintf(stderr, "figures: measuring %s\n", w.from)
			o.m, o.err = w.from.measure(ctx, stderr)
			sources[w.from] = o
		}
		v, err := w.read(o.m)
		if o.err != nil {
			err = o.err
		}
		if err != nil {
			fmt.Fprintf(stderr, "figures: %s could not be measured: %v\n", w.name, err)
			failed = true
			continue
		}
		values[w.name] = v
		fmt.Fprintln(stdout, w.line(v.value))
		if !w.met(v.value) {
			fmt.Fprintf(stderr, "figures: %s misses its goal\n", w.name)
		}
	}
	return values, failed
}

// keep writes the values into docs/figures.md and leaves those of other figures.
func keep(ctx context.Context, all []figure, values map[string]measured) error {
	root, err := moduleRoot(ctx)
	if err != nil {
		return err
	}
	path := filepath.Join(root, "docs", "figures.md")
	old, err := os.ReadFile(path)
	if err != nil && !os.IsNotExist(err) {
		return err
	}
	m, err := thisMachine(ctx)
	if err != nil {
		return err
	}
	return os.WriteFile(path, []byte(page(all, kept(string(old)), values, m)), 0o644)
}
