package sa_test

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"espalier/ike/sa"
	"espalier/ike/sa/satest"
)

var update = flag.Bool("update", false, "write goldens that are missing")

// goldens is where the states of an encoding's version lie.
func goldens(version int) string { return fmt.Sprintf("testdata/state-v%d", version) }

// TestStateGoldens reads states that this and older versions wrote. A golden is
// never rewritten: a new version of the encoding adds its own folder.
func TestStateGoldens(t *testing.T) {
	w := satest.New(12)
	moon, sun := satest.Pair(w, satest.IKE("aes128gcm16-prfsha256-x25519-ke1_ecp256"), pfs, perCPU(sa.PerCPUYes))
	withTokens(moon, sun)
	if *update {
		writeGoldens(t, w, moon, sun)
	}
	for version, least := range map[int]int{1: 20, 2: 35, 3: 35, 4: 35} {
		files, _ := filepath.Glob(goldens(version) + "/*.bin")
		if len(files) < least {
			t.Fatalf("%d goldens in %s, expected %d: one for each phase that waits, and for exchanges under way", len(files), goldens(version), least)
		}
		for _, f := range files {
			readGolden(t, w, f, moon, sun)
		}
	}
}

func readGolden(t *testing.T, w *satest.World, file string, moon, sun *satest.Node) {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	m, err := sa.Decode(b, moon.Env.Conns)
	if err != nil { // the other side's, then
		if m, err = sa.Decode(b, sun.Env.Conns); err != nil {
			t.Errorf("%s: %v", file, err)
			return
		}
	}
	env := moon.Env
	env.Now = w.Now
	m.Resume(&env)
}

// writeGoldens keeps the states of a session's life that are not there yet: its
// set-up, rekeyings from either side, its end.
func writeGoldens(t *testing.T, w *satest.World, moon, sun *satest.Node) {
	t.Helper()
	dir := goldens(sa.StateVersion)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	w.Stepped = func(n *satest.Node) {
		for _, m := range n.Live() {
			name := filepath.Join(dir, situation(m)+".bin")
			if _, err := os.Stat(name); os.IsNotExist(err) {
				if err := os.WriteFile(name, m.Encode(nil), 0o644); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	defer func() { w.Stepped = nil }()
	moon.Initiate("sun", "", sunAddr)
	w.Settle(100)
	for _, n := range []*satest.Node{moon, sun} {
		n.Do(0, sa.Rekey{ChildID: n.Live()[0].Info().Children[0].UniqueID})
		w.Settle(100)
		n.Do(0, sa.Rekey{})
		w.Settle(100)
	}
	split(moon, 0)
	w.Settle(100)
	moon.Do(0, sa.Terminate{})
	w.Settle(100)
}

// situation names what a golden is about: the phase, which exchanges and what
// job are under way, and how many IKE SAs there are.
func situation(m *sa.Machine) string {
	s, name := m.State(), "responder"
	if m.Initiator() {
		name = "initiator"
	}
	name += "-" + m.Phase().String()
	if s.Own != nil {
		name += fmt.Sprintf("-own%d", s.Own.Kind)
		if s.Own.Fallback != 0 {
			name += "-bound"
		}
	}
	if s.Peer != nil {
		name += fmt.Sprintf("-peer%d", s.Peer.Kind)
	}
	if len(s.Jobs) > 0 && m.IsEstablished() {
		name += fmt.Sprintf("-job%d", s.Jobs[0].Kind)
	}
	if len(s.Others) > 0 {
		name += fmt.Sprintf("-others%d", len(s.Others))
	}
	return name
}

// FuzzDecode: a state from a stranger may be refused, never crash.
func FuzzDecode(f *testing.F) {
	files, _ := filepath.Glob("testdata/state-v*/*.bin")
	for _, name := range files {
		b, err := os.ReadFile(name)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	w := satest.New(13)
	moon, _ := satest.Pair(w, satest.IKE("aes128gcm16-prfsha256-x25519-ke1_ecp256"))
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := sa.Decode(b, moon.Env.Conns)
		if err != nil {
			return
		}
		env := moon.Env
		env.Now = w.Now
		m.Resume(&env)
		again, err := sa.Decode(m.Encode(nil), moon.Env.Conns)
		if err != nil || string(again.Encode(nil)) != string(m.Encode(nil)) {
			t.Fatalf("does not read back: %v", err)
		}
	})
}
