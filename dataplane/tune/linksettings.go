package tune

import (
	"slices"
	"time"

	"espalier/dataplane/host"
)

// linkSettings reads the settings that depend on what the box has: those of its
// network interfaces and their interrupts, and pcrypt. They are many, and change
// rarely.
type linkSettings struct {
	at      time.Time // of the last look
	known   map[Setting]string
	looked  map[Setting]bool // also at those that the box has not
	refused []Setting        // that could not be changed since the last observation
}

// linkLook is how often they are looked at.
const linkLook = 10 * time.Second

// read adds those of the observation's interfaces to into. What the box has not, or
// lets nobody change, is left out.
func (l *linkSettings) read(from Settings, now time.Time, o *Observation, into map[Setting]string) {
	names := settingsOf(o)
	fresh := func(s Setting) bool { return !l.looked[s] } // of an interface that has just come, say
	if l.known == nil || now.Sub(l.at) >= linkLook || now.Before(l.at) || slices.ContainsFunc(names, fresh) {
		l.at, l.known, l.looked = now, map[Setting]string{}, map[Setting]bool{}
		for _, s := range names {
			l.looked[s] = true
			if v, err := from.Get(string(s)); err == nil {
				l.known[s] = v
			}
		}
	}
	for s, v := range l.known {
		into[s] = v
	}
}

// settingsOf are the names of those that there may be.
func settingsOf(o *Observation) []Setting {
	out := []Setting{Pcrypt}
	for i := range o.Links {
		l := &o.Links[i]
		for q := range l.Queues {
			if l.Inside && !l.Steered {
				out = append(out, Setting(host.RPS(l.Name, q)))
			}
		}
		if !l.Device {
			continue
		}
		for q := range l.SendQueues {
			out = append(out, Setting(host.XPS(l.Name, q)))
		}
		for _, irq := range l.IRQs {
			out = append(out, Setting(host.IRQAffinity(irq.Number)))
		}
		out = append(out, offloadSettings(l)...)
	}
	return out
}

// set changes a setting, and has it read anew.
func (l *linkSettings) set(in Settings, a Set) error {
	l.known = nil
	err := in.Set(string(a.Setting), a.To)
	if err != nil {
		l.refused = append(l.refused, a.Setting)
	}
	return err
}
