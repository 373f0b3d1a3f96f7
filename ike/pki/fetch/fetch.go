// Package fetch gets CRLs from where authorities have them and keeps them current.
// Nobody waits for it: what it got counts from then on.
package fetch

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/rs/zerolog"

	"espalier/ike/pki"
)

// Bounds on one transfer, and on the time until the next.
const (
	maxSize   = 16 << 20 // octets
	maxTime   = 30 * time.Second
	soonest   = time.Minute // also the first pause after a failure, which doubles
	latest    = 24 * time.Hour
	mostRetry = time.Hour
)

// CheckURI says what is wrong with a place to fetch from; nil: nothing. It may be
// http, https or file.
func CheckURI(uri string) error {
	u, err := url.Parse(uri)
	switch {
	case err != nil:
		return fmt.Errorf("expected a URI, found %q", uri)
	case u.Scheme == "file" && u.Path != "" && u.Host == "", (u.Scheme == "http" || u.Scheme == "https") && u.Host != "":
		return nil
	}
	return fmt.Errorf("expected a URI that begins with http://, https:// or file:///, since others are not supported, found %q", uri)
}

// Fetcher keeps a cache current. Its methods are for one goroutine.
type Fetcher struct {
	cache  *pki.CRLCache
	client *http.Client
	log    zerolog.Logger
	now    func() time.Time

	running map[string]context.CancelFunc
	all     sync.WaitGroup
}

// New makes a Fetcher that fetches nothing yet.
func New(cache *pki.CRLCache, log zerolog.Logger) *Fetcher {
	return &Fetcher{cache: cache, client: &http.Client{Timeout: maxTime}, log: log, now: time.Now, running: map[string]context.CancelFunc{}}
}

// Set says where CRLs are. What is new is fetched at once, what is gone is forgotten.
func (f *Fetcher) Set(uris []string) {
	for uri, cancel := range f.running {
		if !slices.Contains(uris, uri) {
			cancel()
			delete(f.running, uri)
		}
	}
	f.cache.Keep(uris)
	for _, uri := range uris {
		if f.running[uri] == nil {
			ctx, cancel := context.WithCancel(context.Background())
			f.running[uri] = cancel
			f.all.Go(func() { f.follow(ctx, uri) })
		}
	}
}

// Close ends all transfers.
func (f *Fetcher) Close() error {
	f.Set(nil)
	f.all.Wait()
	return nil
}

// follow fetches again and again until ctx ends.
func (f *Fetcher) follow(ctx context.Context, uri string) {
	failures := 0
	for {
		crl, err := f.get(ctx, uri)
		if ctx.Err() != nil {
			return
		}
		var pause time.Duration
		if err != nil {
			f.log.Warn().Err(err).Str("uri", uri).Msg("CRL not fetched")
			pause = min(soonest<<min(failures, 10), mostRetry)
			failures++
		} else {
			f.cache.Put(uri, crl)
			failures = 0
			pause = Pause(crl, f.now())
			f.log.Info().Str("uri", uri).Str("issuer", pki.FormatDN(crl.List.RawIssuer)).Int("revoked", len(crl.List.RevokedCertificateEntries)).
				Dur("again", pause).Msg("CRL fetched")
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return
		}
	}
}

// Pause is how long a CRL is left alone: until the next is due, within bounds.
func Pause(crl *pki.CRL, now time.Time) time.Duration {
	if crl.List.NextUpdate.IsZero() {
		return latest
	}
	return min(max(crl.List.NextUpdate.Sub(now), soonest), latest)
}

// get fetches one CRL.
func (f *Fetcher) get(ctx context.Context, uri string) (*pki.CRL, error) {
	u, err := url.Parse(uri)
	if err != nil {
		return nil, err
	}
	var from io.ReadCloser
	if u.Scheme == "file" {
		from, err = os.Open(u.Path)
	} else {
		from, err = f.open(ctx, uri)
	}
	if err != nil {
		return nil, err
	}
	defer from.Close()
	b, err := io.ReadAll(io.LimitReader(from, maxSize+1))
	if err != nil {
		return nil, err
	}
	if len(b) > maxSize {
		return nil, fmt.Errorf("expected at most %d octets, found more", maxSize)
	}
	return pki.ParseCRL(b, "")
}

func (f *Fetcher) open(ctx context.Context, uri string) (io.ReadCloser, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, uri, nil)
	if err != nil {
		return nil, err
	}
	resp, err := f.client.Do(req)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode != http.StatusOK {
		resp.Body.Close()
		return nil, fmt.Errorf("expected a CRL, found %s", resp.Status)
	}
	return resp.Body, nil
}
