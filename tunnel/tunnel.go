package tunnel

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"strconv"
	"sync"
	"sync/atomic"
	"time"
)

var (
	// ErrNoHandshake says that the peer has not answered. On this side a wrong
	// key cannot be told from blocked UDP: WireGuard is silent to strangers.
	ErrNoHandshake = errors.New("no handshake: UDP to the endpoint is blocked, nothing listens there, or one of the keys (PrivateKey, PublicKey, PresharedKey) is wrong at one end")
	// ErrClockBehind says that the clock is before the last handshake, which
	// the peer therefore refuses as a replay.
	ErrClockBehind = errors.New("the clock is behind the last handshake, so the peer refuses new ones: set the clock (NTP), or wait until it has caught up")
)

// Tunnel is the satellite's end. Its methods may be called at the same time
// from several goroutines. A process opens one and keeps it for its life.
type Tunnel struct {
	cfg    Config
	log    *slog.Logger
	wire   *wire
	tap    *tap
	route  *route
	path   *path
	memory memory

	routed   chan struct{} // closed when the peer has its first endpoint
	waiting  atomic.Int64  // callers that dial
	recovery broadcast
	healed   atomic.Uint64
	view     atomic.Pointer[view]       // of the peer, as the vigil saw it last; nil: it has not looked yet
	moving   atomic.Bool                // endpoints are being looked up
	echoes   atomic.Uint32              // sent so far
	rival    atomic.Int64               // unix nanoseconds of the last report of another process with our key
	dialled  atomic.Pointer[netip.Addr] // last address inside the tunnel that somebody dialled; nil: none yet

	end  context.CancelFunc
	done sync.WaitGroup
	once sync.Once
}

// Stats is a view of a tunnel at one moment.
type Stats struct {
	LastHandshake time.Time      // zero: none yet
	RxBytes       uint64         // on the wire
	TxBytes       uint64         // on the wire
	Endpoint      netip.AddrPort // in use; invalid: none found yet
	EndpointName  string         // the host:port of the configuration it stands for
	MTU           int            // bytes of the largest inner packet that is used
	Connections   int            // open inside the tunnel
	Moves         uint64         // changes of the endpoint
	Recoveries    uint64         // silences that ended
	KeyConflict   time.Time      // last report of another process with the same key; zero: none
	EndpointError string         // why no address of an endpoint was found; empty: found
}

// Open starts a tunnel. It does not wait for the peer: Ready does. The tunnel
// lives until Close; the end of ctx ends its watch over the peer.
func Open(ctx context.Context, cfg Config, log *slog.Logger) (*Tunnel, error) {
	if err := cfg.Validate(); err != nil {
		return nil, fmt.Errorf("WireGuard configuration: %w", err)
	}
	stack, err := newNetstack(cfg.Addresses, newLink(cfg.mtu(), nil))
	if err != nil {
		return nil, fmt.Errorf("tunnel: %w", err)
	}
	stack.link.limit(cfg.safeMTU())
	tap := newTap()
	w, err := openWire(stack, tap, deviceLog(ctx, log), cfg.PrivateKey, cfg.ListenPort)
	if err != nil {
		return nil, fmt.Errorf("tunnel: %w", err)
	}
	// The endpoint is ours to choose: a packet from elsewhere must not undo a
	// move. It must be said before the peer is made.
	w.dev.DisableSomeRoamingForBrokenMobileSemantics()

	watch, end := context.WithCancel(ctx)
	t := &Tunnel{
		cfg: cfg, log: log, wire: w, tap: tap, end: end,
		route:  newRoute(cfg.Peer.Endpoints, cfg.Resolve),
		path:   newPath(&cfg),
		routed: make(chan struct{}),
		memory: openMemory(cfg.StateDir, cfg.PrivateKey.Public()),
	}
	t.checkClock(ctx)
	t.done.Go(func() { t.watch(watch) })
	t.done.Go(func() { t.watchPath(watch) })
	t.done.Go(func() { t.watchRival(watch) })
	return t, nil
}

// Close resets what is still open and stops the device.
func (t *Tunnel) Close() error {
	err := net.ErrClosed
	t.once.Do(func() {
		t.end()
		t.done.Wait()
		if err = t.wire.close(); err != nil {
			err = fmt.Errorf("tunnel: %w", err)
		}
	})
	return err
}

// DialContext connects through the tunnel. The network is tcp, tcp4 or tcp6;
// a host name is looked up by the DNS servers inside the tunnel when there
// are some, else outside.
func (t *Tunnel) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	t.waiting.Add(1)
	defer t.waiting.Add(-1)
	select {
	case <-t.routed: // before that, the first packet would be lost and a second with it
	case <-ctx.Done():
		return nil, &net.OpError{Op: "dial", Net: network, Err: fmt.Errorf("no WireGuard endpoint yet: %w", ctx.Err())}
	}
	addrs, err := t.targets(ctx, network, address)
	if err != nil {
		return nil, &net.OpError{Op: "dial", Net: network, Err: err}
	}
	var first error
	for i, addr := range addrs {
		attempt, cancel := share(ctx, len(addrs)-i)
		c, err := t.dialInner(attempt, addr)
		cancel()
		if err == nil {
			t.path.suspect(addr.Addr(), time.Now())
			return c, nil
		}
		if first == nil {
			first = err
		}
		if ctx.Err() != nil {
			break
		}
	}
	return nil, first
}

