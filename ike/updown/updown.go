// Package updown runs the scripts that CHILD SAs have run when they come and go
// (updown), with the environment that strongSwan gives them.
//
// A script runs when the first CHILD SA of its kind comes up and when the last one
// has gone: what a rekeying replaces stays up. For each, scripts run one after the
// other, in the order in which things happened; different ones run side by side.
// The engine's shards only say what happened and never wait for a script.
package updown

import (
	"context"
	"net/netip"
	"strings"
	"sync"
	"time"

	"github.com/rs/zerolog"

	"espalier/ike/sa"
	"espalier/internal/event"
)

// Script is one run of a script.
type Script struct {
	Command string   // for the shell
	Env     []string // NAME=value, all of it
}

// Options is what Scripts are made of.
type Options struct {
	// Run runs a script until it ends, or ctx does, and calls line for what it prints,
	// without line ends.
	Run func(ctx context.Context, s Script, line func(string)) error
	// Firewall has the box's packet filter let a tunnel through, or no longer; nil:
	// nothing is done. It may wait.
	Firewall func(Pass, bool) error
	// Interface names the network interface by which the box reaches a peer; empty:
	// unknown. It may wait.
	Interface func(local, remote netip.Addr) string
	// Limit is how long a script may take.
	Limit time.Duration
	// Path is the scripts' PATH.
	Path string
	Bus  *event.Bus
	Log  zerolog.Logger
}

// Pass is what a packet filter lets through.
type Pass struct {
	ReqID   uint32 // of the tunnel's SAs
	Forward bool   // to and from networks behind the box
	Host    bool   // to and from the box itself
}

// maxAtOnce is how many scripts run at once.
const maxAtOnce = 16

// maxLines and maxLine bound what of a script's output is logged, a run.
const (
	maxLines = 64
	maxLine  = 1024
)

// Scripts follows CHILD SAs. Its methods are safe for concurrent use.
type Scripts struct {
	opts  Options
	slots chan struct{} // one for each script that may run

	mu       sync.Mutex
	kinds    map[kind]*state
	children map[uint64]*state       // by CHILD SA
	dns      map[uint64][]netip.Addr // by IKE SA
	closing  bool
	workers  sync.WaitGroup
}

// kind is what makes two CHILD SAs the same for a script: one replaces the other.
type kind struct {
	conn, child, remoteID, local, remote string
	reqid                                uint32
}

// state is what a script has done and what it has to do. Only the newest wish
// counts, so however often a CHILD SA comes and goes, two runs at most wait.
type state struct {
	kind     kind
	children int  // CHILD SAs of the kind
	wanted   *run // up as it should be; nil: down
	applied  *run // up as the script was last told; nil: down
	working  bool // a goroutine sees to it
}

// run is what the script is run with when the CHILD SA comes up. It is run with the
// same when it goes: what it has put in place then, it finds.
type run struct {
	conn, child, command string
	variables            []pair // one for each pair of selectors
	common               []string
	pass                 Pass
	local, remote        netip.Addr
	link                 string // network interface; found before the first run
	linkKnown            bool
}

// New makes Scripts.
func New(o Options) *Scripts {
	return &Scripts{opts: o, slots: make(chan struct{}, maxAtOnce), kinds: map[kind]*state{}, children: map[uint64]*state{}, dns: map[uint64][]netip.Addr{}}
}

// Wants reports whether CHILD SAs of the configuration have a script, or rules.
func (s *Scripts) Wants(cfg *sa.ChildConfig) bool { return cfg.Updown != "" || s.opts.Firewall != nil }

// ChildUp says that a CHILD SA that is wanted is installed; info is its session as
// it is then.
func (s *Scripts) ChildUp(cfg *sa.ChildConfig, child event.Child, info *sa.Info) {
	k := kind{conn: info.Conn, child: child.Name, remoteID: info.RemoteID, reqid: child.ReqID,
		local: strings.Join(child.LocalTS, " "), remote: strings.Join(child.RemoteTS, " ")}
	s.mu.Lock()
	defer s.mu.Unlock()
	st := s.kinds[k]
	if st == nil {
		st = &state{kind: k}
		s.kinds[k] = st
	}
	s.children[child.UniqueID] = st
	if st.children++; st.children == 1 {
		st.wanted = newRun(cfg, child, info, s.dns[info.UniqueID])
		s.work(st)
	}
}

