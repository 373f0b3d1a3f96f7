package main

import (
	"net/netip"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rs/zerolog"

	"espalier/ike/config"
	"espalier/ike/sa"
	"espalier/ike/vici"
)

// A plan says what a reload would do, disturbs nothing, and names who would be disturbed.
func TestPlan(t *testing.T) {
	path := filepath.Join(t.TempDir(), "e.conf")
	write(t, path, good)
	file, err := config.Load(path)
	if err != nil {
		t.Fatal(err)
	}
	r := &recorder{}
	f := newInForce(flags{Config: path}, file, r, zerolog.Nop())
	live := map[string][]sa.Info{"a": {{UniqueID: 4, Conn: "a", Remote: netip.MustParseAddrPort("192.0.2.9:4500"), RemoteID: "sun",
		Children: []sa.ChildInfo{{UniqueID: 7, Name: "net", State: sa.ChildSAInstalled}}}}}
	told := func() string {
		t.Helper()
		p, err := f.plan()
		if err != nil {
			t.Fatal(err)
		}
		return flat(p.message(func(conn string) []sa.Info { return live[conn] }))
	}
	if got, want := told(), "unchanged=1"; got != want {
		t.Errorf("nothing changed: got %s, want %s", got, want)
	}
	second := strings.Replace(strings.Replace(good, " a {", " b {", 1), "10.1.0.0", "10.7.0.0", 1)
	write(t, path, second)
	if got, want := told(), "differs=yes added=[b] removed=[a] unchanged=0 started=[b/net] ended={4={ike=a remote-host=192.0.2.9 remote-id=sun}}"; got != want {
		t.Errorf("another connection: got %s, want %s", got, want)
	}
	write(t, path, strings.Replace(strings.Replace(good, "net {", "other {", 1), "remote_addrs", "mobike = no\n remote_addrs", 1)+"espalier { port = 1500\n retransmit_tries = 3 }\n")
	if got, want := told(), "differs=yes changed={a={ike=yes added=[other] removed=[net]}} unchanged=0 settings=[port retransmit_tries] restart=[port] "+
		"started=[a/other] ended={4={ike=a remote-host=192.0.2.9 remote-id=sun children=[net#7]}}"; got != want {
		t.Errorf("another child: got %s, want %s", got, want)
	}
	write(t, path, strings.Replace(good, "remote_ts", "remote_tz", 1))
	if _, err := f.plan(); err == nil || !strings.Contains(err.Error(), "remote_tz") {
		t.Errorf("a mistake: %v", err)
	}
	if len(r.calls) != 0 || f.file != file {
		t.Error("a plan has changed what is in force")
	}
}

// flat is a message in one line.
func flat(m vici.Message) string {
	var parts []string
	for _, e := range m {
		switch e := e.(type) {
		case vici.KeyValue:
			parts = append(parts, e.Name+"="+e.Value)
		case vici.List:
			parts = append(parts, e.Name+"=["+strings.Join(e.Items, " ")+"]")
		case vici.Section:
			parts = append(parts, e.Name+"={"+flat(e.Body)+"}")
		}
	}
	return strings.Join(parts, " ")
}
