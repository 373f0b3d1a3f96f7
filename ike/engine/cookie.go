package engine

import (
	"crypto/subtle"
	"io"
	"net/netip"
	"sync"
	"time"

	"espalier/ike/sa"
	"espalier/ike/wire"
	"espalier/internal/secret"
)

// cookieLife is how long a secret makes cookies. Those of the secret before it
// are still accepted, so a cookie lives at least as long, which is more than a
// round trip needs.
const cookieLife = 2 * time.Minute

// cookieJar makes and checks the stateless cookies of RFC 7296 2.6 with secrets
// that change. It is safe for concurrent use.
type cookieJar struct {
	rand io.Reader

	mu      sync.Mutex
	version byte // of the secret in use; the one before it has version-1
	keys    [2]secret.Bytes
	since   time.Time
}

func newCookieJar(rand io.Reader) *cookieJar { return &cookieJar{rand: rand} }

// current returns the secrets after a change that is due: in use, and before it
// (nil when there was none or it is too old).
func (j *cookieJar) current(now time.Time) (version byte, keys [2]secret.Bytes) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if age := now.Sub(j.since); j.keys[0] == nil || age >= cookieLife {
		fresh := make(secret.Bytes, 32)
		if _, err := io.ReadFull(j.rand, fresh); err != nil {
			// Like sa.NewSPI: a guessable secret is worse than the end.
			panic("engine: source of randomness failed: " + err.Error())
		}
		j.keys[0], j.keys[1] = fresh, j.keys[0]
		if age >= 2*cookieLife {
			j.keys[1] = nil
		}
		j.version++
		j.since = now
	}
	return j.version, j.keys
}

// bake makes the cookie to demand.
func (j *cookieJar) bake(now time.Time, ni []byte, remote netip.Addr, spi wire.SPI) []byte {
	version, keys := j.current(now)
	return sa.Cookie(keys[0], version, ni, remote, spi)
}

// accepts reports whether got is a cookie of the secret in use or of the one
// before it. The first octet tells which.
func (j *cookieJar) accepts(now time.Time, got, ni []byte, remote netip.Addr, spi wire.SPI) bool {
	if len(got) == 0 {
		return false
	}
	version, keys := j.current(now)
	key := keys[0]
	switch got[0] {
	case version:
	case version - 1:
		key = keys[1]
	default:
		return false
	}
	return key != nil && subtle.ConstantTimeCompare(got, sa.Cookie(key, got[0], ni, remote, spi)) == 1
}
