package vm

import (
	"context"
	"fmt"
	"io/fs"
	"os/exec"
	"path/filepath"
	"strings"

	"espalier/tools/lab/guest"
	"espalier/tools/lab/store"
)

// MakeDisks sees to it that the store has disks of the guest's root and of the kernel's modules, and has q use them. What a guest reads of a disk stays in
// its memory; through 9p each program that starts asks the host for its libraries again, which takes an emulated machine most of its time.
func (q *QEMU) MakeDisks(ctx context.Context, st *store.Store, root string) (err error) {
	if q.RootDisk, err = disk(ctx, st, root); err != nil {
		return err
	}
	if q.ModulesDisk, err = disk(ctx, st, q.Modules); err != nil {
		return err
	}
	return st.Prune(diskPrefix)
}

const diskPrefix = "disk-"

// disk returns an image of a directory, which lies in the store and never changes.
func disk(ctx context.Context, st *store.Store, dir string) (string, error) {
	name, err := filepath.Rel(st.Dir(), dir)
	if err != nil {
		return "", fmt.Errorf("the disk of %s: expected a directory in the lab's cache: %w", dir, err)
	}
	entry, err := st.Make(diskPrefix+strings.ReplaceAll(name, "/", "-"), func(entry string) error {
		return makeDisk(ctx, filepath.Join(entry, diskFile), dir)
	})
	if err != nil {
		return "", fmt.Errorf("the disk of %s: %w", dir, err)
	}
	return filepath.Join(entry, diskFile), nil
}

// diskFile is the image in its entry of the store.
const diskFile = "image"

// blockSize is that of the disk's file system, in bytes.
const blockSize = 4096

// makeDisk writes a file system with what is in dir. A disk that is only read needs no journal; the checksums and the room to grow would
// need more of the guest's kernel, and of its time.
func makeDisk(ctx context.Context, image, dir string) error {
	inodes, blocks, err := extent(dir)
	if err != nil {
		return err
	}
	inodes += inodes/10 + 100
	blocks += blocks/20 + inodes/8 + 4096 // inodes of 256 bytes, and the file system's own tables
	cmd := exec.CommandContext(ctx, "mke2fs", "-q", "-t", guest.DiskFS, "-b", fmt.Sprint(blockSize), "-I", "256", "-N", fmt.Sprint(inodes), "-m", "0",
		"-O", "^has_journal,^metadata_csum,^resize_inode", "-d", dir, image, fmt.Sprint(blocks))
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("mke2fs: %w: %s", err, strings.TrimSpace(string(out)))
	}
	return nil
}

// extent counts the inodes below dir, and the blocks that they need.
func extent(dir string) (inodes, blocks int64, err error) {
	err = filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		inodes++
		blocks += (info.Size() + blockSize - 1) / blockSize
		return nil
	})
	return inodes, blocks, err
}

// diskArgs are QEMU's arguments for a read-only disk with that serial number. Commas are doubled, as QEMU's options have it.
func diskArgs(serial, image string) []string {
	return []string{"-drive", fmt.Sprintf("if=none,id=%s,file=%s,format=raw,readonly=on", serial, strings.ReplaceAll(image, ",", ",,")),
		"-device", fmt.Sprintf("virtio-blk-pci,drive=%s,serial=%s", serial, serial)}
}
