package tunnel

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// patience bounds every wait of these tests. It says nothing about speed: the
// machine may be slow and busy.
const patience = 60 * time.Second

const brokerPort = 5672

func hubAddr4() netip.Addr { return netip.MustParseAddr("10.77.0.1") }
func hubAddr6() netip.Addr { return netip.MustParseAddr("fd77::1") }

// site is one satellite's place in the address plan of the tests.
type site struct {
	key    PrivateKey
	psk    PresharedKey
	n      int
	addrs  []netip.Prefix
	allows []netip.Prefix
}

func newSite(n int) site {
	addrs := []netip.Prefix{
		netip.MustParsePrefix(fmt.Sprintf("10.77.0.%d/32", n)),
		netip.MustParsePrefix(fmt.Sprintf("fd77::%x/128", n)),
	}
	return site{key: NewPrivateKey(), psk: NewPresharedKey(), n: n, addrs: addrs, allows: addrs}
}

func (s site) peer() Peer {
	return Peer{Name: fmt.Sprintf("site %d", s.n), PublicKey: s.key.Public(), PresharedKey: s.psk, AllowedIPs: s.allows}
}

func (s site) config(hub PublicKey, endpoints ...string) Config {
	return Config{
		PrivateKey: s.key,
		Addresses:  s.addrs,
		Peer: Peer{
			PublicKey:    hub,
			PresharedKey: s.psk,
			Endpoints:    endpoints,
			AllowedIPs:   []netip.Prefix{netip.MustParsePrefix("10.77.0.0/24"), netip.MustParsePrefix("fd77::/64")},
		},
	}
}

// startHub runs a hub until the test ends or stop is called.
func startHub(t *testing.T, cfg HubConfig, log *slog.Logger) (h *Hub, stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	h, err := OpenHub(ctx, cfg, log)
	if err != nil {
		cancel()
		t.Fatalf("OpenHub: %v", err)
	}
	served := make(chan error, 1)
	go func() { served <- h.Serve(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-served; err != nil {
			t.Errorf("Serve: %v", err)
		}
		if err := h.Close(); err != nil {
			t.Errorf("Close of the hub: %v", err)
		}
	})
	t.Cleanup(stop)
	return h, stop
}

func hubConfig(key PrivateKey, broker string, sites ...site) HubConfig {
	cfg := HubConfig{
		PrivateKey: key,
		Addresses:  []netip.Prefix{netip.PrefixFrom(hubAddr4(), 32), netip.PrefixFrom(hubAddr6(), 128)},
		Port:       brokerPort,
		Brokers:    []string{broker},
	}
	for _, s := range sites {
		cfg.Peers = append(cfg.Peers, s.peer())
	}
	return cfg
}

func startTunnel(t *testing.T, cfg Config, log *slog.Logger) *Tunnel {
	t.Helper()
	tun, err := Open(t.Context(), cfg, log)
	if err != nil {
		t.Fatalf("Open: %v", err)
	}
	t.Cleanup(func() {
		if err := tun.Close(); err != nil {
			t.Errorf("Close of the tunnel: %v", err)
		}
	})
	return tun
}

func local(h *Hub) string { return fmt.Sprintf("127.0.0.1:%d", h.UDPPort()) }

// startEcho is the broker of the tests: it sends back what it is sent.
func startEcho(t *testing.T) string {
	t.Helper()
	address, _ := startCountedEcho(t)
	return address
}

// startCountedEcho also says how many connections are open.
func startCountedEcho(t *testing.T) (address string, open *atomic.Int32) {
	t.Helper()
	open = new(atomic.Int32)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			open.Add(1)
			wg.Go(func() {
				defer open.Add(-1)
				stop := context.AfterFunc(t.Context(), func() { c.Close() })
				defer stop()
				defer c.Close()
				_, _ = io.Copy(c, c)
			})
		}
	})
	t.Cleanup(func() {
		l.Close()
		wg.Wait()
	})
	return l.Addr().String(), open
}

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }

// journal is a log that a test reads.
type journal struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (j *journal) Write(b []byte) (int, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.buf.Write(b)
}

func (j *journal) String() string {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.buf.String()
}

func (j *journal) logger() *slog.Logger {
	return slog.New(slog.NewTextHandler(j, &slog.HandlerOptions{Level: slog.LevelDebug}))
}

func (j *journal) has(text string) func() bool {
	return func() bool { return strings.Contains(j.String(), text) }
}

// eventually waits for a condition.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-ctx.Done():
			t.Fatalf("waited %v for: %s", patience, what)
		case <-tick.C:
		}
	}
}

func dial(t *testing.T, tun *Tunnel, address string) net.Conn {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	c, err := tun.DialContext(ctx, "tcp", address)
	if err != nil {
		t.Fatalf("dial %s: %v", address, err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func inner(addr netip.Addr) string { return netip.AddrPortFrom(addr, brokerPort).String() }

// exchange sends n random bytes, closes its half, and demands them back.
func exchange(t *testing.T, c net.Conn, seed uint64, n int) {
	t.Helper()
	data := make([]byte, n)
	fill := rand.NewChaCha8([32]byte{byte(seed)})
	_, _ = fill.Read(data)
	if err := c.SetDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	sent := make(chan error, 1)
	go func() {
		_, err := c.Write(data)
		if err == nil {
			err = c.(interface{ CloseWrite() error }).CloseWrite()
		}
		sent <- err
	}()
	sum := sha256.New()
	got, err := io.Copy(sum, c)
	if err != nil || got != int64(n) {
		t.Fatalf("got %d of %d bytes back: %v", got, n, err)
	}
	if err := <-sent; err != nil {
		t.Fatalf("send: %v", err)
	}
	if want := sha256.Sum256(data); !bytes.Equal(sum.Sum(nil), want[:]) {
		t.Fatal("the bytes that came back are not those that were sent")
	}
}

func TestTunnelCarriesBytesUnchanged(t *testing.T) {
	t.Parallel()
	s, key := newSite(7), NewPrivateKey()
	h, _ := startHub(t, hubConfig(key, startEcho(t), s), quiet())
	tun := startTunnel(t, s.config(key.Public(), local(h)), quiet())
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := tun.Ready(ctx, inner(hubAddr4())); err != nil {
		t.Fatalf("Ready: %v", err)
	}
	for _, addr := range []netip.Addr{hubAddr4(), hubAddr6()} {
		t.Run(addr.String(), func(t *testing.T) {
			exchange(t, dial(t, tun, inner(addr)), 1, 1<<20)
		})
	}
	stats := tun.Stats()
	if stats.LastHandshake.IsZero() || stats.RxBytes < 2<<20 || stats.TxBytes < 2<<20 || stats.MTU != WideMTU {
		t.Errorf("Stats = %+v", stats)
	}
}
