package xfrm

import (
	"crypto/rand"
	"net/netip"
	"time"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"espalier/dataplane"
)

// probed are the algorithms that IKE may negotiate, each with a key of a
// length the kernel takes.
var probed = [...]struct {
	aead, crypt, auth string
	key, authKey, icv int // bytes, bytes, bits
}{
	{aead: "rfc4106(gcm(aes))", key: 20, icv: 128},
	{aead: "rfc7539esp(chacha20,poly1305)", key: 36, icv: 128},
	{crypt: "cbc(aes)", auth: "hmac(sha256)", key: 16, authKey: 32, icv: 128},
	{crypt: "cbc(aes)", auth: "hmac(sha384)", key: 16, authKey: 48, icv: 192},
	{crypt: "cbc(aes)", auth: "hmac(sha512)", key: 16, authKey: 64, icv: 256},
	{crypt: "cbc(aes)", auth: "hmac(sha1)", key: 16, authKey: 20, icv: 96},
	{crypt: "cbc(aes)", auth: "xcbc(aes)", key: 16, authKey: 16, icv: 96},
	{crypt: "cbc(aes)", auth: "cmac(aes)", key: 16, authKey: 16, icv: 96},
	{crypt: "rfc3686(ctr(aes))", auth: "hmac(sha256)", key: 20, authKey: 32, icv: 128},
}

// probe finds out what the kernel can do, by doing it: short-lived SAs between
// loopback addresses, which no packet and no policy refers to.
func (x *XFRM) probe() {
	f := dataplane.Features{Algorithms: map[string]bool{}}
	var uts unix.Utsname
	if unix.Uname(&uts) == nil {
		f.Kernel = unix.ByteSliceToString(uts.Release[:])
	}
	base := probeSA()
	base.Dir = dataplane.Out
	x.features.SADir, x.features.PerCPU, x.features.NATKeepalive = true, true, true // so that the attributes are sent
	cpu := uint32(0)
	base.CPU = &cpu
	// Short, for a kernel that waits for one SA's keepalive does not look at the next
	// SA before: a probe's must not hold up what comes after it. One octet may go to
	// the loopback interface.
	base.Encap = &dataplane.Encap{SrcPort: 9, DstPort: 9, Keepalive: time.Second}
	if raw := x.try(&base); raw != nil {
		f.SADir = find(raw.attrs(), nl.XFRMA_SA_DIR, 1) != nil
		f.PerCPU = find(raw.attrs(), nl.XFRMA_SA_PCPU, 4) != nil
		f.NATKeepalive = find(raw.attrs(), nl.XFRMA_NAT_KEEPALIVE_INTERVAL, 4) != nil
	}
	x.features.SADir, x.features.PerCPU, x.features.NATKeepalive = f.SADir, f.PerCPU, f.NATKeepalive

	esn := probeSA()
	esn.ESN, esn.ReplayWindow = true, 32
	f.ESN = x.try(&esn) != nil
	iptfs := probeSA()
	iptfs.Mode = dataplane.IPTFS
	// A kernel without CONFIG_XFRM_IPTFS, Debian's among them, takes such an SA
	// and drops all its packets (XfrmOutStateModeError); one that has it dumps
	// the mode's parameters.
	if raw := x.try(&iptfs); raw != nil {
		f.IPTFS = find(raw.attrs(), attrIPTFSReorder, 2) != nil
	}
	comp := probeSA()
	comp.Proto, comp.SPI, comp.AEAD = dataplane.IPComp, comp.SPI%0xe000+dataplane.MinSPI, dataplane.Algorithm{}
	comp.Crypt = dataplane.Algorithm{Name: "deflate"}
	f.IPComp = x.try(&comp) != nil
	for _, p := range probed {
		sa := probeSA()
		if p.aead != "" {
			sa.AEAD = dataplane.Algorithm{Name: p.aead, Key: make([]byte, p.key), ICVBits: p.icv}
			f.Algorithms[p.aead] = x.try(&sa) != nil
			continue
		}
		sa.AEAD = dataplane.Algorithm{}
		sa.Crypt = dataplane.Algorithm{Name: p.crypt, Key: make([]byte, p.key)}
		sa.Auth = dataplane.Algorithm{Name: p.auth, Key: make([]byte, p.authKey), ICVBits: p.icv}
		ok := x.try(&sa) != nil
		f.Algorithms[p.auth] = ok || f.Algorithms[p.auth]
		f.Algorithms[p.crypt] = ok || f.Algorithms[p.crypt]
	}
	f.Migrate = x.hasMigrate()
	f.XFRMIf = hasInterfaces()
	x.features = f
	x.log.Info().Str("kernel", f.Kernel).Bool("esn", f.ESN).Bool("iptfs", f.IPTFS).Bool("ipcomp", f.IPComp).Bool("per_cpu", f.PerCPU).
		Bool("sa_dir", f.SADir).Bool("nat_keepalive", f.NATKeepalive).Bool("migrate", f.Migrate).Bool("interfaces", f.XFRMIf).Msg("kernel features")
}

