package sa

import (
	"fmt"
	"io"

	"espalier/ike/auth"
	"espalier/ike/suite"
)

// Perform does the jobs that are nothing but computation: key exchanges, and
// signatures with what creds holds. It takes tens of microseconds to
// milliseconds, so a shell runs it away from its shards. Other specs are an
// error.
func Perform(spec Spec, creds *auth.Credentials, rnd io.Reader) (any, error) {
	switch s := spec.(type) {
	case GenerateKE:
		pub, priv, err := suite.GenerateKey(s.Method, rnd)
		return KEPair{Public: pub, Private: priv}, err
	case EncapsulateKE:
		pub, shared, err := suite.Encapsulate(s.Method, s.Peer, rnd)
		return KEAnswer{Public: pub, Shared: shared}, err
	case DecapsulateKE:
		return suite.Decapsulate(s.Method, s.Private, s.Peer)
	case SignAuth:
		return auth.Sign(creds, s.SignJob, rnd)
	case VerifyAuth:
		return auth.Verify(creds, s.VerifyJob)
	}
	return nil, fmt.Errorf("expected a job of pure computation, got %T", spec)
}
