package tunnel

import (
	"context"
	"fmt"
	"net"
	"slices"
	"sync"
	"testing"
	"time"

	"usm-satellite/tunnel/impair"
)

const rivalWords = "another process is using this WireGuard key"

// work uses a tunnel as a satellite does until ctx ends: it connects again
// whenever its connection breaks. An idle one says a word and then waits.
func work(ctx context.Context, tun *Tunnel, idle bool) {
	for ctx.Err() == nil {
		attempt, stop := context.WithTimeout(ctx, 5*time.Second)
		if c, err := tun.DialContext(attempt, "tcp", inner(hubAddr4())); err == nil {
			if idle {
				listen(ctx, c)
			} else {
				talk(ctx, c)
			}
			c.Close()
		}
		stop()
	}
}

// listen says a word and then takes what comes until the connection breaks.
func listen(ctx context.Context, c net.Conn) {
	stop := context.AfterFunc(ctx, func() { _ = c.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	_, err := c.Write([]byte("ping"))
	for buf := make([]byte, 4); err == nil; {
		_, err = c.Read(buf)
	}
}

// fight opens n tunnels with one key and waits until each has named the fight.
// It returns how long each took from the start of the last.
func fight(t *testing.T, n int, cfg Config, idle bool) (took []time.Duration) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	var tunnels []*Tunnel
	logs := make([]*journal, n)
	for i := range logs {
		logs[i] = &journal{}
		tun, err := Open(ctx, cfg, logs[i].logger())
		if err != nil {
			t.Fatal(err)
		}
		tunnels = append(tunnels, tun)
		wg.Go(func() { work(ctx, tun, idle) })
	}
	start := time.Now()
	said := make([]time.Duration, n)
	eventually(t, fmt.Sprintf("each of %d rivals names the fight", n), func() bool {
		all := true
		for i, log := range logs {
			if said[i] == 0 && log.has(rivalWords)() {
				said[i] = time.Since(start)
			}
			all = all && said[i] != 0
		}
		return all
	})
	cancel()
	wg.Wait()
	for _, tun := range tunnels {
		if err := tun.Close(); err != nil {
			t.Error(err)
		}
	}
	slices.Sort(said)
	return said
}

// All who share a key are told, whether they have much to say or nothing.
func TestRivalsAllNameTheFight(t *testing.T) {
	t.Parallel()
	for name, idle := range map[string]bool{"at work": false, "idle": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, key := newSite(7), NewPrivateKey()
			h, _ := startHub(t, hubConfig(key, startEcho(t), s), quiet())
			t.Logf("five were told after %v", fight(t, 5, s.config(key.Public(), local(h)), idle))
		})
	}
}

// A process that takes the place of one that was killed gets packets that were
// for that one: that is no rival.
func TestSuccessorIsNoRival(t *testing.T) {
	t.Parallel()
	s, key := newSite(7), NewPrivateKey()
	h, _ := startHub(t, hubConfig(key, startEcho(t), s), quiet())
	cfg := s.config(key.Public(), local(h))
	socket, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	cfg.ListenPort = socket.LocalAddr().(*net.UDPAddr).AddrPort().Port() // each has the same
	_ = socket.Close()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	for range 5 {
		log := &journal{}
		tun, err := Open(ctx, cfg, log.logger())
		if err != nil {
			t.Fatal(err)
		}
		var wg sync.WaitGroup
		working, stop := context.WithTimeout(ctx, 2*time.Second)
		for range 3 {
			wg.Go(func() { work(working, tun, false) })
		}
		<-working.Done()
		tun.wire.dev.Close() // without a word to anybody
		stop()
		wg.Wait()
		_ = tun.Close()
		if log.has(rivalWords)() {
			t.Fatal("a predecessor was taken for a rival")
		}
	}
}

// Neither is a network that loses packets, and all of them now and then.
func TestBadNetworkIsNoRival(t *testing.T) {
	t.Parallel()
	s, key := newSite(7), NewPrivateKey()
	h, _ := startHub(t, hubConfig(key, startEcho(t), s), quiet())
	p := startProxy(t, 81, local(h))
	log := &journal{}
	tun := startTunnel(t, s.config(key.Public(), p.Addr()), log.logger())
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	wg.Go(func() { work(ctx, tun, false) })
	bad := impair.Rules{Loss: 0.1, Duplicate: 0.1, Delay: 20 * time.Millisecond, Jitter: 40 * time.Millisecond}
	for range 3 {
		p.Set(bad)
		<-time.After(2 * time.Second)
		p.Set(impair.Rules{BlackHole: true})
		<-time.After(4 * time.Second)
		p.Rebind()
	}
	p.Set(bad)
	<-time.After(3 * time.Second)
	if tun.Stats().Recoveries == 0 {
		t.Error("there was no silence")
	}
	if log.has(rivalWords)() {
		t.Error("a bad network was taken for a rival")
	}
}
