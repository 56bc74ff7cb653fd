package tunnel

import (
	"context"
	"encoding/binary"
	"fmt"
	"strings"
	"sync"
	"time"

	"golang.zx2c4.com/wireguard/device"
	"golang.zx2c4.com/wireguard/tai64n"
)

const (
	refusalsAgain = time.Minute     // between two words about refusals of one kind
	clockAllowed  = 5 * time.Second // a handshake younger than this was repeated by the network
)

// refusals remembers handshakes that WireGuard has refused without a word to
// the sender. Beside the hub is the only place where they can be seen, and
// where a wrong key can be told from UDP that is blocked.
type refusals struct {
	mu        sync.Mutex
	strangers uint64    // guarded by mu
	last      Refusal   // guarded by mu
	said      time.Time // guarded by mu: of strangers
	saidClock time.Time // guarded by mu: of clocks
}

// Refusal is a handshake that knew the hub's public key and was refused all
// the same.
type Refusal struct {
	From string    // address and port; empty: none
	At   time.Time // zero: none
}

// listenIn reads from the device's log what it tells nobody else.
func (h *Hub) listenIn(ctx context.Context, log *device.Logger) *device.Logger {
	say := log.Verbosef
	return &device.Logger{Errorf: log.Errorf, Verbosef: func(format string, args ...any) {
		say(format, args...)
		switch {
		case strings.HasPrefix(format, "Received invalid initiation message") && len(args) == 1:
			h.sawStranger(ctx, fmt.Sprint(args[0]))
		case strings.Contains(format, "handshake replay") && len(args) == 2:
			if stamp, ok := args[1].(tai64n.Timestamp); ok {
				h.sawReplay(ctx, fmt.Sprint(args[0]), stamped(stamp))
			}
		}
	}}
}

func stamped(t tai64n.Timestamp) time.Time {
	const base = 0x400000000000000a                                 // cr.yp.to/libtai/tai64.html, as WireGuard counts
	return time.Unix(int64(binary.BigEndian.Uint64(t[:8])-base), 0) //nolint:gosec // far dates are far either way
}

func (h *Hub) sawStranger(ctx context.Context, from string) {
	r := &h.refused
	now := time.Now()
	r.mu.Lock()
	r.strangers++
	r.last = Refusal{From: from, At: now}
	quiet := now.Sub(r.said) < refusalsAgain
	if !quiet {
		r.said = now
	}
	r.mu.Unlock()
	if !quiet {
		h.log.WarnContext(ctx, "a handshake that no peer could have sent",
			"from", from, "remedy", "if a satellite is there: its public key is not in the peers' file, its clock is behind, or its packets are repeated on the way")
	}
}

func (h *Hub) sawReplay(ctx context.Context, peer string, at time.Time) {
	r := &h.refused
	now := time.Now()
	if now.Sub(at) < clockAllowed {
		return
	}
	r.mu.Lock()
	quiet := now.Sub(r.saidClock) < refusalsAgain
	if !quiet {
		r.saidClock = now
	}
	r.mu.Unlock()
	if !quiet {
		h.log.WarnContext(ctx, "a peer's clock is behind its last handshake", "peer", peer, "its_time", at,
			"remedy", "set the satellite's clock (NTP): until it has caught up its handshakes are refused as replays")
	}
}

func (r *refusals) view() (uint64, Refusal) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.strangers, r.last
}
