package vm

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"espalier/tools/lab/store"
)

// UMLKernel returns the executable for a User-Mode Linux kernel given as a file: the file itself, or what it unpacks to when
// its name ends in .xz, kept in the store.
func UMLKernel(st *store.Store, path string) (string, error) {
	abs, err := filepath.Abs(path)
	if err != nil {
		return "", err
	}
	info, err := os.Stat(abs)
	if err != nil {
		return "", fmt.Errorf("the User-Mode Linux kernel: %w", err)
	}
	if !strings.HasSuffix(abs, ".xz") {
		if info.IsDir() || info.Mode()&0o111 == 0 {
			return "", fmt.Errorf("the User-Mode Linux kernel %s: expected an executable or an .xz file", path)
		}
		return abs, nil
	}
	sum, err := fileHash(abs)
	if err != nil {
		return "", fmt.Errorf("the User-Mode Linux kernel: %w", err)
	}
	name := strings.TrimSuffix(filepath.Base(abs), ".xz")
	dir, err := st.Make("uml-"+sum, func(dir string) error { return unpackXZ(abs, filepath.Join(dir, name)) })
	if err != nil {
		return "", fmt.Errorf("unpacking the User-Mode Linux kernel: %w", err)
	}
	return filepath.Join(dir, name), st.Prune("uml-")
}

// fileHash is the start of the file's SHA-256.
func fileHash(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return "", err
	}
	return hex.EncodeToString(h.Sum(nil)[:8]), nil
}

// unpackXZ decompresses a file into an executable one.
func unpackXZ(from, to string) error {
	out, err := os.OpenFile(to, os.O_CREATE|os.O_WRONLY, 0o755)
	if err != nil {
		return err
	}
	defer out.Close()
	var said strings.Builder
	cmd := exec.Command("xz", "-dc", from)
	cmd.Stdout, cmd.Stderr = out, &said
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("xz: %w: %s", err, strings.TrimSpace(said.String()))
	}
	return out.Close()
}