// probeSA is an SA that ends by itself should the daemon die while it probes.
func probeSA() dataplane.SA {
	lo := netip.AddrFrom4([4]byte{127, 0, 0, 1})
	var spi [4]byte
	_, _ = rand.Read(spi[:]) // never fails
	return dataplane.SA{
		SAKey: dataplane.SAKey{Dst: lo, Proto: dataplane.ESP, SPI: native.Uint32(spi[:]) | dataplane.MinSPI},
		Src:   lo, Dir: dataplane.In, Mode: dataplane.Tunnel,
		AEAD:   dataplane.Algorithm{Name: "rfc4106(gcm(aes))", Key: make([]byte, 20), ICVBits: 128},
		Limits: dataplane.Limits{HardTime: 10 * time.Second},
	}
}

// try installs an SA, reads it back and removes it; nil when the kernel refuses.
func (x *XFRM) try(sa *dataplane.SA) *rawSA {
	if err := x.sendSA(sa, false); err != nil {
		x.log.Debug().Str("algorithms", algorithms(sa)).Str("mode", sa.Mode.String()).Err(err).Msg("the kernel refuses")
		return nil
	}
	raw, err := x.getSA(&sa.SAKey)
	if derr := x.conn.request(encodeSAID(nl.XFRM_MSG_DELSA, &sa.SAKey), nil); err != nil || derr != nil {
		return nil
	}
	return raw
}

// hasMigrate asks to move an SA that does not exist: a kernel that can says so.
func (x *XFRM) hasMigrate() bool {
	sa := probeSA()
	m := newMessage(msgMigrateState, 0, sizeMigrate)
	b := m.fixed()
	putSAID(b, &sa.SAKey)
	putAddr(b[24:], sa.Dst)
	putAddr(b[40:], sa.Src)
	native.PutUint16(b[128:], unix.AF_INET)
	native.PutUint16(b[64+40:], unix.AF_INET)
	return isErrno(x.conn.request(m, nil), unix.ESRCH)
}

// hasInterfaces asks for an xfrm interface without an id, which a kernel that
// has such interfaces refuses as invalid, and one that has not as unknown.
func hasInterfaces() bool {
	c, err := openConn(unix.NETLINK_ROUTE)
	if err != nil {
		return false
	}
	defer c.close()
	m := newMessage(unix.RTM_NEWLINK, unix.NLM_F_CREATE|unix.NLM_F_EXCL, unix.SizeofIfInfomsg)
	m.attrBytes(unix.IFLA_IFNAME, []byte("esplprobe\x00"))
	info := m.attr(unix.IFLA_LINKINFO, 12)
	native.PutUint16(info, 9) // header and "xfrm\0", padded to 12
	native.PutUint16(info[2:], nl.IFLA_INFO_KIND)
	copy(info[4:], "xfrm")
	return isErrno(c.request(m, nil), unix.EINVAL)
}
