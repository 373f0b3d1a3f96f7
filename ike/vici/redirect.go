package vici

import (
	"errors"
	"fmt"

	"espalier/dataplane/selector"
	"espalier/ike/auth"
	"espalier/ike/sa"
)

// redirectFilter is what redirect selects clients by; zero fields select all.
type redirectFilter struct {
	saFilter
	addrs selector.TS // of the peer; not valid: any
	id    auth.ID     // may be a pattern
}

// parseRedirect reads a redirect's filter and the gateway that it leads to.
// Errors: no gateway, nothing to select by, or what can't be read.
func parseRedirect(req Message) (f redirectFilter, gateway string, err error) {
	if gateway = req.Text("gateway"); gateway == "" {
		return f, "", errors.New("missing target gateway")
	}
	if _, err := sa.ParseGateway(gateway); err != nil {
		return f, "", err
	}
	f.ike = req.Text("ike")
	if f.ikeID, err = parseID(req, "ike-id"); err != nil {
		return f, "", err
	}
	ip, id := req.Text("peer-ip"), req.Text("peer-id")
	if f.saFilter == (saFilter{}) && ip == "" && id == "" {
		return f, "", errors.New("missing redirect selector")
	}
	if ip != "" {
		start, end, err := selector.ParseAddrs(ip)
		if err != nil {
			return f, "", errors.New("invalid peer IP selector") // charon's words
		}
		f.addrs = selector.TS{Start: start, End: end}
	}
	if id != "" {
		if f.id, err = auth.ParseID(id); err != nil {
			return f, "", fmt.Errorf("peer-id: %w", err)
		}
	}
	return f, gateway, nil
}

func (f *redirectFilter) match(i *sa.Info) bool {
	if f.addrs.Start.IsValid() && !f.addrs.ContainsAddr(i.Remote.Addr().Unmap()) {
		return false
	}
	if f.id.IsAny() {
		return true
	}
	text := i.RemoteID
	if i.RemoteEAPID != "" {
		text = i.RemoteEAPID
	}
	id, err := auth.ParseID(text)
	if err != nil {
		return false
	}
	_, ok := id.Matches(f.id)
	return ok
}

// redirect sends the clients that the filter selects to another gateway
// (RFC 5685); "matches" says how many were asked to go. Those that did not say
// that they follow redirects stay.
func (c *client) redirect(req Message) (Message, error) {
	f, gateway, err := parseRedirect(req)
	if err != nil {
		return failure("%s", err), nil
	}
	var ids []uint64
	c.srv.cfg.Engine.SessionsOf(f.ike, f.ikeID, func(info sa.Info) bool {
		if (info.State == sa.IKEEstablished || info.State == sa.IKERekeying) && f.match(&info) {
			ids = append(ids, info.UniqueID)
		}
		return true
	})
	begun := 0
	var last error
	for _, id := range ids {
		switch err := c.srv.cfg.Engine.Redirect(c.ctx, Target{IKE: id}, gateway); {
		case err == nil:
			begun++
		case !errors.Is(err, ErrNotFound): // gone meanwhile
			last = err
		}
	}
	switch {
	case begun == 0 && last != nil:
		return matched(len(ids), fmt.Sprintf("redirecting failed: %s", last)), nil
	case begun == 0:
		return matched(0, "no matching SAs to redirect found"), nil
	}
	return matched(begun, ""), nil
}
