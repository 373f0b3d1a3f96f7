package vici

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"espalier/ike/sa"
)

// wait says how long a client wants to wait for an SA to come or go.
type wait struct {
	millis int64 // 0: without end; negative: not at all
}

// parseWait reads the timeout option, in milliseconds.
func parseWait(req Message) (wait, error) {
	v, ok := req.Get("timeout")
	if !ok || v == "" {
		return wait{}, nil
	}
	n, err := strconv.ParseInt(v, 10, 64)
	if err != nil || n > int64(time.Duration(1<<63-1)/time.Millisecond) {
		return wait{}, fmt.Errorf("timeout %q: expected milliseconds", v)
	}
	return wait{n}, nil
}

func (w wait) none() bool { return w.millis < 0 }

// context ends after the time, or with the client.
func (w wait) context(parent context.Context) (context.Context, context.CancelFunc) {
	if w.millis <= 0 {
		return context.WithCancel(parent)
	}
	return context.WithTimeout(parent, time.Duration(w.millis)*time.Millisecond)
}

// initiate brings up a CHILD SA, or without a child's name the IKE SA alone, and
// meanwhile streams control-log events. As charon's it fails for a CHILD SA that is
// up, and tells only the log why something failed. With ensure = yes, which is
// Espalier's own, a CHILD SA that is up is success, the connection's first child is
// meant where none is named, and the reply says why.
func (c *client) initiate(req Message) (Message, error) {
	child, ike := req.Text("child"), req.Text("ike")
	if child == "" && ike == "" {
		return failure("missing configuration name"), nil
	}
	w, err := parseWait(req)
	if err != nil {
		return failure("%s", err), nil
	}
	level, err := parseLevel(req)
	if err != nil {
		return failure("%s", err), nil
	}
	i := initiation{child: child, what: fmt.Sprintf("CHILD_SA '%s'", child), ensure: req.Text("ensure") == "yes", wait: w}
	if child == "" {
		i.what = fmt.Sprintf("IKE_SA '%s'", ike)
	}
	var found bool
	if i.conn, found = c.srv.cfg.Engine.FindChild(ike, child); !found {
		return failure("%s", notFound(ike, child)), nil
	}
	if w.none() {
		level = silent
	}
	ctx, cancel := w.context(c.ctx)
	defer cancel()
	watch := logScope{conn: i.conn, child: child}
	err, sendErr := c.withControlLog(&watch, level, func() error { return c.bringUp(ctx, &i) })
	if sendErr == nil && !watch.failed && level >= detailLevel && i.unclear(err) {
		sendErr = c.explained(i.conn, err)
	}
	if sendErr != nil {
		return nil, sendErr
	}
	return i.reply(err, notFound(ike, child)), nil
}

// initiation is what a request to initiate asks for.
type initiation struct {
	conn, child string
	what        string // in charon's words
	ensure      bool
	wait        wait
}

// bringUp has the engine do it. Errors: its, and that the CHILD SA is up.
func (c *client) bringUp(ctx context.Context, i *initiation) error {
	e := c.srv.cfg.Engine
	switch {
	case i.ensure:
		return e.Initiate(ctx, i.conn, i.child, i.wait.none())
	case i.child == "":
		return e.InitiateIKE(ctx, i.conn, i.wait.none())
	}
	if id := c.standing(i.conn, i.child); id != 0 {
		return fmt.Errorf("%s is up already, #%d", i.what, id)
	}
	return e.Initiate(ctx, i.conn, i.child, i.wait.none())
}

// standing is the unique id of a CHILD SA that is up, 0: there is none.
func (c *client) standing(conn, child string) (id uint64) {
	c.srv.cfg.Engine.SessionsOf(conn, 0, func(info sa.Info) bool {
		for k := range info.Children {
			if ch := &info.Children[k]; ch.Name == child && ch.State.InKernel() && info.State <= sa.IKERekeying {
				id = ch.UniqueID
			}
		}
		return id == 0
	})
	return id
}

