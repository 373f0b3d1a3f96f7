package xfrm

import (
	"errors"
	"fmt"
	"hash/crc32"
	"net/netip"
	"os"
	"path/filepath"

	"encoding/binary"

	"golang.org/x/sys/unix"

	"espalier/dataplane"
)

// journal is the list of what this daemon has in the kernel: an append-only
// file of checksummed records, one for each addition and removal, without keys.
// It survives the daemon, not the kernel, so it is never synced to a disk. A
// record cut short by a crash ends the file.
//
//	file:    magic and version (8 bytes), record…
//	record:  length of the payload (2), CRC-32C of the payload (4), payload
//	payload: kind (1), key, and for additions what identifies the object
type journal struct {
	dir     string
	lock    *os.File
	file    *os.File
	size    int64 // of the file
	compact int64 // size after the last compaction
	lost    int64 // bytes at the end of the former run's file that made no sense
}

const (
	journalMagic  = "ESPXFRM1" // the last byte is the version
	journalName   = "xfrm.journal"
	recordHeader  = 6
	maxRecord     = 256
	compactBeyond = 256 << 10 // growth in bytes before a compaction is worth it
)

// Kinds of records.
const (
	kindAddSA byte = 1 + iota
	kindDeleteSA
	kindAddPolicy
	kindDeletePolicy
	// The same of policies for one network interface, whose keys are longer.
	kindAddPolicyOf
	kindDeletePolicyOf
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// addr is an address without a pointer.
type addr struct {
	b  [16]byte
	v6 bool
}

func packAddr(a netip.Addr) addr {
	a = a.Unmap()
	return addr{a.As16(), !a.Is4()}
}

func (a addr) addr() netip.Addr {
	if n := netip.AddrFrom16(a.b); a.v6 {
		return n
	} else {
		return n.Unmap()
	}
}

// openJournal locks the folder and opens its journal. Errors: another daemon
// has it, the file is of another version, the folder is not private.
func openJournal(dir string) (*journal, error) {
	if dir == "" {
		return nil, errors.New("journal: expected a folder (Options.JournalDir)")
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("journal: %w", err)
	}
	if err := os.Chmod(dir, 0o700); err != nil {
		return nil, fmt.Errorf("journal: %w", err)
	}
	j := &journal{dir: dir}
	const flags = os.O_RDWR | os.O_CREATE | unix.O_NOFOLLOW | unix.O_CLOEXEC
	var err error
	if j.lock, err = os.OpenFile(filepath.Join(dir, "xfrm.lock"), flags, 0o600); err != nil {
		return nil, fmt.Errorf("journal: %w", err)
	}
	if err := unix.Flock(int(j.lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		j.close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, fmt.Errorf("journal %s: another daemon is using it", dir)
		}
		return nil, fmt.Errorf("journal %s: lock: %w", dir, err)
	}
	if j.file, err = os.OpenFile(filepath.Join(dir, journalName), flags|os.O_APPEND, 0o600); err != nil {
		j.close()
		return nil, fmt.Errorf("journal: %w", err)
	}
	if err := j.prepare(); err != nil {
		j.close()
		return nil, err
	}
	return j, nil
}

// prepare checks the header, writes it into a new file, and cuts a torn end off.
func (j *journal) prepare() error {
	b, err := os.ReadFile(j.file.Name())
	if err != nil {
		return fmt.Errorf("journal: %w", err)
	}
	if len(b) < len(journalMagic) && journalMagic[:len(b)] == string(b) {
		b = nil // new, or torn within the header
		if err := errors.Join(j.file.Truncate(0), j.write([]byte(journalMagic))); err != nil {
			return err
		}
	} else if string(b[:min(len(b), len(journalMagic))]) != journalMagic {
		return fmt.Errorf("journal %s: starts with %q, expected %q: written by another version, whose SAs and policies only that version can remove", j.file.Name(), b[:min(len(b), len(journalMagic))], journalMagic)
	}
	good := int64(len(journalMagic))
	if b != nil {
		for range records(b[len(journalMagic):], &good) {
		}
		j.lost = int64(len(b)) - good
		if err := j.file.Truncate(good); err != nil {
			return fmt.Errorf("journal: %w", err)
		}
	}
	j.size, j.compact = good, int64(len(journalMagic))
	return nil
}

// records walks the payloads of b and adds what they take up to good; it stops
// at the first record that is cut short or does not fit its checksum.
func records(b []byte, good *int64) func(func([]byte) bool) {
	return func(yield func([]byte) bool) {
		for len(b) >= recordHeader {
			n := int(binary.LittleEndian.Uint16(b))
			if n == 0 || n > maxRecord || n > len(b)-recordHeader {
				return
			}
			payload := b[recordHeader : recordHeader+n]
			if crc32.Checksum(payload, castagnoli) != binary.LittleEndian.Uint32(b[2:]) {
				return
			}
			*good += int64(recordHeader + n)
			if !yield(payload) {
				return
			}
			b = b[recordHeader+n:]
		}
	}
}

func (j *journal) close() error {
	var errs []error
	for _, f := range []*os.File{j.file, j.lock} {
		if f != nil {
			errs = append(errs, f.Close())
		}
	}
	return errors.Join(errs...)
}

func (j *journal) write(b []byte) error {
	if _, err := j.file.Write(b); err != nil {
		return fmt.Errorf("journal: %w", err)
	}
	j.size += int64(len(b))
	return nil
}

// frame puts length and checksum before a payload.
func frame(dst, payload []byte) []byte {
	dst = binary.LittleEndian.AppendUint16(dst, uint16(len(payload)))
	dst = binary.LittleEndian.AppendUint32(dst, crc32.Checksum(payload, castagnoli))
	return append(dst, payload...)
}

// append writes one record in one write, so that a crash cuts at most that one short.
func (j *journal) append(payload []byte) error {
	if j.size-j.compact > compactBeyond+j.compact {
		if err := j.rewrite(); err != nil {
			return err
		}
	}
	return j.write(frame(make([]byte, 0, recordHeader+len(payload)), payload))
}

func (j *journal) addSA(k *dataplane.SAKey, r *ownSA) error {
	return j.append(appendSA(appendSAKey([]byte{kindAddSA}, k), r))
}

func (j *journal) deleteSA(k *dataplane.SAKey) error {
	return j.append(appendSAKey([]byte{kindDeleteSA}, k))
}

func (j *journal) addPolicy(k *dataplane.PolicyKey, at int64) error {
	return j.append(binary.LittleEndian.AppendUint64(appendPolicyKey(kindAddPolicy, kindAddPolicyOf, k), uint64(at)))
}

func (j *journal) deletePolicy(k *dataplane.PolicyKey) error {
	return j.append(appendPolicyKey(kindDeletePolicy, kindDeletePolicyOf, k))
}

// live reads the file and returns the payload of the last addition of each
// object that has no removal after it.
func (j *journal) live() (map[string][]byte, error) {
	b, err := os.ReadFile(j.file.Name())
	if err != nil {
		return nil, fmt.Errorf("journal: %w", err)
	}
	out := map[string][]byte{}
	var good int64
	for p := range records(b[min(len(b), len(journalMagic)):], &good) {
		kind, key, ok := recordKey(p)
		switch {
		case !ok:
		case kind == kindAddSA || kind == kindAddPolicy || kind == kindAddPolicyOf:
			out[key] = p
		default:
			delete(out, key)
		}
	}
	return out, nil
}

// recordKey is the object that a record is about, the same for its addition
// and its removal.
func recordKey(p []byte) (kind byte, key string, ok bool) {
	size := map[byte]int{kindAddSA: saKeySize, kindDeleteSA: saKeySize, kindAddPolicy: policyKeySize, kindDeletePolicy: policyKeySize,
		kindAddPolicyOf: policyKeySize + 4, kindDeletePolicyOf: policyKeySize + 4}[p[0]]
	if size == 0 || len(p) < 1+size {
		return p[0], "", false
	}
	family := byte('s')
	if size >= policyKeySize {
		family = 'p'
	}
	return p[0], string(family) + string(p[1:1+size]), true
}

// rewrite replaces the file by one with the living records only.
func (j *journal) rewrite() error {
	live, err := j.live()
	if err != nil {
		return err
	}
	return j.replace(live)
}

func (j *journal) replace(live map[string][]byte) error {
	b := []byte(journalMagic)
	for _, p := range live {
		b = frame(b, p)
	}
	name := filepath.Join(j.dir, journalName)
	const flags = os.O_RDWR | os.O_CREATE | os.O_TRUNC | os.O_APPEND | unix.O_NOFOLLOW | unix.O_CLOEXEC
	f, err := os.OpenFile(name+".new", flags, 0o600)
	if err != nil {
		return fmt.Errorf("journal: %w", err)
	}
	if _, err = f.Write(b); err == nil {
		err = os.Rename(f.Name(), name)
	}
	if err != nil {
		f.Close()
		return fmt.Errorf("journal: %w", err)
	}
	old := j.file
	// The new file is known by its old name; reopen it so that Name says so.
	if j.file, err = os.OpenFile(name, os.O_RDWR|os.O_APPEND|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600); err != nil {
		j.file = f
		return errors.Join(fmt.Errorf("journal: %w", err), old.Close())
	}
	j.size, j.compact = int64(len(b)), int64(len(b))
	return errors.Join(f.Close(), old.Close())
}
