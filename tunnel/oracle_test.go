package tunnel

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.zx2c4.com/wireguard/conn"
	"golang.zx2c4.com/wireguard/device"
	stocknet "golang.zx2c4.com/wireguard/tun/netstack"
)

// stock is a tunnel over wireguard-go's own netstack. It is the oracle of
// ours: the same bytes must come through, and ours must not be slower.
type stock struct {
	dev *device.Device
	net *stocknet.Net
}

func startStock(tb testing.TB, cfg Config) *stock {
	tb.Helper()
	var addrs []netip.Addr
	for _, a := range cfg.Addresses {
		addrs = append(addrs, a.Addr())
	}
	tun, stack, err := stocknet.CreateNetTUN(addrs, nil, cfg.mtu())
	if err != nil {
		tb.Fatal(err)
	}
	dev := device.NewDevice(tun, conn.NewDefaultBind(), device.NewLogger(device.LogLevelSilent, ""))
	text := deviceText(cfg.PrivateKey, 0) + peerText(&cfg.Peer, netip.MustParseAddrPort(cfg.Peer.Endpoints[0]), 15)
	if err := dev.IpcSet(text); err != nil {
		tb.Fatal(err)
	}
	if err := dev.Up(); err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(dev.Close)
	return &stock{dev: dev, net: stack}
}

func (s *stock) DialContext(ctx context.Context, _, address string) (net.Conn, error) {
	return s.net.DialContextTCPAddrPort(ctx, netip.MustParseAddrPort(address))
}

func TestStockNetstackAgrees(t *testing.T) {
	t.Parallel()
	s, key := newSite(7), NewPrivateKey()
	h, _ := startHub(t, hubConfig(key, startEcho(t), s), quiet())
	other := startStock(t, s.config(key.Public(), local(h)))
	for i, addr := range []netip.Addr{hubAddr4(), hubAddr6()} {
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		c, err := other.DialContext(ctx, "tcp", inner(addr))
		cancel()
		if err != nil {
			t.Fatal(err)
		}
		exchange(t, c, uint64(i), 1<<20)
		c.Close()
	}
}

// sink counts what satellites send, and sends as much to those that ask.
func startSink(tb testing.TB) string {
	tb.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer c.Close()
				n, _ := io.Copy(io.Discard, c)
				_, _ = fmt.Fprintf(c, "%d", n)
			})
		}
	})
	tb.Cleanup(func() {
		l.Close()
		wg.Wait()
	})
	return l.Addr().String()
}

func cpuTime() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// BenchmarkUpload sends 8 MB through the hub, by our link and by the stock
// one, in turns within one run. CPU is of the whole process: satellite, hub
// and broker.
func BenchmarkUpload(b *testing.B) {
	const size = 8 << 20
	s1, s2, key := newSite(7), newSite(8), NewPrivateKey()
	ctx, cancel := context.WithCancel(b.Context())
	h, err := OpenHub(ctx, hubConfig(key, startSink(b), s1, s2), quiet())
	if err != nil {
		b.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- h.Serve(ctx) }()
	defer func() {
		cancel()
		if err := errors.Join(<-served, h.Close()); err != nil {
			b.Error(err)
		}
	}()
	ours, err := Open(b.Context(), s1.config(key.Public(), local(h)), quiet())
	if err != nil {
		b.Fatal(err)
	}
	defer ours.Close()
	dialers := map[string]interface {
		DialContext(context.Context, string, string) (net.Conn, error)
	}{"ours": ours, "stock": startStock(b, s2.config(key.Public(), local(h)))}

	wall, cpu := map[string]time.Duration{}, map[string]time.Duration{}
	buf := make([]byte, 64<<10)
	b.SetBytes(2 * size)
	for b.Loop() {
		for name, d := range dialers {
			start, used := time.Now(), cpuTime()
			upload(b, d, buf, size)
			wall[name] += time.Since(start)
			cpu[name] += cpuTime() - used
		}
	}
	for name := range dialers {
		b.ReportMetric(float64(size)*float64(b.N)/1e6/wall[name].Seconds(), name+"-MB/s")
		b.ReportMetric(cpu[name].Seconds()*1e8/(float64(size)*float64(b.N)), name+"-cpu-s/100MB")
	}
	b.ReportMetric(wall["stock"].Seconds()/wall["ours"].Seconds(), "ours/stock-speed")
	b.ReportMetric(cpu["ours"].Seconds()/cpu["stock"].Seconds(), "ours/stock-cpu")
}

func upload(b *testing.B, d interface {
	DialContext(context.Context, string, string) (net.Conn, error)
}, buf []byte, size int,
) {
	b.Helper()
	c, err := d.DialContext(b.Context(), "tcp", inner(hubAddr4()))
	if err != nil {
		b.Fatal(err)
	}
	defer c.Close()
	for sent := 0; sent < size; sent += len(buf) {
		if _, err := c.Write(buf); err != nil {
			b.Fatal(err)
		}
	}
	if err := c.(interface{ CloseWrite() error }).CloseWrite(); err != nil {
		b.Fatal(err)
	}
	answer, err := io.ReadAll(c)
	if err != nil || string(answer) != fmt.Sprint(size) {
		b.Fatalf("the sink counted %q of %d bytes: %v", answer, size, err)
	}
}
