package dataplane

// Further errors of the data plane.
const (
	// ErrClosed: the data plane was closed.
	ErrClosed sentinel = "the data plane is closed"
	// ErrPolicyExists: somebody else's policy with the same key stands in the
	// kernel; it is left alone.
	ErrPolicyExists sentinel = "a policy of another program with this selector, direction, mark and interface id exists"
	// ErrUnknownOp: Apply got an operation that it does not know.
	ErrUnknownOp sentinel = "unknown operation: expected a value (not a pointer) of one of the Op types"
)
