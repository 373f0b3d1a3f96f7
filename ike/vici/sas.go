package vici

import (
	"fmt"
	"net/netip"
	"strconv"
	"time"

	"espalier/dataplane"
	"espalier/ike/sa"
	"espalier/ike/suite"
	"espalier/ike/wire"
)

// listSA is the list-sa event's message: one section, named by the connection.
// Keys, their order and their spellings are strongSwan's. keep says which
// children are part of it; nil: all.
func (n *Names) listSA(info *sa.Info, now time.Time, keep func(*sa.ChildInfo) bool) Message {
	body := ikeSection(info, now)
	children := make(Message, 0, len(info.Children))
	for i := range info.Children {
		c := &info.Children[i]
		if keep == nil || keep(c) {
			children.PutSection(childName(c), n.childSection(c, now))
		}
	}
	body.PutSection("child-sas", children)
	return Message{Section{connName(info), body}}
}

// childName is a section's: names of configurations are shared by successors while they
// are rekeyed, the id keeps the sections apart.
func childName(c *sa.ChildInfo) string { return c.Name + "-" + strconv.FormatUint(c.UniqueID, 10) }

// connName stands in for a name where no connection is chosen yet.
func connName(info *sa.Info) string {
	if info.Conn == "" {
		return "(unnamed)"
	}
	return info.Conn
}

func ikeSection(info *sa.Info, now time.Time) Message {
	m := make(Message, 0, 32)
	m.PutUint("uniqueid", info.UniqueID)
	m.Put("version", "2")
	m.Put("state", info.State.String())
	m.Put("local-host", hostText(info.Local))
	m.PutUint("local-port", uint64(info.Local.Port()))
	m.Put("local-id", idText(info.LocalID))
	m.Put("remote-host", hostText(info.Remote))
	m.PutUint("remote-port", uint64(info.Remote.Port()))
	m.Put("remote-id", idText(info.RemoteID))
	if info.RemoteEAPID != "" && info.RemoteEAPID != info.RemoteID {
		m.Put("remote-eap-id", info.RemoteEAPID)
	}
	m.PutFlag("initiator", info.Initiator)
	m.Put("initiator-spi", info.SPIi.String())
	m.Put("responder-spi", info.SPIr.String())
	m.PutFlag("nat-local", info.NATLocal)
	m.PutFlag("nat-remote", info.NATRemote)
	m.PutFlag("nat-fake", info.NATFake)
	m.PutFlag("nat-any", info.NATLocal || info.NATRemote || info.NATFake)
	if info.PathMTU != 0 {
		m.PutUint("path-mtu", uint64(info.PathMTU)) // ours, swanctl passes it over
	}
	m.putIfIDs(info.IfIDIn, info.IfIDOut)
	m.putAlgorithms(&info.Algorithms)
	m.PutFlag("ppk", info.PPK)
	if info.State == sa.IKEEstablished && !info.Established.IsZero() {
		m.PutInt("established", seconds(now.Sub(info.Established)))
		m.putUntil("rekey-time", info.RekeyAt, now)
		m.putUntil("reauth-time", info.ReauthAt, now)
	}
	m.putAddrs("local-vips", info.LocalVIPs)
	m.putAddrs("remote-vips", info.RemoteVIPs)
	m.putTasks("tasks-queued", info.TasksQueued)
	m.putTasks("tasks-active", info.TasksActive)
	m.putTasks("tasks-passive", info.TasksPassive)
	return m
}

func (n *Names) childSection(c *sa.ChildInfo, now time.Time) Message {
	m := make(Message, 0, 32)
	m.Put("name", c.Name)
	m.PutUint("uniqueid", c.UniqueID)
	m.PutUint("reqid", uint64(c.ReqID))
	if c.CPU != nil {
		m.PutUint("cpu", uint64(*c.CPU))
	}
	m.Put("state", c.State.String())
	m.Put("mode", c.Mode.String())
	if c.State >= sa.ChildSAInstalled && c.State < sa.ChildSADestroying {
		m.putInstalled(c, now)
	}
	m.PutList("local-ts", n.tsTexts(c.LocalTS))
	m.PutList("remote-ts", n.tsTexts(c.RemoteTS))
	return m
}

