package host

import (
	"os"
	"path/filepath"
	"reflect"
	"testing"
	"time"
)

// proc is a root folder with files below /proc.
func proc(t *testing.T, files map[string]string) Local {
	t.Helper()
	root := t.TempDir()
	for name, text := range files {
		path := filepath.Join(root, "proc", name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return Local{root: root}
}

func TestCPUTimes(t *testing.T) {
	l := proc(t, map[string]string{"stat": "cpu  10 2 30 400 5 6 7 8 0 0\ncpu0 1 2 3 4 5 6 7 8 0 0\ncpu12 100 0 0 0 0 0 0 0 0 0\nintr 12 3 4\nctxt 1\n"})
	got, err := l.cpuTimes()
	ms := func(n int) time.Duration { return time.Duration(10*n) * time.Millisecond }
	want := []CPUTime{
		{CPU: 0, Processes: ms(3), Kernel: ms(3), Idle: ms(9), Interrupt: ms(6), SoftIRQ: ms(7), Stolen: ms(8)},
		{CPU: 12, Processes: ms(100)},
	}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("%+v, error %v; expected %+v", got, err, want)
	}
	if got[0].Total() != ms(36) {
		t.Errorf("total %v; expected 360 ms", got[0].Total())
	}
	for _, bad := range []string{"cpux 1 2 3 4 5 6 7 8\n", "cpu0 1 2 x 4 5 6 7 8\n"} {
		if got, err := proc(t, map[string]string{"stat": bad}).cpuTimes(); err == nil {
			t.Errorf("%q: %+v; expected an error", bad, got)
		}
	}
}

func TestSoftnet(t *testing.T) {
	l := proc(t, map[string]string{"net/softnet_stat": "000000ff 00000001 00000002 0 0 0 0 0 0 0 0 0 00000000 0 0\n" +
		"00000010 00000000 00000003 0 0 0 0 0 0 0 0 0 00000003 0 0\n"})
	got, err := l.softnet()
	if want := []Softnet{{0, 255, 1, 2}, {3, 16, 0, 3}}; err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("%+v, error %v; expected %+v", got, err, want)
	}
	got, err = proc(t, map[string]string{"net/softnet_stat": "1 2 3 4\n5 6 7 8\n"}).softnet()
	if want := []Softnet{{0, 1, 2, 3}, {1, 5, 6, 7}}; err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("before 5.10: %+v, error %v; expected %+v", got, err, want)
	}
	for _, bad := range []string{"1 2\n", "1 2 zz\n"} {
		if got, err := proc(t, map[string]string{"net/softnet_stat": bad}).softnet(); err == nil {
			t.Errorf("%q: %+v; expected an error", bad, got)
		}
	}
}

// What this machine has can be read.
func TestLoadOfThisMachine(t *testing.T) {
	times, err := CPUTimes()
	if err != nil || len(times) == 0 || times[0].Total() == 0 {
		t.Errorf("%+v, error %v", times, err)
	}
	stats, err := SoftnetStats()
	if err != nil || len(stats) == 0 {
		t.Errorf("%+v, error %v", stats, err)
	}
}
