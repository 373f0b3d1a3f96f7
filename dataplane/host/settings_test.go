package host

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

func TestCPULists(t *testing.T) {
	for s, want := range map[string][]uint32{"": nil, "0": {0}, "0-3": {0, 1, 2, 3}, "0,2-3,8": {0, 2, 3, 8}} {
		if got, err := ParseCPUs(s); err != nil || !slices.Equal(got, want) {
			t.Errorf("%q: %v, %v, expected %v", s, got, err, want)
		}
		if got := FormatCPUs(want); got != s {
			t.Errorf("%v: %q, expected %q", want, got, s)
		}
	}
	if got := FormatCPUs([]uint32{9, 1, 2, 2, 0}); got != "0-2,9" {
		t.Errorf("unsorted: %q, expected 0-2,9", got)
	}
	for _, s := range []string{"a", "3-1", "1-", "0,,1", "99999", ","} {
		if got, err := ParseCPUs(s); err == nil {
			t.Errorf("%q: got %v, expected an error", s, got)
		}
	}
}

func TestCPUMasks(t *testing.T) {
	for mask, want := range map[string]string{"0": "", "f": "0-3", "00000001,80000000": "31-32", "00000080,00000000,00000001": "0,71"} {
		cpus, err := parseMask(mask)
		if got := FormatCPUs(cpus); err != nil || got != want {
			t.Errorf("%s: %q, %v, expected %q", mask, got, err, want)
		}
		if back, err := parseMask(formatMask(cpus)); err != nil || !slices.Equal(back, cpus) {
			t.Errorf("%s: written as %s, read as %v, %v", mask, formatMask(cpus), back, err)
		}
	}
	for _, mask := range []string{"", "g", "1,", "123456789"} {
		if got, err := parseMask(mask); err == nil {
			t.Errorf("%q: got %v, expected an error", mask, got)
		}
	}
}

