package vici

import (
	"espalier/ike/sa"
	"espalier/internal/event"
)

// alerted raises charon's alert event: what failed, by charon's name, and the IKE SA.
// A failure that charon has no name for raises none, and some raise two.
func (s *sightings) alerted(f *event.Failed, info *sa.Info, now event.Record) error {
	for _, name := range alertNames(f, info) {
		err := s.client.announce(eventAlert, func() Message {
			var m Message
			m.Put("type", name)
			m.PutSection("ike-sa", Message{Section{connName(info), ikeSection(info, now.Time)}})
			return m
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// alertNames are charon's alerts of a failure.
func alertNames(f *event.Failed, info *sa.Info) []string {
	name := alertName(f)
	switch {
	case name == "":
		return nil
	case ofChild(f) && (info.State == sa.IKEEstablished || info.State == sa.IKERekeying):
		return []string{name, "keep-on-child-sa-failure"}
	case f.Cause == event.PeerTimeout && info.Initiator && info.Established.IsZero():
		return []string{name, "peer-init-unreachable"}
	}
	return []string{name}
}

// ofChild tells whether a CHILD SA failed. A responder that finds no child for the
// peer's traffic selectors has no name for it.
func ofChild(f *event.Failed) bool { return f.ChildName != "" || f.Cause == event.TSUnacceptable }

func alertName(f *event.Failed) string {
	switch f.Cause {
	case event.AuthenticationFailed:
		if f.ByPeer {
			return "local-auth-failed"
		}
		return "peer-auth-failed"
	case event.CredentialMissing:
		return "local-auth-failed"
	case event.NoProposalChosen:
		if f.ChildName != "" {
			return "proposal-mismatch-child"
		}
		return "proposal-mismatch-ike"
	case event.TSUnacceptable:
		return "ts-mismatch"
	case event.InvalidSyntax:
		return "parse-error-body"
	case event.PeerTimeout:
		return "retransmit-send-timeout"
	case event.HalfOpenTimeout:
		return "half-open-timeout"
	case event.KernelRefused:
		return "install-child-sa-failed"
	case event.AddressFailure:
		return "vip-failure"
	case event.Overdue:
		return "ike-sa-expired"
	case event.NotUnique:
		return "unique-keep"
	}
	return ""
}