// putInstalled is what charon tells of a CHILD SA from its installation to its end.
func (m *Message) putInstalled(c *sa.ChildInfo, now time.Time) {
	m.Put("protocol", c.Proto.String())
	m.PutFlag("encap", c.Encap)
	m.Put("spi-in", fmt.Sprintf("%08x", c.SPIIn))
	m.Put("spi-out", fmt.Sprintf("%08x", c.SPIOut))
	if c.CPIIn != 0 || c.CPIOut != 0 {
		m.Put("cpi-in", fmt.Sprintf("%04x", c.CPIIn))
		m.Put("cpi-out", fmt.Sprintf("%04x", c.CPIOut))
	}
	m.putMark("mark-in", "mark-mask-in", c.MarkIn)
	m.putMark("mark-out", "mark-mask-out", c.MarkOut)
	m.putIfIDs(c.IfIDIn, c.IfIDOut)
	m.putAlgorithms(&c.Algorithms)
	m.putUsage("in", &c.In, now)
	m.putUsage("out", &c.Out, now)
	m.putUntil("rekey-time", c.RekeyAt, now)
	m.putUntil("life-time", c.ExpiresAt, now)
	m.PutInt("install-time", seconds(now.Sub(c.InstalledAt)))
}

func (m *Message) putAlgorithms(a *sa.Algorithms) {
	if a.Encr != 0 {
		m.Put("encr-alg", suite.AlgorithmName(wire.TransformENCR, uint16(a.Encr)))
		if a.EncrBits != 0 {
			m.PutUint("encr-keysize", uint64(a.EncrBits))
		}
	}
	if a.Integ != 0 {
		m.Put("integ-alg", suite.AlgorithmName(wire.TransformINTEG, uint16(a.Integ)))
	}
	if a.PRF != 0 {
		m.Put("prf-alg", suite.AlgorithmName(wire.TransformPRF, uint16(a.PRF)))
	}
	if a.KE != 0 {
		m.Put("dh-group", suite.AlgorithmName(wire.TransformKE, uint16(a.KE)))
	}
	for i, ke := range a.FurtherKE {
		if ke != 0 {
			m.Put("ake"+strconv.Itoa(i+1), suite.AlgorithmName(wire.TransformKE, uint16(ke)))
		}
	}
	if a.ESN {
		m.Put("esn", "1")
	}
}

func (m *Message) putUsage(dir string, u *sa.Usage, now time.Time) {
	m.PutUint("bytes-"+dir, u.Bytes)
	m.PutUint("packets-"+dir, u.Packets)
	if !u.LastUse.IsZero() {
		m.PutInt("use-"+dir, seconds(now.Sub(u.LastUse)))
	}
}

// putUntil tells the seconds that are left until t, negative when it has
// passed, and nothing when t is not planned.
func (m *Message) putUntil(name string, t, now time.Time) {
	if !t.IsZero() {
		m.PutInt(name, seconds(t.Sub(now)))
	}
}

func (m *Message) putMark(value, mask string, mark dataplane.Mark) {
	if mark == (dataplane.Mark{}) {
		return
	}
	m.Put(value, fmt.Sprintf("%08x", mark.Value))
	if mark.Mask != 0xffffffff {
		m.Put(mask, fmt.Sprintf("%08x", mark.Mask))
	}
}

func (m *Message) putIfIDs(in, out uint32) {
	if in != 0 {
		m.Put("if-id-in", fmt.Sprintf("%08x", in))
	}
	if out != 0 {
		m.Put("if-id-out", fmt.Sprintf("%08x", out))
	}
}

func (m *Message) putAddrs(name string, addrs []netip.Addr) {
	if len(addrs) == 0 {
		return
	}
	items := make([]string, len(addrs))
	for i, a := range addrs {
		items[i] = a.Unmap().String()
	}
	m.PutList(name, items)
}

func (m *Message) putTasks(name string, tasks []string) {
	if len(tasks) > 0 {
		m.PutList(name, tasks)
	}
}

func hostText(a netip.AddrPort) string {
	if !a.IsValid() {
		return "%any"
	}
	return a.Addr().Unmap().String()
}

func idText(id string) string {
	if id == "" {
		return "%any"
	}
	return id
}

func seconds(d time.Duration) int64 { return int64(d / time.Second) }
