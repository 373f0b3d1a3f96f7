//go:build lab

package programs

// inGuest: the lab's virtual machine runs these tests.
const inGuest = true
