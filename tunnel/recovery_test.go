//go:build recovery

package tunnel

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"

	"usm-satellite/deploy/lab/rounds"
	"usm-satellite/tunnel/impair"
)

// How long a connection stands still when the way below it changes. The
// figures are logged; the verdict is that it goes on. RECOVERY_ROUNDS is how
// often each is tried (default 1).
const recoveryRounds = "RECOVERY_ROUNDS"

func TestRecoveryOfAMovedEndpoint(t *testing.T) {
	s, key := newSite(7), NewPrivateKey()
	h, _ := startHub(t, hubConfig(key, startEcho(t), s), quiet())
	first, second, port := twoWays(t, local(h))
	ways := []*impair.Proxy{first, second}
	addresses := []netip.Addr{netip.MustParseAddr("127.0.0.1"), netip.MustParseAddr("127.0.0.2")}
	var mu sync.Mutex
	at := 0
	cfg := s.config(key.Public(), fmt.Sprintf("hub.example:%d", port))
	cfg.Resolve = func(context.Context, string) ([]netip.Addr, error) {
		mu.Lock()
		defer mu.Unlock()
		return []netip.Addr{addresses[at]}, nil
	}
	tun := startTunnel(t, cfg, quiet())
	c := dial(t, tun, inner(hubAddr4()))
	var took []time.Duration
	for range rounds.Of(t, recoveryRounds, 1) {
		// After a silence that worked one way only, the next such doubt is not
		// raised for a while.
		longestStall(t, c, doubtAgain+time.Second)
		ways[at].SetUp(impair.Rules{BlackHole: true}) // deaf, but it goes on sending
		mu.Lock()
		at = 1 - at
		mu.Unlock()
		ways[at].SetUp(impair.Rules{})
		start := time.Now()
		if err := say(c, "after"); err != nil {
			t.Fatalf("the connection did not survive the move: %v", err)
		}
		took = append(took, time.Since(start))
	}
	rounds.Log(t, "endpoint's name moved to another address", took)
}

func TestRecoveryFromANATRebinding(t *testing.T) {
	s, key := newSite(7), NewPrivateKey()
	h, _ := startHub(t, hubConfig(key, startEcho(t), s), quiet())
	p := startProxy(t, 41, local(h))
	tun := startTunnel(t, s.config(key.Public(), p.Addr()), quiet())
	c := dial(t, tun, inner(hubAddr4()))
	var took []time.Duration
	for range rounds.Of(t, recoveryRounds, 1) {
		if err := say(c, "before"); err != nil {
			t.Fatal(err)
		}
		p.Rebind()
		start := time.Now()
		if err := say(c, "after"); err != nil {
			t.Fatal(err)
		}
		took = append(took, time.Since(start))
	}
	rounds.Log(t, "NAT rebinding", took)
}

// longestStall says a word every 50 ms until the time is over, and returns the
// longest wait for an answer.
func longestStall(t *testing.T, c net.Conn, span time.Duration) (longest time.Duration, words int) {
	t.Helper()
	for began := time.Now(); time.Since(began) < span; words++ {
		start := time.Now()
		if err := say(c, "word"); err != nil {
			t.Fatalf("after %v: %v", time.Since(began), err)
		}
		longest = max(longest, time.Since(start))
		<-time.After(50 * time.Millisecond)
	}
	return longest, words
}

// WireGuard shakes hands anew after 120 seconds, and refuses packets of a
// session after 180: nobody must notice.
func TestRecoveryFromARekey(t *testing.T) {
	const span = 200 * time.Second
	s, key := newSite(7), NewPrivateKey()
	h, _ := startHub(t, hubConfig(key, startEcho(t), s), quiet())
	tun := startTunnel(t, s.config(key.Public(), local(h)), quiet())
	c := dial(t, tun, inner(hubAddr4()))
	before := tun.Stats().LastHandshake
	longest, words := longestStall(t, c, span)
	if !tun.Stats().LastHandshake.After(before) {
		t.Error("there was no handshake beside the first")
	}
	t.Logf("%d answers in %v across a rekey, longest wait %v", words, span, longest)
}

// A bad network is no reason to leave it.
func TestRecoveryIsNotForABadNetwork(t *testing.T) {
	s, key := newSite(7), NewPrivateKey()
	h, _ := startHub(t, hubConfig(key, startEcho(t), s), quiet())
	for _, loss := range []float64{0.05, 0.10} {
		p := startProxy(t, 71, local(h))
		bad := impair.Rules{Loss: loss, Delay: 150 * time.Millisecond, Jitter: 150 * time.Millisecond}
		p.Set(bad)
		tun := startTunnel(t, s.config(key.Public(), p.Addr()), quiet())
		c := dial(t, tun, inner(hubAddr4()))
		ctx, cancel := context.WithCancel(t.Context())
		var burst sync.WaitGroup
		burst.Go(func() { // a second of nothing in every seven
			for ctx.Err() == nil {
				for _, step := range []struct {
					rules impair.Rules
					span  time.Duration
				}{{bad, 6 * time.Second}, {impair.Rules{BlackHole: true}, time.Second}} {
					p.Set(step.rules)
					select {
					case <-ctx.Done():
					case <-time.After(step.span):
					}
				}
			}
		})
		var deaths int
		var longest time.Duration
		burst.Go(func() {
			for ctx.Err() == nil {
				d, dead := tun.Silence()
				longest = max(longest, d)
				if dead {
					deaths++
				}
				<-time.After(look)
			}
		})
		stall, words := longestStall(t, c, time.Minute)
		cancel()
		burst.Wait()
		t.Logf("loss %.0f %% each way, 300-600 ms, a second of nothing in seven: %d answers, longest wait %v, longest silence %v", 100*loss, words, stall, longest)
		if deaths > 0 {
			t.Error("the tunnel was taken for dead")
		}
	}
}
