package host

import (
	"encoding/binary"
	"fmt"
	"io/fs"
	"runtime"
	"slices"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Commands and sizes of linux/ethtool.h.
const (
	ethtoolGetStrings     = 0x1b
	ethtoolGetStats       = 0x1d
	ethtoolGetStringCount = 0x37
	ethtoolGetFeatures    = 0x3a
	ethtoolSetFeatures    = 0x3b

	stringsOfStats    = 1 // ETH_SS_STATS
	stringsOfFeatures = 4 // ETH_SS_FEATURES
	stringLen         = 32
	maxStrings        = 1 << 14 // features have tens, a card with many queues thousands

	// Answers of ethtoolSetFeatures.
	featureUnsupported = 1
	featureWish        = 2 // noted, but something else keeps it from working
)

// ethtool makes a request of a network device; b is a structure of
// linux/ethtool.h, its command first, and has the answer afterwards.
func ethtool(link string, b []byte) (int, error) {
	if len(link) >= unix.IFNAMSIZ {
		return 0, fmt.Errorf("interface %q: expected a name of at most %d octets", link, unix.IFNAMSIZ-1)
	}
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, err
	}
	defer unix.Close(fd)
	var req struct { // struct ifreq
		name [unix.IFNAMSIZ]byte
		data unsafe.Pointer
		_    [16]byte
	}
	copy(req.name[:], link)
	var pin runtime.Pinner
	defer pin.Unpin()
	pin.Pin(&b[0])
	req.data = unsafe.Pointer(&b[0])
	r, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCETHTOOL, uintptr(unsafe.Pointer(&req)))
	switch errno {
	case 0:
		return int(r), nil
	case unix.ENODEV:
		return 0, fmt.Errorf("interface %s: %w", link, fs.ErrNotExist)
	}
	return 0, fmt.Errorf("interface %s: ethtool: %w", link, errno)
}

var native = binary.NativeEndian

// ethtoolStrings are the names of a set, in the order of what they name.
func ethtoolStrings(link string, set uint32) ([]string, error) {
	count := make([]byte, 20) // struct ethtool_sset_info with one answer
	native.PutUint32(count, ethtoolGetStringCount)
	native.PutUint64(count[8:], 1<<set)
	if _, err := ethtool(link, count); err != nil {
		return nil, err
	}
	n := native.Uint32(count[16:])
	if n > maxStrings {
		return nil, fmt.Errorf("interface %s: %d names, expected at most %d", link, n, maxStrings)
	}
	b := make([]byte, 12+n*stringLen) // struct ethtool_gstrings
	native.PutUint32(b, ethtoolGetStrings)
	native.PutUint32(b[4:], set)
	native.PutUint32(b[8:], n)
	if _, err := ethtool(link, b); err != nil {
		return nil, err
	}
	var out []string
	for s := range slices.Chunk(b[12:], stringLen) {
		name, _, _ := strings.Cut(string(s), "\x00")
		out = append(out, name)
	}
	return out, nil
}

// DriverStat is one of a driver's own counters (ethtool -S).
type DriverStat struct {
	Name  string
	Value uint64
}

// DriverStats are those of a network device, by the driver's names. Errors:
// fs.ErrNotExist when there is none of the name, unix.EOPNOTSUPP when it counts
// nothing.
func DriverStats(link string) ([]DriverStat, error) {
	names, err := ethtoolStrings(link, stringsOfStats)
	if err != nil || len(names) == 0 {
		return nil, err
	}
	// The device may have got more queues since; it writes no more than it had, and
	// says how many that are.
	b := make([]byte, 8+8*(len(names)+maxMore)) // struct ethtool_stats
	native.PutUint32(b, ethtoolGetStats)
	native.PutUint32(b[4:], uint32(len(names)))
	if _, err := ethtool(link, b); err != nil {
		return nil, err
	}
	if n := native.Uint32(b[4:]); int(n) != len(names) {
		return nil, fmt.Errorf("interface %s: %d counters, expected the %d that it has names for", link, n, len(names))
	}
	out := make([]DriverStat, len(names))
	for i, name := range names {
		out[i] = DriverStat{name, native.Uint64(b[8+8*i:])}
	}
	return out, nil
}

// maxMore is how many counters a device may get between two requests.
const maxMore = 4096

// Features are a network device's, by the kernel's name, whether each works now.
func Features(link string) (map[string]bool, error) {
	all, err := features(link)
	out := make(map[string]bool, len(all))
	for name, f := range all {
		out[name] = f.on
	}
	return out, err
}

// featureState is whether a feature works now, and whether anybody may change that.
type featureState struct{ on, changeable bool }

func features(link string) (map[string]featureState, error) {
	names, err := ethtoolStrings(link, stringsOfFeatures)
	if err != nil {
		return nil, err
	}
	blocks := (len(names) + 31) / 32
	b := make([]byte, 8+16*blocks) // struct ethtool_gfeatures
	native.PutUint32(b, ethtoolGetFeatures)
	native.PutUint32(b[4:], uint32(blocks))
	if _, err := ethtool(link, b); err != nil {
		return nil, err
	}
	out := map[string]featureState{}
	for i, name := range names {
		if name == "" {
			continue
		}
		bit := func(word int) bool { // available, requested, active, never_changed
			return native.Uint32(b[8+16*(i/32)+4*word:])>>(i%32)&1 == 1
		}
		out[name] = featureState{on: bit(2), changeable: bit(0) && !bit(3)}
	}
	return out, nil
}

var onOff = map[bool]string{true: "on", false: "off"}

func (l Local) feature(link, feature string) (string, error) {
	all, err := features(link)
	if err != nil {
		return "", err
	}
	f, known := all[feature]
	switch {
	case !known:
		return "", fmt.Errorf("interface %s has no feature of this name: %w", link, fs.ErrNotExist)
	case !f.changeable:
		return "", fmt.Errorf("the device of %s has it %s for ever: %w", link, onOff[f.on], fs.ErrPermission)
	}
	return onOff[f.on], nil
}

func (l Local) setFeature(link, feature, value string) error {
	if value != "on" && value != "off" {
		return fmt.Errorf("expected on or off")
	}
	names, err := ethtoolStrings(link, stringsOfFeatures)
	if err != nil {
		return err
	}
	i := slices.Index(names, feature)
	if i < 0 || feature == "" {
		return fmt.Errorf("interface %s has no feature of this name: %w", link, fs.ErrNotExist)
	}
	blocks := (len(names) + 31) / 32
	b := make([]byte, 8+8*blocks) // struct ethtool_sfeatures: valid, requested
	native.PutUint32(b, ethtoolSetFeatures)
	native.PutUint32(b[4:], uint32(blocks))
	at := b[8+8*(i/32):]
	native.PutUint32(at, 1<<(i%32))
	if value == "on" {
		native.PutUint32(at[4:], 1<<(i%32))
	}
	answer, err := ethtool(link, b)
	if err != nil {
		return err
	}
	if answer&featureUnsupported != 0 {
		return fmt.Errorf("the device of %s does not let it be changed", link)
	}
	if answer&featureWish != 0 {
		return fmt.Errorf("another feature of %s keeps it from being %s", link, value)
	}
	return nil
}
