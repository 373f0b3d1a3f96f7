package sa

// StateVersion is the version of the encoding that Encode writes.
const StateVersion = stateVersion
