package tunnel

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// clockSlack is how far the clock may be behind the last handshake without a
// word: less than anybody needs to start again.
const clockSlack = time.Second

// memory keeps the time of the last handshake in a file. A handshake carries
// the sender's time, and the other end takes none that is older than the last
// one (WireGuard paper, 5.1): a machine whose clock was set back is locked out
// without a word until the clock has caught up.
type memory struct {
	path string // empty: nothing is kept
	last time.Time
	err  error // what reading said

	written time.Time // owned by the vigil's goroutine
	said    bool      // that writing fails; owned by the vigil's goroutine
}

func openMemory(dir string, key PublicKey) memory {
	if dir == "" {
		return memory{}
	}
	m := memory{path: filepath.Join(dir, "wireguard-"+shortName(key)+".handshake")}
	data, err := os.ReadFile(m.path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		m.err = err
	default:
		m.last, m.err = time.Parse(time.RFC3339Nano, strings.TrimSpace(string(data)))
	}
	return m
}

// shortName stands for a key in the name of a file.
func shortName(key PublicKey) string {
	sum := sha256.Sum256(key[:])
	return hex.EncodeToString(sum[:6])
}

// behind says how far now is behind the last handshake; 0: it is not.
func (m *memory) behind(now time.Time) time.Duration {
	if m.last.IsZero() {
		return 0
	}
	if d := m.last.Sub(now.Round(0)); d > clockSlack {
		return d
	}
	return 0
}

// write replaces the file in one step, so that a crash leaves the old one.
func (m *memory) write(at time.Time) error {
	f, err := os.CreateTemp(filepath.Dir(m.path), filepath.Base(m.path)+".*")
	if err != nil {
		return err
	}
	_, err = fmt.Fprintln(f, at.UTC().Format(time.RFC3339Nano))
	err = errors.Join(err, f.Close())
	if err == nil {
		err = os.Rename(f.Name(), m.path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	return nil
}

// ClockBehind says how far now is before the last handshake with this key that
// a tunnel with this StateDir has kept, and when that was; 0: it is not, or
// none was kept. The peer refuses handshakes until the clock has caught up.
func ClockBehind(stateDir string, key PublicKey, now time.Time) (time.Duration, time.Time) {
	m := openMemory(stateDir, key)
	return m.behind(now), m.last
}

func (t *Tunnel) checkClock(ctx context.Context) {
	if t.memory.err != nil {
		t.log.WarnContext(ctx, "the time of the last handshake could not be read", "error", t.memory.err)
	}
	if d := t.memory.behind(time.Now()); d > 0 {
		t.log.ErrorContext(ctx, "the clock is behind the last WireGuard handshake",
			"behind", d.String(), "last_handshake", t.memory.last,
			"remedy", "set the clock (NTP); until then the peer refuses the handshake as a replay. If the clock is right and the file is wrong, delete it",
			"file", t.memory.path)
	}
}

// remember keeps the time of a new handshake.
func (t *Tunnel) remember(ctx context.Context, at time.Time) {
	if t.memory.path == "" || at.IsZero() || at.Equal(t.memory.written) {
		return
	}
	t.memory.written = at
	if err := t.memory.write(at); err != nil && !t.memory.said {
		t.memory.said = true
		t.log.WarnContext(ctx, "the time of the last handshake cannot be kept: a clock that is set back will not be recognised", "error", err)
	}
}
