package tunnel

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"usm-satellite/tunnel/impair"
)

func startProxy(t *testing.T, seed uint64, target string) *impair.Proxy {
	t.Helper()
	p, err := impair.Listen(seed, target)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = p.Close() })
	return p
}

func TestTunnelSurvivesABadNetwork(t *testing.T) {
	t.Parallel()
	s, key := newSite(7), NewPrivateKey()
	h, _ := startHub(t, hubConfig(key, startEcho(t), s), quiet())
	p := startProxy(t, 11, local(h))
	p.Set(impair.Rules{Loss: 0.01, Reorder: 0.03, ReorderBy: 3 * time.Millisecond, Duplicate: 0.02, Delay: 2 * time.Millisecond, Jitter: time.Millisecond})
	tun := startTunnel(t, s.config(key.Public(), p.Addr()), quiet())
	exchange(t, dial(t, tun, inner(hubAddr4())), 3, 256<<10)
	exchange(t, dial(t, tun, inner(hubAddr6())), 4, 256<<10)
	if up, down := p.Counts(); up.Lost == 0 || down.Lost == 0 {
		t.Errorf("the network was not bad: lost %d up, %d down", up.Lost, down.Lost)
	}
}

// redial keeps asking for an answer through the tunnel until there is one.
func redial(t *testing.T, tun *Tunnel) time.Duration {
	t.Helper()
	start := time.Now()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	for {
		attempt, stop := context.WithTimeout(ctx, 5*time.Second)
		c, err := tun.DialContext(attempt, "tcp", inner(hubAddr4()))
		stop()
		if err == nil {
			err = say(c, "again")
			c.Close()
		}
		if err == nil {
			return time.Since(start)
		}
		if ctx.Err() != nil {
			t.Fatalf("no answer within %v: %v, %+v", patience, err, tun.Stats())
		}
	}
}

func TestTunnelFindsARestartedHub(t *testing.T) {
	t.Parallel()
	s, key := newSite(7), NewPrivateKey()
	cfg := hubConfig(key, startEcho(t), s)
	h, stop := startHub(t, cfg, quiet())
	cfg.ListenPort = h.UDPPort()
	tun := startTunnel(t, s.config(key.Public(), local(h)), quiet())
	c := dial(t, tun, inner(hubAddr4()))
	if err := say(c, "before"); err != nil {
		t.Fatal(err)
	}
	stop()
	_, _ = startHub(t, cfg, quiet())
	if err := say(c, "after"); err == nil {
		t.Error("a connection outlived the hub that relayed it")
	}
	t.Logf("answered again after %v", redial(t, tun))
	// It looks four times a second, and the answer may have been quicker.
	eventually(t, "the vigil notices", func() bool { return tun.Stats().Recoveries > 0 })
}

// twoWays gives a free UDP port at which two loopback addresses answer.
func twoWays(t *testing.T, target string) (first, second *impair.Proxy, port uint16) {
	t.Helper()
	for range 20 {
		first = startProxy(t, 21, target)
		port = netip.MustParseAddrPort(first.Addr()).Port()
		second, err := impair.ListenAt(22, netip.AddrPortFrom(netip.MustParseAddr("127.0.0.2"), port), target)
		if err == nil {
			t.Cleanup(func() { _ = second.Close() })
			return first, second, port
		}
	}
	t.Fatal("no UDP port is free on 127.0.0.1 and 127.0.0.2")
	return nil, nil, 0
}

func TestTunnelFollowsTheEndpointsName(t *testing.T) {
	t.Parallel()
	s, key := newSite(7), NewPrivateKey()
	h, _ := startHub(t, hubConfig(key, startEcho(t), s), quiet())
	first, second, port := twoWays(t, local(h))

	var mu sync.Mutex
	address := netip.MustParseAddr("127.0.0.1")
	cfg := s.config(key.Public(), fmt.Sprintf("hub.example:%d", port))
	cfg.Resolve = func(_ context.Context, host string) ([]netip.Addr, error) {
		mu.Lock()
		defer mu.Unlock()
		if host != "hub.example" {
			return nil, fmt.Errorf("asked for %q", host)
		}
		return []netip.Addr{address}, nil
	}
	tun := startTunnel(t, cfg, quiet())
	c := dial(t, tun, inner(hubAddr4()))
	if err := say(c, "before"); err != nil {
		t.Fatal(err)
	}

	// The old address turns deaf but goes on sending, which takes a peer that
	// roams back to it.
	first.SetUp(impair.Rules{BlackHole: true})
	mu.Lock()
	address = netip.MustParseAddr("127.0.0.2")
	mu.Unlock()
	start := time.Now()
	if err := say(c, "after the move"); err != nil {
		t.Fatalf("the connection did not survive the move: %v", err)
	}
	t.Logf("answered at the new address after %v", time.Since(start))

	first.SetUp(impair.Rules{})
	for range 5 {
		if err := say(c, "later"); err != nil {
			t.Fatal(err)
		}
	}
	stats := tun.Stats()
	if stats.Endpoint != netip.AddrPortFrom(netip.MustParseAddr("127.0.0.2"), port) || stats.Moves != 1 {
		t.Errorf("endpoint %v after %d moves, want the new address after one", stats.Endpoint, stats.Moves)
	}
	if up, _ := second.Counts(); up.Out == 0 {
		t.Error("nothing went by the new address")
	}
}

