//go:build lab

package e2e

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"espalier/tools/lab/topo"
)

// situationScript is where a situation's updown script stands.
const situationScript = "/run/vpn-updown"

// situation is a folder of testdata/situations: two files swanctl.conf as strongSwan's users have them, gw1.conf of the gateway that runs charon first and
// espalierd then, and gw2.conf of its peer, which is strongSwan both times. Beside them may stand strongswan.conf, with settings of charon for gw1, and
// updown, a script. The file steps has one a line:
//
//	nat                there is a router that masquerades before gw1; the first line
//	box COMMAND        a shell command that makes gw1 what it is before a daemon starts
//	HOST COMMAND       a shell command in a gateway or a client, which has to succeed; "await COMMAND" repeats one until it does
//	compare TITLE      both daemons, their kernels and boxes show the same
//	kill gw2           the peer dies
type situation struct {
	name, conf, peerConf string
	options              []string
	script               []byte
	nat                  bool
	steps                []string
}

func readSituations(t *testing.T) []situation {
	t.Helper()
	list, err := filepath.Glob("testdata/situations/*/steps")
	if err != nil || len(list) < 10 {
		t.Fatalf("expected ten situations at least, found %d, %v", len(list), err)
	}
	read := func(path string) string {
		b, err := os.ReadFile(path)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			t.Fatal(err)
		}
		return string(b)
	}
	var out []situation
	for _, path := range list {
		dir := filepath.Dir(path)
		s := situation{name: filepath.Base(dir), conf: read(dir + "/gw1.conf"), peerConf: read(dir + "/gw2.conf"), script: []byte(read(dir + "/updown")),
			// The lab's charon has these otherwise than one that was just installed.
			options: []string{"install_routes = yes", read(dir + "/strongswan.conf")}}
		for line := range strings.Lines(read(path)) {
			s.steps = append(s.steps, strings.TrimSpace(line))
		}
		if s.nat = s.steps[0] == "nat"; s.nat {
			s.steps = s.steps[1:]
		}
		out = append(out, s)
	}
	return out
}

// TestSituations runs each situation on charon and on espalierd. At every "compare" the two show the same: with swanctl --raw, in XFRM, and in addresses,
// routes and packet filter of the box. Neither leaves anything behind.
func TestSituations(t *testing.T) {
	for _, s := range readSituations(t) {
		t.Run(s.name, func(t *testing.T) {
			if s.name != "net-to-net" && !topo.UserModeLinux() {
				t.Skip("on an emulated processor one is enough; 'make fast-test' runs all")
			}
			s.run(t)
		})
	}
}

func (s situation) run(t *testing.T) {
	l := newLab(t, topo.Config{NAT: s.nat}, false)
	if len(s.script) > 0 {
		if err := os.WriteFile(situationScript, s.script, 0o755); err != nil {
			t.Fatal(err)
		}
		defer os.Remove(situationScript)
	}
	r := &situationRun{lab: l, situation: s}
	for _, step := range s.steps {
		if command, ok := strings.CutPrefix(step, "box "); ok {
			r.command(t, "gw1", command)
		}
	}
	before := r.box(t)

	r.peer(t)
	charon, err := l.ours.StartStrongSwan(t.Context(), topo.StrongSwanConfig{Conf: s.conf, Files: l.situationCerts(t, "gw1", "carol"), Options: s.options})
	if err != nil {
		t.Fatal(err)
	}
	conf := filepath.Join(filepath.Dir(charon.Dir), "strongswan.conf") // espalierd reads it, too
	r.swanctl = map[string]string{}
	r.controls("gw1", charon.Dir, conf, "--uri "+charon.URI)
	r.controls("gw2", l.swan.Dir, conf, "--uri "+l.swan.URI)
	want := r.play(t, nil)
	if err := charon.Stop(); err != nil {
		t.Error(err)
	}
	r.expect(t, "after charon's stop", before)

	r.peer(t)
	l.esp, err = l.ours.StartEspalier(t.Context(), topo.EspalierConfig{Plain: true,
		Args: []string{"--log-level", "debug", "--strongswan-conf", conf}})
	if err != nil {
		t.Fatal(err)
	}
	r.controls("gw1", charon.Dir, conf, "") // without --uri: espalierd listens where swanctl looks
	r.command(t, "gw1", "swanctl --load-all --noprompt")
	r.play(t, want)
	if err := l.esp.Stop(); err != nil {
		t.Error(err)
	}
	r.expect(t, "after espalierd's stop", before)
	if t.Failed() {
		t.Logf("log of espalierd:\n%s", l.log())
	}
}

