package vici

import (
	"strings"
	"testing"

	"espalier/ike/config"
	"espalier/ike/sa"
)

// Whatever a client sends as a connection, a pool, an authority or a shared key, it is
// loaded or refused in one line.
func FuzzLoad(f *testing.F) {
	for _, m := range []Message{
		{Section{"gw", Message{KeyValue{"version", "2"}, List{"remote_addrs", []string{"192.0.2.1", "%any"}},
			Section{"local", Message{KeyValue{"auth", "psk"}, KeyValue{"id", "moon"}}},
			Section{"remote", Message{KeyValue{"auth", "pubkey"}, List{"certs", []string{"\x30\x82"}}, Section{"cert1", Message{KeyValue{"file", "x"}}}}},
			Section{"children", Message{Section{"net", Message{List{"local_ts", []string{"10.0.0.0/8[tcp/80]", "dynamic"}}, KeyValue{"start_action", "trap|start"}}}}}}}},
		{Section{"p", Message{KeyValue{"addrs", "10.0.0.1-10.0.0.9"}, List{"dns", []string{"::1"}}, KeyValue{"123", "0xff"}}}},
		{Section{"ca", Message{KeyValue{"cacert", "-----BEGIN CERTIFICATE-----"}, List{"crl_uris", nil}}}},
		{Section{"x", Message{KeyValue{"data", "\x00"}, KeyValue{"type", "ike"}, List{"owners", []string{"a@b", "C=CH, CN=x"}}}}},
	} {
		b, err := m.Append(nil)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	set := config.Settings{SA: sa.DefaultSettings()}
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := ParseMessage(b)
		if err != nil {
			return
		}
		var none *config.Loaded
		check := func(l *config.Loaded, err error) {
			if (l == nil) == (err == nil) {
				t.Errorf("neither loaded nor refused: %v", err)
			}
			if err != nil && strings.Contains(mistakes(err), "\n") {
				t.Errorf("refused in more than one line: %q", mistakes(err))
			}
		}
		for _, s := range m.Sections() {
			check(none.WithShared(s.Body.Text("id"), strings.ToLower(s.Body.Text("type")), []byte(s.Body.Text("data")), s.Body.List("owners")))
			for container, load := range map[string]func(config.Tree) (*config.Loaded, error){
				"connections": func(tree config.Tree) (*config.Loaded, error) { return none.WithConnection(tree, &set) },
				"pools":       none.WithPool, "authorities": none.WithAuthority,
			} {
				tree, err := treeOf(container, s)
				if err == nil {
					check(load(tree))
				}
			}
		}
	})
}
