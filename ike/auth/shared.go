package auth

import (
	"strings"

	"espalier/ike/suite"
	"espalier/ike/wire"
	"espalier/internal/secret"
)

// keyPad is hashed with the shared key first (RFC 7296 2.15).
const keyPad = "Key Pad for IKEv2"

// psk computes AUTH from a shared key: prf(prf(key, keyPad), octets).
func psk(prf wire.PRFID, key secret.Bytes, octets []byte) ([]byte, error) {
	f, err := suite.NewPRF(prf)
	if err != nil {
		return nil, err
	}
	padded := secret.Bytes(f.Sum(nil, key, []byte(keyPad)))
	defer padded.Wipe()
	return f.Sum(nil, padded, octets), nil
}

// sharedKey is one key and whose it is.
type sharedKey struct {
	key   secret.Bytes
	ids   []ID // empty: everybody's
	order int  // of adding: the earlier one wins among equals
}

// fit says how well a key suits two identities.
type fit struct {
	named      int // how many of the two are named by more than %any
	peer, mine int // scores of ID.Matches, 0: no match
}

func (f fit) better(g fit) bool {
	if f.named != g.named {
		return f.named > g.named
	}
	if f.peer != g.peer {
		return f.peer > g.peer
	}
	return f.mine > g.mine
}

func (k *sharedKey) fit(mine, peer ID) (fit, bool) {
	if len(k.ids) == 0 {
		return fit{peer: MatchAny, mine: MatchAny}, true
	}
	var f fit
	for _, id := range k.ids {
		if s, ok := mine.Matches(id); ok {
			f.mine = max(f.mine, s)
		}
		if s, ok := peer.Matches(id); ok {
			f.peer = max(f.peer, s)
		}
	}
	if f.peer > MatchAny {
		f.named++
	}
	if f.mine > MatchAny {
		f.named++
	}
	return f, f.peer+f.mine > 0
}

// sharedKeys finds the best key without trying all: a gateway may hold one for each of many thousand peers, and all
// name the gateway.
type sharedKeys struct {
	all    []*sharedKey
	exact  map[ID][]*sharedKey // by the folded identity
	others []*sharedKey        // with a pattern or a distinguished name among the identities, or with none
}

func newSharedKeys(all []*sharedKey) sharedKeys {
	s := sharedKeys{all: append([]*sharedKey(nil), all...), exact: map[ID][]*sharedKey{}}
	for _, k := range s.all {
		other := len(k.ids) == 0
		for _, id := range k.ids {
			if id.Type == wire.IDDERASN1DN || id.IsPattern() {
				other = true
				continue
			}
			f := fold(id)
			if had := s.exact[f]; len(had) == 0 || had[len(had)-1] != k {
				s.exact[f] = append(had, k)
			}
		}
		if other {
			s.others = append(s.others, k)
		}
	}
	return s
}

// fold maps identities that are Equal to the same value, distinguished names excepted.
func fold(id ID) ID {
	if id.Type == wire.IDFQDN || id.Type == wire.IDRFC822Addr {
		id.Data = strings.Map(func(r rune) rune {
			if 'A' <= r && r <= 'Z' {
				return r + 'a' - 'A'
			}
			return r
		}, id.Data)
	}
	return id
}

// find returns the key that suits best: named for both identities before named for the peer's, before named for ours,
// before named for nobody; closer matches before wildcards; the one added first among equals. A key that lists
// identities of which none matches is not used.
func (s *sharedKeys) find(mine, peer ID) (secret.Bytes, bool) {
	var best *sharedKey
	var bestFit fit
	try := func(keys []*sharedKey) {
		for _, k := range keys {
			f, ok := k.fit(mine, peer)
			if ok && (best == nil || f.better(bestFit) || f == bestFit && k.order < best.order) {
				best, bestFit = k, f
			}
		}
	}
	try(s.exact[fold(peer)])
	try(s.others)
	if bestFit.peer <= MatchAny { // what names the peer always beats what only names us
		try(s.exact[fold(mine)])
	}
	if best == nil {
		return nil, false
	}
	return best.key, true
}
