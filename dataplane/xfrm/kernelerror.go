package xfrm

import (
	"errors"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"espalier/dataplane"
)

// kernelError is a refusal by the kernel: its number and, where it has one, its
// own explanation.
type kernelError struct {
	errno syscall.Errno
	text  string
}

func (e *kernelError) Error() string {
	words := plain(e.errno)
	if e.text != "" {
		words += " (kernel: " + e.text + ")"
	}
	return words
}

func (e *kernelError) Unwrap() error { return e.errno }

// plain says what a kernel's error number means here.
func plain(n syscall.Errno) string {
	switch n {
	case unix.EPERM, unix.EACCES:
		return "not permitted: needs CAP_NET_ADMIN in this network namespace"
	case unix.ESRCH, unix.ENOENT:
		return "not found in the kernel"
	case unix.EEXIST:
		return "exists already"
	case unix.EINVAL:
		return "refused by the kernel as invalid"
	case unix.ENOBUFS, unix.ENOMEM:
		return "the kernel is out of memory for it"
	case unix.EAFNOSUPPORT, unix.EPROTONOSUPPORT, unix.ENOPROTOOPT, unix.EOPNOTSUPP, unix.ENOSYS:
		return "not supported by this kernel"
	}
	return n.Error()
}

func isErrno(err error, ns ...syscall.Errno) bool {
	for _, n := range ns {
		if errors.Is(err, n) {
			return true
		}
	}
	return false
}

// explained is an error with words of its own, and the kernel's behind it.
type explained struct {
	words string
	is    error // what it means to callers; may be nil
	cause error
}

func (e *explained) Error() string {
	var k *kernelError
	if errors.As(e.cause, &k) && k.text != "" {
		return e.words + " (kernel: " + k.text + ")"
	}
	return e.words
}

func (e *explained) Unwrap() []error {
	if e.is == nil {
		return []error{e.cause}
	}
	return []error{e.is, e.cause}
}

// explainInstall says why the kernel would not take an SA.
func explainInstall(err error, sa *dataplane.SA) error {
	switch {
	case isErrno(err, unix.EEXIST):
		return &explained{words: dataplane.ErrExists.Error(), is: dataplane.ErrExists, cause: err}
	case isErrno(err, unix.ENOSYS, unix.ENOENT):
		// The kernel's answer when no algorithm or template has the name.
		return &explained{words: "the kernel has no " + algorithms(sa) + ": its crypto module is missing or not allowed", cause: err}
	case isErrno(err, unix.EPROTONOSUPPORT, unix.EAFNOSUPPORT):
		return &explained{words: "the kernel has no " + sa.Proto.String() + " for " + version(sa) + ": its module (" + module(sa) + ") is missing", cause: err}
	case isErrno(err, unix.EINVAL) && sa.Mode == dataplane.IPTFS:
		return &explained{words: "refused by the kernel as invalid; IPTFS needs 6.14 with CONFIG_XFRM_IPTFS", cause: err}
	case isErrno(err, unix.EINVAL):
		return &explained{words: "refused by the kernel as invalid: " + algorithms(sa) + ", " + sa.Mode.String(), cause: err}
	}
	return err
}

func algorithms(sa *dataplane.SA) string {
	var names []string
	for _, a := range []*dataplane.Algorithm{&sa.AEAD, &sa.Crypt, &sa.Auth} {
		if a.Name != "" {
			names = append(names, a.Name)
		}
	}
	return strings.Join(names, " with ")
}

func version(sa *dataplane.SA) string {
	if sa.Dst.Is4() {
		return "IPv4"
	}
	return "IPv6"
}

func module(sa *dataplane.SA) string {
	name := map[dataplane.Proto]string{dataplane.ESP: "esp", dataplane.AH: "ah", dataplane.IPComp: "ipcomp"}[sa.Proto]
	if sa.Dst.Is4() {
		return strings.Replace(name+"4", "ipcomp4", "ipcomp", 1)
	}
	return name + "6"
}
