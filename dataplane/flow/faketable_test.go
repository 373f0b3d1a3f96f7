package flow

import (
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"testing"
	"time"
)

// fakeTable is the table of SPIs in memory.
type fakeTable struct {
	mu      sync.Mutex
	entries map[Key]Attrs
	room    int // 0: no end
	inStep  bool
	inserts int
	moved   map[Key]Key // from, to
}

func newFakeTable() *fakeTable { return &fakeTable{entries: map[Key]Attrs{}, moved: map[Key]Key{}} }

var errFull = errors.New("full")

func (f *fakeTable) Insert(k Key, a Attrs) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if _, had := f.entries[k]; !had && f.room > 0 && len(f.entries) >= f.room {
		return errFull
	}
	f.entries[k] = a
	f.inserts++
	return nil
}

func (f *fakeTable) Remove(k Key) {
	f.mu.Lock()
	defer f.mu.Unlock()
	_, had := f.entries[k]
	if _, moved := f.moved[k]; !had && !moved {
		panic(fmt.Sprintf("removed %+v, which is not there", k))
	}
	delete(f.entries, k)
}

func (f *fakeTable) Move(from, to Key) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.entries, from)
	f.moved[from] = to
}

func (f *fakeTable) InStep(is bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.inStep = is
}

func (f *fakeTable) get(k Key) (Attrs, bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	a, ok := f.entries[k]
	return a, ok
}

func (f *fakeTable) state() (entries int, inStep bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.entries), f.inStep
}

// eventually waits for what another goroutine does.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%s: did not happen within a minute", what)
		}
	}
}

// fakeMSS is the table of limits in memory.
type fakeMSS struct {
	prefixes map[netip.Prefix]MSS
	links    map[int]MSS
	changes  int
}

func newFakeMSS() *fakeMSS {
	return &fakeMSS{prefixes: map[netip.Prefix]MSS{}, links: map[int]MSS{}}
}

func (f *fakeMSS) SetPrefix(p netip.Prefix, m MSS) error {
	f.prefixes[p] = m
	f.changes++
	return nil
}

func (f *fakeMSS) RemovePrefix(p netip.Prefix) {
	delete(f.prefixes, p)
	f.changes++
}

func (f *fakeMSS) SetInterface(i int, m MSS) error {
	f.links[i] = m
	f.changes++
	return nil
}

func (f *fakeMSS) RemoveInterface(i int) {
	delete(f.links, i)
	f.changes++
}