// unclear tells whether the reply leaves open why it failed.
func (i *initiation) unclear(err error) bool {
	return err != nil && !errors.Is(err, context.DeadlineExceeded) && !errors.Is(err, ErrNotFound)
}

// reply is what the client is told of the outcome.
func (i *initiation) reply(err error, missing string) Message {
	switch {
	case err == nil:
		return success()
	case errors.Is(err, context.DeadlineExceeded):
		return failure("%s not established after %dms", i.what, i.wait.millis)
	case errors.Is(err, ErrNotFound):
		return failure("%s", missing)
	case i.ensure:
		return failure("establishing %s failed: %s", i.what, err)
	}
	return failure("establishing %s failed", i.what)
}

// notFound is charon's answer to names that the configuration does not have.
func notFound(ike, child string) string {
	if child == "" {
		return fmt.Sprintf("IKE_SA config '%s' not found", ike)
	}
	return fmt.Sprintf("CHILD_SA config '%s' not found", child)
}

// terminate deletes all SAs that the filter selects, children when it names a
// child, else IKE SAs with theirs.
func (c *client) terminate(req Message) (Message, error) {
	f, err := parseFilter(req)
	if err != nil {
		return failure("%s", err), nil
	}
	if f == (saFilter{}) {
		return failure("missing terminate selector"), nil
	}
	w, err := parseWait(req)
	if err != nil {
		return failure("%s", err), nil
	}
	level, err := parseLevel(req)
	if err != nil {
		return failure("%s", err), nil
	}
	if w.none() {
		level = silent
	}
	t := termination{targets: c.targets(&f), force: req.Text("force") == "yes", wait: w}
	_, sendErr := c.withControlLog(&logScope{conn: f.ike, child: f.child}, level, func() error {
		t.run(c.ctx, c.srv.cfg.Engine)
		return nil
	})
	if sendErr != nil {
		return nil, sendErr
	}
	return terminated(len(t.targets), t.done), nil
}

// termination ends SAs.
type termination struct {
	targets []Target
	force   bool
	wait    wait
	done    int // that are gone, or on their way when nobody waits
}

// run begins to delete all of them before it waits for any: a peer that is silent
// holds none of the others up. With force none is waited for, but as long as the
// client says, after which an IKE SA goes without the peer's answer; as charon's the
// reply does not count it.
func (t *termination) run(parent context.Context, e Engine) {
	ctx, cancel := t.wait.context(parent)
	defer cancel()
	begin := t.targets
	for i := range begin {
		begin[i].Force = begin[i].Force || t.force && t.wait.millis <= 0
		if err := e.Terminate(ctx, begin[i], true); t.wait.none() && gone(err) {
			t.done++
		}
	}
	if t.wait.none() {
		return
	}
	for _, target := range begin {
		err := e.Terminate(ctx, target, false)
		if gone(err) {
			t.done++
		} else if t.force && errors.Is(err, context.DeadlineExceeded) {
			target.Force = true
			_ = e.Terminate(parent, target, true) // it was ended before, or is not there
		}
	}
}

// gone tells whether what was to be ended has ended, be it before.
func gone(err error) bool { return err == nil || errors.Is(err, ErrNotFound) }

// terminated is the reply to a terminate request.
func terminated(matches, done int) Message {
	errmsg := ""
	switch {
	case matches == 0:
		errmsg = "no matching SAs to terminate found"
	case done < matches && matches == 1:
		errmsg = "terminating SA failed"
	case done < matches:
		errmsg = "not all matching SAs could be terminated"
	}
	m := success()
	if errmsg != "" {
		m = Message{KeyValue{"success", "no"}}
	}
	m.PutInt("matches", int64(matches))
	m.PutInt("terminated", int64(done))
	if errmsg != "" {
		m.Put("errmsg", errmsg)
	}
	return m
}

