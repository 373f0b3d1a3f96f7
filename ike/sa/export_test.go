package sa

// StateVersion is the version of the encoding that Encode writes.
const StateVersion = stateVersion

// CrashToken is what a gateway with the secret shows for an IKE SA.
var CrashToken = crashToken

// HasCiphers reports whether ciphers of an IKE SA are there.
func (m *Machine) HasCiphers() bool {
	for k := range m.ikes() {
		if k.ciphers != nil {
			return true
		}
	}
	return false
}
