package tunnel

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"usm-satellite/tunnel/impair"
)

func TestHubRefusesEveryOtherPort(t *testing.T) {
	t.Parallel()
	s, key := newSite(7), NewPrivateKey()
	h, _ := startHub(t, hubConfig(key, startEcho(t), s), quiet())
	tun := startTunnel(t, s.config(key.Public(), local(h)), quiet())
	exchange(t, dial(t, tun, inner(hubAddr4())), 1, 10)

	for _, addr := range []netip.Addr{hubAddr4(), hubAddr6()} {
		t.Run(addr.String(), func(t *testing.T) {
			t.Parallel()
			var next atomic.Uint32
			var refused atomic.Uint32
			var wg sync.WaitGroup
			ctx := t.Context() // no limit of its own: 65,535 connections take what they take
			for range 64 {
				wg.Go(func() {
					for {
						port := next.Add(1)
						if port > 65535 {
							return
						}
						c, err := tun.wire.net.dialTCP(ctx, netip.AddrPortFrom(addr, uint16(port)), alive())
						for tries := 0; errors.Is(err, syscall.ETIMEDOUT) && tries < 3; tries++ { // packets may be lost on a busy machine
							c, err = tun.wire.net.dialTCP(ctx, netip.AddrPortFrom(addr, uint16(port)), alive())
						}
						switch {
						case errors.Is(err, syscall.ECONNREFUSED):
							refused.Add(1)
						case err == nil:
							c.reset()
							if port != brokerPort {
								t.Errorf("port %d of the hub answers", port)
							}
						default:
							t.Errorf("port %d: %v, want refused", port, err)
							return
						}
					}
				})
			}
			wg.Wait()
			if refused.Load() != 65534 {
				t.Errorf("%d ports refused, want all but one of 65535", refused.Load())
			}
		})
	}
}

func TestHubReachesNothingElse(t *testing.T) {
	t.Parallel()
	a, b, key := newSite(7), newSite(8), NewPrivateKey()
	h, _ := startHub(t, hubConfig(key, startEcho(t), a, b), quiet())
	cfg := a.config(key.Public(), local(h))
	cfg.Peer.AllowedIPs = []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0"), netip.MustParsePrefix("::/0")}
	ta := startTunnel(t, cfg, quiet())
	tb := startTunnel(t, b.config(key.Public(), local(h)), quiet())
	exchange(t, dial(t, ta, inner(hubAddr4())), 1, 10)
	exchange(t, dial(t, tb, inner(hubAddr4())), 1, 10)

	open, err := net.Listen("tcp", "127.0.0.1:0") // a service of the hub's host
	if err != nil {
		t.Fatal(err)
	}
	defer open.Close()
	for _, addr := range b.addrs {
		l, err := tb.wire.net.listen(netip.AddrPortFrom(addr.Addr(), brokerPort), alive())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(l.close)
	}
	targets := []string{
		inner(b.addrs[0].Addr()), inner(b.addrs[1].Addr()), // peer to peer
		open.Addr().String(), // the hub's host
		"192.0.2.1:80", "[2001:db8::1]:80",
	}
	var wg sync.WaitGroup
	for _, target := range targets {
		wg.Go(func() {
			ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
			defer cancel()
			c, err := ta.DialContext(ctx, "tcp", target)
			if err == nil {
				c.Close()
				t.Errorf("%s was reached through the hub", target)
			}
		})
	}
	wg.Wait()
	opened := tb.wire.net.stack.Stats().TCP.PassiveConnectionOpenings
	if n := opened.Value(); n != 0 {
		t.Errorf("the other peer was asked for %d connections", n)
	}
	dial(t, tb, inner(b.addrs[0].Addr())) // its listener is there: it reaches itself
	eventually(t, "the connection to itself is counted", func() bool { return opened.Value() == 1 })
	exchange(t, dial(t, ta, inner(hubAddr6())), 2, 10) // it was the hub's decision, not a dead tunnel
}

