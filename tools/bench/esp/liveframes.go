package esp

import (
	"errors"
	"fmt"
	"net"
	"unsafe"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"golang.org/x/sys/unix"
)

// LiveFrames sends through BPF_PROG_TEST_RUN with BPF_F_TEST_XDP_LIVE_FRAMES
// (Linux 5.18): the kernel runs an XDP program as often as there are frames to
// send. The program writes the ring's next frame into the buffer and redirects
// it to the device, so that no frame is copied by a system call or becomes an
// skb on the way. A veth takes such frames when its other end has an XDP program
// or GRO switched on.
type LiveFrames struct {
	ring  *Ring
	prog  *ebpf.Program
	maps  []*ebpf.Map
	mem   [2][]byte // of the maps
	ctrl  *control
	frame []byte
	batch uint32
}

// control is what user space and the program share, beside the frames.
type control struct {
	taken  uint64 // written by the program
	filled uint64 // written by user space
	failed uint64 // frames that could not be written, counted by the program
}

var _ Sender = (*LiveFrames)(nil)

// NewLiveFrames loads the program for a device of the calling thread's network
// namespace, with room for at least that many frames. Frames can be sent from
// any thread that is in this namespace.
func NewLiveFrames(device string, frames int) (*LiveFrames, error) {
	dev, err := net.InterfaceByName(device)
	if err != nil {
		return nil, fmt.Errorf("live frames on %s: %w", device, err)
	}
	slots, err := ringSlots(frames)
	if err != nil {
		return nil, err
	}
	l := &LiveFrames{frame: make([]byte, FrameMax), batch: 64}
	if err := l.load(dev.Index, slots); err != nil {
		return nil, errors.Join(fmt.Errorf("live frames on %s: %w", device, err), l.Close())
	}
	return l, nil
}

func (l *LiveFrames) load(ifindex int, slots uint64) error {
	for i, spec := range []*ebpf.MapSpec{
		{Name: "esp_control", Type: ebpf.Array, KeySize: 4, ValueSize: uint32(unsafe.Sizeof(control{})), MaxEntries: 1, Flags: unix.BPF_F_MMAPABLE},
		{Name: "esp_frames", Type: ebpf.Array, KeySize: 4, ValueSize: slotSize, MaxEntries: uint32(slots), Flags: unix.BPF_F_MMAPABLE},
	} {
		m, err := ebpf.NewMap(spec)
		if err != nil {
			return fmt.Errorf("map %s: %w", spec.Name, err)
		}
		l.maps = append(l.maps, m)
		page := uint64(unix.Getpagesize())
		size := (uint64(spec.ValueSize+7)/8*8*uint64(spec.MaxEntries) + page - 1) / page * page
		if l.mem[i], err = unix.Mmap(m.FD(), 0, int(size), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED); err != nil {
			return fmt.Errorf("mapping %s into memory: %w", spec.Name, err)
		}
	}
	l.ctrl = (*control)(unsafe.Pointer(&l.mem[0][0]))
	l.ring = &Ring{mem: l.mem[1], slots: slots, taken: &l.ctrl.taken, filled: &l.ctrl.filled}
	prog, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Name: "esp_send", Type: ebpf.XDP, License: "Apache-2.0",
		Instructions: sendProgram(l.maps[0].FD(), l.maps[1].FD(), ifindex, slots),
	})
	if err != nil {
		return fmt.Errorf("loading the program: %w", err)
	}
	l.prog = prog
	return nil
}

