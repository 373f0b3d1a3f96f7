package secret

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"testing"
)

func TestNothingPrintsTheBytes(t *testing.T) {
	k := Bytes("hunter2hunter2")
	type wrap struct {
		K  Bytes
		PK *Bytes
	}
	var out strings.Builder
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%x", "%X", "%q", "%d"} {
		fmt.Fprintf(&out, verb+"\n", k)
		fmt.Fprintf(&out, verb+"\n", wrap{k, &k})
	}
	j, err := json.Marshal(wrap{k, &k})
	if err != nil {
		t.Fatal(err)
	}
	out.Write(j)
	slog.New(slog.NewTextHandler(&out, nil)).Info("m", "k", k)
	for _, leak := range []string{"hunter2", "68756e746572", "68756E746572", "104 117 110", "0x68"} {
		if strings.Contains(out.String(), leak) {
			t.Errorf("key material leaked as %q", leak)
		}
	}
	if err := json.Unmarshal([]byte(`"(hidden)"`), &k); err == nil {
		t.Error("reading key material from JSON must fail")
	}
}

func TestWipeAndEqual(t *testing.T) {
	a := Bytes("abc")
	b := a.Clone()
	if !a.Equal(b) || a.Equal(Bytes("abd")) || a.Equal(Bytes("ab")) {
		t.Error("Equal is wrong")
	}
	a.Wipe()
	if string(a) != "\x00\x00\x00" || string(b) != "abc" {
		t.Error("Wipe must clear its own copy and no other")
	}
}
