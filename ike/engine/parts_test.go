package engine

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rs/zerolog"

	"espalier/dataplane"
	"espalier/ike/sa"
	"espalier/ike/wire"
	"espalier/internal/event"
)

func TestReqIDs(t *testing.T) {
	r := newRegistry()
	r.claim([]*sa.Connection{{Children: []*sa.ChildConfig{{ReqID: 2}}}})
	ask := func(child, ts string) grant {
		return r.child(sa.AskChild{Conn: "c", Child: child, Remote: netip.MustParseAddr(sunAddr), LocalTS: ts, PeerTS: "p"})
	}
	a, again, b := ask("a", "x"), ask("a", "x"), ask("b", "x")
	if a.ids.ReqID != 1 || again.ids.ReqID != 1 || b.ids.ReqID != 3 {
		t.Errorf("got %d, %d, %d, expected 1 twice for one identity, and 3 as 2 is fixed", a.ids.ReqID, again.ids.ReqID, b.ids.ReqID)
	}
	if a.ids.UniqueID != 1 || again.ids.UniqueID != 2 || b.ids.UniqueID != 3 {
		t.Error("unique ids must count from 1")
	}
	r.release(a)
	if c := ask("c", "x"); c.ids.ReqID != 4 {
		t.Errorf("got %d while the identity lives on, expected 4", c.ids.ReqID)
	}
	r.release(again)
	if c := ask("d", "x"); c.ids.ReqID != 1 {
		t.Errorf("got %d, expected the freed 1", c.ids.ReqID)
	}
	fixed := r.child(sa.AskChild{ReqID: 77})
	r.release(fixed)
	if fixed.ids.ReqID != 77 || r.held() != 3 {
		t.Errorf("fixed %d, %d held, expected 77 and 3", fixed.ids.ReqID, r.held())
	}
	r.release(a) // once too often: no harm to others
	r.release(a)
	if e := ask("b", "x"); e.ids.ReqID != 3 {
		t.Errorf("got %d, expected b's 3", e.ids.ReqID)
	}
}

// TestKeptReqID: what replaces a CHILD SA keeps its request id, wherever the peer
// is by then, for as long as either is there.
func TestKeptReqID(t *testing.T) {
	r := newRegistry()
	ask := func(child, remote string, keep uint32) grant {
		return r.child(sa.AskChild{Conn: "c", Child: child, Remote: netip.MustParseAddr(remote), LocalTS: "x", PeerTS: "p", Keep: keep})
	}
	old := ask("a", sunAddr, 0)
	moved := ask("a", "192.0.2.99", old.ids.ReqID)
	other := ask("b", "192.0.2.99", old.ids.ReqID)
	if moved.ids.ReqID != old.ids.ReqID || other.ids.ReqID == old.ids.ReqID {
		t.Errorf("%d, then %d for what replaces it and %d for another child", old.ids.ReqID, moved.ids.ReqID, other.ids.ReqID)
	}
	r.release(old)
	if fresh := ask("d", sunAddr, 0); fresh.ids.ReqID == moved.ids.ReqID {
		t.Errorf("request id %d is given away while it is in use", fresh.ids.ReqID)
	}
	r.release(moved)
	if fresh := ask("e", sunAddr, moved.ids.ReqID); fresh.ids.ReqID != moved.ids.ReqID {
		t.Errorf("got %d, expected the freed %d", fresh.ids.ReqID, moved.ids.ReqID)
	}
	if again := ask("a", "192.0.2.99", moved.ids.ReqID); again.ids.ReqID == moved.ids.ReqID {
		t.Errorf("the request id of another child")
	}
}

