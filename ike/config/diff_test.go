package config

import (
	"reflect"
	"testing"
)

const diffBase = `
connections {
    a {
        remote_addrs = 198.51.100.1
        proposals = aes256-sha256-modp2048
        local { certs = gw.pem }
        remote { id = peer.example.com }
        children {
            one { remote_ts = 10.1.0.0/16
                rekey_time = 1h }
            two { remote_ts = 10.2.0.0/16 }
        }
    }
    b {
        remote_addrs = 198.51.100.2
        local { auth = psk }
        remote { auth = psk }
    }
}
secrets {
    ike-1 { id = x.example.com
        secret = "text" }
    ike-2 { secret = other }
}
`

func TestDiff(t *testing.T) {
	same := func() Changes { return Changes{Unchanged: []string{"a", "b"}} }
	change := func(c ConnChange) Changes {
		return Changes{Changed: []ConnChange{c}, Unchanged: []string{"b"}}
	}
	for _, c := range []struct {
		name     string
		from, to string // text to replace in the base
		want     Changes
	}{
		{"nothing", "", "", same()},
		{"another spelling of a time", "rekey_time = 1h", "rekey_time = 3600s\nlife_time = 66m", same()},
		{"a default written out", "remote_addrs = 198.51.100.2", "remote_addrs = 198.51.100.2\nencap = disabled\nmobike = yes", same()},
		{"another spelling of a prefix", "10.1.0.0/16", "10.1.0.0-10.1.255.255", same()},
		{"another spelling of a secret", `"text"`, "0s" + "dGV4dA==", same()},
		{"secrets in another order", "ike-1", "ike-3", same()},
		{"a comment", "connections {", "# hello\nconnections {", same()},
		{"a child's selector", "10.1.0.0/16", "10.1.0.0/17", change(ConnChange{Name: "a", Changed: []string{"one"}, Unchanged: []string{"two"}})},
		{"a child's lifetime", "rekey_time = 1h", "rekey_time = 2h", change(ConnChange{Name: "a", Changed: []string{"one"}, Unchanged: []string{"two"}})},
		{"a child more", "two {", "three { }\ntwo {", change(ConnChange{Name: "a", Added: []string{"three"}, Unchanged: []string{"one", "two"}})},
		{"a child renamed", "two {", "deux {", change(ConnChange{Name: "a", Added: []string{"deux"}, Removed: []string{"two"}, Unchanged: []string{"one"}})},
		{"a child that becomes a shunt", "10.2.0.0/16", "10.2.0.0/16\nmode = drop", change(ConnChange{Name: "a", Added: []string{"two"}, Removed: []string{"two"}, Unchanged: []string{"one"}})},
		{"a shunt more", "two {", "three { mode = pass }\ntwo {", change(ConnChange{Name: "a", Added: []string{"three"}, Unchanged: []string{"one", "two"}})},
		{"leaks", "secrets {", "espalier { leak = block\nbypass_lan = yes }\nsecrets {", Changes{Unchanged: []string{"a", "b"}, Settings: []string{"leak", "bypass_lan"}}},
		{"IKE proposals", "modp2048", "modp3072", change(ConnChange{Name: "a", IKE: true, Unchanged: []string{"one", "two"}})},
		{"authentication", "id = peer.example.com", "id = sun.example.com", change(ConnChange{Name: "a", IKE: true, Unchanged: []string{"one", "two"}})},
		{"a connection renamed", "b {", "c {", Changes{Added: []string{"c"}, Removed: []string{"b"}, Unchanged: []string{"a"}}},
		{"a secret", `"text"`, `"other text"`, Changes{Unchanged: []string{"a", "b"}, Credentials: true}},
		{"a secret's identity", "id = x.example.com", "id = y.example.com", Changes{Unchanged: []string{"a", "b"}, Credentials: true}},
		{"a secret less", "ike-2 { secret = other }", "", Changes{Unchanged: []string{"a", "b"}, Credentials: true}},
		{"a pool", "secrets {", "pools { p { addrs = 10.9.0.0/24 } }\nsecrets {", Changes{Unchanged: []string{"a", "b"}, Pools: true}},
		{"settings", "secrets {", "espalier { port_nat_t = 4501\nretransmit_tries = 5\nlisten = ::1 }\nsecrets {", Changes{Unchanged: []string{"a", "b"}, Settings: []string{"port_nat_t", "listen"}}},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := Diff(mustLoad(t, diffBase), mustLoad(t, replaceOnce(t, diffBase, c.from, c.to)))
			if !reflect.DeepEqual(got, c.want) {
				t.Errorf("differs by %+v, want %+v", got, c.want)
			}
			if got.None() != reflect.DeepEqual(c.want, same()) {
				t.Errorf("None() = %v", got.None())
			}
		})
	}
}

func TestDiffOfCredentialFiles(t *testing.T) {
	p := makePKI()
	old := mustLoad(t, diffBase)
	// The certificate's file holds another certificate, with its key.
	cfg, err := load(box(diffBase).with(map[string]memFile{
		"x509/gw.pem": {p.peer, 0o644}, "private/gw.pem": {p.peerKey, 0o600},
	}), confPath)
	if err != nil {
		t.Fatal(err)
	}
	want := Changes{
		Changed:   []ConnChange{{Name: "a", IKE: true, Unchanged: []string{"one", "two"}}},
		Unchanged: []string{"b"}, Credentials: true,
	}
	if got := Diff(old, cfg); !reflect.DeepEqual(got, want) {
		t.Errorf("differs by %+v, want %+v", got, want)
	}
	// One more private key changes credentials only.
	if cfg, err = load(box(diffBase).with(map[string]memFile{"rsa/peer.pem": {p.peerKey, 0o600}}), confPath); err != nil {
		t.Fatal(err)
	}
	if got := Diff(old, cfg); !got.Credentials || len(got.Unchanged) != 2 {
		t.Errorf("differs by %+v", got)
	}
}

func TestDiffWithNothing(t *testing.T) {
	cfg := mustLoad(t, diffBase)
	if got := Diff(nil, cfg); !reflect.DeepEqual(got.Added, []string{"a", "b"}) || !got.Credentials {
		t.Errorf("from nothing: %+v", got)
	}
	if got := Diff(cfg, nil); !reflect.DeepEqual(got.Removed, []string{"a", "b"}) || !got.Credentials {
		t.Errorf("to nothing: %+v", got)
	}
}
