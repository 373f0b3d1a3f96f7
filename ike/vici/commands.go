package vici

import (
	"fmt"
	"runtime/metrics"
	"strconv"
	"time"

	"espalier/ike/sa"
)

// command answers a request. It may raise events before it returns. An error
// ends the connection; a command that merely failed says so in its reply.
type command func(*client, Message) (Message, error)

// answer makes it a command of the server.
func (f Command) answer(c *client, req Message) (Message, error) {
	m, err := f(c.ctx, req)
	if err != nil {
		return failure("%s", err), nil
	}
	return append(success(), m...), nil
}

// findCommand returns the command of that name, nil when the server knows none.
func findCommand(name string) command {
	switch name {
	case "version":
		return (*client).version
	case "stats":
		return (*client).stats
	case "list-sas":
		return (*client).listSAs
	case "initiate":
		return (*client).initiate
	case "terminate":
		return (*client).terminate
	case "rekey":
		return (*client).rekey
	case "install":
		return (*client).install
	case "uninstall":
		return (*client).uninstall
	case "redirect":
		return (*client).redirect
	case "reload-settings":
		return (*client).reloadSettings
	}
	if cmd := findReader(name); cmd != nil {
		return cmd
	}
	return findLoader(name)
}

// findReader is findCommand for what is configured and counted.
func findReader(name string) command {
	switch name {
	case "list-conns":
		return (*client).listConns
	case "get-conns":
		return (*client).getConns
	case "list-policies":
		return (*client).listPolicies
	case "list-certs":
		return (*client).listCerts
	case "list-authorities":
		return (*client).listAuthorities
	case "get-authorities":
		return (*client).getAuthorities
	case "get-pools":
		return (*client).getPools
	case "get-algorithms":
		return (*client).getAlgorithms
	case "get-counters":
		return (*client).getCounters
	case "reset-counters":
		return (*client).resetCounters
	case "get-keys":
		return (*client).getKeys
	case "get-shared":
		return (*client).getShared
	}
	return nil
}

// knownEvent reports whether clients may register for an event.
func knownEvent(name string) bool {
	switch name {
	case eventListSA, eventControlLog, eventListConn, eventListPolicy, eventListCert, eventListAuthority:
		return true
	}
	return comesAnyTime(name)
}

// The events that a command streams.
const (
	eventListSA        = "list-sa"
	eventControlLog    = "control-log"
	eventListConn      = "list-conn"
	eventListPolicy    = "list-policy"
	eventListCert      = "list-cert"
	eventListAuthority = "list-authority"
)

// failure is the reply of a command that did not succeed.
func failure(format string, args ...any) Message {
	return Message{KeyValue{"success", "no"}, KeyValue{"errmsg", fmt.Sprintf(format, args...)}}
}

// success is the reply of a command that has nothing else to say.
func success() Message { return Message{KeyValue{"success", "yes"}} }

func (c *client) version(Message) (Message, error) {
	v := &c.srv.cfg.Version
	return Message{
		KeyValue{"daemon", v.Daemon},
		KeyValue{"version", v.Version},
		KeyValue{"sysname", v.SysName},
		KeyValue{"release", v.Release},
		KeyValue{"machine", v.Machine},
	}, nil
}

// stats fills charon's shape: all work here has one priority, called medium.
func (c *client) stats(Message) (Message, error) {
	st := c.srv.cfg.Engine.Stats()
	priorities := func(n int) Message {
		var m Message
		m.Put("critical", "0")
		m.Put("high", "0")
		m.PutInt("medium", int64(n))
		m.Put("low", "0")
		return m
	}
	var uptime, workers, ikesas, m Message
	uptime.Put("running", elapsed(c.srv.cfg.Now().Sub(st.Started)))
	uptime.Put("since", st.Started.Local().Format("Jan 02 15:04:05 2006"))
	m.PutSection("uptime", uptime)
	workers.PutInt("total", int64(st.Workers))
	workers.PutInt("idle", int64(st.Idle))
	workers.PutSection("active", priorities(st.Workers-st.Idle))
	m.PutSection("workers", workers)
	m.PutSection("queues", priorities(st.QueuedJobs))
	m.PutInt("scheduled", int64(st.Timers))
	ikesas.PutInt("total", int64(st.IKESAs))
	ikesas.PutInt("half-open", int64(st.HalfOpen))
	m.PutSection("ikesas", ikesas)
	m.PutList("plugins", nil)
	m.PutSection("mallinfo", memory())
	return m, nil
}

// memory fills charon's shape, in octets: what the heap has of the system, what of it
// is used, and what is free.
func memory() Message {
	samples := []metrics.Sample{{Name: "/memory/classes/heap/objects:bytes"}, {Name: "/memory/classes/heap/free:bytes"}, {Name: "/memory/classes/heap/unused:bytes"}}
	metrics.Read(samples)
	used, free := samples[0].Value.Uint64(), samples[1].Value.Uint64()+samples[2].Value.Uint64()
	var m Message
	m.PutUint("sbrk", used+free)
	m.Put("mmap", "0")
	m.PutUint("used", used)
	m.PutUint("free", free)
	return m
}

// elapsed is a duration as charon prints it: one unit, the largest of which
// there are more than two.
func elapsed(d time.Duration) string {
	n, unit := int64(d/time.Second), "second"
	for _, u := range []struct {
		name    string
		seconds int64
	}{{"day", 86400}, {"hour", 3600}, {"minute", 60}} {
		if n > 2*u.seconds {
			n, unit = n/u.seconds, u.name
			break
		}
	}
	if n != 1 {
		unit += "s"
	}
	return fmt.Sprintf("%d %s", n, unit)
}

// saFilter is what list-sas, terminate and rekey select by; zero fields select all.
type saFilter struct {
	ike, child     string
	ikeID, childID uint64
}

// parseFilter reads the filter. Errors: an id that is no number.
func parseFilter(m Message) (f saFilter, err error) {
	f.ike, f.child = m.Text("ike"), m.Text("child")
	if f.ikeID, err = parseID(m, "ike-id"); err != nil {
		return f, err
	}
	f.childID, err = parseID(m, "child-id")
	return f, err
}

func parseID(m Message, name string) (uint64, error) {
	v, ok := m.Get(name)
	if !ok || v == "" {
		return 0, nil
	}
	id, err := strconv.ParseUint(v, 10, 64)
	if err != nil {
		return 0, fmt.Errorf("%s %q: expected a number", name, v)
	}
	return id, nil
}

func (f *saFilter) byChild() bool { return f.child != "" || f.childID != 0 }

func (f *saFilter) matchChild(c *sa.ChildInfo) bool {
	return (f.child == "" || f.child == c.Name) && (f.childID == 0 || f.childID == c.UniqueID)
}

// hasChild reports whether any child of the session matches.
func (f *saFilter) hasChild(i *sa.Info) bool {
	for k := range i.Children {
		if f.matchChild(&i.Children[k]) {
			return true
		}
	}
	return false
}

// listSAs streams one list-sa event a session. The option noblock changes
// nothing here: snapshots are taken without waiting for anyone.
func (c *client) listSAs(req Message) (Message, error) {
	f, err := parseFilter(req)
	if err != nil {
		return failure("%s", err), nil
	}
	now := c.srv.cfg.Now()
	var sendErr error
	c.srv.cfg.Engine.SessionsOf(f.ike, f.ikeID, func(info sa.Info) bool {
		if f.byChild() && !f.hasChild(&info) {
			return true
		}
		sendErr = c.raise(eventListSA, c.names().listSA(&info, now, f.matchChild))
		return sendErr == nil
	})
	return nil, sendErr
}
