package flow

import (
	"cmp"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"github.com/vishvananda/netlink"
)

// stateVersion is that of the state file.
const stateVersion = 1

// stateFile is what the daemon leaves of itself.
type stateFile struct {
	Version int    `json:"version"`
	PID     int    `json:"pid"`
	Pins    string `json:"pins"`
	// Loading: the programs are being verified, parts are not yet known.
	Loading bool   `json:"loading,omitempty"`
	Parts   []Part `json:"parts"`
}

// Parts are the programs at their places, and those that could not get there, with
// the kernel's reasons.
func (f *Flow) Parts() []Part {
	f.work.Lock()
	defer f.work.Unlock()
	return f.partsLocked()
}

func (f *Flow) partsLocked() []Part {
	var out []Part
	for h, a := range f.hooks {
		p := Part{Program: cmp.Or(a.variant, h.program), IfIndex: h.ifIndex, How: a.how, Reason: a.reason}
		if h.at == atIngress || h.at == atEgress {
			p.Direction = [...]string{atIngress: "ingress", atEgress: "egress"}[h.at]
		}
		if h.ifIndex > 0 {
			if l, err := netlink.LinkByIndex(h.ifIndex); err == nil {
				p.Interface = l.Attrs().Name
			}
		}
		out = append(out, p)
	}
	for p := range f.failed {
		out = append(out, p)
	}
	for why, names := range f.progs.refused() {
		for _, name := range names {
			out = append(out, Part{Program: name, Reason: why})
		}
	}
	if f.progs.loaded[progCPUIn] != nil && f.settings().Steering != SteerOff {
		out = append(out, Part{Program: progCPUIn, How: "cpumap"})
	}
	slices.SortFunc(out, func(a, b Part) int {
		return cmp.Or(cmp.Compare(a.Program, b.Program), cmp.Compare(a.IfIndex, b.IfIndex), cmp.Compare(a.Direction, b.Direction))
	})
	return out
}

func (f *Flow) writeState(pid int) {
	f.work.Lock()
	defer f.work.Unlock()
	f.writeStateLocked(pid)
}

// writeStateLocked tells readers; pid 0: the daemon has gone. The caller has f.work.
func (f *Flow) writeStateLocked(pid int) {
	f.mu.Lock()
	loading := !f.loaded && pid != 0
	f.mu.Unlock()
	s := stateFile{Version: stateVersion, PID: pid, Pins: f.o.Pins, Loading: loading, Parts: f.partsLocked()}
	writeState(f.o.State, s, func(err error) {
		f.log.Warn().Err(err).Msg("the list of BPF programs could not be written")
	})
}

func writeState(path string, s stateFile, failed func(error)) {
	b, err := json.Marshal(s)
	if err == nil {
		err = os.MkdirAll(filepath.Dir(path), 0o755)
	}
	next := path + ".new"
	if err == nil {
		err = os.WriteFile(next, append(b, '\n'), 0o644)
	}
	if err == nil {
		err = os.Rename(next, path)
	}
	if err != nil {
		failed(err)
	}
}

// Unavailable leaves word for readers that nothing could be loaded, and why.
func Unavailable(o Options, why error) {
	if o.State == "" {
		o.State = DefaultState
	}
	s := stateFile{Version: stateVersion, PID: os.Getpid(), Parts: []Part{{Reason: reason(why)}}}
	writeState(o.State, s, func(err error) { o.Log.Warn().Err(err).Msg("the list of BPF programs could not be written") })
}

// readState reads a state file.
func readState(path string) (s stateFile, err error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return s, err
	}
	if err := json.Unmarshal(b, &s); err != nil {
		return s, fmt.Errorf("%s: %w", path, err)
	}
	if s.Version != stateVersion {
		return s, fmt.Errorf("%s: version %d, expected %d", path, s.Version, stateVersion)
	}
	return s, nil
}
