package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"espalier/tools/lab/guest"
)

type testCmd struct {
	machineFlags
	Verbose  bool     `short:"v" help:"Print every test (-test.v)."`
	RunRE    string   `name:"run" help:"Run only tests that match." placeholder:"REGEXP"`
	Tagged   bool     `help:"Leave out packages that have no test with the build tag lab."`
	Jobs     int      `help:"Machines that run at once and share the tests out among themselves; the output of each test is printed when it has ended." default:"1"`
	Race     bool     `help:"Build with the race detector; needs a C compiler here."`
	Packages []string `arg:"" help:"Go packages, as go test takes them."`
}

// pkg is what 'go list -json' says of a package.
type pkg struct {
	ImportPath   string
	Dir          string
	TestGoFiles  []string
	XTestGoFiles []string
}

// Run implements the verb test: it builds on this machine, where the compiler is, and runs in the guest, each package in its directory.
func (c *testCmd) Run(ctx context.Context, l *lab) error {
	if err := c.check(); err != nil {
		return err
	}
	match, err := c.checkJobs()
	if err != nil {
		return err
	}
	pkgs, err := listPackages(ctx, "lab", c.Packages)
	if err != nil {
		return err
	}
	plain, err := listPackages(ctx, "", c.Packages)
	if err != nil {
		return err
	}
	if c.Tagged {
		pkgs = withTaggedTests(pkgs, plain)
	}
	bins, err := os.MkdirTemp("", "espalier-tests-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(bins)
	claims, err := makeClaims(bins)
	if err != nil {
		return err
	}
	var steps []guest.Step
	for i, p := range pkgs {
		if p.tests() == 0 {
			continue
		}
		say("building the tests of %s", p.ImportPath)
		bin := filepath.Join(bins, fmt.Sprintf("%d.test", i))
		if err := c.build(ctx, p.ImportPath, bin); err != nil {
			return err
		}
		// Less than the guest has, so that a test that hangs is named instead of dying with the guest.
		argv := []string{bin, "-test.timeout=" + (c.TimeLimit * 9 / 10).String(), "-test.paniconexit0"}
		if c.Verbose {
			argv = append(argv, "-test.v")
		}
		if c.Jobs > 1 {
			units, err := unitsOf(p, find(plain, p.ImportPath), match)
			if err != nil {
				return err
			}
			steps = append(steps, p.steps(units, append(argv, l.rest...), claims)...)
			continue
		}
		if c.RunRE != "" {
			argv = append(argv, "-test.run="+c.RunRE)
		}
		steps = append(steps, guest.Step{Name: p.ImportPath, Dir: p.Dir, Argv: append(argv, l.rest...)})
	}
	if len(steps) == 0 {
		return fmt.Errorf("no tests in %s", strings.Join(c.Packages, " "))
	}
	return c.machineFlags.run(ctx, []string{bins}, steps, c.Jobs)
}

// checkJobs refuses flags that do not go with several machines, and returns what --run matches.
func (c *testCmd) checkJobs() (*regexp.Regexp, error) {
	switch {
	case c.Jobs < 1 || c.Jobs > 16:
		return nil, fmt.Errorf("%w: --jobs %d: expected 1 to 16", errUsage, c.Jobs)
	case c.Jobs > 1 && c.Here:
		return nil, fmt.Errorf("%w: --jobs %d with --here: expected one, as there is one machine", errUsage, c.Jobs)
	case c.Jobs > 1 && c.Steady:
		return nil, fmt.Errorf("%w: --jobs %d with --steady: expected one, as a guest's CPUs are this machine's", errUsage, c.Jobs)
	case c.Jobs > 1 && strings.Contains(c.RunRE, "/"):
		return nil, fmt.Errorf("%w: --jobs %d with --run %s: expected names of whole tests, which are shared out", errUsage, c.Jobs, c.RunRE)
	case c.Jobs == 1:
		return nil, nil // the tests know what they match
	}
	match, err := regexp.Compile(c.RunRE)
	if err != nil {
		return nil, fmt.Errorf("%w: --run: %w", errUsage, err)
	}
	return match, nil
}

// find is the package with that path, or one without tests.
func find(pkgs []pkg, path string) pkg {
	for _, p := range pkgs {
		if p.ImportPath == path {
			return p
		}
	}
	return pkg{ImportPath: path}
}

// build compiles the tests of one package into bin.
func (c *testCmd) build(ctx context.Context, path, bin string) error {
	args := []string{"test", "-c", "-tags=lab", "-o", bin}
	cgo := "CGO_ENABLED=0" // the guest's C library is not this machine's
	if c.Race {
		args, cgo = append(args, "-race", "-ldflags=-linkmode=external -extldflags=-static"), "CGO_ENABLED=1"
	}
	cmd := exec.CommandContext(ctx, "go", append(args, path)...)
	cmd.Env = append(os.Environ(), cgo)
	cmd.Stdout, cmd.Stderr = os.Stderr, os.Stderr
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("building the tests of %s: %w", path, err)
	}
	return nil
}

// withTaggedTests keeps the packages that have more tests than without the build tag, as plain lists them.
func withTaggedTests(tagged, plain []pkg) []pkg {
	without := map[string]int{}
	for _, p := range plain {
		without[p.ImportPath] = p.tests()
	}
	return slices.DeleteFunc(tagged, func(p pkg) bool { return p.tests() <= without[p.ImportPath] })
}

// tests counts the package's test files.
func (p pkg) tests() int { return len(p.TestGoFiles) + len(p.XTestGoFiles) }

// listPackages resolves package patterns, with the build tag.
func listPackages(ctx context.Context, tag string, patterns []string) ([]pkg, error) {
	cmd := exec.CommandContext(ctx, "go", append([]string{"list", "-tags=" + tag, "-json=ImportPath,Dir,TestGoFiles,XTestGoFiles"}, patterns...)...)
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("listing packages: %w", err)
	}
	var pkgs []pkg
	for dec := json.NewDecoder(bytes.NewReader(out)); ; {
		var p pkg
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			return pkgs, nil
		} else if err != nil {
			return nil, fmt.Errorf("reading what 'go list' printed: %w", err)
		}
		pkgs = append(pkgs, p)
	}
}
