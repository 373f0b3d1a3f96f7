// Package bpf holds the BPF programs and loads them, nothing more: attaching
// them and filling their maps is dataplane/flow's. The types are those of
// headers/layout.h, as bpf2go writes them down.
package bpf

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"math/bits"
	"net/netip"
	"os"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/btf"
)

// What the programs and user space share; headers/layout.h says what each field means.
type (
	// Key is an SA as packets name it; MakeKey makes one.
	Key = layoutSaKey
	// IndexEntry points from a key's hash to a slot, and has a CPU's counters of the SA.
	IndexEntry = layoutIndexEntry
	// IndexBucket is a cache line of entries.
	IndexBucket = layoutIndexBucket
	// Slot is what the programs know of an SA.
	Slot = layoutSaSlot
	// Counters1 are one CPU's of one SA in maps of layout 1.
	Counters1 = layoutSaCounters1
	// Config is the one element of the map config.
	Config = layoutConfig
	// Port is one of Config.Ports, in host order.
	Port = layoutPort
	// AddrKey is a key of own_addrs, behind, strangers and buckets.
	AddrKey = layoutAddrKey
	// LPMKey is a key of peers and mss_prefixes.
	LPMKey = layoutLpmKey
	// MSS is a value of mss_ifs and mss_prefixes.
	MSS = layoutMssValue
	// TokenBucket is a value of buckets.
	TokenBucket = layoutTokenBucket
	// Stranger is a value of strangers.
	Stranger = layoutStranger
	// CPUMapValue is an entry of cpus: queue length, and the program cpu_in (a file descriptor) or 0.
	CPUMapValue = layoutCpumapValue
	// DropSample is a record of the ring buffer samples.
	DropSample = layoutDropSample
	// DropReason says why a packet was lost.
	DropReason = layoutDropReason
	// Total is one of the totals of a CPU.
	Total = layoutTotal
	// GuardMode is a value of Config.Guard.
	GuardMode = layoutGuardMode
	// SteerMode is a value of Config.Steer.
	SteerMode = layoutSteerMode
	// FlowMode is a value of Config.FlowSteer.
	FlowMode = layoutFlowMode
)

// Counters are what was counted of an SA.
type Counters struct {
	Packets  uint64
	Bytes    uint64 // from the outer IP header on
	LastUsed uint64 // jiffies modulo 2^35, in steps of 2^LastUsedShift; 0: never
}

// LastUsedShift: index entries have as many bits of jiffies less.
const LastUsedShift = 3

// Directions of a Key.
const (
	DirIn  = 0
	DirOut = 1
	// DirFlow: no SA, but a group of clear connections from inside (FlowKey).
	DirFlow = 2
)

// LayoutVersion is that of headers/layout.h. Maps of another one cannot be taken over as they are.
const LayoutVersion = 2

// NoCPU as a slot's CPU: its packets stay on the CPU that received them.
const NoCPU = 1<<32 - 1

// Shed as a slot's From: its packets are dropped until it goes over.
const Shed = 1<<32 - 2

// EntryMoving as an index entry's CPU: the slot says where each packet goes.
const EntryMoving = 1<<11 - 2

// Flags of a Slot.
const (
	// FlagOwn: the daemon's own SA; otherwise somebody else's that is only counted.
	FlagOwn = 1
	// FlagReserved: an SPI without SA yet, known to the guard.
	FlagReserved = 2
	// FlagGone: removed; its counts can be read until the slot is given back.
	FlagGone = 4
)

// Kinds of a Port.
const (
	PortIKE  = 1 // IKE without marker (500)
	PortNATT = 2 // non-ESP marker, ESP in UDP, keepalives (4500)
)

// Limits of Sizes.
const (
	MinSlots = 64
	MaxSlots = 1 << 20
	MaxCPUs  = EntryMoving // so that an index entry can name each
)

// Sizes of the maps that grow with the box.
type Sizes struct {
	Slots int // SAs, both directions together, MinSlots to MaxSlots
	CPUs  int // possible ones, 1 to MaxCPUs
}

// Check says what is wrong with the sizes.
func (s Sizes) Check() error {
	if s.Slots < MinSlots || s.Slots > MaxSlots {
		return fmt.Errorf("%d SPIs: expected %d to %d", s.Slots, MinSlots, MaxSlots)
	}
	if s.CPUs < 1 || s.CPUs > MaxCPUs {
		return fmt.Errorf("%d CPUs: expected 1 to %d", s.CPUs, MaxCPUs)
	}
	return nil
}

