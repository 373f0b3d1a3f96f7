package pki

import (
	"slices"
	"sync"
)

// CRLCache holds CRLs that were fetched, one for each place where they are. It outlives
// the sets of which it is part. Safe for concurrent use; nil is empty.
type CRLCache struct {
	mu sync.Mutex
	by map[string]*CRL // by URI
}

// Put keeps what is at the URI now.
func (c *CRLCache) Put(uri string, crl *CRL) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.by == nil {
		c.by = map[string]*CRL{}
	}
	c.by[uri] = crl
}

// Keep forgets what is not at one of the URIs.
func (c *CRLCache) Keep(uris []string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for uri := range c.by {
		if !slices.Contains(uris, uri) {
			delete(c.by, uri)
		}
	}
}

// All are the CRLs in the order of their URIs.
func (c *CRLCache) All() (out []*CRL) {
	if c == nil {
		return nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	var uris []string
	for uri := range c.by {
		uris = append(uris, uri)
	}
	slices.Sort(uris)
	for _, uri := range uris {
		out = append(out, c.by[uri])
	}
	return out
}

// of are those of an issuer.
func (c *CRLCache) of(issuer string) (out []*CRL) {
	if c == nil {
		return nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, crl := range c.by {
		if string(crl.List.RawIssuer) == issuer {
			out = append(out, crl)
		}
	}
	return out
}
