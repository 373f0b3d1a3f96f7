package debian

import (
	"slices"
	"testing"
)

func TestCompareVersions(t *testing.T) {
	// In ascending order, each one below all that follow.
	ordered := []string{"1.0~rc1-1", "1.0-1~bpo12+1", "1.0-1", "1.0-1+b1", "1.0-1+deb13u1", "1.0a-1", "1.0+x-1", "1.2-1", "1.10-1",
		"6.1.176-1", "6.12.117-1", "7.2.13-1", "7.3.4-1~bpo13+1", "7.3.4-1", "1:0.1-1"}
	for i, a := range ordered {
		for j, b := range ordered {
			want := 0
			switch {
			case i < j:
				want = -1
			case i > j:
				want = 1
			}
			if got := CompareVersions(a, b); got != want {
				t.Errorf("CompareVersions(%q, %q): expected %d, got %d", a, b, want, got)
			}
		}
	}
	for _, same := range [][2]string{{"1.0", "1.00"}, {"0:1.0-1", "1.0-1"}, {"1.0", "1.0-0"}} {
		if got := CompareVersions(same[0], same[1]); got != 0 {
			t.Errorf("CompareVersions(%q, %q): expected 0, got %d", same[0], same[1], got)
		}
	}
}

const aptShow = `Package: linux-image-amd64
Version: 7.3.4-1~bpo13+1
Depends: linux-base-amd64 (= 7.3.4-1~bpo13+1), linux-image-7.3.4+deb13-amd64 (= 7.3.4-1~bpo13+1), linux-modules-amd64 (= 7.3.4-1~bpo13+1)
Description: Linux for 64-bit PCs (meta-package)
 This package: depends on the latest Linux kernel.

Package: linux-image-amd64
Version: 6.12.117-1
Depends: linux-image-6.12.117+deb13-amd64 (= 6.12.117-1)
`

func TestKernelChoice(t *testing.T) {
	newest, ok := newestOf(ParseControl(aptShow))
	if !ok || newest["version"] != "7.3.4-1~bpo13+1" {
		t.Fatalf("expected 7.3.4-1~bpo13+1, got %v", newest)
	}
	if got, want := kernelDepends(newest["depends"]), []string{"linux-image-7.3.4+deb13-amd64"}; !slices.Equal(got, want) {
		t.Errorf("expected %v, got %v", want, got)
	}
	split := "dracut | initramfs-tools (>= 0.120+deb8u2) | linux-initramfs-tool, linux-base-7.3.4+deb13-amd64 (= 7.3.4-1), " +
		"linux-binary-7.3.4+deb13-amd64 (= 7.3.4-1), linux-modules-7.3.4+deb13-amd64 (= 7.3.4-1), linux-base (>= 4.3~), kmod"
	want := []string{"linux-base-7.3.4+deb13-amd64", "linux-binary-7.3.4+deb13-amd64", "linux-modules-7.3.4+deb13-amd64"}
	if got := kernelDepends(split); !slices.Equal(got, want) {
		t.Errorf("expected %v, got %v", want, got)
	}
	if _, ok := newestOf(ParseControl("")); ok {
		t.Error("expected no version in an empty answer")
	}
}

func TestKernelSuites(t *testing.T) {
	if got, err := KernelSuites("newest"); err != nil || !slices.Equal(got, []string{"trixie-backports", "trixie"}) {
		t.Errorf("newest: got %v, %v", got, err)
	}
	if got, err := KernelSuites("bookworm"); err != nil || !slices.Equal(got, []string{"bookworm"}) {
		t.Errorf("bookworm: got %v, %v", got, err)
	}
	if _, err := KernelSuites("woody"); err == nil {
		t.Error("woody: expected an error")
	}
}

func TestRecipeHash(t *testing.T) {
	def, err := FindRecipe("default")
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]string{}
	changed := def
	changed.Packages = append(slices.Clone(def.Packages), "one-more")
	edition := def
	edition.Edition++
	sid, err := FindRecipe("sid")
	if err != nil {
		t.Fatal(err)
	}
	for name, r := range map[string]Recipe{"default": def, "package": changed, "edition": edition, "sid": sid} {
		if other, ok := seen[r.Hash()]; ok {
			t.Errorf("%s and %s have the same hash", name, other)
		}
		seen[r.Hash()] = name
	}
	if _, err := FindRecipe("woody"); err == nil {
		t.Error("expected an error for a root that there is not")
	}
}

func TestConnectionOptions(t *testing.T) {
	got := connectionOptions("APT \"\";\nAcquire::http \"\";\nAcquire::http::Proxy \"http://proxy.example:3128\";\nAcquire::https::CAInfo \"/ca.pem\";\nAcquire::http::Empty \"\";\n")
	want := []string{`Acquire::http::Proxy "http://proxy.example:3128";`, `Acquire::https::CAInfo "/ca.pem";`}
	if !slices.Equal(got, want) {
		t.Errorf("expected %q, got %q", want, got)
	}
}
