package flow

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"

	"espalier/bpf"
)

// statReasons are the counters of /proc/net/xfrm_stat, as reasons.
var statReasons = map[string]bpf.DropReason{
	"XfrmInError":             bpf.DropOther,
	"XfrmInBufferError":       bpf.DropMemory,
	"XfrmInHdrError":          bpf.DropHeader,
	"XfrmInNoStates":          bpf.DropNoState,
	"XfrmInStateProtoError":   bpf.DropIntegrity,
	"XfrmInStateModeError":    bpf.DropMode,
	"XfrmInStateSeqError":     bpf.DropReplay,
	"XfrmInStateExpired":      bpf.DropExpired,
	"XfrmInStateMismatch":     bpf.DropEncap,
	"XfrmInStateInvalid":      bpf.DropExpired,
	"XfrmInTmplMismatch":      bpf.DropTemplate,
	"XfrmInNoPols":            bpf.DropNoPolicy,
	"XfrmInPolBlock":          bpf.DropPolicyBlock,
	"XfrmInPolError":          bpf.DropOther,
	"XfrmOutError":            bpf.DropOther,
	"XfrmOutBundleGenError":   bpf.DropOutBundle,
	"XfrmOutBundleCheckError": bpf.DropOutBundle,
	"XfrmOutNoStates":         bpf.DropOutNoState,
	"XfrmOutStateProtoError":  bpf.DropOutProto,
	"XfrmOutStateModeError":   bpf.DropMode,
	"XfrmOutStateSeqError":    bpf.DropSequence,
	"XfrmOutStateExpired":     bpf.DropExpired,
	"XfrmOutPolBlock":         bpf.DropPolicyBlock,
	"XfrmOutPolDead":          bpf.DropOther,
	"XfrmOutPolError":         bpf.DropOther,
	"XfrmFwdHdrError":         bpf.DropHeader,
	"XfrmOutStateInvalid":     bpf.DropExpired,
	"XfrmAcquireError":        bpf.DropOutNoState,
	"XfrmOutStateDirError":    bpf.DropMode,
	"XfrmInStateDirError":     bpf.DropMode,
	"XfrmInIptfsError":        bpf.DropOther,
	"XfrmOutNoQueueSpace":     bpf.DropMemory,
}

// Stat is one of the kernel's counters of lost packets, of all SAs together.
type Stat struct {
	Name    string // the kernel's
	Reason  Reason
	Packets uint64
}

// withoutSA are counters of packets that the kernel loses while it looks for an SA, or
// before it has one in the packet's hands: none can be charged with them. All others grow in functions
// that drops.c follows.
var withoutSA = map[string]bool{
	"XfrmOutBundleGenError": true, "XfrmOutBundleCheckError": true, "XfrmOutNoStates": true, "XfrmOutPolBlock": true,
	"XfrmOutPolDead": true, "XfrmOutPolError": true, "XfrmFwdHdrError": true, "XfrmOutNoQueueSpace": true,
}

// WithoutSA says that no SA can be charged with these packets.
func (s Stat) WithoutSA() bool { return withoutSA[s.Name] }

// KernelStats reads /proc/net/xfrm_stat of this network namespace. Errors: the
// kernel does not count (CONFIG_XFRM_STATISTICS).
func KernelStats() ([]Stat, error) {
	f, err := os.Open("/proc/thread-self/net/xfrm_stat")
	if errors.Is(err, os.ErrNotExist) {
		return nil, errors.New("the kernel does not count lost packets (CONFIG_XFRM_STATISTICS)")
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return parseStats(f)
}

func parseStats(r io.Reader) (out []Stat, err error) {
	for s := bufio.NewScanner(r); s.Scan(); {
		fields := strings.Fields(s.Text())
		if len(fields) != 2 {
			return nil, fmt.Errorf("xfrm_stat: line %q: expected a name and a number", s.Text())
		}
		n, err := strconv.ParseUint(fields[1], 10, 64)
		if err != nil {
			return nil, fmt.Errorf("xfrm_stat: %w", err)
		}
		reason, known := statReasons[fields[0]]
		if !known {
			reason = bpf.DropOther
		}
		out = append(out, Stat{fields[0], Reason(reason), n})
	}
	return out, nil
}

// addKernelDrops gives the SPIs what the kernel counts for each SA: replays and
// failed integrity checks.
func addKernelDrops(spis []SPI) error {
	lost, err := Losses()
	if err != nil {
		return err
	}
	drops := map[Key][]Drop{}
	for i := range lost {
		l := &lost[i]
		if n := l.Late + l.Repeated; n > 0 {
			drops[l.Key] = append(drops[l.Key], Drop{Reason(bpf.DropReplay), n})
		}
		if l.Forged > 0 {
			drops[l.Key] = append(drops[l.Key], Drop{Reason(bpf.DropIntegrity), l.Forged})
		}
	}
	for i := range spis {
		if spis[i].Drops == nil {
			spis[i].Drops = drops[spis[i].Key]
		}
	}
	return nil
}
