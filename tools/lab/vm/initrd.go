package vm

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

// initrdModules are what the guest's init needs to reach its root and the host; a kernel that has one built in has no file for it.
func initrdModules() []string {
	// ext4 asks the kernel's crypto for crc32c, which in 6.1 is a module that modules.dep does not tell of.
	return []string{"virtio_pci", "virtio_console", "virtio_blk", "crc32c_generic", "ext4", "9pnet_virtio", "9p", "overlay"}
}

// cpio writes an archive in the newc format, in which the kernel takes its initial root.
type cpio struct {
	w   *bufio.Writer
	ino int
	err error
}

const (
	modeDir  = 0o040755
	modeChar = 0o020600
	modeExec = 0o100755
	modeFile = 0o100600
)

// add appends one file, directory or character device.
func (c *cpio) add(name string, mode int, data []byte, major, minor int) {
	c.ino++
	head := fmt.Sprintf("070701%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%s\x00",
		c.ino, mode, 0, 0, 1, 0, len(data), 0, 0, major, minor, len(name)+1, 0, name)
	c.put([]byte(head))
	c.put(data)
}

// put writes b padded to a multiple of four.
func (c *cpio) put(b []byte) {
	for _, part := range [][]byte{b, make([]byte, -len(b)&3)} {
		if _, err := c.w.Write(part); err != nil && c.err == nil {
			c.err = err
		}
	}
}

// close ends the archive.
func (c *cpio) close() error {
	c.add("TRAILER!!!", 0, nil, 0, 0)
	if err := c.w.Flush(); err != nil && c.err == nil {
		c.err = err
	}
	return c.err
}

// writeInitrd writes the initial root: the init, its job (none for a probe), and the modules of the kernel in the order of loading.
func writeInitrd(w io.Writer, init string, spec []byte, modules, release string) error {
	c := &cpio{w: bufio.NewWriter(w)}
	for _, d := range []string{"dev", "proc", "sys", "new", "modules"} {
		c.add(d, modeDir, nil, 0, 0)
	}
	c.add("dev/console", modeChar, nil, 5, 1)
	c.add("dev/null", modeChar, nil, 1, 3)
	bin, err := os.ReadFile(init)
	if err != nil {
		return err
	}
	c.add("init", modeExec, bin, 0, 0)
	if spec != nil {
		c.add("spec.json", modeFile, spec, 0, 0)
	}
	dep, err := os.ReadFile(filepath.Join(modules, release, "modules.dep"))
	if err != nil {
		return err
	}
	var list bytes.Buffer
	for _, path := range loadOrder(string(dep), initrdModules()) {
		ko, err := readModule(filepath.Join(modules, release, path))
		if err != nil {
			return fmt.Errorf("module %s: %w", path, err)
		}
		name := moduleName(path)
		c.add("modules/"+name, modeFile, ko, 0, 0)
		fmt.Fprintln(&list, name)
	}
	c.add("modules/list", modeFile, list.Bytes(), 0, 0)
	return c.close()
}

// loadOrder lists the files of the modules and of all they depend on, dependencies first, from the text of modules.dep. Modules that it does not
// name are built in.
func loadOrder(dep string, names []string) []string {
	needs, file := map[string][]string{}, map[string]string{}
	for line := range strings.Lines(dep) {
		path, rest, ok := strings.Cut(strings.TrimSpace(line), ":")
		if ok {
			needs[path], file[moduleName(path)] = strings.Fields(rest), path
		}
	}
	var order []string
	var visit func(path string)
	visit = func(path string) {
		if slices.Contains(order, path) {
			return
		}
		for _, n := range needs[path] { // modules.dep is closed over dependencies and free of cycles
			visit(n)
		}
		order = append(order, path)
	}
	for _, n := range names {
		if path, ok := file[moduleName(n)]; ok {
			visit(path)
		}
	}
	return order
}

// moduleName is the name of the module in a file, without the ending, in the spelling with underscores.
func moduleName(path string) string {
	name, _, _ := strings.Cut(filepath.Base(path), ".ko")
	return strings.ReplaceAll(name, "-", "_")
}

// readModule reads a module and decompresses it, so that the guest's init need not.
func readModule(path string) ([]byte, error) {
	var tool string
	switch filepath.Ext(path) {
	case ".xz":
		tool = "xz"
	case ".zst":
		tool = "zstd"
	default:
		return os.ReadFile(path)
	}
	out, err := exec.Command(tool, "-dcq", path).Output()
	if err != nil {
		return nil, fmt.Errorf("%s: %w", tool, err)
	}
	return out, nil
}
