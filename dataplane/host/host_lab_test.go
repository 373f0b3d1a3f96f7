//go:build lab

package host

import (
	"errors"
	"io/fs"
	"slices"
	"strings"
	"testing"
	"time"
)

// TestHost in a real kernel: modules are loaded, the driver of AES-GCM is found and
// measured, and spreading it over CPUs can be switched on and off again.
func TestHost(t *testing.T) {
	must(t, Local{}.LoadModules())
	s, err := Local{}.MeasureCipher(t.Context(), 100*time.Millisecond)
	if err != nil || s.BytesPerSecond < 1e5 {
		t.Errorf("%+v, %v, expected a figure", s, err)
	}
	t.Logf("%+v", s)
	inv := Local{}.Inventory(t.Context())
	for _, m := range inv.Modules {
		if m.State == ModuleLoadable {
			t.Errorf("module %s is there and not loaded", m.Name)
		}
	}
	if len(inv.Ciphers) == 0 || inv.Ciphers[0].Driver != s.Driver {
		t.Fatalf("ciphers %+v, expected %s first", inv.Ciphers, s.Driver)
	}
	if aes := slices.ContainsFunc(inv.Modules, func(m Module) bool { return m.Name == "aesni_intel" && m.State == ModuleLoaded }); aes && !strings.Contains(s.Driver, "aes") {
		t.Errorf("driver %s, expected one of aesni_intel, which is loaded", s.Driver)
	}
	pcryptLife(t, s.Driver)
}

// pcryptLife has SAs made with and without, and tells by the driver which they got.
func pcryptLife(t *testing.T, driver string) {
	was, err := Local{}.Setting(Pcrypt)
	if errors.Is(err, fs.ErrNotExist) {
		t.Logf("not in this kernel: %v", err)
		return
	}
	if err != nil || was != "off" {
		t.Fatalf("pcrypt is %q, %v, expected off", was, err)
	}
	life := func() {
		for _, v := range []string{"on", "off", "on", "off"} {
			must(t, Local{}.SetSetting(Pcrypt, v))
			if now, err := (Local{}).Setting(Pcrypt); err != nil || now != v {
				t.Errorf("pcrypt is %q, %v, expected %s", now, err, v)
			}
			s, err := Local{}.measureSA(t.Context(), 100*time.Millisecond)
			if want := map[string]string{"on": pcryptPrefix + driver + ")", "off": driver}[v]; err != nil || s.Driver != want {
				t.Errorf("pcrypt %s: an SA got %+v, %v, expected %s", v, s, err, want)
			}
			t.Logf("pcrypt %s: %+v", v, s)
		}
	}
	life()
	must(t, Local{}.SetSetting(Pcrypt, "on"))
	inOwnNamespace(t, func() { // an SA that has it all the while
		if _, err := (Local{}).makeSA(); err != nil {
			t.Error(err)
			return
		}
		life()
	})
}