func TestHalfOpenCounts(t *testing.T) {
	r := newRegistry()
	set := DefaultSettings()
	v6a, v6b := set.prefixOf(netip.MustParseAddr("2001:db8::1")), set.prefixOf(netip.MustParseAddr("2001:db8::2"))
	if v6a != v6b {
		t.Error("two addresses of one /64 must count together")
	}
	for range 3 {
		r.admit(v6a, 10, 3)
	}
	if why, ok := r.admit(v6b, 10, 3); ok || why != DropPrefixLimit {
		t.Errorf("got %v %v, expected the prefix's limit", why, ok)
	}
	v4 := set.prefixOf(netip.MustParseAddr("192.0.2.1"))
	if why, ok := r.admit(v4, 3, 3); ok || why != DropHalfOpenLimit {
		t.Errorf("got %v %v, expected the total's limit", why, ok)
	}
	for range 3 {
		r.settle(v6a)
	}
	if r.halfOpen.Load() != 0 || len(r.prefixes) != 0 {
		t.Errorf("left: %d, %v", r.halfOpen.Load(), r.prefixes)
	}
}

// TestTimers compares the heap with a plain list under random changes.
func TestTimers(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	start := time.Unix(1e9, 0)
	var h timers
	all := make([]*session, 50)
	for i := range all {
		all[i] = &session{place: noTimer}
	}
	for range 20000 {
		x := all[rnd.IntN(len(all))]
		var d time.Time
		if rnd.IntN(4) > 0 {
			d = start.Add(time.Duration(rnd.IntN(1000)) * time.Millisecond)
		}
		h.set(x, d)
		if (x.place == noTimer) != d.IsZero() {
			t.Fatalf("place %d for deadline %v", x.place, d)
		}
		var first *session
		n := 0
		for _, y := range all {
			if y.place != noTimer {
				n++
				if h[y.place] != y {
					t.Fatal("a session does not know its place")
				}
				if first == nil || y.deadline.Before(first.deadline) {
					first = y
				}
			}
		}
		next, ok := h.next()
		if n != len(h) || ok != (first != nil) || ok && !next.Equal(first.deadline) {
			t.Fatalf("%d in the heap, %d expected; next %v %v", len(h), n, next, ok)
		}
		if ok && (h.due(next) == nil || h.due(next.Add(-1)) != nil) {
			t.Fatal("due at the wrong time")
		}
	}
}

func TestInboxBounds(t *testing.T) {
	in := newInbox(newBufferPool())
	a := netip.MustParseAddrPort("192.0.2.1:500")
	n := 0
	for in.putMessage(a, a, wire.Header{}, []byte("small")) {
		n++
	}
	if n != maxMessages {
		t.Errorf("%d messages, expected %d", n, maxMessages)
	}
	var b batch
	if !in.take(&b) || len(b.messages) != maxMessages || in.bytes != 0 {
		t.Errorf("took %d messages, %d octets left", len(b.messages), in.bytes)
	}
	big := make([]byte, 60000)
	n = 0
	for in.putMessage(a, a, wire.Header{}, big) {
		n++
	}
	if n != maxMessageBytes/len(big) {
		t.Errorf("%d big messages, expected %d", n, maxMessageBytes/len(big))
	}
	// Results are taken whatever else waits, and come with any flood of requests.
	in.putResult(result{id: 1})
	n = 0
	for in.putInit(a, a, wire.Header{}, []byte("x")) {
		n++
	}
	in.take(&b)
	if len(b.results) != 1 || n != maxInits || len(b.inits) != initsPerTurn {
		t.Errorf("%d results, %d requests taken in, %d of them in one turn, expected 1, %d, %d", len(b.results), n, len(b.inits), maxInits, initsPerTurn)
	}
}

func TestQueueLanes(t *testing.T) {
	q := newQueue(1, false)
	q.put(job{id: 1, spec: sa.EncapsulateKE{}})
	q.put(job{id: 2, spec: sa.GenerateKE{}})
	q.put(job{id: 3, spec: sa.VerifyAuth{}})
	for i, want := range []uint32{3, 1, 2} {
		if j, ok := q.get(); !ok || j.id != want {
			t.Errorf("job %d: got %d, expected %d: what is nearly there goes first", i, j.id, want)
		}
	}
	q.put(job{id: 4, spec: sa.VerifyAuth{}})
	q.close()
	if _, ok := q.get(); ok {
		t.Error("crypto for nobody after the close")
	}
	k := newQueue(1, true)
	k.put(job{id: 5, spec: sa.Kernel{}})
	k.close()
	if j, ok := k.get(); !ok || j.id != 5 {
		t.Error("kernel work was lost by the close")
	}
	if _, ok := k.get(); ok {
		t.Error("an empty closed queue gave a job")
	}
}