func TestTunnelTriesEndpointsInOrder(t *testing.T) {
	t.Parallel()
	s, key := newSite(7), NewPrivateKey()
	h, _ := startHub(t, hubConfig(key, startEcho(t), s), quiet())
	dead := startProxy(t, 31, local(h))
	dead.Set(impair.Rules{BlackHole: true})
	cfg := s.config(key.Public(), "no-such-name.invalid:51820", dead.Addr(), local(h))
	cfg.Resolve = func(context.Context, string) ([]netip.Addr, error) { return nil, errors.New("no such host") }
	tun := startTunnel(t, cfg, quiet())
	if err := say(dial(t, tun, inner(hubAddr4())), "by the third"); err != nil {
		t.Fatal(err)
	}
	if stats := tun.Stats(); stats.EndpointName != local(h) || stats.Endpoint.String() != local(h) {
		t.Errorf("endpoint %s (%v), want %s", stats.EndpointName, stats.Endpoint, local(h))
	}
}

func TestTunnelSaysThatTheNameIsUnknown(t *testing.T) {
	t.Parallel()
	s, key := newSite(7), NewPrivateKey()
	cfg := s.config(key.Public(), "no-such-name.invalid:51820")
	var mu sync.Mutex
	known := false
	h, _ := startHub(t, hubConfig(key, startEcho(t), s), quiet())
	port := h.UDPPort()
	cfg.Peer.Endpoints = []string{fmt.Sprintf("hub.example:%d", port)}
	cfg.Resolve = func(context.Context, string) ([]netip.Addr, error) {
		mu.Lock()
		defer mu.Unlock()
		if known {
			return []netip.Addr{netip.MustParseAddr("127.0.0.1")}, nil
		}
		return nil, errors.New("no such host")
	}
	tun := startTunnel(t, cfg, quiet())
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	if err := tun.Ready(ctx, inner(hubAddr4())); err == nil || !strings.Contains(err.Error(), "hub.example") || !strings.Contains(err.Error(), "no such host") {
		t.Errorf("Ready: %v, want the name and the reason", err)
	}
	mu.Lock()
	known = true
	mu.Unlock()
	if err := say(dial(t, tun, inner(hubAddr4())), "found at last"); err != nil {
		t.Error(err)
	}
}

func TestTunnelSurvivesARebind(t *testing.T) {
	t.Parallel()
	s, key := newSite(7), NewPrivateKey()
	h, _ := startHub(t, hubConfig(key, startEcho(t), s), quiet())
	p := startProxy(t, 41, local(h))
	tun := startTunnel(t, s.config(key.Public(), p.Addr()), quiet())
	c := dial(t, tun, inner(hubAddr4()))
	for i := range 5 {
		start := time.Now()
		if err := say(c, "through the NAT"); err != nil {
			t.Fatalf("after %d rebinds: %v", i, err)
		}
		t.Logf("round %d: %v", i, time.Since(start))
		p.Rebind()
	}
}

func TestTunnelShrinksForABlackHole(t *testing.T) {
	t.Parallel()
	s, key := newSite(7), NewPrivateKey()
	h, _ := startHub(t, hubConfig(key, startEcho(t), s), quiet())
	p := startProxy(t, 51, local(h))
	const around = 32 // of WireGuard, within UDP
	p.Set(impair.Rules{MTU: 1200 + around})
	log := &journal{}
	tun := startTunnel(t, s.config(key.Public(), p.Addr()), log.logger())
	c := dial(t, tun, inner(hubAddr4())) // opened before anybody knows
	eventually(t, "a smaller MTU is found", func() bool { return tun.Stats().MTU < SafeMTU })
	if got := tun.Stats().MTU; got != 1200 {
		t.Errorf("MTU = %d, want 1200", got)
	}
	if err := say(c, "too late"); err == nil {
		t.Error("the connection that had agreed on large segments is still open")
	}
	exchange(t, dial(t, tun, inner(hubAddr4())), 5, 200<<10)
	exchange(t, dial(t, tun, inner(hubAddr6())), 6, 200<<10)
	if !log.has("the path swallows large packets")() {
		t.Error("nobody was told")
	}
}

