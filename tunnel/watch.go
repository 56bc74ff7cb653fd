package tunnel

import (
	"context"
	"math/rand/v2"
	"time"
)

// view is what the vigil knows of the peer after a look.
type view struct {
	at    time.Time
	since time.Time // when the present silence began; zero: the peer is heard
	dead  bool
	heard time.Time // when something last came in; zero: never
}

// Silence says for how long the peer has not answered although it was asked; 0
// is a peer that answers, or that nobody has asked. It is dead when it was
// silent for so long, and to so many questions, that no bad network explains
// it: who has another way should take it.
func (t *Tunnel) Silence() (d time.Duration, dead bool) {
	v := t.view.Load()
	if !v.silent() || t.tap.shook.Load() > v.at.UnixNano() {
		return 0, false // or it has ended since that look
	}
	return time.Since(v.since), v.dead
}

func (v *view) silent() bool { return v != nil && !v.since.IsZero() }

// Heard waits until something new comes in from the peer. Meanwhile the tunnel
// asks for it, as it does for whoever dials.
func (t *Tunnel) Heard(ctx context.Context) error {
	t.waiting.Add(1)
	defer t.waiting.Add(-1)
	began := time.Now()
	tick := time.NewTicker(look)
	defer tick.Stop()
	for {
		if v := t.view.Load(); v != nil && v.heard.After(began) {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
	}
}

// watch is the vigil's loop: it looks, and does what the vigil decides.
func (t *Tunnel) watch(ctx context.Context) {
	var v vigil
	var r rivalry
	t.move(ctx, true)
	timer := time.NewTimer(look)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		}
		timer.Reset(nextLook())
		now := time.Now()
		state := t.wire.states()[t.cfg.Peer.PublicKey]
		wanted := t.waiting.Load() > 0 || t.wire.net.open() > 0
		rtt, asks, stuck := t.wire.net.look()
		act := v.see(now, sight{
			rx: state.rx, asked: t.wire.net.link.unanswered(), rtt: t.tap.plausible(rtt), handshake: state.handshake,
			asks: asks, wanted: wanted, stuck: stuck.IsValid(),
		})
		t.publish(now, &v)
		if v.shook {
			t.wire.net.ask()
		}
		if v.recovered {
			t.recovery.signal()
			t.healed.Add(1)
			t.wire.net.link.limit(t.path.stale())
			t.log.InfoContext(ctx, "the tunnel's peer is heard again", "endpoint", state.endpoint)
		}
		t.do(ctx, act, v.attempts)
		if stuck.IsValid() && v.attempts == 0 && !t.path.passedWithin(now, stuckAgain) {
			t.wire.net.link.limit(t.path.stale())
			t.path.suspect(stuck, now)
		}
		t.remember(ctx, state.handshake)
		if r.see(now, t.tap.foreign.Load()) {
			t.reportRival(ctx, now)
		}
	}
}

// nextLook varies, so that several who look do not keep step: the peer takes
// one initiation of a key in 20 ms (device.HandshakeInitationRate), and of those
// who keep step always the same one's.
func nextLook() time.Duration {
	return look - look/10 + rand.N(look/5) //nolint:gosec // jitter is no secret
}

func (t *Tunnel) publish(now time.Time, v *vigil) {
	seen := view{at: now, heard: v.heard, dead: v.dead}
	if d := v.silence(now); d > 0 {
		seen.since = now.Add(-d)
	}
	if v.last.rx == 0 && v.last.handshake.IsZero() {
		seen.heard = time.Time{} // the first look is no sign of life
	}
	t.view.Store(&seen)
}

// do asks the peer. Names are looked up beside it: name servers may be silent
// for the same reason as the peer, and the next attempt must not wait for them.
func (t *Tunnel) do(ctx context.Context, act action, attempt int) {
	key := t.cfg.Peer.PublicKey
	if act != actNone && !t.hasRoute() {
		act = actMove
	}
	switch act {
	case actNone:
	case actProbe:
		t.log.DebugContext(ctx, "the tunnel is silent, asking the peer")
		t.wire.initiate(key, t.tap.limited())
		t.followName(ctx)
	case actRenew:
		t.log.DebugContext(ctx, "the tunnel is silent, shaking hands anew")
		t.wire.initiate(key, true)
		t.followName(ctx)
	case actMove:
		started := t.beside(func() {
			moved := t.move(ctx, false)
			endpoint, name, _, _ := t.route.view()
			if t.hasRoute() && (moved || attempt == 3) {
				t.log.WarnContext(ctx, "the tunnel's peer does not answer, trying on", "endpoint", endpoint, "name", name)
			}
			t.wire.initiate(key, true)
		})
		if !started {
			t.wire.initiate(key, true)
		}
	}
}

// followName asks the peer at the new address of the endpoint's name, if its
// old one is gone.
func (t *Tunnel) followName(ctx context.Context) {
	t.beside(func() {
		if t.move(ctx, true) {
			t.wire.initiate(t.cfg.Peer.PublicKey, true)
		}
	})
}

// beside runs a move beside the vigil, one at a time, and says whether it has
// begun. It ends with the watch's context, for which lookups do not outlive.
func (t *Tunnel) beside(move func()) bool {
	if t.moving.Swap(true) {
		return false
	}
	t.done.Go(func() {
		defer t.moving.Store(false)
		move()
	})
	return true
}

// move looks the endpoints up and takes the next one, or with stay only
// follows the name of the present one; it says whether the address is another
// than before.
func (t *Tunnel) move(ctx context.Context, stay bool) bool {
	before, _, _, _ := t.route.view()
	after, err := t.route.next(ctx, stay)
	if err != nil && ctx.Err() == nil {
		t.log.WarnContext(ctx, "no address of the WireGuard endpoint", "error", err)
	}
	if !after.IsValid() || after == before {
		return false
	}
	text := endpointText(t.cfg.Peer.PublicKey, after)
	if !before.IsValid() {
		text = peerText(&t.cfg.Peer, after, t.cfg.Peer.keepaliveSeconds())
	}
	if err := t.wire.set(text); err != nil {
		t.log.ErrorContext(ctx, "the WireGuard endpoint could not be set", "error", err, "endpoint", after)
	}
	if !before.IsValid() {
		close(t.routed)
	}
	return true
}

func (t *Tunnel) hasRoute() bool {
	select {
	case <-t.routed:
		return true
	default:
		return false
	}
}