func TestTurns(t *testing.T) {
	var turns turns
	done, err := turns.take(t.Context(), "a")
	if err != nil {
		t.Fatal(err)
	}
	other, err := turns.take(t.Context(), "b")
	if err != nil {
		t.Fatal(err)
	}
	other()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := turns.take(ctx, "a"); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, expected to wait in vain", err)
	}
	n := 0
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			done, err := turns.take(t.Context(), "a")
			if err != nil {
				t.Error(err)
				return
			}
			n++ // the race detector sees whether turns exclude one another
			done()
		})
	}
	done()
	wg.Wait()
	if n != 8 || len(turns.taken) != 0 {
		t.Errorf("%d turns, %d left", n, len(turns.taken))
	}
}

func TestLogEvents(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var bus event.Bus
		var out bytes.Buffer
		sub := bus.Subscribe(2)
		for range 3 {
			bus.Publish(time.Now(), event.Failed{Cause: event.NoProposalChosen, Facts: []event.Fact{{Name: "ours", Value: "aes"}}})
		}
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		wg.Go(func() { LogEvents(ctx, sub, zerolog.New(&out), nil) })
		synctest.Wait()
		bus.Publish(time.Now(), event.IKEUp{Proposal: "last"})
		cancel()
		wg.Wait()
		s := out.String()
		if strings.Count(s, `"level":"warn","ike":0`) != 2 || !strings.Contains(s, `"ours":"aes"`) || !strings.Contains(s, `"events":1`) || !strings.Contains(s, `"proposal":"last"`) {
			t.Errorf("log:\n%s", s)
		}
	})
}

// memStore remembers what was saved and removed.
type memStore struct {
	mu    sync.Mutex
	saved map[uint64][]byte
}

func (m *memStore) Save(id uint64, state []byte) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.saved[id] = bytes.Clone(state)
}

func (m *memStore) Remove(id uint64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.saved, id)
}

func TestStoreFollowsTheSessions(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		st := &memStore{saved: map[uint64][]byte{}}
		f := newFabric()
		moon := newBox(t, f, moonAddr, []*sa.Connection{moonConn()}, func(o *Options) { o.Store = st })
		sun := newBox(t, f, sunAddr, []*sa.Connection{sunConn()}, nil)
		if err := moon.Initiate(t.Context(), "sun", "net", false); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		m, err := sa.Decode(st.saved[1], moon.config.Load().set)
		if err != nil || !m.IsEstablished() || m.LocalSPI() != moon.infos()[0].SPIi {
			t.Errorf("the saved state does not come back established: %v", err)
		}
		if err := moon.Terminate(t.Context(), Target{IKE: 1}, false); err != nil {
			t.Error(err)
		}
		time.Sleep(time.Minute)
		if len(st.saved) != 0 {
			t.Errorf("%d states left of sessions that are gone", len(st.saved))
		}
		moon.stop()
		sun.stop()
	})
}

func TestNewRefuses(t *testing.T) {
	if _, err := New(Options{}); err == nil {
		t.Error("an engine without a data plane")
	}
	broken := Options{DataPlane: dataplane.NewFake(dataplane.FakeOptions{}), Sockets: newFabric().join(moonAddr), Rand: bytes.NewReader(nil)}
	if _, err := New(broken); !errors.Is(err, io.EOF) {
		t.Errorf("a source of randomness that ends: %v", err)
	}
}

func TestEveryDropHasAName(t *testing.T) {
	seen := map[string]bool{}
	for d := range dropCount {
		if s := d.String(); s == "" || seen[s] {
			t.Errorf("drop %d has the name %q", d, s)
		}
		seen[d.String()] = true
	}
}
