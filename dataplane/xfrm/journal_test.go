package xfrm

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"testing"

	"espalier/dataplane"
)

func testSA(n int) (dataplane.SAKey, ownSA) {
	k := dataplane.SAKey{Dst: netip.MustParseAddr("192.0.2.1"), Proto: dataplane.ESP, SPI: uint32(n + 256), Mark: dataplane.Mark{Value: uint32(n), Mask: 7}}
	if n%2 == 1 {
		k.Dst = netip.MustParseAddr("2001:db8::1")
	}
	return k, ownSA{src: packAddr(netip.MustParseAddr("198.51.100.7")), reqID: uint32(n), ifID: 3, added: 1234567890 + int64(n), dir: dataplane.Out, mode: dataplane.BEET, reserved: n%3 == 0}
}

func testPolicy(n int) dataplane.PolicyKey {
	k := dataplane.PolicyKey{
		Selector: dataplane.Selector{
			Src: netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(n >> 8), byte(n), 0}), 24), Dst: netip.MustParsePrefix("0.0.0.0/0"),
			Proto: 6, SrcPort: 1, SrcPortMask: 2, DstPort: 3, DstPortMask: 4,
		},
		Dir: dataplane.Fwd, Mark: dataplane.Mark{Value: 5, Mask: 6}, IfID: 7,
	}
	if n%3 == 1 {
		k.IfIndex = uint32(n) << 16
	}
	if n%2 == 1 {
		k.Selector.Src, k.Selector.Dst = netip.PrefixFrom(netip.AddrFrom16([16]byte{0x20, 1, 15: byte(n)}), 128), netip.MustParsePrefix("::/0")
	}
	return k
}

func mustOpen(t *testing.T, dir string) *journal {
	t.Helper()
	j, err := openJournal(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { j.close() })
	return j
}

// readLive decodes what is live.
func readLive(t *testing.T, j *journal) (map[dataplane.SAKey]ownSA, map[dataplane.PolicyKey]int64) {
	t.Helper()
	live, err := j.live()
	if err != nil {
		t.Fatal(err)
	}
	sas, policies := map[dataplane.SAKey]ownSA{}, map[dataplane.PolicyKey]int64{}
	for _, p := range live {
		if k, r, ok := readSA(p); ok {
			sas[k] = r
		} else if k, at, ok := readPolicy(p); ok {
			policies[k] = at
		} else {
			t.Fatalf("record of kind %d and %d bytes is neither", p[0], len(p))
		}
	}
	return sas, policies
}

// TestJournalModel runs random changes, restarts and compactions against a map.
func TestJournalModel(t *testing.T) {
	rnd := rand.New(rand.NewPCG(11, 12))
	dir := t.TempDir()
	j := mustOpen(t, dir)
	sas, policies := map[dataplane.SAKey]ownSA{}, map[dataplane.PolicyKey]int64{}
	check := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	rewritten := false
	for step := range 30000 {
		n := rnd.IntN(40)
		k, r := testSA(n)
		p := testPolicy(n)
		switch rnd.IntN(4) {
		case 0:
			r.added += int64(step)
			check(j.addSA(&k, &r))
			sas[k] = r
		case 1:
			check(j.deleteSA(&k))
			delete(sas, k)
		case 2:
			check(j.addPolicy(&p, int64(step)))
			policies[p] = int64(step)
		case 3:
			check(j.deletePolicy(&p))
			delete(policies, p)
		}
		if j.compact > int64(len(journalMagic)) {
			rewritten = true
		}
		if step%5000 == 4999 {
			check(j.close())
			j = mustOpen(t, dir)
			gotSAs, gotPolicies := readLive(t, j)
			if fmt.Sprint(gotSAs) != fmt.Sprint(sas) || fmt.Sprint(gotPolicies) != fmt.Sprint(policies) {
				t.Fatalf("step %d: read %v %v, expected %v %v", step, gotSAs, gotPolicies, sas, policies)
			}
		}
	}
	info, err := os.Stat(filepath.Join(dir, journalName))
	check(err)
	if !rewritten || info.Size() > 2*compactBeyond {
		t.Errorf("%d bytes after 30000 changes of 80 objects, compacted: %v", info.Size(), rewritten)
	}
}

// TestJournalTorn cuts the file at every byte, and flips a bit in every one:
// what comes before the damage is read, nothing panics, and new records follow.
func TestJournalTorn(t *testing.T) {
	dir := t.TempDir()
	j := mustOpen(t, dir)
	k0, r0 := testSA(0)
	k1, r1 := testSA(1)
	if err := j.addSA(&k0, &r0); err != nil {
		t.Fatal(err)
	}
	first := j.size
	if err := j.addSA(&k1, &r1); err != nil {
		t.Fatal(err)
	}
	j.close()
	name := filepath.Join(dir, journalName)
	whole, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	reopen := func(b []byte) (int, error) {
		if err := os.WriteFile(name, b, 0o600); err != nil {
			t.Fatal(err)
		}
		j, err := openJournal(dir)
		if err != nil {
			return 0, err
		}
		defer j.close()
		sas, _ := readLive(t, j)
		k2, r2 := testSA(2)
		if err := j.addSA(&k2, &r2); err != nil {
			t.Fatal(err)
		}
		if after, _ := readLive(t, j); len(after) != len(sas)+1 {
			t.Fatalf("after the damage %d SAs, with one more %d", len(sas), len(after))
		}
		return len(sas), nil
	}
	for cut := range len(whole) {
		want := 0
		if int64(cut) >= first {
			want = 1
		}
		if n, err := reopen(whole[:cut]); err != nil || n != want {
			t.Fatalf("cut at %d: %d SAs, %v, expected %d", cut, n, err, want)
		}
	}
	for at := range len(whole) {
		b := append([]byte(nil), whole...)
		b[at] ^= 0x10
		want := 0
		if int64(at) >= first {
			want = 1
		}
		n, err := reopen(b)
		if inMagic := at < len(journalMagic); inMagic != (err != nil) || err == nil && n != want {
			t.Fatalf("bit flipped in byte %d: %d SAs, %v, expected %d", at, n, err, want)
		}
	}
}

func TestJournalIsLockedAndPrivate(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "run")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	j := mustOpen(t, dir)
	if _, err := openJournal(dir); err == nil {
		t.Error("two daemons opened the same journal")
	}
	if info, err := os.Stat(dir); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("folder mode %v, %v, expected 0700", info.Mode(), err)
	}
	if info, err := os.Stat(filepath.Join(dir, journalName)); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("file mode %v, %v, expected 0600", info.Mode(), err)
	}
	j.close()
	mustOpen(t, dir)
	if _, err := openJournal(""); err == nil {
		t.Error("a journal in no folder was opened")
	}
}
