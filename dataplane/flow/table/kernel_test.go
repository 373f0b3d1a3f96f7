package table

import (
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"net/netip"
	"os"
	"sync/atomic"
	"testing"
	"unsafe"

	"github.com/cilium/ebpf"

	"espalier/bpf"
)

// kernelTable makes the maps in the kernel, the table on them, and loads the
// program that looks keys up.
func kernelTable(t *testing.T, s bpf.Sizes) (*Table, *ebpf.Program) {
	t.Helper()
	spec, err := bpf.Check(s)
	if err != nil {
		t.Fatal(err)
	}
	c, err := ebpf.NewCollection(spec)
	if errors.Is(err, os.ErrPermission) {
		t.Skip("no BPF for this user: run as root")
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	tab, err := Open(mapsOf(c))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := tab.Close(); err != nil {
			t.Error(err)
		}
	})
	return tab, c.Programs["find"]
}

func mapsOf(c *ebpf.Collection) Maps {
	return Maps{Index: c.Maps["index"], SAs: c.Maps["sas"], DropCounts: c.Maps["drop_counts"],
		Totals: c.Maps["totals"], Config: c.Maps["config"]}
}

// kernelFind asks the program for a key, as a packet would.
func kernelFind(t *testing.T, find *ebpf.Program, k bpf.Key) (slot uint32, ok bool, hash uint64) {
	t.Helper()
	packet := make([]byte, 64)
	copy(packet, (*[unsafe.Sizeof(k)]byte)(unsafe.Pointer(&k))[:])
	action, out, err := find.Test(packet)
	if err != nil || action != 2 {
		t.Fatalf("find: action %d, error %v; expected XDP_PASS", action, err)
	}
	slot, ok = binary.LittleEndian.Uint32(out[24:]), binary.LittleEndian.Uint32(out[28:]) == 1
	return slot, ok, binary.LittleEndian.Uint64(out[32:])
}

// randomKey has any direction, family, destination and SPI; few of them, so that SPIs and addresses repeat.
func randomKey(r *rand.Rand) bpf.Key {
	dst := netip.AddrFrom4([4]byte{192, 0, byte(r.IntN(4)), byte(r.Uint32())})
	if r.IntN(3) == 0 {
		dst = netip.AddrFrom16([16]byte{0x20, 1, 0xd, 0xb8, 15: byte(r.Uint32())})
	}
	return bpf.MakeKey(uint8(r.IntN(2)), dst, r.Uint32N(1<<16)+256)
}

func TestKernelFindsWhatTheTableHas(t *testing.T) {
	tab, find := kernelTable(t, bpf.Sizes{Slots: 1 << 17, CPUs: ebpf.MustPossibleCPU()})
	r := rand.New(rand.NewPCG(1, 2))
	slots := map[bpf.Key]uint32{}
	keys := make([]bpf.Key, 0, 100_000)
	for len(keys) < cap(keys) {
		k := randomKey(r)
		s, err := tab.Insert(k, Attr{CPU: bpf.NoCPU})
		if have, ok := slots[k]; ok {
			if !errors.Is(err, ErrExists) || s != have {
				t.Fatalf("inserting %v again: slot %d, error %v; expected slot %d, ErrExists", k, s, err, have)
			}
			continue
		}
		if err != nil {
			t.Fatalf("after %d: %v", len(keys), err)
		}
		slots[k] = s
		keys = append(keys, k)
	}
	check := func(k bpf.Key) {
		t.Helper()
		want, known := slots[k]
		got, ok, hash := kernelFind(t, find, k)
		if ok != known || ok && got != want {
			t.Fatalf("%v: the program finds slot %d, %t; the table has %d, %t", k, got, ok, want, known)
		}
		if p := placeOf(tab.a.Config, &k); uint32(hash) != p.hash || uint32(hash>>32) != uint32(p.word>>32) {
			t.Fatalf("%v: the program's hash is %#x, the table's place %+v", k, hash, p)
		}
	}
	for _, k := range keys {
		check(k)
		unknown := k
		unknown.Spi ^= 1 << 31 // SPIs above are shorter
		check(unknown)
	}
	for _, k := range keys[:50_000] {
		s, ok := tab.Remove(k)
		if !ok || s != slots[k] {
			t.Fatalf("removing %v: slot %d, %t; expected %d", k, s, ok, slots[k])
		}
		delete(slots, k)
	}
	for _, k := range keys {
		check(k)
	}
}

// A packet's lookup never misses an SA that stays while others come and go in the
// same buckets, and never finds one that is not there.
func TestKernelFindsWhileTheTableChanges(t *testing.T) {
	s := bpf.Sizes{Slots: 64, CPUs: ebpf.MustPossibleCPU()}
	tab, find := kernelTable(t, s)
	r := rand.New(rand.NewPCG(3, 4))
	stay := make([]bpf.Key, 40)
	slots := make([]uint32, len(stay))
	for i := range stay {
		stay[i] = bpf.MakeKey(bpf.DirIn, netip.MustParseAddr("192.0.2.1"), uint32(1000+i))
		var err error
		if slots[i], err = tab.Insert(stay[i], Attr{}); err != nil {
			t.Fatal(err)
		}
	}
	var stop atomic.Bool
	done := make(chan int)
	go func() {
		came := 0
		var here []bpf.Key
		for ; !stop.Load(); came++ {
			k := randomKey(r)
			if _, err := tab.Insert(k, Attr{}); err == nil {
				here = append(here, k)
			} else if !errors.Is(err, ErrExists) {
				panic(err)
			}
			if len(here) > 20 {
				slot, _ := tab.Remove(here[0])
				if err := tab.Free(slot); err != nil {
					panic(err)
				}
				here = here[1:]
			}
		}
		done <- came
	}()
	for i := range 100_000 {
		n := i % len(stay)
		if got, ok, _ := kernelFind(t, find, stay[n]); !ok || got != slots[n] {
			stop.Store(true)
			<-done
			t.Fatalf("lookup %d: slot %d, %t; expected %d", i, got, ok, slots[n])
		}
		never := stay[n]
		never.Spi ^= 1 << 31
		if got, ok, _ := kernelFind(t, find, never); ok {
			stop.Store(true)
			<-done
			t.Fatalf("lookup %d of a key that is not there: slot %d", i, got)
		}
	}
	stop.Store(true)
	if came := <-done; came < 1000 {
		t.Errorf("%d SAs came while looking up; expected at least 1000", came)
	}
}
