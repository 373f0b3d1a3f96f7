package sa

// StateVersion is the version of the encoding that Encode writes.
const StateVersion = stateVersion

// CrashToken is what a gateway with the secret shows for an IKE SA.
var CrashToken = crashToken
