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

// initiate brings up a CHILD SA, or without a child's name the IKE SA alone,
// and meanwhile streams control-log events.
func (c *client) initiate(req Message) (Message, error) {
	child, ike := req.Text("child"), req.Text("ike")
	if child == "" && ike == "" {
		return failure("missing configuration name"), nil
	}
	what := fmt.Sprintf("CHILD_SA '%s'", child)
	if child == "" {
		what = fmt.Sprintf("IKE_SA '%s'", ike)
	}
	w, err := parseWait(req)
	if err != nil {
		return failure("%s", err), nil
	}
	level, err := parseLevel(req)
	if err != nil {
		return failure("%s", err), nil
	}
	conn, found := c.srv.cfg.Engine.FindChild(ike, child)
	if !found {
		return failure("%s", notFound(ike, child)), nil
	}
	ctx, cancel := w.context(c.ctx)
	defer cancel()
	watch := logScope{conn: conn, child: child}
	err, sendErr := c.withControlLog(watch, level, func() error {
		return c.srv.cfg.Engine.Initiate(ctx, conn, child, w.none())
	})
	switch {
	case sendErr != nil:
		return nil, sendErr
	case err == nil:
		return success(), nil
	case errors.Is(err, context.DeadlineExceeded):
		return failure("%s not established after %dms", what, w.millis), nil
	case errors.Is(err, ErrNotFound):
		return failure("%s", notFound(ike, child)), nil
	}
	return failure("establishing %s failed: %s", what, err), nil
}

func notFound(ike, child string) string {
	switch {
	case child == "":
		return fmt.Sprintf("IKE_SA config '%s' not found", ike)
	case ike == "":
		return fmt.Sprintf("CHILD_SA config '%s' not found", child)
	}
	return fmt.Sprintf("CHILD_SA config '%s' not found in IKE_SA config '%s'", child, ike)
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
	targets := c.targets(&f, req.Text("force") == "yes")
	ctx, cancel := w.context(c.ctx)
	defer cancel()
	done := 0
	var last error
	watch := logScope{conn: f.ike, child: f.child}
	_, sendErr := c.withControlLog(watch, level, func() error {
		for _, t := range targets {
			if last = c.srv.cfg.Engine.Terminate(ctx, t, w.none()); last == nil || errors.Is(last, ErrNotFound) {
				done++ // not found: gone meanwhile, which is what was asked for
			}
		}
		return nil
	})
	if sendErr != nil {
		return nil, sendErr
	}
	return terminated(len(targets), done), nil
}

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
// scratch; "matches" says how many.
func (c *client) rekey(req Message) (Message, error) {
	f, err := parseFilter(req)
	switch {
	case err != nil:
		return failure("%s", err), nil
	case f == (saFilter{}):
		return failure("missing rekey selector"), nil
	case req.Text("reauth") == "yes" && f.byChild():
		return failure("reauth: expected an IKE SA alone, whose children all get new SAs, got a child"), nil
	}
	begin := c.srv.cfg.Engine.Rekey
	if req.Text("reauth") == "yes" {
		begin = func(ctx context.Context, t Target) error { return c.srv.cfg.Engine.Reauthenticate(ctx, t.IKE) }
	}
	begun := 0
	for _, t := range c.targets(&f, false) {
		err := begin(c.ctx, t)
		switch {
		case err == nil:
			begun++
		case !errors.Is(err, ErrNotFound): // gone meanwhile
			return failure("rekeying failed: %s", err), nil
		}
	}
	m := success()
	if begun == 0 {
		m = failure("no matching SAs to rekey found")
	}
	m.PutInt("matches", int64(begun))
	return m, nil
}

// targets collects what the filter selects.
func (c *client) targets(f *saFilter, force bool) []Target {
	var out []Target
	c.srv.cfg.Engine.SessionsOf(f.ike, f.ikeID, func(info sa.Info) bool {
		if !f.byChild() {
			out = append(out, Target{IKE: info.UniqueID, Force: force})
			return true
		}
		for i := range info.Children {
			if ch := &info.Children[i]; f.matchChild(ch) {
				out = append(out, Target{IKE: info.UniqueID, Child: ch.UniqueID, Force: force})
			}
		}
		return true
	})
	return out
}
