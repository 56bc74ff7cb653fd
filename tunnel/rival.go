package tunnel

import (
	"context"
	"time"
)

// A process whose key is in use elsewhere loses its session whenever another
// one shakes hands, and its packets are then dropped without a word: just as if
// the network had lost them. What proves the rival is a packet for a session
// that is not ours (tap). The peer sends one here when we speak in the session
// before the present one, and that it knows only until the next handshake: with
// many rivals for a fraction of a second. So whenever a silence has ended, we
// speak up often for a while, and the answers come in the session of whoever
// took it from us. A network that only loses packets gives no such answer.
const (
	provokeSoon  = 20 * time.Millisecond
	provokeLate  = 40 * time.Millisecond
	provokeFirst = 10
	provokeTimes = 100

	rivalAgain = time.Minute // between two reports of a rival
)

// watchRival waits for handshakes that end a silence.
func (t *Tunnel) watchRival(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.tap.answered:
		}
		if t.view.Load().silent() { // at the last look, that is until now
			t.provoke(ctx)
		}
	}
}

// provoke asks the address that was last dialled for echoes, until a rival is
// known or another handshake ends another silence.
func (t *Tunnel) provoke(ctx context.Context) {
	wait := time.NewTimer(provokeSoon)
	defer wait.Stop()
	for i := range provokeTimes {
		select {
		case <-ctx.Done():
			return
		case <-wait.C:
		}
		to := t.dialled.Load()
		if to == nil || t.rivalKnown(time.Now()) || len(t.tap.answered) > 0 {
			return
		}
		t.wire.net.callOut(*to, uint16(t.echoes.Add(1))) //nolint:gosec // a number for each is enough
		if i < provokeFirst {
			wait.Reset(provokeSoon)
		} else {
			wait.Reset(provokeLate)
		}
	}
}

func (t *Tunnel) rivalKnown(now time.Time) bool {
	last := t.rival.Load()
	return last != 0 && now.Sub(time.Unix(0, last)) < rivalAgain
}

func (t *Tunnel) reportRival(ctx context.Context, now time.Time) {
	if t.rivalKnown(now) {
		return
	}
	t.rival.Store(now.UnixNano())
	t.log.ErrorContext(ctx, "another process is using this WireGuard key",
		"public_key", t.cfg.PrivateKey.Public().String(),
		"remedy", "give every process its own key and inner address: a key slot for each replica, or one process with a higher USM_CONCURRENCY instead of replicas")
}
