package topo

import (
	"os"
	"strings"
)

// Emulated: each instruction is translated, at a tenth of the speed or less.
func Emulated() bool { return Processors("QEMU TCG CPU") }

// Processors tells whether the kernel names its processors so.
func Processors(name string) bool {
	info, _ := os.ReadFile("/proc/cpuinfo")
	return strings.Contains(string(info), name)
}
