package secureshell

import (
	"bytes"
	"encoding/base64"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/knownhosts"
)

// knownHostsName is the file in the state directory, in OpenSSH's format.
const knownHostsName = "known_hosts"

// HostKeys is the memory of which key each device has shown first. With a
// directory it is a known_hosts file that all processes there share: a person
// can read and edit it. Without one it lasts as long as the process.
type HostKeys struct {
	path string // empty: memory only

	mu    sync.Mutex // guards the cache
	cache map[string][]ssh.PublicKey
	mtime time.Time
	size  int64
}

// OpenHostKeys returns the memory in dir; with an empty dir it is not kept.
func OpenHostKeys(dir string) *HostKeys {
	keys := &HostKeys{cache: map[string][]ssh.PublicKey{}}
	if dir != "" {
		keys.path = filepath.Join(dir, knownHostsName)
	}
	return keys
}

// lookup returns the keys known for a host:port.
func (h *HostKeys) lookup(address string) ([]ssh.PublicKey, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if err := h.refreshLocked(); err != nil {
		return nil, err
	}
	return h.cache[knownhosts.Normalize(address)], nil
}

// add keeps the first key of a host:port. It reports false when another
// process has kept a different one in the meantime.
func (h *HostKeys) add(address string, key ssh.PublicKey) (bool, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	host := knownhosts.Normalize(address)
	if h.path == "" {
		return h.addLocked(host, key), nil
	}
	if err := os.MkdirAll(filepath.Dir(h.path), 0o700); err != nil {
		return false, err
	}
	unlock, err := lockFile(h.path + ".lock")
	if err != nil {
		return false, err
	}
	defer unlock()
	if err := h.refreshLocked(); err != nil {
		return false, err
	}
	if len(h.cache[host]) > 0 {
		return h.addLocked(host, key), nil
	}
	line := knownhosts.Line([]string{host}, key)
	if err := appendLine(h.path, line); err != nil {
		return false, err
	}
	h.noteAppendLocked(len(line) + 1)
	return h.addLocked(host, key), nil
}

// noteAppendLocked spares the reading of the whole file after each append of
// ours, as long as nobody else has written.
func (h *HostKeys) noteAppendLocked(length int) {
	if info, err := os.Stat(h.path); err == nil && info.Size() == h.size+int64(length) {
		h.size, h.mtime = info.Size(), info.ModTime()
	}
}

func (h *HostKeys) addLocked(host string, key ssh.PublicKey) bool {
	for _, known := range h.cache[host] {
		return bytes.Equal(known.Marshal(), key.Marshal())
	}
	h.cache[host] = []ssh.PublicKey{key}
	return true
}

// appendLine adds a line in one write and has it on disk when it returns. A
// last line that a crash has cut is closed first.
func appendLine(path, line string) error {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_APPEND|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	if info, err := f.Stat(); err == nil && info.Size() > 0 {
		last := make([]byte, 1)
		if _, err := f.ReadAt(last, info.Size()-1); err == nil && last[0] != '\n' {
			line = "\n" + line
		}
	}
	if _, err := f.WriteString(line + "\n"); err != nil {
		return err
	}
	return f.Sync()
}

// refreshLocked reads the file again if it has changed.
func (h *HostKeys) refreshLocked() error {
	if h.path == "" {
		return nil
	}
	info, err := os.Stat(h.path)
	if errors.Is(err, os.ErrNotExist) {
		h.cache, h.size = map[string][]ssh.PublicKey{}, 0
		return nil
	}
	if err != nil {
		return err
	}
	if info.Size() == h.size && info.ModTime().Equal(h.mtime) {
		return nil
	}
	content, err := os.ReadFile(h.path)
	if err != nil {
		return err
	}
	h.cache, h.size, h.mtime = parseKnownHosts(content), info.Size(), info.ModTime()
	return nil
}

// parseKnownHosts reads the lines that can be read. Marked lines (CA keys,
// revoked ones), hashed names and patterns are not for us and are left out.
func parseKnownHosts(content []byte) map[string][]ssh.PublicKey {
	keys := map[string][]ssh.PublicKey{}
	for line := range bytes.Lines(content) {
		marker, hosts, key, _, _, err := ssh.ParseKnownHosts(line)
		if err != nil || marker != "" {
			continue
		}
		for _, host := range hosts {
			keys[host] = append(keys[host], key)
		}
	}
	return keys
}

// pin is a host key that the job demands: as a key, or as its fingerprint.
type pin struct {
	key         ssh.PublicKey
	fingerprint string
}

var errPin = errors.New(`must be a fingerprint as "SHA256:…" or a public key as "ssh-ed25519 AAAA…"`)

// CheckPin says whether s can pin a host key: a fingerprint as ssh-keygen -l
// prints it, a line of a .pub file, or one of known_hosts. Empty pins nothing.
func CheckPin(s string) error {
	_, err := parsePin(s)
	return err
}

func parsePin(s string) (pin, error) {
	s = strings.TrimSpace(s)
	if s == "" {
		return pin{}, nil
	}
	if hash, ok := strings.CutPrefix(s, "SHA256:"); ok {
		hash = strings.TrimRight(hash, "=")
		if raw, err := base64.RawStdEncoding.DecodeString(hash); err != nil || len(raw) != 32 {
			return pin{}, errPin
		}
		return pin{fingerprint: "SHA256:" + hash}, nil
	}
	if key, _, _, _, err := ssh.ParseAuthorizedKey([]byte(s)); err == nil {
		return pin{key: key}, nil
	}
	if _, _, key, _, _, err := ssh.ParseKnownHosts([]byte(s)); err == nil {
		return pin{key: key}, nil
	}
	return pin{}, errPin
}

func (p pin) set() bool { return p.key != nil || p.fingerprint != "" }

func (p pin) matches(key ssh.PublicKey) bool {
	if p.key != nil {
		return bytes.Equal(p.key.Marshal(), key.Marshal())
	}
	return p.fingerprint == ssh.FingerprintSHA256(key)
}