func TestHubIsSilentToStrangers(t *testing.T) {
	t.Parallel()
	s, key := newSite(7), NewPrivateKey()
	log := &journal{}
	h, _ := startHub(t, hubConfig(key, startEcho(t), s), log.logger())

	// A stranger that knows the hub's public key, as every former satellite does.
	proxy, err := impair.Listen(1, local(h))
	if err != nil {
		t.Fatal(err)
	}
	defer proxy.Close()
	stranger := startTunnel(t, newSite(9).config(key.Public(), proxy.Addr()), quiet())
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
	defer cancel()
	if err := stranger.Ready(ctx, inner(hubAddr4())); !errors.Is(err, ErrNoHandshake) {
		t.Errorf("Ready of a stranger: %v, want ErrNoHandshake", err)
	}
	if status := h.Status(); status.Refused == 0 || status.LastRefused.From == "" || !log.has("a handshake that no peer could have sent")() {
		t.Errorf("the hub does not tell of the stranger: %+v", status)
	}
	if up, down := proxy.Counts(); up.In == 0 || down.In != 0 {
		t.Errorf("the stranger sent %d datagrams and got %d, want some and none", up.In, down.In)
	}

	junk(t, h, soak(100_000, 1_000_000))
	tun := startTunnel(t, s.config(key.Public(), local(h)), quiet())
	exchange(t, dial(t, tun, inner(hubAddr4())), 1, 1000)
}

