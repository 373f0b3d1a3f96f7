package dataplane

import (
	"fmt"
	"net/netip"
	"time"
)

// MinSPI is the smallest SPI an SA may have: 1 to 255 are reserved (RFC 4303 2.1).
const MinSPI = 256

// Packet limits of an SA with 32-bit sequence numbers (RFC 4303 3.3.3: the
// counter must not cycle). The distance to 2^32 leaves room for packets that
// other CPUs count at the same time, the soft limit leaves time for a rekey.
const (
	maxPackets32  = 1<<32 - 1<<20
	softPackets32 = 1<<32 - 1<<28
)

// EffectiveLimits returns the limits that a data plane sets for an SA: those
// given, and, when the SA is not ESN, a hard packet limit that keeps its
// sequence numbers below 2^32, counted from where they start (Seq.Out).
func EffectiveLimits(sa *SA) Limits {
	l := sa.Limits
	if sa.ESN || sa.Proto == IPComp { // IPComp has no sequence numbers
		return l
	}
	room := func(limit uint64) uint64 {
		if sa.Seq.Out >= limit {
			return 1
		}
		return limit - sa.Seq.Out
	}
	if hard := room(maxPackets32); l.HardPackets == 0 || l.HardPackets > hard {
		l.HardPackets = hard
		if soft := room(softPackets32); l.SoftPackets == 0 || l.SoftPackets >= hard {
			l.SoftPackets = min(soft, hard)
		}
	}
	return l
}

// CheckRequest reports what is wrong with an SPI request, nil when it is sound.
func CheckRequest(r *SPIRequest) error {
	if r.Min < MinSPI && r.Proto != IPComp || r.Min > r.Max {
		return fmt.Errorf("SPI range 0x%08x-0x%08x: expected %d <= min <= max", r.Min, r.Max, MinSPI)
	}
	return checkAddrs(r.Src, r.Dst)
}

func checkAddrs(src, dst netip.Addr) error {
	if !src.IsValid() || !dst.IsValid() {
		return fmt.Errorf("outer addresses %s -> %s: expected both to be set", src, dst)
	}
	if src.Unmap().Is4() != dst.Unmap().Is4() {
		return fmt.Errorf("outer addresses %s -> %s: expected one family", src, dst)
	}
	return nil
}

// CheckSA reports what is wrong with an SA before any kernel sees it: missing
// or mixed addresses, reserved SPIs, contradicting algorithms, limits out of
// order. The Fake and the kernel refuse the same ones.
func CheckSA(sa *SA) error {
	if err := checkAddrs(sa.Src, sa.Dst); err != nil {
		return err
	}
	if sa.SPI < MinSPI && sa.Proto != IPComp {
		return fmt.Errorf("SPI 0x%08x: expected at least %d (RFC 4303 2.1)", sa.SPI, MinSPI)
	}
	if sa.Dir != In && sa.Dir != Out {
		return fmt.Errorf("direction %s of an SA: expected in or out", sa.Dir)
	}
	if sa.Mode > IPTFS {
		return fmt.Errorf("%s: unknown mode", sa.Mode)
	}
	if err := checkAlgorithms(sa); err != nil {
		return err
	}
	if sa.Encap != nil && sa.Proto != ESP {
		return fmt.Errorf("UDP encapsulation of %s: expected ESP (RFC 3948)", sa.Proto)
	}
	if err := CheckEncap(sa.Encap, sa.Dir); err != nil {
		return err
	}
	if err := checkReplay(sa); err != nil {
		return err
	}
	return CheckLimits(&sa.Limits)
}

// CheckEncap reports what is wrong with the encapsulation of an SA of a
// direction, nil when it is sound or none.
func CheckEncap(e *Encap, dir Direction) error {
	switch {
	case e == nil || e.Keepalive == 0:
		return nil
	case dir != Out:
		return fmt.Errorf("NAT keepalives of an inbound SA: expected them of an outbound one")
	case e.Keepalive < 0 || e.Keepalive > maxKeepalive:
		return fmt.Errorf("NAT keepalives every %s: expected 0 to %s", e.Keepalive, maxKeepalive)
	}
	return nil
}

// maxKeepalive is the longest time between NAT keepalives: more keeps no mapping.
const maxKeepalive = 24 * time.Hour

