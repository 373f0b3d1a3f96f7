package main

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"unicode"
	"unicode/utf8"

	"espalier/tools/lab/guest"
)

// unit is what a machine takes on at once of a package's tests, when several machines share them.
type unit struct {
	title string
	tests []string
}

// unitsOf lists the package's tests whose names match: each of those that have the build tag by itself, as they take long, and the others, those
// of plain, together.
func unitsOf(tagged, plain pkg, match *regexp.Regexp) ([]unit, error) {
	without, err := plain.testNames()
	if err != nil {
		return nil, err
	}
	all, err := tagged.testNames()
	if err != nil {
		return nil, err
	}
	quick := map[string]bool{}
	for _, name := range without {
		quick[name] = true
	}
	together := unit{title: "without the build tag"}
	var units []unit
	for _, name := range all {
		switch {
		case !match.MatchString(name):
		case quick[name]:
			together.tests = append(together.tests, name)
		default:
			units = append(units, unit{name, []string{name}})
		}
	}
	if len(together.tests) > 0 {
		units = append(units, together)
	}
	return units, nil
}

// steps are the steps for several machines, which claim them in a directory that all of them see.
func (p pkg) steps(units []unit, argv []string, claims string) []guest.Step {
	var out []guest.Step
	for _, u := range units {
		run := "-test.run=^(" + strings.Join(u.tests, "|") + ")$"
		out = append(out, guest.Step{Name: p.ImportPath + " " + u.title, Dir: p.Dir, Argv: append([]string{argv[0], run}, argv[1:]...),
			Claim: filepath.Join(claims, strings.NewReplacer("/", "-", " ", "-").Replace(p.ImportPath+" "+u.title))})
	}
	return out
}

// testNames are the names of what go test would run by itself: tests, examples, and fuzz targets with their seeds, in the order of the files.
func (p pkg) testNames() (names []string, err error) {
	for _, file := range append(append([]string(nil), p.TestGoFiles...), p.XTestGoFiles...) {
		f, err := parser.ParseFile(token.NewFileSet(), filepath.Join(p.Dir, file), nil, parser.SkipObjectResolution)
		if err != nil {
			return nil, fmt.Errorf("reading the names of the tests of %s: %w", p.ImportPath, err)
		}
		for _, d := range f.Decls {
			if fn, ok := d.(*ast.FuncDecl); ok && fn.Recv == nil && isTest(fn.Name.Name) {
				names = append(names, fn.Name.Name)
			}
		}
	}
	return names, nil
}

// isTest tells whether a function of a test file is a test, by its name, as go test does.
func isTest(name string) bool {
	for _, prefix := range []string{"Test", "Example", "Fuzz"} {
		if rest, ok := strings.CutPrefix(name, prefix); ok && name != "TestMain" {
			first, _ := utf8.DecodeRuneInString(rest)
			return rest == "" || !unicode.IsLower(first)
		}
	}
	return false
}

// makeClaims makes the directory in which the machines claim steps.
func makeClaims(shared string) (string, error) {
	dir := filepath.Join(shared, "claims")
	return dir, os.Mkdir(dir, 0o755)
}
