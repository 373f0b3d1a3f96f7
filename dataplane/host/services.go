package host

import (
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// Service is a program that runs and may be in the way.
type Service struct {
	Name string `json:"name"`
	PID  int    `json:"pid"`
	// Ports are the UDP ports of IKE that it has open.
	Ports []int `json:"ports,omitempty"`
}

const (
	networkManager = "NetworkManager"
	networkd       = "systemd-network" // as far as the kernel keeps names
	ownName        = "espalierd"
)

// ikePorts are those of RFC 7296 2 and RFC 3948.
var ikePorts = []int{500, 4500}

// services looks for those that change networks, and for whoever has IKE's ports.
func (l Local) services() (out []Service) {
	sockets := l.ikeSockets()
	procs, _ := os.ReadDir(l.path("/proc"))
	for _, p := range procs {
		pid, err := strconv.Atoi(p.Name())
		if err != nil {
			continue
		}
		name, err := l.read("/proc/" + p.Name() + "/comm")
		if err != nil || name == ownName || pid == 1 {
			continue // systemd may hold the daemon's sockets
		}
		s := Service{Name: name, PID: pid, Ports: l.portsOf(p.Name(), sockets)}
		if len(s.Ports) > 0 || name == networkManager || name == networkd {
			out = append(out, s)
		}
	}
	slices.SortFunc(out, func(a, b Service) int { return a.PID - b.PID })
	return out
}

// ikeSockets are the inodes of UDP sockets on IKE's ports in this network namespace.
func (l Local) ikeSockets() map[string]int {
	out := map[string]int{}
	for _, file := range []string{"/proc/thread-self/net/udp", "/proc/thread-self/net/udp6"} {
		text, _ := l.read(file) // no IPv6: none
		for line := range strings.Lines(text) {
			f := strings.Fields(line)
			if len(f) < 10 {
				continue
			}
			_, port, _ := strings.Cut(f[1], ":")
			b, err := hex.DecodeString(port)
			if err != nil || len(b) != 2 {
				continue
			}
			if n := int(b[0])<<8 | int(b[1]); slices.Contains(ikePorts, n) {
				out["socket:["+f[9]+"]"] = n
			}
		}
	}
	return out
}

// portsOf are those of the sockets that a process has.
func (l Local) portsOf(pid string, sockets map[string]int) (ports []int) {
	if len(sockets) == 0 {
		return nil
	}
	dir := l.path("/proc/" + pid + "/fd")
	fds, _ := os.ReadDir(dir) // gone, or another's
	for _, fd := range fds {
		if to, err := os.Readlink(filepath.Join(dir, fd.Name())); err == nil && sockets[to] != 0 {
			ports = append(ports, sockets[to])
		}
	}
	slices.Sort(ports)
	return slices.Compact(ports)
}

func judgeServices(inv *Inventory) (out []Finding) {
	for _, s := range inv.Services {
		if len(s.Ports) > 0 {
			out = append(out, Finding{Problem, "service", fmt.Sprintf("%s (process %d) has UDP port %s open: it answers IKE in the daemon's place", s.Name, s.PID, joinInts(s.Ports)),
				"stop it and keep it from starting (systemctl disable --now …), or give espalierd other ports or addresses (port, port_nat_t, listen)"})
		}
		if s.Name == networkManager {
			out = append(out, Finding{Note, "service", "NetworkManager runs: it may take over interfaces and routes that it finds",
				"in /etc/NetworkManager/conf.d: [keyfile] unmanaged-devices=type:xfrm;interface-name:xfrm*"})
		}
	}
	return out
}

func joinInts(list []int) string {
	var s []string
	for _, n := range list {
		s = append(s, strconv.Itoa(n))
	}
	return strings.Join(s, " and ")
}

// networkd judges systemd-networkd by its configuration: by default it removes
// routes and rules that it has not made.
func (l Local) networkd(services []Service) (out []Finding) {
	if !slices.ContainsFunc(services, func(s Service) bool { return s.Name == networkd }) {
		return nil
	}
	files := []string{l.path("/etc/systemd/networkd.conf")}
	for _, dir := range []string{"/usr/lib", "/run", "/etc"} { // the last word is /etc's
		more, _ := filepath.Glob(l.path(dir + "/systemd/networkd.conf.d/*.conf"))
		files = append(files, more...)
	}
	set := map[string]string{}
	for _, f := range files {
		text, _ := os.ReadFile(f) // there need be none
		for line := range strings.Lines(string(text)) {
			if name, value, ok := strings.Cut(strings.TrimSpace(line), "="); ok && !strings.HasPrefix(name, "#") && !strings.HasPrefix(name, ";") {
				set[strings.TrimSpace(name)] = strings.ToLower(strings.TrimSpace(value))
			}
		}
	}
	for name, what := range map[string]string{"ManageForeignRoutes": "routes", "ManageForeignRoutingPolicyRules": "routing rules"} {
		if v := set[name]; v != "no" && v != "false" && v != "0" && v != "off" {
			out = append(out, Finding{Warning, "service", "systemd-networkd removes the tunnels' " + what + " when it is restarted (" + name + ")",
				"in /etc/systemd/networkd.conf.d/espalier.conf: [Network] " + name + "=no"})
		}
	}
	slices.SortFunc(out, func(a, b Finding) int { return strings.Compare(a.Cause, b.Cause) })
	return out
}

// Runs tells whether a program of the name, as the kernel has it, runs.
func Runs(program string) bool { return Local{}.runs(program) }

func (l Local) runs(program string) bool {
	list, _ := os.ReadDir(l.path("/proc"))
	for _, e := range list {
		if !number(e.Name()) {
			continue
		}
		if comm, err := l.read("/proc/" + e.Name() + "/comm"); err == nil && comm == program {
			return true
		}
	}
	return false
}
