package topo

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"strings"
)

// build makes namespaces, links, addresses and routes.
func (n *Net) build(ctx context.Context, cfg Config) error {
	var spaces, links strings.Builder
	for _, h := range n.hosts() {
		fmt.Fprintf(&spaces, "netns add %s\n", h.Name)
	}
	if err := ipBatch(ctx, "", spaces.String()); err != nil {
		return err
	}
	for _, h := range n.hosts() { // before there are devices, which inherit the defaults
		if err := h.Do(func() error { return tame(h != n.Client1 && h != n.Client2 && h != n.Wire) }); err != nil {
			return fmt.Errorf("sysctls of %s: %w", h.Name, err)
		}
	}
	link := func(a *Host, adev string, b *Host, bdev string) {
		fmt.Fprintf(&links, "link add %s netns %s type veth peer name %s netns %s\n", adev, a.Name, bdev, b.Name)
	}
	link(n.Client1, "eth0", n.GW1, "in0")
	link(n.Client2, "eth0", n.GW2, "in0")
	link(n.GW2, "out0", n.Wire, "port2")
	left := n.GW1
	if n.Router != nil {
		link(n.GW1, "out0", n.Router, "in0")
		left = n.Router
	}
	link(left, "out0", n.Wire, "port1")
	if err := ipBatch(ctx, "", links.String()); err != nil {
		return err
	}
	if err := n.configure(ctx, cfg); err != nil {
		return err
	}
	if n.Router != nil {
		return n.Router.masquerade(ctx)
	}
	return nil
}

// tame sets the sysctls of the namespace that it is called in: no duplicate address detection and no redirects, which would disturb
// what is measured, no reverse path filter, and forwarding for routers.
func tame(router bool) error {
	on := "0"
	if router {
		on = "1"
	}
	for _, kv := range [][2]string{
		{"ipv4/ip_forward", on}, {"ipv6/conf/all/forwarding", on},
		{"ipv4/conf/all/rp_filter", "0"}, {"ipv4/conf/default/rp_filter", "0"},
		{"ipv4/conf/all/send_redirects", "0"}, {"ipv4/conf/default/send_redirects", "0"},
		{"ipv6/conf/all/accept_dad", "0"}, {"ipv6/conf/default/accept_dad", "0"},
		{"ipv6/conf/default/accept_ra", "0"}, {"ipv6/conf/all/accept_ra", "0"},
	} {
		if err := os.WriteFile("/proc/sys/net/"+kv[0], []byte(kv[1]), 0); err != nil {
			return err
		}
	}
	return nil
}

// configure gives addresses and routes and brings everything up.
func (n *Net) configure(ctx context.Context, cfg Config) error {
	mtu := cfg.MTU
	if mtu == 0 {
		mtu = 1500
	}
	outerUp := fmt.Sprintf("link set out0 mtu %d up\n", mtu)
	next1, next2 := n.GW2.outer, n.GW1.outer // where the gateways send what is not in their own networks
	if n.Router != nil {
		next1, next2 = n.Router.inner, n.Router.outer
	}
	batches := map[*Host]string{
		n.Client1: "link set eth0 up\n" + addresses(n.Client1.inner, "eth0") + via("default", n.GW1.inner),
		n.Client2: "link set eth0 up\n" + addresses(n.Client2.inner, "eth0") + via("default", n.GW2.inner),
		n.GW1:     outerUp + "link set in0 up\n" + addresses(n.GW1.inner, "in0") + addresses(n.GW1.outer, "out0") + via("default", next1),
		n.GW2:     outerUp + "link set in0 up\n" + addresses(n.GW2.inner, "in0") + addresses(n.GW2.outer, "out0") + via("default", next2),
		n.Wire: fmt.Sprintf("link add br0 type bridge mcast_snooping 0\nlink set port1 mtu %d master br0 up\nlink set port2 mtu %d master br0 up\nlink set br0 up\n",
			mtu, mtu),
	}
	if n.Router != nil {
		batches[n.Router] = outerUp + fmt.Sprintf("link set in0 mtu %d up\n", mtu) + addresses(n.Router.inner, "in0") + addresses(n.Router.outer, "out0") +
			via("default", n.GW2.outer) + "route add " + n.GW1.Subnet(IPv4).String() + " via " + n.GW1.outer[IPv4].String() + "\n" +
			"route add " + n.GW1.Subnet(IPv6).String() + " via " + n.GW1.outer[IPv6].String() + "\n"
	}
	for h, batch := range batches {
		if err := ipBatch(ctx, h.Name, "link set lo up\n"+batch); err != nil {
			return err
		}
	}
	return nil
}

// addresses are the lines that give a device its addresses.
func addresses(a map[Family]netip.Addr, dev string) string {
	return fmt.Sprintf("addr add %s/24 dev %s\naddr add %s/64 dev %s nodad\n", a[IPv4], dev, a[IPv6], dev)
}

// via are the lines that route to the destination in both families.
func via(dst string, next map[Family]netip.Addr) string {
	return fmt.Sprintf("route add %s via %s\nroute add %s via %s\n", dst, next[IPv4], dst, next[IPv6])
}

// masquerade makes the router hide what comes from in0 behind its own address, in both families.
func (h *Host) masquerade(ctx context.Context) error {
	_, err := h.RunInput(ctx, `table inet hide {
	chain post { type nat hook postrouting priority srcnat; oifname "out0" iifname "in0" masquerade; }
}
`, "nft", "-f", "-")
	return err
}

// ipBatch runs lines of ip(8) in a namespace, or outside of them.
func ipBatch(ctx context.Context, ns, lines string) error {
	if lines == "" {
		return nil
	}
	args := []string{"-batch", "-"}
	if ns != "" {
		args = append([]string{"-n", ns}, args...)
	}
	cmd := exec.CommandContext(ctx, "ip", args...)
	cmd.Stdin = strings.NewReader(lines)
	out, err := cmd.CombinedOutput()
	if err != nil {
		return fmt.Errorf("ip -batch in namespace %q: %w: %s", ns, err, strings.TrimSpace(string(out)))
	}
	return nil
}