// Buckets of a CPU's row of the index: a power of two, so that at most half of its entries are ever in use.
func (s Sizes) Buckets() int { return 1 << bits.Len(uint(s.Slots-1)) }

// MaxEntries is what each of the maps of these sizes holds, by the map's name.
func (s Sizes) MaxEntries() map[string]uint32 {
	return map[string]uint32{
		"config":      1,
		"index":       uint32(s.Buckets() * s.CPUs),
		"sas":         uint32(s.Slots),
		"drop_counts": uint32(s.Slots) * uint32(DropReasons),
		"totals":      uint32(s.CPUs) * uint32(Totals),
		"cpus":        uint32(s.CPUs),
	}
}

// Apply sets the sizes in an object that is to be loaded.
func (s Sizes) Apply(spec *ebpf.CollectionSpec) error {
	if err := s.Check(); err != nil {
		return err
	}
	for name, n := range s.MaxEntries() {
		if m := spec.Maps[name]; m != nil {
			m.MaxEntries = n
		}
	}
	return nil
}

// MakeKey is the key of an SA: spi in host order.
func MakeKey(dir uint8, dst netip.Addr, spi uint32) Key {
	a := MakeAddrKey(dst)
	k := Key{Dir: dir, Family: a.Family, Addr: a.Addr}
	binary.BigEndian.PutUint32(spiBytes(&k), spi)
	return k
}

// FlowGroups is how many groups clear connections from inside are steered and counted in.
const FlowGroups = 128

// FlowKey is a group of them, 0 to FlowGroups-1, which KeySPI gives back.
func FlowKey(group int) Key {
	k := Key{Dir: DirFlow}
	binary.BigEndian.PutUint32(spiBytes(&k), uint32(group))
	return k
}

// MakeAddrKey is an address as the maps have it: IPv4 in the first four bytes.
func MakeAddrKey(a netip.Addr) AddrKey {
	a = a.Unmap()
	if a.Is4() {
		k, b := AddrKey{Family: 4}, a.As4()
		copy(k.Addr[:], b[:])
		return k
	}
	return AddrKey{Family: 6, Addr: a.As16()}
}

// MakeLPMKey is a prefix as peers and mss_prefixes have it.
func MakeLPMKey(p netip.Prefix) LPMKey {
	a := MakeAddrKey(p.Addr())
	n := p.Bits()
	if p.Addr().Is4In6() {
		n -= 96
	}
	return LPMKey{Prefixlen: uint32(32 + n), Family: a.Family, Addr: a.Addr}
}

// MakeIKESPI is an IKE SPI as the map ike_spis has it.
func MakeIKESPI(spi uint64) uint64 {
	var b [8]byte
	binary.BigEndian.PutUint64(b[:], spi)
	return binary.NativeEndian.Uint64(b[:])
}

// KeySPI is the SPI in host order.
func KeySPI(k *Key) uint32 { return binary.BigEndian.Uint32(spiBytes(k)) }

// KeyAddr is the destination.
func KeyAddr(k *Key) netip.Addr { return addr(k.Family, k.Addr) }

// SampleSrc is the source of the packet that a sample tells of.
func SampleSrc(s *DropSample) netip.Addr { return addr(s.Family, s.Src) }

func addr(family uint8, b [16]uint8) netip.Addr {
	if family == 4 {
		return netip.AddrFrom4([4]byte(b[:4]))
	}
	return netip.AddrFrom16(b)
}

// XDP holds the programs at the NIC: esp_in and esp_in_stay for outside interfaces, flow_in for inside ones, cpu_in for entries of the CPUMAP.
func XDP(s Sizes) (*ebpf.CollectionSpec, error) { return sized(loadXdp, s) }

// TC holds the programs at traffic control: esp_in_raw, esp_out and esp_out_raw for outside interfaces, mss_xfrm, mss_in, mss_out and the
// latter two with _raw. Those with _raw are for devices without Ethernet header.
func TC(s Sizes) (*ebpf.CollectionSpec, error) { return sized(loadTc, s) }

// Drops holds the programs that tell why a packet of an SA was lost. They are of type fentry and fexit; each names its kernel function (ProgramSpec.AttachTo). audited is
// whether the kernel has the functions xfrm_audit_state_*: without them the four programs on them are left out, and the others see what those
// would have seen.
func Drops(s Sizes, audited bool) (*ebpf.CollectionSpec, error) {
	spec, err := sized(loadDrops, s)
	if err != nil {
		return nil, err
	}
	if audited {
		return spec, nil
	}
	for name, p := range spec.Programs {
		if strings.HasPrefix(p.AttachTo, "xfrm_audit_state_") {
			delete(spec.Programs, name)
		}
	}
	return spec, spec.Variables["audited"].Set(uint32(0))
}

