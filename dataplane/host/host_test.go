package host

import "testing"

func TestNamesStayInTheirFolder(t *testing.T) {
	for _, name := range []string{"", "..", "net..core", "net/core", "net.core/../x", "-a", ".net", "a b"} {
		if p, err := sysctlPath(name); err == nil {
			t.Errorf("sysctl %q: got %s, expected an error", name, p)
		}
		if err := (Local{}).LoadModule(name); err == nil && name != "net..core" {
			t.Errorf("module %q was loaded, expected an error", name)
		}
	}
	if p, err := sysctlPath("net.core.xfrm_acq_expires"); err != nil || p != "/proc/sys/net/core/xfrm_acq_expires" {
		t.Errorf("got %s, %v", p, err)
	}
}

func TestSysctlReadsAndRefuses(t *testing.T) {
	if v, err := (Local{}).Sysctl("kernel.ostype"); err != nil || v != "Linux" {
		t.Errorf("kernel.ostype: %q, %v, expected Linux", v, err)
	}
	if _, err := (Local{}).Sysctl("kernel.no_such_setting"); err == nil {
		t.Error("a setting that does not exist was read")
	}
	if err := (Local{}).SetSysctl("kernel.no_such_setting", "1"); err == nil {
		t.Error("a setting that does not exist was set")
	}
}