// situationCerts are the folders of keys, with a certificate for each name.
func (l *lab) situationCerts(t *testing.T, names ...string) map[string][]byte {
	t.Helper()
	out := map[string][]byte{"x509ca/ca.pem": l.pki.ca(t, topo.ECDSA).Cert}
	for _, name := range names {
		end := l.pki.end(t, topo.ECDSA, topo.ECDSA, name)
		out["x509/"+name+".pem"], out["private/"+name+".pem"] = end.Cert, end.Key
	}
	return out
}

// situationRun is one situation on one daemon.
type situationRun struct {
	*lab
	situation
	swanctl map[string]string // what swanctl is in each gateway
}

// controls says how swanctl finds its folder and its daemon on a host.
func (r *situationRun) controls(host, dir, conf, uri string) {
	r.swanctl[host] = fmt.Sprintf("STRONGSWAN_CONF=%s SWANCTL_DIR=%s command swanctl \"$@\" %s", conf, dir, uri)
}

// peer has the peer begin from scratch.
func (r *situationRun) peer(t *testing.T) {
	t.Helper()
	if err := r.swan.Configure(r.peerConf, r.situationCerts(t, "gw2", "carol")); err != nil {
		t.Fatal(err)
	}
	r.swan.Kill()
	for _, what := range []string{"state", "policy"} {
		if _, err := r.theirs.Run(t.Context(), "ip", "xfrm", what, "flush"); err != nil {
			t.Fatal(err)
		}
	}
	if err := r.swan.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// play makes the steps. It compares with what was seen before, if given, or returns what is seen.
func (r *situationRun) play(t *testing.T, want []string) (seen []string) {
	t.Helper()
	for _, step := range append([]string{"loaded"}, r.steps...) {
		verb, rest, _ := strings.Cut(step, " ")
		switch verb {
		case "", "#", "box":
		case "loaded":
			seen, want = r.compare(t, "loaded", "echo '== swanctl --list-conns'; swanctl --list-conns --raw\n"+situationBox, seen, want)
		case "compare":
			seen, want = r.compare(t, rest, situationShown+situationBox, seen, want)
		case "kill":
			r.swan.Kill()
		default:
			r.command(t, verb, rest)
		}
	}
	return seen
}

// situationWords are what steps may say.
const situationWords = `await() { n=0; while ! eval "$*" >/dev/null 2>&1; do n=$((n+1)); [ $n -lt 300 ] || { eval "$*"; return 1; }; sleep 0.05; done; }
`

// command runs a step's command.
func (r *situationRun) command(t *testing.T, host, command string) {
	t.Helper()
	if rest, ok := strings.CutPrefix(command, "await "); ok {
		command = "await '" + strings.ReplaceAll(rest, "'", `'\''`) + "'"
	}
	if out, err := r.shell(host, command); err != nil {
		sas, _ := r.shell("gw1", "swanctl --list-sas --raw")
		t.Fatalf("%s %s: %v\n%s\nSAs:\n%s", host, command, err, out, sas)
	}
}

// shell runs a script on a host, where swanctl finds its daemon.
func (r *situationRun) shell(host, script string) (string, error) {
	hosts := map[string]*topo.Host{"gw1": r.GW1, "gw2": r.GW2, "client1": r.Client1, "client2": r.Client2}
	h := hosts[host]
	if h == nil {
		return "", fmt.Errorf("no host %q", host)
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	return h.Run(ctx, "sh", "-c", situationWords+"swanctl() { "+cmp.Or(r.swanctl[host], ":")+"; }\nexec 2>&1\n"+script)
}

// situationShown are the commands whose output is compared.
const situationShown = `for what in --list-sas --list-pols "--list-pools --leases"; do echo "== swanctl $what"; swanctl $what --raw; done
`

// situationBox are those that show kernel and box. What the kernel does by itself once a link is up is left out.
const situationBox = `echo "== ip"
{ printf '%s\n' 'xfrm policy list nosock' 'xfrm state list nokeys' address rule 'route show table all' | ip -batch -
printf '%s\n' rule 'route show table all' | ip -6 -batch -; } | sed '/proto kernel/d; /fe80:/d; / mtu /d; s/ linkdown//; s/ tentative//'
echo "== packet filter"; nft list ruleset
`

// box is all that must not be there any more after a stop.
func (r *situationRun) box(t *testing.T) string {
	t.Helper()
	out, err := r.shell("gw1", situationBox+"echo == sockets; ss -Hlnu; ls /var/run/charon.vici; true")
	if err != nil && out == "" {
		t.Fatal(err)
	}
	return out
}

// expect waits until the box is as it was before.
func (r *situationRun) expect(t *testing.T, when, before string) {
	t.Helper()
	for deadline := time.Now().Add(patience); ; time.Sleep(50 * time.Millisecond) {
		now := r.box(t)
		if now == before {
			return
		}
		if time.Now().After(deadline) {
			t.Errorf("%s, differences from before:\n%s", when, difference(before, now))
			return
		}
	}
}

// compare adds what gw1 shows to what was seen, or, given what was seen on charon, compares it with the first of that.
func (r *situationRun) compare(t *testing.T, title, commands string, seen, want []string) (seenNow, left []string) {
	t.Helper()
	if want == nil {
		return append(seen, r.settled(t, commands)), nil
	}
	r.same(t, title, commands, want[0])
	return seen, want[1:]
}

// show is what gw1 shows now, without what varies.
func (r *situationRun) show(t *testing.T, commands string) string {
	t.Helper()
	out, err := r.shell("gw1", commands)
	if err != nil {
		t.Fatal(err)
	}
	return normalSituation(out)
}

// settled is what gw1 shows, once that does not change any more.
func (r *situationRun) settled(t *testing.T, commands string) string {
	t.Helper()
	last := r.show(t, commands)
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); {
		if strings.HasSuffix(last, r.show(t, situationBox)) {
			return last
		}
		last = r.show(t, commands)
	}
	t.Fatalf("expected gw1 to come to rest, got\n%s", last)
	return ""
}

// same waits until gw1 shows what it showed with charon.
func (r *situationRun) same(t *testing.T, title, commands, want string) {
	t.Helper()
	var got string
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
		if got = r.show(t, commands); got == want {
			return
		}
	}
	t.Errorf("%s: - charon, + espalierd\n%s", title, difference(want, got))
}

