package main

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
)

// op compares a value with its limit.
type op string

const (
	atMost  op = "<="
	atLeast op = ">="
)

// figure is one promise.
type figure struct {
	name  string // lower case with underscores, the beginning says what belongs together
	unit  string // one word
	op    op
	limit float64
	what  string // a sentence for docs/figures.md, with the reason for the limit where it is ours

	from   source
	metric string // of from's metrics
	beside string // another one that helps to judge the value, for docs/figures.md; may be empty
}

// measured is a figure's value.
type measured struct {
	value  float64
	beside string // metric and value; empty: nothing
}

// read takes the figure out of its source's metrics.
func (f *figure) read(m metrics) (r measured, err error) {
	if r.value, err = m.median(f.metric); err != nil || f.beside == "" {
		return r, err
	}
	v, err := m.median(f.beside)
	r.beside = number(v) + " " + f.beside
	return r, err
}

// source measures the metrics of one or more figures, once a run. Its values
// are compared with ==, so figures share one by sharing a pointer.
type source interface {
	fmt.Stringer // what is measured, for the progress
	// measure works until it has all metrics or ctx ends; it tells its progress.
	measure(ctx context.Context, progress io.Writer) (metrics, error)
}

// metrics are the values of repeated measurements, by name.
type metrics map[string][]float64

// median is that of a metric's values; an error if there are none.
func (m metrics) median(name string) (float64, error) {
	v := slices.Sorted(slices.Values(m[name]))
	if len(v) == 0 {
		return 0, fmt.Errorf("expected the metric %q, found %d others", name, len(m))
	}
	return (v[(len(v)-1)/2] + v[len(v)/2]) / 2, nil
}

// goal is operator and limit as they are printed.
func (f *figure) goal() string { return string(f.op) + " " + number(f.limit) }

// met says whether a value as printed reaches the goal.
func (f *figure) met(v float64) bool {
	v, _ = strconv.ParseFloat(number(v), 64) // number prints what this reads
	if f.op == atLeast {
		return v >= f.limit
	}
	return v <= f.limit
}

// line is the figure as the design has it.
func (f *figure) line(v float64) string {
	return fmt.Sprintf("figure %s %s %s goal %s", f.name, number(v), f.unit, f.goal())
}

// number has three digits that count, or all of those before the point.
func number(v float64) string {
	if v >= 100 || v <= -100 {
		return strconv.FormatFloat(v, 'f', 0, 64)
	}
	return strconv.FormatFloat(v, 'g', 3, 64)
}

func selected(all []figure, prefix string) []figure {
	var out []figure
	for _, f := range all {
		if strings.HasPrefix(f.name, prefix) {
			out = append(out, f)
		}
	}
	return out
}
