package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"espalier/dataplane/flow"
	"espalier/dataplane/host"
)

// fastPath is what the objects spi, drop, guard and host read: the pinned maps,
// which are there with and without a daemon. flow.Reader is one.
type fastPath interface {
	SPIs() ([]flow.SPI, error)
	Totals() ([]flow.TotalCount, error)
	KernelStats() ([]flow.Stat, error)
	Guard() (flow.Guard, error)
	SetGuard(flow.GuardMode) error
	State() (flow.State, error)
	Samples() (samples, error)
	Close() error
}

// samples is a stream of lost packets.
type samples interface {
	Next() (flow.Sample, error)
	Close() error
}

// pinned opens fast paths and looks at the box: the real ones, or made-up ones in tests.
type pinned interface {
	open(flow.ReaderOptions) (fastPath, error)
	daemon(flow.ReaderOptions) (flow.Daemon, error)
	inventory(context.Context) host.Inventory
	measure(context.Context, time.Duration) (host.Speed, error)
}

// kernel is the real one.
type kernel struct{}

func (kernel) open(o flow.ReaderOptions) (fastPath, error) {
	r, err := flow.OpenReader(o)
	if err != nil {
		return nil, err
	}
	return reader{r}, nil
}

func (kernel) daemon(o flow.ReaderOptions) (flow.Daemon, error) { return flow.ReadDaemon(o) }

func (kernel) inventory(ctx context.Context) host.Inventory { return host.Local{}.Inventory(ctx) }

func (kernel) measure(ctx context.Context, d time.Duration) (host.Speed, error) {
	return host.Local{}.MeasureCipher(ctx, d)
}

// reader makes a flow.Reader a fastPath.
type reader struct{ *flow.Reader }

func (r reader) Samples() (samples, error) { return r.Reader.Samples() }

// KernelStats are of this network namespace, as the maps are.
func (reader) KernelStats() ([]flow.Stat, error) { return flow.KernelStats() }

// fastPath opens the pinned maps, or says what may be wrong.
func (e *env) fastPath() (fastPath, error) {
	f, err := e.pinned.open(e.readers)
	return f, e.explainFastPath(err)
}

func (e *env) explainFastPath(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, flow.ErrNotLoaded):
		return fmt.Errorf("%w: espalierd loads it when it starts (espctl host show says what it could not load)", err)
	case errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("%w: run espctl as root", err)
	}
	return err
}

// read opens the fast path, lets f read from it, and closes it.
func (e *env) read(f func(fastPath) error) error {
	p, err := e.fastPath()
	if err != nil {
		return err
	}
	return errors.Join(e.explainFastPath(f(p)), p.Close())
}

// spiKey names an SA in JSON as its packets do.
type spiKey struct {
	Dir string `json:"dir"` // in or out
	Dst string `json:"dst"`
	SPI string `json:"spi"` // 8 hexadecimal digits
}

func keyResult(k flow.Key) spiKey {
	return spiKey{Dir: k.Dir.String(), Dst: k.Dst.String(), SPI: fmt.Sprintf("%08x", k.SPI)}
}

// parseSPI reads an SPI as espctl prints it, also with 0x.
func parseSPI(s string) (uint32, error) {
	v, err := strconv.ParseUint(strings.TrimPrefix(strings.ToLower(s), "0x"), 16, 32)
	if err != nil {
		return 0, fmt.Errorf("SPI %q: expected up to 8 hexadecimal digits", s)
	}
	return uint32(v), nil
}

// count is a name with a number of packets.
type count struct {
	Name    string `json:"name"`
	Packets uint64 `json:"packets"`
}

func counts(totals []flow.TotalCount) []count {
	out := []count{}
	for _, t := range totals {
		out = append(out, count{t.Total.String(), t.Count})
	}
	return out
}

func number(n uint64, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return strconv.FormatUint(n, 10) + " " + many
}

// ago is how many seconds ago a time was; nil for never.
func ago(t, now time.Time) *int64 {
	if t.IsZero() {
		return nil
	}
	s := max(int64(now.Sub(t)/time.Second), 0)
	return &s
}

func yesNo(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}

func prefixes(p []netip.Prefix) []string {
	out := []string{}
	for _, x := range p {
		out = append(out, x.String())
	}
	return out
}
