// Package guest holds what the lab's host side and the guest's init agree on: the job that the guest is handed, and the
// stream of frames in which it answers. It runs on both sides.
package guest

// Root device kinds of a Spec.
const (
	// TransportHostFS shares directories of the host through User-Mode Linux's hostfs.
	TransportHostFS = "hostfs"
	// Transport9P shares directories of the host through 9p over virtio, as QEMU offers it.
	Transport9P = "9p"
)

// RootDisk and ModulesDisk are the serial numbers of the read-only disks that every QEMU guest has: its root, and the kernel's modules. DiskFS is their
// file system.
const (
	RootDisk    = "root"
	ModulesDisk = "modules"
	DiskFS      = "ext4"
)

// PortName is the name of the virtio serial port that carries the frames out of a QEMU guest.
const PortName = "espalier.lab"

// ProbeArg is the word on the kernel's command line that makes the init print ProbeAnswer to the console and power off:
// it tells whether an accelerator really boots.
const (
	ProbeArg    = "espalier.probe"
	ProbeAnswer = "espalier-lab: the probe booted"
)

// Spec is one job, handed to the guest as SpecFile in its initial root.
type Spec struct {
	// Transport tells how the guest reaches directories of the host.
	Transport string
	// Channel is the device that carries the frames; empty in a QEMU guest, which finds the port by PortName.
	Channel string
	// Root is the directory that becomes the lower layer of the guest's root; empty in a QEMU guest, which has RootDisk.
	Root string
	// Modules tells whether ModulesDisk is to be mounted at /usr/lib/modules.
	Modules bool
	// Shares are visible read-write at the same path as on the host.
	Shares []Share
	// Env is the environment of every step, as KEY=VALUE.
	Env []string
	// Steps run one after the other, the next one only after all processes of the one before are gone.
	Steps []Step
}

// SpecFile is where the init finds its Spec.
const SpecFile = "/spec.json"

// Share is one directory of the host that the guest sees at the same path.
type Share struct {
	Tag  string
	Path string
}

// Step is one command.
type Step struct {
	// Name, when not empty, makes the guest close the step with a line as 'go test' prints it for a package:
	// ok or FAIL, the name, the seconds.
	Name string
	// Claim, when not empty, is a directory in a share of several guests with the same steps. Whoever makes it runs the step, the others pass over it.
	Claim string
	// Dir is the working directory; one that the guest does not have becomes /.
	Dir string
	// Argv is the command, searched for in PATH.
	Argv []string
}
