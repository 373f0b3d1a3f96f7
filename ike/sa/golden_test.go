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

// TestStateGoldens reads states that older versions wrote. A golden is never
// rewritten: a new version of the encoding adds its own folder.
func TestStateGoldens(t *testing.T) {
	const dir = "testdata/state-v1"
	w := satest.New(12)
	opts := []satest.Option{satest.IKE("aes128gcm16-prfsha256-x25519-ke1_ecp256")}
	moon, sun := satest.Pair(w, opts...)
	if *update {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		write := func(n *satest.Node) {
			for _, m := range n.Live() {
				side := "responder"
				if m.Initiator() {
					side = "initiator"
				}
				name := filepath.Join(dir, fmt.Sprintf("%s-%s.bin", side, m.Phase()))
				if _, err := os.Stat(name); os.IsNotExist(err) {
					if err := os.WriteFile(name, m.Encode(nil), 0o644); err != nil {
						t.Fatal(err)
					}
				}
			}
		}
		w.Stepped = write
		moon.Initiate("sun", "", sunAddr)
		w.Settle(100)
		moon.Do(0, sa.Terminate{})
		w.Settle(100)
	}
	files, _ := filepath.Glob(dir + "/*.bin")
	if len(files) < 20 {
		t.Fatalf("%d goldens in %s, want one for each phase that waits", len(files), dir)
	}
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		conns := moon.Env.Conns
		if filepath.Base(f)[0] == 'r' {
			conns = sun.Env.Conns
		}
		m, err := sa.Decode(b, conns)
		if err != nil {
			t.Errorf("%s: %v", f, err)
			continue
		}
		env := moon.Env
		env.Now = w.Now
		m.Resume(&env)
	}
}

// FuzzDecode: a state from a stranger may be refused, never crash.
func FuzzDecode(f *testing.F) {
	files, _ := filepath.Glob("testdata/state-v1/*.bin")
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
