package config

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

func replaceOnce(t *testing.T, s, from, to string) string {
	t.Helper()
	if from != "" && !strings.Contains(s, from) {
		t.Fatalf("%q is not in the text", from)
	}
	return strings.Replace(s, from, to, 1)
}

// onDisk writes a gateway's files into a folder of the box.
func onDisk(t *testing.T, conf string) string {
	t.Helper()
	dir := t.TempDir()
	for path, f := range box(conf) {
		path = filepath.Join(dir, strings.TrimPrefix(path, "/etc/espalier/"))
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(f.data), f.mode); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(path, f.mode); err != nil { // whatever the umask
			t.Fatal(err)
		}
	}
	return filepath.Join(dir, "espalier.conf")
}

func TestLoadFromDisk(t *testing.T) {
	conf := "connections { gw {\nlocal { certs = gw.pem }\nremote { } } }\ninclude conf.d/*.conf\n"
	path := onDisk(t, conf)
	dir := filepath.Dir(path)
	included := filepath.Join(dir, "conf.d", "secret.conf")
	if err := os.Mkdir(filepath.Dir(included), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(included, []byte("secrets { ike { secret = x } }"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "x509", ".hidden"), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	cfg, err := Load(path)
	if err != nil {
		t.Fatal(err)
	}
	if cfg.Path != path || len(cfg.Files) != 2 || cfg.Files[0] != path || cfg.Files[1] != included {
		t.Errorf("files %v", cfg.Files)
	}
	if len(cfg.Connections) != 1 || len(cfg.Connections[0].Local[0].Certs) != 1 || len(cfg.creds.shared) != 1 || cfg.Credentials == nil {
		t.Errorf("loaded %s", describe(cfg))
	}
	if cfg.Connection("gw") == nil || cfg.Connection("wg") != nil {
		t.Error("Connection finds the wrong one")
	}

	for _, c := range []struct {
		name string
		do   func() error
		want string
	}{
		{"secret readable by others", func() error { return os.Chmod(included, 0o604) },
			included + ":1:17: expected a file that only its owner can read, since it holds a secret, found mode 0604 (chmod 600 " + included + ")"},
		{"private key readable by the group", func() error { return os.Chmod(filepath.Join(dir, "private/gw.pem"), 0o640) },
			filepath.Join(dir, "private/gw.pem") + ": expected a private key that only its owner can read, found mode 0640 (chmod 600 " + filepath.Join(dir, "private/gw.pem") + ")"},
		{"a pipe in place of a file", func() error {
			if err := os.Remove(included); err != nil {
				return err
			}
			return syscall.Mkfifo(included, 0o600)
		}, path + ":4:9: expected a readable file \"" + included + "\", found not a regular file"},
		{"a folder in place of a file", func() error { return os.Mkdir(filepath.Join(dir, "conf.d/z.conf"), 0o700) },
			"z.conf\", found not a regular file"},
	} {
		if err := c.do(); err != nil {
			t.Fatal(err)
		}
		cfg, err := Load(path)
		if cfg != nil || err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: it says\n%v\nwant\n%s", c.name, err, c.want)
		}
	}
}

func TestParse(t *testing.T) {
	root, err := Parse("f", "a = 1\nb {")
	if err == nil || err.Error() != `f:2:1: expected "}" to close section "b", found the end of the file` {
		t.Error(err)
	}
	if root.Print() != "a = 1\nb {\n}\n" {
		t.Errorf("what could be read is %q", root.Print())
	}
}

// A daemon may begin without a file, if it is said to; any other mistake stays one.
func TestFileMayMiss(t *testing.T) {
	cfg, err := loadWith(memFS{}, confPath, Options{MayMiss: true})
	if err != nil || !cfg.Missing || len(cfg.Connections) != 0 || len(cfg.Warnings) != 1 || cfg.Settings.SA.Port != 500 {
		t.Errorf("no file: %+v, %v", cfg, err)
	}
	if _, err := loadWith(memFS{}, confPath, Options{}); err == nil {
		t.Error("no file where there must be one")
	}
	world := memFS{}.with(map[string]memFile{"espalier.conf": {data: "nonsense = 1\n"}})
	if _, err := loadWith(world, confPath, Options{MayMiss: true}); err == nil {
		t.Error("a file with a mistake was taken for none")
	}
	world = memFS{}.with(map[string]memFile{"espalier.conf": {data: "connections { }\n"}})
	if cfg, err := loadWith(world, confPath, Options{MayMiss: true}); err != nil || cfg.Missing || len(cfg.Warnings) != 0 {
		t.Errorf("a file: %+v, %v", cfg, err)
	}
}
