package debian

import (
	"errors"
	"reflect"
	"testing"
)

func TestParseOneLine(t *testing.T) {
	got := ParseOneLine(`# a comment
deb http://mirror.example/debian bookworm main contrib # with a word
deb-src http://mirror.example/debian bookworm main
  deb [arch=amd64 signed-by=/usr/share/keyrings/x.gpg] https://x.example/apt stable main
deb [signed-by=ABCDEF] http://y.example/ flat/
deb [broken http://z.example bookworm main
deb
`)
	want := []Source{
		{URIs: []string{"http://mirror.example/debian"}, Suites: []string{"bookworm"}, Components: []string{"main", "contrib"}},
		{URIs: []string{"https://x.example/apt"}, Suites: []string{"stable"}, Components: []string{"main"}, SignedBy: "/usr/share/keyrings/x.gpg"},
		{URIs: []string{"http://y.example/"}, Suites: []string{"flat/"}, Components: []string{}},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("expected %+v\ngot %+v", want, got)
	}
}

func TestParseDeb822(t *testing.T) {
	got := ParseDeb822(`# Debian
Types: deb deb-src
URIs: http://mirror.example/debian/
Suites: bookworm
  bookworm-updates
Components: main
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg

Types: deb
URIs: http://off.example/
Suites: bookworm
Components: main
Enabled: no

Types: deb-src
URIs: http://source.example/
Suites: bookworm

Types: deb
# a comment between
URIs: http://key.example/
Suites: bookworm
Components: main
Signed-By:
 -----BEGIN PGP PUBLIC KEY BLOCK-----
 .
 abcd`)
	want := []Source{
		{URIs: []string{"http://mirror.example/debian/"}, Suites: []string{"bookworm", "bookworm-updates"}, Components: []string{"main"},
			SignedBy: "/usr/share/keyrings/debian-archive-keyring.gpg"},
		{URIs: []string{"http://key.example/"}, Suites: []string{"bookworm"}, Components: []string{"main"}},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("expected %+v\ngot %+v", want, got)
	}
}

func TestFindMirror(t *testing.T) {
	main, debianKeys := []string{"main"}, "/usr/share/keyrings/debian-archive-keyring.gpg"
	vendor := Source{URIs: []string{"https://vendor.example/deb"}, Suites: []string{"bookworm"}, Components: main, SignedBy: "/usr/share/keyrings/vendor.gpg"}
	browser := Source{URIs: []string{"https://browser.example/deb"}, Suites: []string{"stable"}, Components: main}
	security := Source{URIs: []string{"http://mirror.example/debian-security"}, Suites: []string{"bookworm-security"}, Components: main, SignedBy: debianKeys}
	cdrom := Source{URIs: []string{"cdrom:[Debian]/"}, Suites: []string{"bookworm"}, Components: main}
	contrib := Source{URIs: []string{"http://contrib.example/debian"}, Suites: []string{"bookworm"}, Components: []string{"contrib"}}
	debian := Source{URIs: []string{"http://mirror.example/debian/"}, Suites: []string{"bookworm"}, Components: main, SignedBy: debianKeys}
	byClass := Source{URIs: []string{"http://class.example/debian"}, Suites: []string{"oldstable"}, Components: main}
	for _, c := range []struct {
		name    string
		sources []Source
		want    Mirror
	}{
		{"Debian among others", []Source{vendor, browser, security, cdrom, contrib, debian}, Mirror{"http://mirror.example/debian", debianKeys}},
		{"by class of release", []Source{vendor, byClass}, Mirror{"http://class.example/debian", ""}},
		{"a mirror with keys of its own", []Source{security, vendor}, Mirror{"https://vendor.example/deb", "/usr/share/keyrings/vendor.gpg"}},
	} {
		got, err := FindMirror(c.sources, "bookworm")
		if err != nil || got != c.want {
			t.Errorf("%s: expected %+v, got %+v, %v", c.name, c.want, got, err)
		}
	}
	if _, err := FindMirror([]Source{security, cdrom, contrib}, "bookworm"); !errors.Is(err, ErrNoMirror) {
		t.Errorf("expected ErrNoMirror, got %v", err)
	}
}