// sendProgram writes the ring's next frame into the buffer, which has FrameMax
// bytes, and redirects it. It sends nothing twice: without a frame it drops.
func sendProgram(ctrl, frames, ifindex int, slots uint64) asm.Instructions {
	return asm.Instructions{
		asm.Mov.Reg(asm.R6, asm.R1),
		asm.LoadMapValue(asm.R7, ctrl, 0),
		asm.LoadMem(asm.R8, asm.R7, 0, asm.DWord),
		asm.LoadMem(asm.R1, asm.R7, 8, asm.DWord),
		asm.JGE.Reg(asm.R8, asm.R1, "drop"),
		asm.Mov.Reg(asm.R1, asm.R8),
		asm.Add.Imm(asm.R1, 1),
		asm.StoreMem(asm.R7, 0, asm.R1, asm.DWord),
		asm.And.Imm(asm.R8, int32(slots-1)),
		asm.StoreMem(asm.RFP, -4, asm.R8, asm.Word),
		asm.LoadMapPtr(asm.R1, frames),
		asm.Mov.Reg(asm.R2, asm.RFP),
		asm.Add.Imm(asm.R2, -4),
		asm.FnMapLookupElem.Call(),
		asm.JEq.Imm(asm.R0, 0, "failed"),
		asm.Mov.Reg(asm.R8, asm.R0),
		asm.Mov.Reg(asm.R1, asm.R6),
		asm.LoadMem(asm.R2, asm.R8, 4, asm.Word),
		asm.FnXdpAdjustTail.Call(),
		asm.JNE.Imm(asm.R0, 0, "failed"),
		asm.LoadMem(asm.R4, asm.R8, 0, asm.Word),
		asm.JGT.Imm(asm.R4, FrameMax, "failed"),
		asm.JLT.Imm(asm.R4, ethLen, "failed"),
		asm.Mov.Reg(asm.R1, asm.R6),
		asm.Mov.Imm(asm.R2, 0),
		asm.Mov.Reg(asm.R3, asm.R8),
		asm.Add.Imm(asm.R3, slotHead),
		asm.FnXdpStoreBytes.Call(),
		asm.JNE.Imm(asm.R0, 0, "failed"),
		asm.Mov.Imm(asm.R1, int32(ifindex)),
		asm.Mov.Imm(asm.R2, 0),
		asm.FnRedirect.Call(),
		asm.Return(),
		asm.LoadMem(asm.R1, asm.R7, 16, asm.DWord).WithSymbol("failed"),
		asm.Add.Imm(asm.R1, 1),
		asm.StoreMem(asm.R7, 16, asm.R1, asm.DWord),
		asm.Mov.Imm(asm.R0, 1).WithSymbol("drop"), // XDP_DROP
		asm.Return(),
	}
}

// Ring implements Sender.
func (l *LiveFrames) Ring() *Ring { return l.ring }

// Close implements Sender.
func (l *LiveFrames) Close() error {
	var errs []error
	if l.prog != nil {
		errs = append(errs, l.prog.Close())
	}
	for _, m := range l.mem {
		if m != nil {
			errs = append(errs, unix.Munmap(m))
		}
	}
	for _, m := range l.maps {
		errs = append(errs, m.Close())
	}
	return errors.Join(errs...)
}

// send implements Sender. What the device has no room for is seen in its
// counters only.
func (l *LiveFrames) send(n uint64) (lost uint64, err error) {
	failed, end := l.ctrl.failed, l.ctrl.taken+n
	run := testRun{prog: uint32(l.prog.FD()), dataSize: uint32(len(l.frame)), data: &l.frame[0], flags: unix.BPF_F_TEST_XDP_LIVE_FRAMES, batch: l.batch}
	for l.ctrl.taken < end {
		run.repeat = uint32(end - l.ctrl.taken)
		// Raw, as in PacketSocket.send.
		_, _, errno := unix.RawSyscall(unix.SYS_BPF, unix.BPF_PROG_TEST_RUN, uintptr(unsafe.Pointer(&run)), unsafe.Sizeof(run))
		if errno != 0 && errno != unix.EINTR { // interrupted: what is left is sent
			return end - l.ctrl.taken, fmt.Errorf("running %d live frames: %w", n, errno)
		}
	}
	return l.ctrl.failed - failed, nil
}

// testRun is union bpf_attr of BPF_PROG_TEST_RUN (include/uapi/linux/bpf.h).
type testRun struct {
	prog, _, dataSize, _ uint32
	data                 *byte
	_                    uint64
	repeat               uint32
	_                    [3]uint32
	_                    [2]uint64
	flags, _, batch, _   uint32
}