// A tunnel uses the largest packets that its path carries, from its first
// connection on, and none larger.
func TestTunnelWidens(t *testing.T) {
	t.Parallel()
	const around = 32 // of WireGuard, within UDP
	s, key := newSite(7), NewPrivateKey()
	h, _ := startHub(t, hubConfig(key, startEcho(t), s), quiet())
	for _, tt := range []struct {
		name                  string
		mtu, limit, now, then int
	}{
		{"wide path", 0, 0, WideMTU, WideMTU},
		{"path of PPPoE", 0, 1400 + around, SafeMTU, 1380},
		{"narrow path", 0, SafeMTU + around, SafeMTU, SafeMTU},
		{"fixed by the user", 1300, 0, 1300, 1300},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p := startProxy(t, 61, local(h))
			p.Set(impair.Rules{MTU: tt.limit})
			cfg := s.config(key.Public(), p.Addr())
			cfg.MTU = tt.mtu
			tun := startTunnel(t, cfg, quiet())
			c := dial(t, tun, inner(hubAddr4()))
			if got := c.(*innerConn).packet; got != tt.now {
				t.Errorf("the first connection has packets of %d bytes, want %d", got, tt.now)
			}
			eventually(t, "the path is known", func() bool { return tun.Stats().MTU == tt.then })
			exchange(t, c, 7, 200<<10)
			if got := dial(t, tun, inner(hubAddr6())).(*innerConn).packet; got != tt.then {
				t.Errorf("a later connection has packets of %d bytes, want %d", got, tt.then)
			}
		})
	}
}

func TestTunnelNamesARival(t *testing.T) {
	t.Parallel()
	s, key := newSite(7), NewPrivateKey()
	hubLog := &journal{}
	h, _ := startHub(t, hubConfig(key, startEcho(t), s), hubLog.logger())
	log := &journal{}
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	for range 2 {
		tun := startTunnel(t, s.config(key.Public(), local(h)), log.logger())
		wg.Go(func() { // a satellite that works
			for ctx.Err() == nil {
				attempt, stop := context.WithTimeout(ctx, 3*time.Second)
				if c, err := tun.DialContext(attempt, "tcp", inner(hubAddr4())); err == nil {
					talk(attempt, c)
					c.Close()
				}
				stop()
			}
		})
	}
	start := time.Now()
	eventually(t, "the rival is named", log.has("another process is using this WireGuard key"))
	t.Logf("named after %v", time.Since(start))
	eventually(t, "the hub notices as well", func() bool {
		return h.Status().Peers[0].Moving && hubLog.has("a peer's endpoint changes again and again")()
	})
}

// talk exchanges a word every 50 ms until it fails.
func talk(ctx context.Context, c net.Conn) {
	stop := context.AfterFunc(ctx, func() { _ = c.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	buf := make([]byte, 4)
	for {
		if _, err := c.Write([]byte("ping")); err != nil {
			return
		}
		if _, err := c.Read(buf); err != nil {
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

func TestTunnelKnowsAClockThatWasSetBack(t *testing.T) {
	t.Parallel()
	s, key := newSite(7), NewPrivateKey()
	h, _ := startHub(t, hubConfig(key, startEcho(t), s), quiet())
	cfg := s.config(key.Public(), local(h))
	cfg.StateDir = t.TempDir()

	tun := startTunnel(t, cfg, quiet())
	if err := say(dial(t, tun, inner(hubAddr4())), "hello"); err != nil {
		t.Fatal(err)
	}
	var path string
	eventually(t, "the handshake is kept", func() bool {
		files, _ := filepath.Glob(filepath.Join(cfg.StateDir, "wireguard-*.handshake"))
		if len(files) == 1 {
			path = files[0]
		}
		return len(files) == 1
	})
	if m := openMemory(cfg.StateDir, s.key.Public()); m.err != nil || m.behind(time.Now()) != 0 || !m.last.Equal(tun.Stats().LastHandshake) {
		t.Errorf("kept %v (%v), want %v", m.last, m.err, tun.Stats().LastHandshake)
	}

	ahead := time.Now().Add(time.Hour)
	if err := os.WriteFile(path, []byte(ahead.Format(time.RFC3339Nano)), 0o600); err != nil {
		t.Fatal(err)
	}
	log := &journal{}
	cfg.Peer.Endpoints = []string{startSilence(t)}
	late := startTunnel(t, cfg, log.logger())
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	if err := late.Ready(ctx, inner(hubAddr4())); !errors.Is(err, ErrClockBehind) {
		t.Errorf("Ready: %v, want ErrClockBehind", err)
	}
	if !log.has("NTP")() {
		t.Errorf("the log does not name the cure: %s", log)
	}
}

// startSilence is a UDP port that takes everything and says nothing.
func startSilence(t *testing.T) string {
	t.Helper()
	c, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c.LocalAddr().String()
}
