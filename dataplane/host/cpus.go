package host

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// ParseCPUs reads a list of CPUs as the kernel writes it, such as 0-3,8; empty is
// no CPU.
func ParseCPUs(s string) ([]uint32, error) {
	if s == "" {
		return nil, nil
	}
	var out []uint32
	for part := range strings.SplitSeq(s, ",") {
		from, to, several := strings.Cut(part, "-")
		lo, err := strconv.ParseUint(from, 10, 16)
		hi := lo
		if err == nil && several {
			hi, err = strconv.ParseUint(to, 10, 16)
		}
		if err != nil || hi < lo {
			return nil, fmt.Errorf("list of CPUs %q: expected numbers and ranges", s)
		}
		for n := lo; n <= hi; n++ {
			out = append(out, uint32(n))
		}
	}
	return out, nil
}

// FormatCPUs is the reverse, sorted, each CPU once.
func FormatCPUs(cpus []uint32) string {
	cpus = slices.Compact(slices.Sorted(slices.Values(cpus)))
	var b strings.Builder
	for i := 0; i < len(cpus); {
		j := i
		for j+1 < len(cpus) && cpus[j+1] == cpus[j]+1 {
			j++
		}
		if i > 0 {
			b.WriteByte(',')
		}
		b.WriteString(strconv.Itoa(int(cpus[i])))
		if j > i {
			b.WriteByte('-')
			b.WriteString(strconv.Itoa(int(cpus[j])))
		}
		i = j + 1
	}
	return b.String()
}

// OnlineCPUs are the CPUs that work now.
func OnlineCPUs() ([]uint32, error) { return Local{}.onlineCPUs() }

func (l Local) onlineCPUs() ([]uint32, error) {
	s, err := l.read("/sys/devices/system/cpu/online")
	if err != nil {
		return nil, fmt.Errorf("CPUs: %w", err)
	}
	return ParseCPUs(s)
}

// A mask of CPUs is hexadecimal, in words of 32 bits with commas between them,
// the highest first.

func parseMask(s string) ([]uint32, error) {
	words := strings.Split(s, ",")
	slices.Reverse(words)
	var out []uint32
	for i, w := range words {
		v, err := strconv.ParseUint(w, 16, 32)
		if err != nil {
			return nil, fmt.Errorf("mask of CPUs %q: expected hexadecimal words of 32 bits", s)
		}
		for bit := range uint32(32) {
			if v>>bit&1 == 1 {
				out = append(out, uint32(i)*32+bit)
			}
		}
	}
	return out, nil
}

func formatMask(cpus []uint32) string {
	words := make([]uint32, 1)
	for _, c := range cpus {
		for int(c/32) >= len(words) {
			words = append(words, 0)
		}
		words[c/32] |= 1 << (c % 32)
	}
	out := make([]string, len(words))
	for i, w := range words {
		out[len(words)-1-i] = fmt.Sprintf("%08x", w)
	}
	return strings.Join(out, ",")
}
