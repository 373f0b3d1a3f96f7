package main

import (
	"bytes"
	"strings"
	"testing"

	"espalier/ike/vici"
)

func TestPrintable(t *testing.T) {
	for in, want := range map[string]string{
		"moon.example.org":      "moon.example.org",
		"C=CH, O=Über, CN=moon": "C=CH, O=Über, CN=moon",
		"a\nb":                  `"a\nb"`,
		"\x1b[2J":               `"\x1b[2J"`,
		"\xff":                  `"\xff"`,
		"left\u202eright":       `"left\u202eright"`,
	} {
		if got := printable(in); got != want {
			t.Errorf("%q: %s; want %s", in, got, want)
		}
	}
}

func TestUnits(t *testing.T) {
	for got, want := range map[string]string{
		age(-1): "0s", age(59): "59s", age(60): "1m", age(61): "1m1s", age(3599): "59m59s",
		age(3600): "1h", age(3900): "1h5m", age(86399): "23h59m", age(86400): "1d", age(90000): "1d1h",
		size(0): "0 B", size(1023): "1023 B", size(1024): "1.0 KiB", size(1536): "1.5 KiB",
		size(5 << 20): "5.0 MiB", size(1<<64 - 1): "16.0 EiB",
	} {
		if got != want {
			t.Errorf("%s; want %s", got, want)
		}
	}
}

// TestChildOfCPU: a CHILD SA of one CPU says so, another has no word of it.
func TestChildOfCPU(t *testing.T) {
	for _, cpu := range []string{"", "3"} {
		var m vici.Message
		for k, v := range map[string]string{"uniqueid": "7", "reqid": "2", "name": "net", "state": "INSTALLED", "mode": "TUNNEL"} {
			m.Put(k, v)
		}
		if cpu != "" {
			m.Put("cpu", cpu)
		}
		var d decoder
		c := d.childSA(m)
		var b bytes.Buffer
		c.writeText(&b)
		if d.err != nil || strings.Contains(b.String(), "CPU 3") != (cpu != "") || (c.CPU == nil) != (cpu == "") {
			t.Errorf("cpu %q: %v, %v\n%s", cpu, d.err, c.CPU, &b)
		}
	}
}