// dialInner connects, and starts again when the tunnel recovers meanwhile: the
// packet that opens a connection is repeated after one, three and six seconds,
// and the next repetition may be far off.
func (t *Tunnel) dialInner(ctx context.Context, addr netip.AddrPort) (*innerConn, error) {
	inner := addr.Addr()
	t.dialled.Store(&inner)
	t.widen(ctx, inner)
	for {
		recovered := t.recovery.wait()
		attempt, cancel := context.WithCancel(ctx)
		stop := make(chan struct{})
		go func() { // ends with this attempt
			select {
			case <-recovered:
				cancel()
			case <-stop:
			}
		}()
		c, err := t.wire.net.dialTCP(attempt, addr, alive())
		close(stop)
		again := attempt.Err() != nil && ctx.Err() == nil
		cancel()
		if err == nil || !again {
			return c, err
		}
	}
}

// broadcast wakes all who wait.
type broadcast struct {
	mu sync.Mutex
	ch chan struct{} // guarded by mu; nil until somebody waits
}

func (b *broadcast) wait() <-chan struct{} {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.ch == nil {
		b.ch = make(chan struct{})
	}
	return b.ch
}

func (b *broadcast) signal() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.ch != nil {
		close(b.ch)
		b.ch = nil
	}
}

// share gives one of n attempts its part of the time that is left.
func share(ctx context.Context, n int) (context.Context, context.CancelFunc) {
	deadline, ok := ctx.Deadline()
	if !ok || n == 1 {
		return context.WithCancel(ctx)
	}
	return context.WithTimeout(ctx, time.Until(deadline)/time.Duration(n))
}

// Ready returns nil once the peer has shaken hands and the broker's port
// answers inside the tunnel. It tries until ctx ends, and says then which of
// the two was missing.
func (t *Tunnel) Ready(ctx context.Context, broker string) error {
	const between = 200 * time.Millisecond
	t.waiting.Add(1)
	defer t.waiting.Add(-1)
	var last error
	for {
		c, err := t.DialContext(ctx, "tcp", broker)
		if err == nil {
			return c.Close()
		}
		if ctx.Err() == nil || last == nil {
			last = err
		}
		select {
		case <-ctx.Done():
			return t.unready(broker, last)
		case <-time.After(between):
		}
	}
}

func (t *Tunnel) unready(broker string, last error) error {
	s := t.Stats()
	switch {
	case s.EndpointError != "":
		return fmt.Errorf("tunnel: %s", s.EndpointError)
	case s.LastHandshake.IsZero() && t.memory.behind(time.Now()) > 0:
		return fmt.Errorf("tunnel to %s: %w", s.EndpointName, ErrClockBehind)
	case s.LastHandshake.IsZero():
		return fmt.Errorf("tunnel to %s (%v): %w", s.EndpointName, s.Endpoint, ErrNoHandshake)
	}
	return fmt.Errorf("tunnel to %s is up, but %s does not answer inside it (is it in AllowedIPs at both ends, and is it the broker's inner address?): %w", s.EndpointName, broker, last)
}

// Stats looks at the tunnel.
func (t *Tunnel) Stats() Stats {
	state := t.wire.states()[t.cfg.Peer.PublicKey]
	s := Stats{
		LastHandshake: state.handshake,
		RxBytes:       state.rx,
		TxBytes:       state.tx,
		MTU:           t.path.current(),
		Connections:   t.wire.net.open(),
		Recoveries:    t.healed.Load(),
	}
	s.Endpoint, s.EndpointName, s.Moves, s.EndpointError = t.route.view()
	if at := t.rival.Load(); at != 0 {
		s.KeyConflict = time.Unix(0, at)
	}
	return s
}

// targets finds the addresses of host:port.
func (t *Tunnel) targets(ctx context.Context, network, address string) ([]netip.AddrPort, error) {
	switch network {
	case "tcp", "tcp4", "tcp6":
	default:
		return nil, net.UnknownNetworkError(network)
	}
	host, text, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	port, err := strconv.ParseUint(text, 10, 16)
	if err != nil || port == 0 {
		return nil, &net.AddrError{Err: "port is not within 1 and 65535", Addr: address}
	}
	found, err := t.lookup(ctx, host)
	if err != nil {
		return nil, err
	}
	var addrs []netip.AddrPort
	for _, a := range found {
		a = a.Unmap()
		fits := a.Is4() && t.wire.net.v4 && network != "tcp6" || a.Is6() && t.wire.net.v6 && network != "tcp4"
		if fits {
			addrs = append(addrs, netip.AddrPortFrom(a, uint16(port)))
		}
	}
	if len(addrs) == 0 {
		return nil, fmt.Errorf("%s has no address of a family that the tunnel's own Address has", host)
	}
	return addrs, nil
}

func (t *Tunnel) lookup(ctx context.Context, host string) ([]netip.Addr, error) {
	if a, err := netip.ParseAddr(host); err == nil {
		return []netip.Addr{a.WithZone("")}, nil
	}
	if len(t.cfg.DNS) == 0 {
		return t.route.resolve(ctx, host)
	}
	inside := &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
		return t.dialDNS(ctx, network)
	}}
	return inside.LookupNetIP(ctx, "ip", host)
}

func (t *Tunnel) dialDNS(ctx context.Context, network string) (net.Conn, error) {
	const port = 53
	var err error
	for _, server := range t.cfg.DNS {
		var c net.Conn
		if network == "tcp" || network == "tcp4" || network == "tcp6" {
			c, err = t.wire.net.dialTCP(ctx, netip.AddrPortFrom(server, port), alive())
		} else {
			c, err = t.wire.net.dialUDP(netip.AddrPortFrom(server, port))
		}
		if err == nil {
			return c, nil
		}
	}
	return nil, err
}
