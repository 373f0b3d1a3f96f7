package flow

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// threads finds out what the kernel's threads do that work on packets. A thread
// that waits for packets has none: the one of a CPUMAP's entry sleeps only with an
// empty queue, after it has handed on all that it took; ksoftirqd sleeps when its
// CPU has no soft interrupt left over.
//
// Its methods are for one goroutine at a time.
type threads struct {
	proc  string // /proc
	mapID uint32 // of the CPUMAP
	stat  map[string][]*os.File
}

func newThreads(mapID uint32) *threads { return &threads{proc: "/proc", mapID: mapID} }

// asleep tells whether a CPU has nothing to do: none of the packets that were in
// its queue, when queue is set, and no soft interrupt. known is false when its
// threads cannot be seen, as in a container.
func (t *threads) asleep(cpu uint32, queue bool) (is, known bool) {
	// In this order: what the queue's thread leaves over when it goes to sleep is
	// ksoftirqd's, which is awake by then.
	if queue {
		if is, known = t.sleeps(fmt.Sprintf("cpumap/%d/map:%d", cpu, t.mapID)); !is {
			return false, known
		}
	}
	return t.sleeps(fmt.Sprintf("ksoftirqd/%d", cpu))
}

// sleeps tells it of a thread.
func (t *threads) sleeps(name string) (is, known bool) {
	for again := range 2 {
		files := t.stat[shortName(name)]
		if len(files) > 0 {
			if is, known = allSleep(files); known {
				return is, true
			}
		}
		if again == 0 {
			t.look()
		}
	}
	return false, false
}

// shortName is a thread's name as older kernels show it.
func shortName(name string) string { return name[:min(len(name), 15)] }

// allSleep reads the states of threads; known is false when one has ended.
func allSleep(files []*os.File) (is, known bool) {
	var buf [256]byte
	for _, f := range files {
		n, err := f.ReadAt(buf[:], 0)
		if n == 0 {
			return false, err == nil
		}
		_, state, ok := bytes.Cut(buf[:n], []byte(") "))
		if !ok || len(state) == 0 || state[0] != 'S' {
			return false, ok
		}
	}
	return true, true
}

// look finds the threads anew.
func (t *threads) look() {
	t.close()
	comms, _ := filepath.Glob(filepath.Join(t.proc, "[0-9]*", "comm")) // the pattern is good
	for _, path := range comms {
		b, err := os.ReadFile(path)
		name := strings.TrimSpace(string(b))
		if err != nil || !strings.HasPrefix(name, "ksoftirqd/") && !strings.HasPrefix(name, "cpumap/") {
			continue
		}
		if f, err := os.Open(filepath.Join(filepath.Dir(path), "stat")); err == nil {
			t.stat[shortName(name)] = append(t.stat[shortName(name)], f)
		}
	}
}

// close gives the files back; they are opened again when they are needed.
func (t *threads) close() {
	for _, files := range t.stat {
		for _, f := range files {
			f.Close()
		}
	}
	t.stat = map[string][]*os.File{}
}