// Check holds programs for tests and measurements; the daemon has no use for it.
func Check(s Sizes) (*ebpf.CollectionSpec, error) { return sized(loadCheck, s) }

// sized is an object with the sizes of its maps set.
func sized(load func() (*ebpf.CollectionSpec, error), s Sizes) (*ebpf.CollectionSpec, error) {
	spec, err := load()
	if err != nil {
		return nil, err
	}
	if !compiled() || !typed() {
		WithoutTypes(spec)
	}
	if err := knowKernelFunctions(spec); err != nil {
		return nil, err
	}
	return spec, s.Apply(spec)
}

// compiled says whether this kernel translates programs into machine code. One that interprets them (User-Mode Linux) refuses those that
// call kernel functions. Only the first network namespace has the setting; in others a kernel is taken for one that compiles, as all do that
// have types.
func compiled() bool {
	b, err := os.ReadFile("/proc/sys/net/core/bpf_jit_enable")
	if errors.Is(err, fs.ErrNotExist) {
		own, _ := os.Readlink("/proc/thread-self/ns/net")
		first, err := os.Readlink("/proc/1/ns/net")
		return err == nil && own != first
	}
	return err == nil && len(b) > 0 && b[0] != '0'
}

// typed says whether this kernel describes its types (CONFIG_DEBUG_INFO_BTF).
func typed() bool {
	_, err := btf.LoadKernelSpec()
	return err == nil
}

// WithoutTypes makes programs of an object such that kernels take them which have no description of their types, or which do not let
// programs call their functions: the programs find that the kernel has none of those they would like to call. What they would read of the
// answers is never reached then; its place need not be looked up. The functions above do so where this kernel is such a one.
func WithoutTypes(spec *ebpf.CollectionSpec) {
	for _, p := range spec.Programs {
		if p.Type == ebpf.Tracing {
			continue // nothing of it works there
		}
		for i, ins := range p.Instructions {
			if btf.CORERelocationMetadata(&ins) != nil {
				bare := asm.Instruction{OpCode: ins.OpCode, Dst: ins.Dst, Src: ins.Src, Offset: ins.Offset, Constant: ins.Constant}
				p.Instructions[i] = bare.WithSymbol(ins.Symbol())
				continue
			}
			if !isKernelFunction(ins.Reference()) {
				continue
			}
			no := asm.Mov.Imm(asm.R0, 0) // instead of the call
			if ins.OpCode.IsDWordLoad() {
				no = asm.LoadImm(ins.Dst, 0, asm.DWord) // instead of its address
			}
			p.Instructions[i] = no.WithSymbol(ins.Symbol())
		}
	}
}

// isKernelFunction tells the functions of the kernel that the programs call.
func isKernelFunction(name string) bool {
	return strings.HasPrefix(name, "bpf_xdp_ct_") || strings.HasPrefix(name, "bpf_skb_ct_") || name == "bpf_ct_release"
}

// knowKernelFunctions puts 1 where a program asks for the address of a kernel function to learn whether there is one, when there is. The
// library would name the module that the function is in there, as it does in calls, which the verifier takes for reserved fields. Where
// there is none it puts 0 itself.
func knowKernelFunctions(spec *ebpf.CollectionSpec) error {
	there := map[string]bool{}
	for _, p := range spec.Programs {
		for i, ins := range p.Instructions {
			name := ins.Reference()
			if !ins.OpCode.IsDWordLoad() || !isKernelFunction(name) {
				continue
			}
			has, known := there[name]
			if !known {
				var err error
				if has, err = kernelHas(name); err != nil {
					return err
				}
				there[name] = has
			}
			if has {
				p.Instructions[i] = asm.LoadImm(ins.Dst, 1, asm.DWord).WithSymbol(ins.Symbol())
			}
		}
	}
	return nil
}

// kernelHas tells whether the kernel, or its module nf_conntrack if it is loaded, has a function that programs may know of.
func kernelHas(function string) (bool, error) {
	var f *btf.Func
	kernel, err := btf.LoadKernelSpec()
	if errors.Is(err, ebpf.ErrNotSupported) {
		return false, nil // no types at all
	}
	if err != nil {
		return false, fmt.Errorf("the kernel's types: %w", err)
	}
	if kernel.TypeByName(function, &f) == nil {
		return true, nil
	}
	module, err := btf.LoadKernelModuleSpec("nf_conntrack")
	if err != nil {
		return false, nil // not loaded, or its types are not there: nobody can call it
	}
	return module.TypeByName(function, &f) == nil, nil
}
