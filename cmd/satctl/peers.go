package main

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
)

// peersFile is the hub's list of peers as text: blocks are added and taken
// out, and every other line stays as whoever wrote it left it.
type peersFile struct {
	lines  []string
	blocks []peerBlock
}

// peerBlock is a [Peer] of the file: the lines from first up to end.
type peerBlock struct {
	first, end int
	name       string // of the comment "# Name = …"
	publicKey  string
	allowed    []netip.Prefix
}

func parsePeersFile(content []byte) (*peersFile, error) {
	f := &peersFile{}
	if len(content) > 0 {
		f.lines = strings.Split(strings.TrimSuffix(string(content), "\n"), "\n")
	}
	var block *peerBlock
	for i, line := range f.lines {
		text := strings.TrimSpace(line)
		if strings.HasPrefix(text, "[") {
			f.blocks = append(f.blocks, peerBlock{first: i, end: i + 1})
			block = &f.blocks[len(f.blocks)-1]
			continue
		}
		if text == "" || block == nil {
			continue
		}
		block.end = i + 1
		if err := block.read(text); err != nil {
			return nil, fmt.Errorf("line %d: %w", i+1, err)
		}
	}
	return f, nil
}

func (b *peerBlock) read(line string) error {
	comment, isComment := strings.CutPrefix(line, "#")
	if !isComment {
		comment, _, _ = strings.Cut(line, "#")
	}
	key, value, _ := strings.Cut(comment, "=")
	key, value = strings.ToLower(strings.TrimSpace(key)), strings.TrimSpace(value)
	switch {
	case isComment && key == "name":
		b.name = value
	case isComment:
	case key == "publickey":
		b.publicKey = value
	case key == "allowedips":
		for part := range strings.SplitSeq(value, ",") {
			prefix, err := netip.ParsePrefix(strings.TrimSpace(part))
			if err != nil {
				return errors.New("AllowedIPs must be addresses with a mask, as 10.77.0.2/32")
			}
			b.allowed = append(b.allowed, prefix)
		}
	}
	return nil
}

func (f *peersFile) uses(addr netip.Addr) bool {
	for _, b := range f.blocks {
		for _, prefix := range b.allowed {
			if prefix.Contains(addr) {
				return true
			}
		}
	}
	return false
}

// of returns the blocks of a satellite: sat-7, or its slots sat-7/1, sat-7/2 …
func (f *peersFile) of(satellite string) []peerBlock {
	var found []peerBlock
	for _, b := range f.blocks {
		name, _, _ := strings.Cut(b.name, "/")
		if name == peerName(satellite) {
			found = append(found, b)
		}
	}
	return found
}

func (f *peersFile) hasKey(publicKey string) bool {
	for _, b := range f.blocks {
		if b.publicKey == publicKey {
			return true
		}
	}
	return false
}

func peerName(satellite string) string { return "sat-" + satellite }

// add appends a block.
func (f *peersFile) add(block string) error {
	text := f.String()
	if text != "" {
		text += "\n"
	}
	added, err := parsePeersFile([]byte(text + block))
	if err != nil {
		return err
	}
	*f = *added
	return nil
}

// remove takes the blocks of a satellite out, with the blank lines before them.
func (f *peersFile) remove(satellite string) int {
	removed := f.of(satellite)
	for _, block := range slices.Backward(removed) {
		first, end := block.first, block.end
		for first > 0 && strings.TrimSpace(f.lines[first-1]) == "" {
			first--
		}
		f.lines = append(f.lines[:first:first], f.lines[end:]...)
	}
	if again, err := parsePeersFile([]byte(f.String())); err == nil {
		*f = *again
	}
	return len(removed)
}

func (f *peersFile) String() string {
	if len(f.lines) == 0 {
		return ""
	}
	return strings.Join(f.lines, "\n") + "\n"
}

// changePeers reads the file, lets change work on it and puts the new content
// in its place at once: the hub, which watches it, never sees half of it. A
// lock beside it keeps two satctl from losing each other's change. A missing
// file is an empty one.
func changePeers(path string, change func(*peersFile) error) error {
	unlock, err := lockFile(path + ".lock")
	if err != nil {
		return err
	}
	defer unlock()
	mode := fs.FileMode(0o600)
	content, err := os.ReadFile(path)
	switch {
	case err == nil:
		info, err := os.Stat(path)
		if err != nil {
			return err
		}
		mode = info.Mode().Perm()
	case !errors.Is(err, fs.ErrNotExist):
		return err
	}
	peers, err := parsePeersFile(content)
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	if err := change(peers); err != nil {
		return err
	}
	if next := []byte(peers.String()); !bytes.Equal(next, content) {
		return replaceFile(path, next, mode)
	}
	return nil
}

func lockFile(path string) (unlock func(), err error) {
	file, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(file.Fd()), syscall.LOCK_EX); err != nil {
		_ = file.Close()
		return nil, fmt.Errorf("lock %s: %w", path, err)
	}
	return func() { _ = file.Close() }, nil
}

// replaceFile writes a file whole or not at all. Its owner stays who it was:
// the hub, which is not root, must be able to read it.
func replaceFile(path string, content []byte, mode fs.FileMode) error {
	file, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+"-")
	if err != nil {
		return err
	}
	defer func() { _ = os.Remove(file.Name()) }() // gone after the rename
	_, err = file.Write(content)
	err = errors.Join(err, file.Chmod(mode), keepOwner(file, path), file.Sync(), file.Close())
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return os.Rename(file.Name(), path)
}

func keepOwner(file *os.File, like string) error {
	info, err := os.Stat(like)
	if err != nil {
		return nil //nolint:nilerr // there was no file before
	}
	if stat, ok := info.Sys().(*syscall.Stat_t); ok && os.Geteuid() == 0 {
		return file.Chown(int(stat.Uid), int(stat.Gid))
	}
	return nil
}

// freeAddresses returns the first n addresses of the network that neither the
// hub nor a peer has.
func freeAddresses(network netip.Prefix, hub netip.Addr, peers *peersFile, n int) ([]netip.Addr, error) {
	var free []netip.Addr
	for addr := network.Masked().Addr().Next(); network.Contains(addr) && len(free) < n; addr = addr.Next() {
		lastOf4 := addr.Is4() && !network.Contains(addr.Next())
		if addr != hub && !peers.uses(addr) && !lastOf4 {
			free = append(free, addr)
		}
	}
	if len(free) < n {
		return nil, fmt.Errorf("the network %s has no %d free addresses left; give a larger one by --network", network, n)
	}
	return free, nil
}
