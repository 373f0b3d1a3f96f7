//go:build lab

package e2e

import (
	"fmt"
	"strings"
	"sync"
	"testing"

	"espalier/tools/lab/topo"
)

// secret is the shared key of the tests, wrongSecret another; no log may hold them.
const secret, wrongSecret = "correct horse battery staple", "Tr0ub4dor and 3"

// side is one gateway's configuration, in words that both daemons understand.
type side struct {
	self, peer *topo.Host
	outer      topo.Family
	// auth is psk or the kind of the own certificate's key.
	auth, secret string
	// ca issued the own certificate; trusts is what the peer's must come from.
	ca, trusts topo.KeyKind
	ike, esp   string
	// id replaces the own identity.
	id string
	// remote replaces the peer's address.
	remote            string
	localTS, remoteTS string // empty: dynamic
	transport         bool
	encap             bool
	// child and more are further lines of the child and of the file.
	child, more string
}

// conf is the text of espalier.conf or swanctl.conf.
func (s side) conf() string {
	local, remote := "auth = psk", "auth = psk"
	if s.auth != psk {
		local, remote = "auth = pubkey\n    certs = end.pem", "auth = pubkey"
	}
	id := s.id
	if id == "" {
		id = s.self.Name + ".example"
	}
	to := s.remote
	if to == "" {
		to = s.peer.PublicAddr(s.outer).String()
	}
	child := s.child
	if s.localTS != "" {
		child += "\n    local_ts = " + s.localTS
	}
	if s.remoteTS != "" {
		child += "\n    remote_ts = " + s.remoteTS
	}
	if s.transport {
		child += "\n    mode = transport"
	}
	conn := ""
	if s.encap {
		conn = "encap = yes"
	}
	text := fmt.Sprintf(`connections { peer {
  version = 2
  local_addrs = %s
  remote_addrs = %s
  proposals = %s
  %s
  local {
    %s
    id = %s
  }
  remote {
    %s
    id = %s.example
  }
  children { net {
    esp_proposals = %s
    %s
  } }
} }
`, s.self.Outer(s.outer), to, s.ike, conn, local, id, remote, s.peer.Name, s.esp, strings.TrimSpace(child))
	if s.auth == psk {
		text += fmt.Sprintf("secrets { ike-1 { secret = %q } }\n", s.secret)
	}
	return text + s.more
}

// psk is the value of side.auth for a shared key.
const psk = "psk"

// pkis makes each certificate once: some keys take seconds in an emulated machine.
type pkis struct {
	mu   sync.Mutex
	cas  map[topo.KeyKind]*topo.Cert
	ends map[string]*topo.Cert
}

func (p *pkis) ca(t *testing.T, kind topo.KeyKind) *topo.Cert {
	t.Helper()
	p.mu.Lock()
	defer p.mu.Unlock()
	if c := p.cas[kind]; c != nil {
		return c
	}
	c, err := topo.NewCA(kind, string(kind)+" Root")
	if err != nil {
		t.Fatal(err)
	}
	p.cas[kind] = c
	return c
}

func (p *pkis) end(t *testing.T, ca, kind topo.KeyKind, host string) *topo.Cert {
	t.Helper()
	issuer := p.ca(t, ca)
	p.mu.Lock()
	defer p.mu.Unlock()
	key := fmt.Sprint(ca, kind, host)
	if c := p.ends[key]; c != nil {
		return c
	}
	c, err := issuer.Issue(kind, host+".example")
	if err != nil {
		t.Fatal(err)
	}
	p.ends[key] = c
	return c
}

// files are what stands beside the configuration.
func (p *pkis) files(t *testing.T, s side) map[string][]byte {
	t.Helper()
	if s.auth == psk {
		return nil
	}
	end := p.end(t, s.ca, topo.KeyKind(s.auth), s.self.Name)
	return map[string][]byte{"x509/end.pem": end.Cert, "private/end.pem": end.Key, "x509ca/ca.pem": p.ca(t, s.trusts).Cert}
}
