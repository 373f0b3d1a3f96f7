package host

import "testing"

// TestPlainName: names that could be more than a name in nft's language are passed over.
func TestPlainName(t *testing.T) {
	for name, want := range map[string]bool{"filter": true, "my-fw_2.x": true, "": false, "a b": false, "x;flush ruleset": false, "a\nb": false, "{": false, `"q"`: false} {
		if plainName(name) != want {
			t.Errorf("%q: expected %v", name, want)
		}
	}
	for c, want := range map[nftChain]bool{{Family: "ip", Table: "filter", Name: "FORWARD"}: true, {Family: "ip6", Table: "filter", Name: "INPUT"}: true,
		{Family: "inet", Table: "fw", Name: "FORWARD"}: false, {Family: "ip", Table: "filter", Name: "forward"}: false} {
		if c.ofIPTables() != want {
			t.Errorf("%+v: expected %v", c, want)
		}
	}
}
