// Package e2e holds the tests of the whole: espalierd and espctl as they are shipped against strongSwan 6.0, client–gateway–gateway–client, each in a
// network namespace of a lab guest. They assert on what the wire and the kernel show; the log is read only where an explanation is what
// is promised. They have the build tag lab:
//
//	make build && bin/lab test ./tools/lab/e2e
package e2e
