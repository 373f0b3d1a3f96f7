package sa

import (
	"espalier/ike/suite"
	"espalier/ike/wire"
	"espalier/internal/secret"
)

// ciphers protect the messages of one IKE SA. They are made from its keys when a
// message needs them, and an established session lets go of them after the step:
// tables for AES-GCM alone are three times what an IKE SA takes otherwise, while
// making them costs a microsecond.
type ciphers struct {
	sealer suite.Sealer
	opener wire.Opener
}

// bind makes the ciphers of an IKE SA whose keys are new, or were read.
// Errors: the keys do not fit what was chosen.
func (k *IKE) bind() error {
	s, err := k.newSealer()
	if err != nil {
		return err
	}
	o, err := k.newOpener()
	if err != nil {
		return err
	}
	k.ciphers = &ciphers{s, o}
	return nil
}

// keyed reports whether the IKE SA has keys.
func (k *IKE) keyed() bool { return len(k.Keys.D) > 0 }

// forgetKeys leaves no keys, not even wiped ones that ciphers could be made from.
func (k *IKE) forgetKeys() {
	k.Keys.Wipe()
	k.Keys = suite.IKEKeys{}
}

func (k *IKE) newSealer() (suite.Sealer, error) {
	encr, integ := k.keys(k.Initiator)
	return suite.NewSealer(k.Chosen, encr, integ, k.SealCounter)
}

func (k *IKE) newOpener() (wire.Opener, error) {
	encr, integ := k.keys(!k.Initiator)
	return suite.NewOpener(k.Chosen, encr, integ)
}

// keys are those that protect what the initiator, or the responder, sends.
func (k *IKE) keys(ofInitiator bool) (encr, integ secret.Bytes) {
	if ofInitiator {
		return k.Keys.Ei, k.Keys.Ai
	}
	return k.Keys.Er, k.Keys.Ar
}

// sealer is for what we send on the IKE SA.
func (k *IKE) sealer() suite.Sealer {
	if k.ciphers == nil {
		k.ciphers = &ciphers{}
	}
	if k.ciphers.sealer == nil {
		s, err := k.newSealer()
		if err != nil {
			return noCipher{err}
		}
		k.ciphers.sealer = s
	}
	return k.ciphers.sealer
}

// opener is for what the peer sends on it.
func (k *IKE) opener() wire.Opener {
	if k.ciphers == nil {
		k.ciphers = &ciphers{}
	}
	if k.ciphers.opener == nil {
		o, err := k.newOpener()
		if err != nil {
			return noCipher{err}
		}
		k.ciphers.opener = o
	}
	return k.ciphers.opener
}

// restCiphers ends a step: the sealers' counters go into the state, and of an
// established session the ciphers go.
func (m *Machine) restCiphers() {
	for k := range m.ikes() {
		if k.ciphers == nil {
			continue
		}
		if s := k.ciphers.sealer; s != nil {
			k.SealCounter = s.Counter()
		}
		if m.s.Phase >= Established {
			k.ciphers = nil
		}
	}
}

// noCipher stands in for ciphers that can't be made, which bind would have found:
// it seals and opens nothing.
type noCipher struct{ err error }

func (c noCipher) IVLen() int                       { return 0 }
func (c noCipher) ICVLen() int                      { return 0 }
func (c noCipher) BlockLen() int                    { return 1 }
func (c noCipher) Counter() uint64                  { return 0 }
func (c noCipher) Seal([]byte, int) error           { return c.err }
func (c noCipher) Open([]byte, int) ([]byte, error) { return nil, c.err }