func checkReplay(sa *SA) error {
	if sa.ReplayWindow > MaxReplayWindow {
		return fmt.Errorf("replay window of %d packets: expected at most %d", sa.ReplayWindow, MaxReplayWindow)
	}
	if sa.ESN && sa.Dir == In && sa.ReplayWindow == 0 {
		// The receiver finds the upper half of the number only with a window.
		return fmt.Errorf("extended sequence numbers without a replay window: expected at least 1 packet (RFC 4303 3.3.3)")
	}
	if !sa.ESN && (sa.Seq.Out >= 1<<32 || sa.Seq.In >= 1<<32) {
		return fmt.Errorf("sequence numbers start at %d out, %d in: expected below 2^32 without ESN", sa.Seq.Out, sa.Seq.In)
	}
	return nil
}

// MaxReplayWindow is the largest replay window in packets that kernels accept.
const MaxReplayWindow = 4096

func checkAlgorithms(sa *SA) error {
	crypt, auth, aead := sa.Crypt.Name != "", sa.Auth.Name != "", sa.AEAD.Name != ""
	switch {
	case sa.Proto == IPComp:
		return nil
	case aead && (crypt || auth):
		return fmt.Errorf("%s beside %s%s: expected an AEAD alone", sa.AEAD.Name, sa.Crypt.Name, sa.Auth.Name)
	case sa.Proto == AH && (!auth || crypt || aead):
		return fmt.Errorf("AH with %q: expected an integrity algorithm alone", algNames(sa))
	case sa.Proto == ESP && !aead && !(crypt && auth):
		return fmt.Errorf("ESP with %q: expected an AEAD, or a cipher and an integrity algorithm", algNames(sa))
	case sa.Proto != AH && sa.Proto != ESP:
		return fmt.Errorf("%s: expected ESP, AH or IPCOMP", sa.Proto)
	}
	for _, a := range []*Algorithm{&sa.AEAD, &sa.Crypt, &sa.Auth} {
		if len(a.Name) > maxAlgName {
			return fmt.Errorf("algorithm name of %d characters: expected at most %d", len(a.Name), maxAlgName)
		}
	}
	return nil
}

const maxAlgName = 63

// CheckLimits reports limits that are negative or out of order, nil when they
// are sound.
func CheckLimits(l *Limits) error {
	for _, c := range []struct {
		what       string
		soft, hard uint64
	}{
		{"bytes", l.SoftBytes, l.HardBytes},
		{"packets", l.SoftPackets, l.HardPackets},
		{"seconds", uint64(l.SoftTime / time.Second), uint64(l.HardTime / time.Second)},
	} {
		if c.hard != 0 && c.soft > c.hard {
			return fmt.Errorf("soft limit of %d %s above the hard one of %d", c.soft, c.what, c.hard)
		}
	}
	if l.SoftTime < 0 || l.HardTime < 0 {
		return fmt.Errorf("negative lifetime %s/%s", l.SoftTime, l.HardTime)
	}
	return nil
}

// maxTemplates is XFRM_MAX_DEPTH, the most templates the kernel takes.
const maxTemplates = 6

// CheckPolicy reports what is wrong with a policy before any kernel sees it.
func CheckPolicy(p *Policy) error {
	s := &p.Selector
	if !s.Src.IsValid() || !s.Dst.IsValid() || s.Src.Addr().Is4() != s.Dst.Addr().Is4() {
		return fmt.Errorf("selector %s -> %s: expected two prefixes of one family", s.Src, s.Dst)
	}
	if s.Src != s.Src.Masked() || s.Dst != s.Dst.Masked() {
		return fmt.Errorf("selector %s -> %s: expected no bits beyond the prefix length", s.Src, s.Dst)
	}
	if p.Dir > Fwd {
		return fmt.Errorf("%s: expected in, out or fwd", p.Dir)
	}
	if p.Verdict == Block && len(p.Templates) > 0 {
		return fmt.Errorf("a blocking policy with %d templates: expected none", len(p.Templates))
	}
	if len(p.Templates) > maxTemplates {
		return fmt.Errorf("%d templates: expected at most %d", len(p.Templates), maxTemplates)
	}
	for i := range p.Templates {
		t := &p.Templates[i]
		if t.Mode == Transport && !t.Src.IsValid() && !t.Dst.IsValid() {
			continue
		}
		if err := checkAddrs(t.Src, t.Dst); err != nil {
			return fmt.Errorf("template %d: %w", i, err)
		}
	}
	return nil
}

// algNames is what List shows: the names with the key length in bits.
func algNames(sa *SA) string {
	if sa.AEAD.Name != "" {
		return sa.AEAD.Name
	}
	if sa.Crypt.Name == "" || sa.Auth.Name == "" {
		return sa.Crypt.Name + sa.Auth.Name
	}
	return sa.Crypt.Name + "/" + sa.Auth.Name
}