// fakeRoot has the files of these settings.
func fakeRoot(t *testing.T, files map[string]string) Local {
	t.Helper()
	l := Local{root: t.TempDir()}
	for name, content := range files {
		path := l.path(name)
		must(t, os.MkdirAll(filepath.Dir(path), 0o755))
		must(t, os.WriteFile(path, []byte(content+"\n"), 0o644))
	}
	return l
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

const bootID = "/proc/sys/kernel/random/boot_id"

// TestSettings goes through the same life on a made-up box and on this one, in a
// network namespace of its own.
func TestSettings(t *testing.T) {
	t.Run("made up", func(t *testing.T) {
		settingsLife(t, fakeRoot(t, map[string]string{
			bootID: "b1", "/proc/sys/net/ipv4/conf/lo/rp_filter": "0", "/proc/sys/net/core/xfrm_acq_expires": "30",
			"/sys/class/net/lo/queues/rx-0/rps_cpus": "0",
		}))
	})
	t.Run("kernel", func(t *testing.T) { inOwnNamespace(t, func() { settingsLife(t, Local{}) }) })
}

// settingsLife changes settings, dies, and gives them back.
func settingsLife(t *testing.T, box Local) {
	const filter, expires = "net.ipv4.conf.lo.rp_filter", "net.core.xfrm_acq_expires"
	rps := RPS("lo", 0)
	file := filepath.Join(t.TempDir(), "run", "settings.json")
	reads := func(when, name, want string) {
		t.Helper()
		if got, err := box.Setting(name); err != nil || got != want {
			t.Errorf("%s: %s is %q, %v, expected %q", when, name, got, err, want)
		}
	}
	open := func() *Settings {
		t.Helper()
		s, err := OpenSettings(file, box)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	before := map[string]string{}
	for _, name := range []string{filter, expires, rps} {
		v, err := box.Setting(name)
		if err != nil {
			t.Fatal(err)
		}
		before[name] = v
	}

	s := open()
	for name, v := range map[string]string{filter: "2", expires: "165", rps: "0"} {
		must(t, s.Set(name, v))
		reads("set", name, v)
	}
	must(t, s.Set(filter, "1"))
	if got := s.Changed(); !maps.Equal(got, before) {
		t.Errorf("changed: %v, expected the first values %v", got, before)
	}

	// The next run finds what a killed one left.
	s = open()
	if got := s.Changed(); !maps.Equal(got, before) {
		t.Errorf("after a crash: %v, expected %v", got, before)
	}
	must(t, box.SetSetting(expires, "99")) // an administrator, meanwhile
	must(t, s.Restore())
	reads("restored", filter, before[filter])
	reads("restored", rps, before[rps])
	reads("somebody else's", expires, "99")
	if _, err := os.Stat(file); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("nothing is changed any more, and %s is still there: %v", file, err)
	}

	// What goes back to what it was is no change.
	must(t, s.Set(expires, "100"))
	must(t, s.Set(expires, "99"))
	if got := s.Changed(); len(got) != 0 {
		t.Errorf("set back: changed %v, expected nothing", got)
	}
	if err := s.Set("net.core.no_such_setting", "1"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a setting that is not there: %v, expected fs.ErrNotExist", err)
	}
	if v, err := s.Get("net.core.rmem_max"); box.root == "" && err == nil {
		t.Errorf("the whole machine's setting, in a network namespace of its own: %q, expected an error", v)
	}
	if err := s.Set(expires, "many"); err == nil && box.root == "" {
		t.Error("the kernel took a word for a number")
	}
}

// TestSettingsOfAFormerBoot: what a box had before it was restarted is no value to
// give back.
func TestSettingsOfAFormerBoot(t *testing.T) {
	const name = "net.core.rmem_max"
	box := fakeRoot(t, map[string]string{bootID: "b1", "/proc/sys/net/core/rmem_max": "1"})
	file := filepath.Join(t.TempDir(), "settings.json")
	s, err := OpenSettings(file, box)
	must(t, err)
	must(t, s.Set(name, "2"))
	must(t, os.WriteFile(box.path(bootID), []byte("b2\n"), 0o644))
	s, err = OpenSettings(file, box)
	must(t, err)
	must(t, s.Restore())
	if got, err := box.Setting(name); err != nil || got != "2" {
		t.Errorf("%s is %q, %v, expected 2 as the box has it now", name, got, err)
	}
	for _, text := range []string{"{", `{"version":9}`} {
		must(t, os.WriteFile(file, []byte(text), 0o644))
		if _, err := OpenSettings(file, box); err == nil || !strings.Contains(err.Error(), file) {
			t.Errorf("file %q: %v, expected an error that names it", text, err)
		}
	}
}

// TestSettingsNotRemembered: what cannot be remembered is not changed, and what
// cannot be given back is kept.
func TestSettingsNotRemembered(t *testing.T) {
	const name = "net.core.rmem_max"
	box := fakeRoot(t, map[string]string{bootID: "b1", "/proc/sys/net/core/rmem_max": "1", "/a-file": ""})
	s, err := OpenSettings(box.path("/a-file")+"/settings.json", box)
	if err == nil {
		if err = s.Set(name, "2"); err == nil {
			t.Error("changed without a file to remember it")
		}
		if got, err := box.Setting(name); err != nil || got != "1" {
			t.Errorf("%s is %q, %v, expected 1", name, got, err)
		}
		if len(s.Changed()) != 0 {
			t.Errorf("changed: %v, expected nothing", s.Changed())
		}
	}
	file := filepath.Join(t.TempDir(), "settings.json")
	stubborn := &stubbornBox{Local: box}
	s, err = OpenSettings(file, stubborn)
	must(t, err)
	must(t, s.Set(name, "2"))
	stubborn.refuses = true
	if err := s.Restore(); err == nil || len(s.Changed()) != 1 {
		t.Errorf("restored %v, changed %v: expected an error, and the change kept", err, s.Changed())
	}
	if err := s.Set(name, "3"); err == nil || s.Changed()[name] != "1" {
		t.Errorf("set: %v, changed %v: expected an error, and 1 still to give back", err, s.Changed())
	}
	stubborn.refuses = false
	must(t, s.Restore())
	if got, _ := box.Setting(name); got != "1" {
		t.Errorf("%s is %q, expected 1", name, got)
	}
	// A device that has gone takes its settings with it.
	must(t, s.Set(name, "2"))
	must(t, os.Remove(box.path("/proc/sys/net/core/rmem_max")))
	if err := s.Restore(); err != nil || len(s.Changed()) != 0 {
		t.Errorf("restored %v, changed %v, expected nothing to be left", err, s.Changed())
	}
}

// stubbornBox is one that may refuse.
type stubbornBox struct {
	Local
	refuses bool
}

func (b *stubbornBox) SetSetting(name, value string) error {
	if b.refuses {
		return errors.New("refused")
	}
	return b.Local.SetSetting(name, value)
}

func TestGovernor(t *testing.T) {
	const dir = "/sys/devices/system/cpu/cpufreq/"
	box := fakeRoot(t, map[string]string{
		dir + "policy0/scaling_governor": "powersave", dir + "policy2/scaling_governor": "powersave", dir + "policy10/scaling_governor": "schedutil",
	})
	const was = "powersave powersave schedutil"
	if got, err := box.Setting(CPUGovernor); err != nil || got != was {
		t.Errorf("%q, %v, expected %q", got, err, was)
	}
	must(t, box.SetSetting(CPUGovernor, "performance"))
	if got, err := box.Setting(CPUGovernor); err != nil || got != "performance" {
		t.Errorf("%q, %v, expected performance", got, err)
	}
	must(t, box.SetSetting(CPUGovernor, was))
	if got, err := box.Setting(CPUGovernor); err != nil || got != was {
		t.Errorf("%q, %v, expected %q", got, err, was)
	}
	for _, v := range []string{"", "a b"} {
		if err := box.SetSetting(CPUGovernor, v); err == nil {
			t.Errorf("%q was taken for 3 policies", v)
		}
	}
	if _, err := (Local{root: t.TempDir()}).Setting(CPUGovernor); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("without: %v, expected fs.ErrNotExist", err)
	}
}