// ChildDown says that a CHILD SA has gone, wanted or not.
func (s *Scripts) ChildDown(child uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	st := s.children[child]
	if st == nil {
		return
	}
	delete(s.children, child)
	if st.children--; st.children == 0 {
		st.wanted = nil
		s.work(st)
	}
}

// NameServers says which name servers came with the virtual addresses of an IKE SA.
func (s *Scripts) NameServers(ike uint64, servers []netip.Addr) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(servers) > 0 {
		s.dns[ike] = servers
	}
}

// IKEDown says that an IKE SA has gone.
func (s *Scripts) IKEDown(ike uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.dns, ike)
}

// Close waits until every script has been told what has happened, each for as long
// as a script may take. Nothing may be said to Scripts any more.
func (s *Scripts) Close() {
	s.mu.Lock()
	s.closing = true
	s.mu.Unlock()
	s.workers.Wait()
}

// work starts the goroutine of a state unless there is one; s.mu is held.
func (s *Scripts) work(st *state) {
	if st.working {
		return
	}
	st.working = true
	s.workers.Go(func() {
		for s.next(st) {
		}
	})
}

// next runs the script once, if need be. It reports whether more may be to do.
func (s *Scripts) next(st *state) bool {
	s.mu.Lock()
	if st.applied == st.wanted {
		st.working = false
		if st.applied == nil {
			delete(s.kinds, st.kind)
		}
		s.mu.Unlock()
		return false
	}
	up := st.applied == nil
	r := st.applied
	if up {
		r = st.wanted
	}
	s.mu.Unlock()
	s.slots <- struct{}{}
	s.tell(r, up)
	<-s.slots
	s.mu.Lock()
	if st.applied = nil; up {
		st.applied = r
	}
	s.mu.Unlock()
	return true
}

// tell runs the script once for each pair of selectors.
func (s *Scripts) tell(r *run, up bool) {
	if !r.linkKnown {
		r.linkKnown = true
		if s.opts.Interface != nil {
			r.link = s.opts.Interface(r.local, r.remote)
		}
	}
	if up {
		s.firewall(r, up)
	} else {
		defer s.firewall(r, up)
	}
	for i := range r.variables {
		if r.command == "" {
			return
		}
		verb, env := r.environment(s.opts.Path, i, up)
		s.once(r, verb, Script{Command: r.command, Env: env})
	}
}

// failed tells the world. At the end the engine, which writes events to the log, has
// ended before the last scripts.
func (s *Scripts) failed(ev event.ScriptFailed) {
	s.mu.Lock()
	closing := s.closing
	s.mu.Unlock()
	if closing {
		s.opts.Log.WithLevel(ev.Level()).EmbedObject(ev).Msg(ev.Message())
	}
	s.opts.Bus.Publish(time.Now(), ev)
}

// firewall has the packet filter follow the tunnel: a script finds it open on the
// way up and on the way down.
func (s *Scripts) firewall(r *run, up bool) {
	if s.opts.Firewall == nil {
		return
	}
	if err := s.opts.Firewall(r.pass, up); err != nil {
		s.opts.Log.Error().Str("conn", r.conn).Str("child", r.child).Bool("up", up).Err(err).Msg("the box's packet filter does not follow the tunnel")
	}
}

// once runs the script. What it prints goes to the log.
func (s *Scripts) once(r *run, verb string, script Script) {
	ctx, cancel := context.WithTimeout(context.Background(), s.opts.Limit)
	defer cancel()
	log := s.opts.Log.With().Str("conn", r.conn).Str("child", r.child).Str("verb", verb).Logger()
	lines := 0
	err := s.opts.Run(ctx, script, func(line string) {
		if lines++; lines > maxLines {
			return
		}
		log.Info().Str("line", line[:min(len(line), maxLine)]).Msg("updown script says")
	})
	if lines > maxLines {
		log.Info().Int("lines", lines-maxLines).Msg("updown script says more, which is left out")
	}
	if err != nil {
		reason := err.Error()
		if ctx.Err() != nil {
			reason = "it took longer than " + s.opts.Limit.String()
		}
		s.failed(event.ScriptFailed{Conn: r.conn, ChildName: r.child, Verb: verb, Command: r.command, Reason: reason})
		return
	}
	log.Debug().Msg("updown script done")
}