// difference is the lines that only one of two texts has, each with the last heading before it.
func difference(a, b string) string {
	la, lb := strings.Split(a, "\n"), strings.Split(b, "\n")
	var out []string
	heading := ""
	for i, j := 0, 0; i < len(la) || j < len(lb); {
		switch {
		case i < len(la) && j < len(lb) && la[i] == lb[j]:
			if strings.HasPrefix(la[i], "== ") {
				heading = la[i]
			}
			i, j = i+1, j+1
		case i < len(la) && (j == len(lb) || !slices.Contains(lb[j:], la[i])):
			out, heading, i = append(out, heading, "- "+la[i]), "", i+1
		default:
			out, heading, j = append(out, heading, "+ "+lb[j]), "", j+1
		}
	}
	return strings.Join(slices.DeleteFunc(out, func(s string) bool { return s == "" }), "\n")
}

// situationVarying is what differs from run to run, beside swanctlVarying, and what docs/swanctl.md says is Espalier's own.
var situationVarying = []struct {
	in   *regexp.Regexp
	with string
}{
	{regexp.MustCompile(`\{uniqueid=\d+ version`), "{uniqueid=ID version"}, // a rekeyed IKE SA keeps its number
	{regexp.MustCompile(`\bversion=IKEv1/2\b`), "version=IKEv2"},
	{regexp.MustCompile(`(tmpl src \S+ dst \S+ proto \w+) spi \S+`), "$1"},
	{regexp.MustCompile(` onlink\b`), ""},
	{regexp.MustCompile(`(?m)^(throw )?(192\.0\.2\.2|2001:db8:f::2) .*table 220.*\n`), ""}, // the peer's own address
	{regexp.MustCompile(`(?m)^220:.*\n`), ""},
	{regexp.MustCompile(`\bspi 0x[0-9a-f]{8}\b`), "spi SPI"},
	{regexp.MustCompile(`\b(cpi-(in|out)=)[0-9a-f]{4}\b`), "${1}SPI"},
	{regexp.MustCompile(`\b(use-(in|out)=|reauth-time=)\d+`), "${1}TIME"},
	{regexp.MustCompile(`\blastused [-0-9]+ [0-9:]+`), "lastused TIME"},
}

// trapPriority is one that only charon's traps have, which come after a CHILD SA of the same selectors by 1.
var trapPriority = regexp.MustCompile(`\bpriority ([234]\d{4})([02468])\b`)

var blanks = regexp.MustCompile(`[ \t]+`)

// normalSituation takes out what varies and puts what the kernel lists in an order of its own, one entry a line.
func normalSituation(text string) string {
	var out strings.Builder
	for i, part := range strings.Split(text, "== ") {
		if i == 0 {
			continue
		}
		title, body, _ := strings.Cut(part, "\n")
		body = comparable(title, strings.ReplaceAll(body, "\n\t", " "))
		body = blanks.ReplaceAllString(body, " ") + "\n"
		for _, v := range situationVarying {
			body = v.in.ReplaceAllString(body, v.with)
		}
		if title == "ip" {
			body = trapPriority.ReplaceAllStringFunc(body, func(p string) string {
				var n int
				fmt.Sscanf(p, "priority %d", &n) // the pattern has a number
				return fmt.Sprintf("priority %d", n-1)
			})
			lines := strings.Split(body, "\n")
			slices.Sort(lines)
			body = strings.Join(lines, "\n")
		}
		fmt.Fprintf(&out, "== %s\n%s\n", title, strings.TrimSpace(body))
	}
	return out.String()
}