// TestPcrypt on made-up boxes; tools/lab/fastpath has a kernel that can.
func TestPcrypt(t *testing.T) {
	const release, crypto = "6.1.0-1-amd64", "name : rfc4106(gcm(aes))\ndriver : %s\npriority : 400\n"
	files := func(modules, driver string) map[string]string {
		return map[string]string{
			"/proc/sys/kernel/osrelease": release, "/lib/modules/" + release + "/modules.dep": modules, "/proc/crypto": fmt.Sprintf(crypto, driver),
		}
	}
	const both = "kernel/crypto/pcrypt.ko:\nkernel/crypto/crypto_user.ko:\n"
	for _, c := range []struct{ modules, driver, want string }{
		{both, "rfc4106-gcm-aesni", "off"}, {both, "pcrypt(rfc4106-gcm-aesni)", "on"}, {"kernel/crypto/pcrypt.ko:\n", "rfc4106-gcm-aesni", ""},
	} {
		box := fakeRoot(t, files(c.modules, c.driver))
		got, err := box.Setting(Pcrypt)
		if got != c.want || (c.want == "") != errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%+v: %q, %v", c, got, err)
		}
		if c.want != "" {
			must(t, box.SetSetting(Pcrypt, c.want)) // as it is
			if err := box.SetSetting(Pcrypt, "maybe"); err == nil {
				t.Error("maybe was taken")
			}
		}
	}
}

func TestIRQAffinity(t *testing.T) {
	box := fakeRoot(t, map[string]string{"/proc/irq/24/smp_affinity_list": "0-1"})
	must(t, box.SetSetting(IRQAffinity(24), "1"))
	if got, err := box.Setting(IRQAffinity(24)); err != nil || got != "1" {
		t.Errorf("%q, %v, expected 1", got, err)
	}
	if err := box.SetSetting(IRQAffinity(24), ""); err == nil {
		t.Error("an interrupt without CPUs was taken")
	}
}

func TestFeatures(t *testing.T) {
	inOwnNamespace(t, func() {
		name := Feature("lo", "rx-gro")
		was, err := Local{}.Setting(name)
		if err != nil {
			t.Fatal(err)
		}
		other := map[string]string{"on": "off", "off": "on"}[was]
		for _, v := range []string{other, was} {
			must(t, Local{}.SetSetting(name, v))
			if got, err := (Local{}).Setting(name); err != nil || got != v {
				t.Errorf("%s is %q, %v, expected %s", name, got, err, v)
			}
		}
		all, err := Features("lo")
		if _, has := all["esp-hw-offload"]; err != nil || !has || len(all) < 40 {
			t.Errorf("%d features, %v, expected all that the kernel knows", len(all), err)
		}
		if err := (Local{}).SetSetting(Feature("lo", "loopback"), "off"); err == nil {
			t.Error("a feature that the device has for ever was switched")
		}
		for _, name := range []string{Feature("lo", "no-such-feature"), Feature("no-such-link", "rx-gro")} {
			if _, err := (Local{}).Setting(name); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("%s: %v, expected fs.ErrNotExist", name, err)
			}
			if err := (Local{}).SetSetting(name, "on"); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("%s: %v, expected fs.ErrNotExist", name, err)
			}
		}
	})
}

func TestSettingNames(t *testing.T) {
	for _, name := range []string{
		"", "rps", "rps/eth0", "rps/../0", "rps//0", "rps/eth0/x", "rps/eth0/-1", "rps/a/b/0", "xps/eth0/", "irq/", "irq/1/2", "irq/..",
		"feature/eth0", "feature//rx-gro", "feature/eth0/a b", "other/eth0/0", "net.core/../x",
	} {
		if _, err := (Local{}).knob(name); err == nil {
			t.Errorf("%q was taken for a setting", name)
		}
	}
	for _, name := range []string{RPS("eth0.100", 0), XPS("eth0", 12), IRQAffinity(7), Feature("eth0", "rx-gro"), CPUGovernor, Pcrypt, "net.core.rmem_max"} {
		if _, err := (Local{}).knob(name); err != nil {
			t.Errorf("%q: %v", name, err)
		}
	}
}

// inOwnNamespace runs f on a thread in a network namespace of its own, with the
// /sys of that; the thread ends with it.
func inOwnNamespace(t *testing.T, f func()) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: network namespaces")
	}
	done := make(chan error, 1)
	go func() {
		var err error
		defer func() { done <- err }() // also after Fatal
		runtime.LockOSThread()
		if err = unix.Unshare(unix.CLONE_NEWNET | unix.CLONE_NEWNS); err != nil {
			return
		}
		if err = unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
			return
		}
		if err = unix.Mount("sysfs", "/sys", "sysfs", 0, ""); err == nil {
			f()
		}
	}()
	if err := <-done; err != nil {
		t.Fatalf("a network namespace of its own: %v", err)
	}
}

// addVeth makes a pair of virtual interfaces.
func addVeth(name, peer string) error {
	return netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: name}, PeerName: peer})
}
