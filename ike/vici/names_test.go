package vici

import (
	"os"
	"path/filepath"
	"testing"

	"espalier/dataplane/selector"
)

// TestNames: selectors are listed by the names that the box has, the first of
// each number, and by numbers where it has none.
func TestNames(t *testing.T) {
	dir := t.TempDir()
	protocols, services := filepath.Join(dir, "protocols"), filepath.Join(dir, "services")
	for path, text := range map[string]string{
		protocols: "# Internet protocols\n\nip\t0\tIP\t# pseudo\ntcp\t6\tTCP\nsecond 6\nudp 17 UDP\nipv6-icmp 58 IPv6-ICMP\nwrong x\nlarge 256\n",
		services:  "http\t80/tcp\twww\t# the web\nother 80/tcp\ndomain 53/udp\nlarge 65536/tcp\nwrong\n",
	} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	full, none := ReadNames(protocols, services), ReadNames(dir+"/nothing", dir+"/nothing")
	for _, c := range []struct{ spec, own, named, numbered string }{
		{"10.0.0.0/8", "10.0.0.0/8", "10.0.0.0/8", "10.0.0.0/8"},
		{"10.0.0.1-10.0.0.6[tcp/80]", "10.0.0.1..10.0.0.6[tcp/80]", "10.0.0.1..10.0.0.6[tcp/http]", "10.0.0.1..10.0.0.6[6/80]"},
		{"10.0.0.0/8[udp/80]", "10.0.0.0/8[udp/80]", "10.0.0.0/8[udp/80]", "10.0.0.0/8[17/80]"},
		{"10.0.0.0/8[udp/53-60]", "10.0.0.0/8[udp/53-60]", "10.0.0.0/8[udp/53-60]", "10.0.0.0/8[17/53-60]"},
		{"10.0.0.0/8[udp/opaque]", "10.0.0.0/8[udp/opaque]", "10.0.0.0/8[udp/OPAQUE]", "10.0.0.0/8[17/OPAQUE]"},
		{"::/0[icmpv6/128]", "::/0[icmpv6/128]", "::/0[ipv6-icmp/128]", "::/0[58/128]"},
		{"10.0.0.0/8[gre]", "10.0.0.0/8[gre]", "10.0.0.0/8[47]", "10.0.0.0/8[47]"},
		{"10.0.0.0/8[any/80]", "10.0.0.0/8[any/80]", "10.0.0.0/8[0/80]", "10.0.0.0/8[0/80]"},
		{"dynamic[tcp/80]", "dynamic[tcp/80]", "dynamic[tcp/http]", "dynamic[6/80]"},
	} {
		spec, err := selector.Parse(c.spec)
		if err != nil {
			t.Fatal(err)
		}
		for names, want := range map[*Names]string{nil: c.own, full: c.named, none: c.numbered} {
			if got := names.specTexts([]selector.Spec{spec}); got[0] != want {
				t.Errorf("%s: %s, expected %s", c.spec, got[0], want)
			}
		}
	}
}