// install puts the policies of a child into the kernel that stand without a CHILD
// SA: its trap, or a shunt.
func (c *client) install(req Message) (Message, error) {
	child, conn, found := c.policyOf(req)
	switch {
	case child == "":
		return failure("missing configuration name"), nil
	case !found:
		return failure("configuration name not found"), nil
	}
	ctx, cancel := context.WithTimeout(c.ctx, installTimeout)
	defer cancel()
	if err := c.srv.cfg.Engine.Install(ctx, conn, child); err != nil {
		return failure("installing policy '%s' failed: %s", child, err), nil
	}
	return success(), nil
}

// uninstall takes them out again.
func (c *client) uninstall(req Message) (Message, error) {
	child, conn, found := c.policyOf(req)
	if child == "" {
		return failure("missing configuration name"), nil
	}
	var err error = ErrNotFound
	if found {
		err = c.srv.cfg.Engine.Uninstall(conn, child)
	}
	switch {
	case errors.Is(err, ErrNotFound):
		return failure("policy '%s' not found", child), nil
	case err != nil:
		return failure("uninstalling policy '%s' failed: %s", child, err), nil
	}
	return success(), nil
}

// installTimeout bounds the wait for names to be resolved.
const installTimeout = 30 * time.Second

// policyOf finds the child, shunt or not, that a request names.
func (c *client) policyOf(req Message) (child, conn string, found bool) {
	child, ike := req.Text("child"), req.Text("ike")
	for _, conf := range c.srv.cfg.Engine.Connections() {
		if (ike == "" || ike == conf.Name) && (conf.Child(child) != nil || conf.ShuntOf(child) != nil) {
			return child, conf.Name, true
		}
	}
	return child, "", false
}

// rekey begins to replace all SAs that the filter selects, children when it
// names a child, else IKE SAs, with reauth = yes by new ones that are set up from
// scratch; "matches" says how many. A child is not authenticated: reauth says nothing
// for it.
func (c *client) rekey(req Message) (Message, error) {
	f, err := parseFilter(req)
	switch {
	case err != nil:
		return failure("%s", err), nil
	case f == (saFilter{}):
		return failure("missing rekey selector"), nil
	}
	begin := c.srv.cfg.Engine.Rekey
	if req.Text("reauth") == "yes" && !f.byChild() {
		begin = func(ctx context.Context, t Target) error { return c.srv.cfg.Engine.Reauthenticate(ctx, t.IKE) }
	}
	begun := 0
	for _, t := range c.targets(&f) {
		err := begin(c.ctx, t)
		switch {
		case err == nil:
			begun++
		case !errors.Is(err, ErrNotFound): // gone meanwhile
			return matched(begun, fmt.Sprintf("rekeying failed: %s", err)), nil
		}
	}
	if begun == 0 {
		return matched(0, "no matching SAs to rekey found"), nil
	}
	return matched(begun, ""), nil
}

// matched is the reply of a command that is about some SAs: errmsg stands at the end.
func matched(matches int, errmsg string) Message {
	var m Message
	m.Put("success", map[bool]string{true: "yes", false: "no"}[errmsg == ""])
	m.PutInt("matches", int64(matches))
	if errmsg != "" {
		m.Put("errmsg", errmsg)
	}
	return m
}

// targets collects what the filter selects. Of an IKE SA whose delete is under way no
// answer is waited for any more when it is to be ended again.
func (c *client) targets(f *saFilter) []Target {
	var out []Target
	c.srv.cfg.Engine.SessionsOf(f.ike, f.ikeID, func(info sa.Info) bool {
		if !f.byChild() {
			out = append(out, Target{IKE: info.UniqueID, Force: info.State == sa.IKEDeleting})
			return true
		}
		for i := range info.Children {
			if ch := &info.Children[i]; f.matchChild(ch) {
				out = append(out, Target{IKE: info.UniqueID, Child: ch.UniqueID})
			}
		}
		return true
	})
	return out
}
