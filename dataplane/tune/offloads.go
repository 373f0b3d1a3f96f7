package tune

import (
	"fmt"

	"espalier/dataplane/host"
)

// offload is a feature of network devices that the tuner switches.
type offload struct {
	feature string
	to      string // "on" or "off"
	inside  bool   // of inside interfaces as well
	always  bool   // not only while a CPU is busy
	why     string
}

// offloads are they, the one that helps most first. What a device cannot do, or does
// for ever, is no setting (see host.Feature).
var offloads = []offload{
	{"rx-lro", "off", true, true, "packets that the card has joined (LRO) cannot be forwarded as they came"},
	{"rx-gro", "on", true, false, "each received packet goes through the kernel alone (GRO is off)"},
	{"tx-generic-segmentation", "on", true, false, "each sent packet goes through the kernel alone (GSO is off)"},
	{"esp-hw-offload", "on", false, false, "the card can encrypt, and is not let"},
	{"esp-tx-csum-hw-offload", "on", false, false, "the card can compute the checksums within ESP, and is not let"},
	{"tx-esp-segmentation", "on", false, false, "the card can cut what is encrypted, and is not let"},
}

// offloadSettings are the settings of a link.
func offloadSettings(l *Link) (out []Setting) {
	for _, f := range offloads {
		if f.inside || !l.Inside {
			out = append(out, Setting(host.Feature(l.Name, f.feature)))
		}
	}
	return out
}

// offloads switches features of devices with traffic.
func (t *Tuner) offloads(v *view) (out []Planned) {
	if t.limits.Offloads < 0 {
		return nil
	}
	for _, f := range offloads {
		if !f.always && t.knobs.busy < shortRounds {
			continue
		}
		for _, l := range v.o.Links {
			if !l.Device || l.Inside && !f.inside || perSec(l.Received+l.Sent, v.o.Interval) < knobRate || len(out) >= t.limits.Offloads {
				continue
			}
			s := Setting(host.Feature(l.Name, f.feature))
			if now, ok := t.free(v, s); ok && now != f.to {
				out = append(out, Planned{Action: Set{Setting: s, From: now, To: f.to}, Reason: Reason{Text: fmt.Sprintf(
					"%s: %s", l.Name, f.why)}})
			}
		}
	}
	return out
}
