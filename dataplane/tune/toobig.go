package tune

import (
	"fmt"
	"strings"
)

// tooBigShare is the part of what leaves that must not have fitted.
const tooBigShare, saidRounds = 1. / 100, 900

// sayTooBig says that packets keep coming which do not fit into their way: whoever
// sends them does not hear of it, the sign of a black hole. Who hears sends smaller
// ones at once, so that few come.
func (t *Tuner) sayTooBig(v *view) []Planned {
	k, o := &t.knobs, &v.o
	sent := uint64(0)
	for _, l := range o.Links {
		sent += l.Sent
	}
	n := o.System.TooBig
	if k.tooBig++; perSec(n, o.Interval) <= perSecond || float64(n) < tooBigShare*float64(sent) {
		k.tooBig = 0
	}
	if k.tooBig < shortRounds || k.said != 0 && t.round-k.said < saidRounds {
		return nil
	}
	k.said = t.round
	var paths []string
	for _, p := range o.Paths {
		paths = append(paths, fmt.Sprintf("%s %d", p.Name, p.MTU))
	}
	why := fmt.Sprintf("%d packets a second, of %.0f that leave, do not fit and may not be cut, round after round: their senders do not get or heed the word of it (ICMP)",
		int(perSec(n, o.Interval)), perSec(sent, o.Interval))
	if len(paths) > 0 {
		why += "; path MTUs that IKE found, octets: " + strings.Join(paths[:min(len(paths), 8)], ", ")
	}
	if r := o.System.Retransmitted; r > 0 {
		why += fmt.Sprintf("; %d of %d segments of the box's own TCP were sent again", r, o.System.Segments)
	}
	text := "lower the MTU of the hosts behind the gateway, or let ICMP of too big packets through to them"
	if !o.System.MSS {
		text = "set mss = yes, which fits TCP to the tunnels; for other protocols " + text
	}
	return []Planned{{Action: Say{Text: text}, Reason: Reason{Text: why}}}
}