func writePeers(t *testing.T, path string, sites ...site) {
	t.Helper()
	var b strings.Builder
	for _, s := range sites {
		fmt.Fprintf(&b, "[Peer]\n# Name = site %d\nPublicKey = %s\nPresharedKey = %s\nAllowedIPs = %v, %v\n\n",
			s.n, s.key.Public(), s.psk.Reveal(), s.allows[0], s.allows[1])
	}
	next := path + ".next"
	if err := os.WriteFile(next, []byte(b.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(next, path); err != nil {
		t.Fatal(err)
	}
}

// say writes and demands the same back, on a connection that stays open.
func say(c net.Conn, text string) error {
	if err := c.SetDeadline(time.Now().Add(patience)); err != nil {
		return err
	}
	if _, err := io.WriteString(c, text); err != nil {
		return err
	}
	got := make([]byte, len(text))
	if _, err := io.ReadFull(c, got); err != nil {
		return err
	}
	if string(got) != text {
		return fmt.Errorf("got %q, want %q", got, text)
	}
	return nil
}

func TestHubReloadsAndRevokes(t *testing.T) {
	t.Parallel()
	a, b, key := newSite(7), newSite(8), NewPrivateKey()
	path := filepath.Join(t.TempDir(), "peers.conf")
	writePeers(t, path, a, b)
	broker, open := startCountedEcho(t)
	cfg := hubConfig(key, broker)
	cfg.PeersFile = path
	h, _ := startHub(t, cfg, quiet())
	ta := startTunnel(t, a.config(key.Public(), local(h)), quiet())
	tb := startTunnel(t, b.config(key.Public(), local(h)), quiet())
	ca, cb := dial(t, ta, inner(hubAddr4())), dial(t, tb, inner(hubAddr4()))
	if err := errors.Join(say(ca, "one"), say(cb, "one")); err != nil {
		t.Fatal(err)
	}

	if err := os.WriteFile(path+".bad", []byte("[Peer]\nPublicKey = nonsense\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(path+".bad", path); err != nil {
		t.Fatal(err)
	}
	<-time.After(1500 * time.Millisecond) // one look at the file, which must change nothing
	if n := len(h.Status().Peers); n != 2 {
		t.Fatalf("a file that cannot be read left %d peers of 2", n)
	}

	start := time.Now()
	writePeers(t, path, a)
	eventually(t, "the revoked peer's connection is cut at the broker", func() bool { return open.Load() == 1 })
	t.Logf("revoked and cut after %v", time.Since(start))
	cb.Close()
	if err := say(ca, "two"); err != nil {
		t.Errorf("the other peer's connection: %v", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
	defer cancel()
	if c, err := tb.DialContext(ctx, "tcp", inner(hubAddr4())); err == nil {
		if say(c, "again") == nil {
			t.Error("a revoked peer could connect again")
		}
		c.Close()
	}

	writePeers(t, path, a, b)
	eventually(t, "the peer is back", func() bool { return len(h.Status().Peers) == 2 })
	cb = dial(t, tb, inner(hubAddr4()))
	if err := errors.Join(say(cb, "three"), say(ca, "three")); err != nil {
		t.Error(err)
	}
	status := h.Status()
	if p := status.Peers[0]; p.Name != "site 7" || p.Connections != 1 || p.RxBytes == 0 || p.TxBytes == 0 || p.Handshake.IsZero() || !p.Endpoint.IsValid() {
		t.Errorf("status of the peer: %+v", p)
	}
	if status.Broker != cfg.Brokers[0] {
		t.Errorf("status names broker %q", status.Broker)
	}
}

func TestHubTakesAddressAway(t *testing.T) {
	t.Parallel()
	a, key := newSite(7), NewPrivateKey()
	h, _ := startHub(t, hubConfig(key, startEcho(t), a), quiet())
	ta := startTunnel(t, a.config(key.Public(), local(h)), quiet())
	c4, c6 := dial(t, ta, inner(hubAddr4())), dial(t, ta, inner(hubAddr6()))
	if err := errors.Join(say(c4, "one"), say(c6, "one")); err != nil {
		t.Fatal(err)
	}
	less := a.peer()
	less.AllowedIPs = less.AllowedIPs[:1]
	if err := h.SetPeers(t.Context(), []Peer{less}); err != nil {
		t.Fatal(err)
	}
	if err := say(c4, "two"); err != nil {
		t.Errorf("the address that stayed: %v", err)
	}
	eventually(t, "the other address's connection is cut", func() bool { return h.Status().Peers[0].Connections == 1 })
}

func TestHubLimitsConnectionsOfAPeer(t *testing.T) {
	t.Parallel()
	a, b, key := newSite(7), newSite(8), NewPrivateKey()
	h, _ := startHub(t, hubConfig(key, startEcho(t), a, b), quiet())
	ta := startTunnel(t, a.config(key.Public(), local(h)), quiet())
	tb := startTunnel(t, b.config(key.Public(), local(h)), quiet())
	var conns []net.Conn
	for range connsPerPeer {
		c := dial(t, ta, inner(hubAddr4()))
		if err := say(c, "hello"); err != nil {
			t.Fatal(err)
		}
		conns = append(conns, c)
	}
	if err := say(dial(t, ta, inner(hubAddr4())), "one too many"); err == nil {
		t.Error("the hub took a ninth connection of one peer")
	}
	if err := say(dial(t, tb, inner(hubAddr4())), "another peer"); err != nil {
		t.Errorf("another peer at the same time: %v", err)
	}
	conns[0].Close()
	eventually(t, "the closed connection is free", func() bool { return h.Status().Peers[0].Connections < connsPerPeer })
	if err := say(dial(t, ta, inner(hubAddr4())), "in its place"); err != nil {
		t.Errorf("after one was closed: %v", err)
	}
	if p := h.Status().Peers[0]; p.Refused != 1 || p.Relayed != connsPerPeer+1 {
		t.Errorf("refused %d, relayed %d", p.Refused, p.Relayed)
	}
}

func TestHubGivesUpOnSilence(t *testing.T) {
	t.Parallel()
	a, key := newSite(7), NewPrivateKey()
	h, _ := startHub(t, hubConfig(key, startEcho(t), a), quiet())
	ta := startTunnel(t, a.config(key.Public(), local(h)), quiet())
	silent, talker := dial(t, ta, inner(hubAddr4())), dial(t, ta, inner(hubAddr4()))
	if err := say(talker, "hello"); err != nil {
		t.Fatal(err)
	}
	if err := silent.SetReadDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	if _, err := silent.Read(make([]byte, 1)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("a connection that said nothing: %v, want cut", err)
	}
	if err := say(talker, "still here"); err != nil {
		t.Errorf("a connection that spoke once: %v", err)
	}
}

func deadAddress(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

func TestHubTakesTheBrokerThatAnswers(t *testing.T) {
	t.Parallel()
	a, key := newSite(7), NewPrivateKey()
	cfg := hubConfig(key, deadAddress(t), a)
	h, _ := startHub(t, cfg, quiet())
	ta := startTunnel(t, a.config(key.Public(), local(h)), quiet())
	if err := say(dial(t, ta, inner(hubAddr4())), "nobody there"); err == nil {
		t.Error("an answer without a broker")
	}
	eventually(t, "the refusal is counted", func() bool { return h.Status().Peers[0].Refused == 1 })

	live := startEcho(t)
	h2, _ := startHub(t, HubConfig{
		PrivateKey: key, Addresses: cfg.Addresses, Port: cfg.Port, Peers: cfg.Peers,
		Brokers: []string{deadAddress(t), live},
	}, quiet())
	t2 := startTunnel(t, a.config(key.Public(), local(h2)), quiet())
	if err := say(dial(t, t2, inner(hubAddr4())), "the second"); err != nil {
		t.Error(err)
	}
	if got := h2.Status().Broker; got != live {
		t.Errorf("status names broker %q, want the second", got)
	}
}

func TestHubGoesOnToTheNextBroker(t *testing.T) {
	t.Parallel()
	a, b, key := newSite(7), newSite(8), NewPrivateKey()
	first, err := net.Listen("tcp", "127.0.0.1:0") // takes connections, then dies
	if err != nil {
		t.Fatal(err)
	}
	go func() { // ends with first
		for {
			c, err := first.Accept()
			if err != nil {
				return
			}
			_, _ = io.CopyN(c, c, int64(len("the first")))
			c.Close()
		}
	}()
	second := startEcho(t)
	cfg := hubConfig(key, first.Addr().String(), a, b)
	cfg.Brokers = append(cfg.Brokers, second)
	h, _ := startHub(t, cfg, quiet())
	tunnels := []*Tunnel{
		startTunnel(t, a.config(key.Public(), local(h)), quiet()),
		startTunnel(t, b.config(key.Public(), local(h)), quiet()),
	}
	if err := say(dial(t, tunnels[0], inner(hubAddr4())), "the first"); err != nil {
		t.Error(err)
	}
	if got := h.Status().Broker; got != first.Addr().String() {
		t.Errorf("status names broker %q, want the first", got)
	}
	first.Close()
	var wg sync.WaitGroup
	conns := []net.Conn{dial(t, tunnels[0], inner(hubAddr4())), dial(t, tunnels[1], inner(hubAddr4()))}
	for _, c := range conns { // both sites at once
		wg.Go(func() {
			if err := say(c, "the second"); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if got := h.Status().Broker; got != second {
		t.Errorf("status names broker %q, want the second", got)
	}
}

func TestHubConfigValidate(t *testing.T) {
	t.Parallel()
	good := hubConfig(NewPrivateKey(), "127.0.0.1:5672", newSite(7), newSite(8))
	if err := good.Validate(); err != nil {
		t.Fatalf("a good configuration: %v", err)
	}
	tests := []struct {
		name   string
		change func(*HubConfig)
		want   string
	}{
		{"no key", func(c *HubConfig) { c.PrivateKey = PrivateKey{} }, "PrivateKey"},
		{"no address", func(c *HubConfig) { c.Addresses = nil }, "Address"},
		{"no port", func(c *HubConfig) { c.Port = 0 }, "inner port"},
		{"no broker", func(c *HubConfig) { c.Brokers = nil }, "broker"},
		{"broker without port", func(c *HubConfig) { c.Brokers = []string{"rabbit"} }, "broker 1"},
		{"same key twice", func(c *HubConfig) { c.Peers[1].PublicKey = c.Peers[0].PublicKey }, "same PublicKey"},
		{"same address twice", func(c *HubConfig) { c.Peers[1].AllowedIPs = c.Peers[0].AllowedIPs }, "same address"},
		{"address within another's network", func(c *HubConfig) {
			c.Peers[1].AllowedIPs = []netip.Prefix{netip.MustParsePrefix("10.77.0.4/30")}
		}, "lies within"},
		{"the hub's address", func(c *HubConfig) {
			c.Peers[0].AllowedIPs = []netip.Prefix{netip.MustParsePrefix("10.77.0.0/24")}
			c.Peers = c.Peers[:1]
		}, "hub's own address"},
		{"the hub's key", func(c *HubConfig) { c.Peers[0].PublicKey = c.PrivateKey.Public() }, "own PublicKey"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			c := good
			c.Peers = []Peer{newSite(7).peer(), newSite(8).peer()}
			tt.change(&c)
			if err := c.Validate(); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want a word about %q", err, tt.want)
			}
		})
	}
}

func TestHubTellsOfAClockThatIsBehind(t *testing.T) {
	t.Parallel()
	s, key := newSite(7), NewPrivateKey()
	log := &journal{}
	h, _ := startHub(t, hubConfig(key, startEcho(t), s), log.logger())
	front, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer front.Close()
	startTunnel(t, s.config(key.Public(), front.LocalAddr().String()), quiet())
	initiation := make([]byte, 2000)
	n, _, err := front.ReadFrom(initiation)
	if err != nil {
		t.Fatal(err)
	}
	back, err := net.Dial("udp", local(h))
	if err != nil {
		t.Fatal(err)
	}
	defer back.Close()
	// The first is answered. A later one with the same time in it is what a
	// satellite sends whose clock was set back.
	for _, wait := range []time.Duration{0, clockAllowed + 2*time.Second} {
		<-time.After(wait)
		if _, err := back.Write(initiation[:n]); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, "the hub tells of the clock", log.has("a peer's clock is behind its last handshake"))
}
