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
	ethtoolGetStringCount = 0x37
	ethtoolGetFeatures    = 0x3a
	ethtoolSetFeatures    = 0x3b

	stringsOfFeatures = 4 // ETH_SS_FEATURES
	stringLen         = 32
	maxFeatures       = 1024

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

// featureNames are those of the kernel, in the order of their bits.
func featureNames(link string) ([]string, error) {
	count := make([]byte, 20) // struct ethtool_sset_info with one answer
	native.PutUint32(count, ethtoolGetStringCount)
	native.PutUint64(count[8:], 1<<stringsOfFeatures)
	if _, err := ethtool(link, count); err != nil {
		return nil, err
	}
	n := native.Uint32(count[16:])
	if n > maxFeatures {
		return nil, fmt.Errorf("interface %s: %d features, expected at most %d", link, n, maxFeatures)
	}
	b := make([]byte, 12+n*stringLen) // struct ethtool_gstrings
	native.PutUint32(b, ethtoolGetStrings)
	native.PutUint32(b[4:], stringsOfFeatures)
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

// Features are a network device's, by the kernel's name, whether each works now.
func Features(link string) (map[string]bool, error) {
	names, err := featureNames(link)
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
	out := map[string]bool{}
	for i, name := range names {
		active := native.Uint32(b[8+16*(i/32)+8:]) // available, requested, active, never_changed
		if name != "" {
			out[name] = active>>(i%32)&1 == 1
		}
	}
	return out, nil
}

var onOff = map[bool]string{true: "on", false: "off"}

func (l Local) feature(link, feature string) (string, error) {
	all, err := Features(link)
	if err != nil {
		return "", err
	}
	on, known := all[feature]
	if !known {
		return "", fmt.Errorf("interface %s has no feature of this name: %w", link, fs.ErrNotExist)
	}
	return onOff[on], nil
}

func (l Local) setFeature(link, feature, value string) error {
	if value != "on" && value != "off" {
		return fmt.Errorf("expected on or off")
	}
	names, err := featureNames(link)
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
