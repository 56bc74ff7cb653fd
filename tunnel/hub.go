package tunnel

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
)

// HubConfig describes the core's end.
type HubConfig struct {
	PrivateKey PrivateKey
	Addresses  []netip.Prefix // inner addresses of the hub, at most one of each family
	ListenPort uint16         // UDP, on every address of the host; 0 is any
	MTU        int            // bytes; 0 is WideMTU: the satellites say what their paths carry
	Port       uint16         // inner TCP port that is relayed
	Brokers    []string       // host:port, the first that answers is used
	Peers      []Peer
	// PeersFile is read at the start and whenever it changes; it takes the
	// place of Peers. A file that cannot be used changes nothing.
	PeersFile string
}

// Validate says what is missing or impossible.
func (c *HubConfig) Validate() error {
	own := Config{PrivateKey: c.PrivateKey, Addresses: c.Addresses, MTU: c.MTU}
	errs := []error{own.validateInterface()}
	if c.Port == 0 {
		errs = append(errs, errors.New("the inner port is missing: give the TCP port that satellites dial, such as 5672"))
	}
	if len(c.Brokers) == 0 {
		errs = append(errs, errors.New("the broker is missing: give its host:port"))
	}
	for i, b := range c.Brokers {
		if _, _, err := splitEndpoint(b); err != nil {
			errs = append(errs, fmt.Errorf("broker %d %w", i+1, err))
		}
	}
	errs = append(errs, c.checkPeers(c.Peers))
	return errors.Join(errs...)
}

func (c *HubConfig) checkPeers(peers []Peer) error {
	if err := checkPeers(peers); err != nil {
		return err
	}
	for i, p := range peers {
		if p.PublicKey == c.PrivateKey.Public() {
			return fmt.Errorf("peer %d (%s) has the hub's own PublicKey", i+1, p.Name)
		}
		for _, a := range c.Addresses {
			for _, prefix := range p.AllowedIPs {
				if prefix.Contains(a.Addr()) {
					return fmt.Errorf("AllowedIPs %v of peer %d (%s) holds the hub's own address %v: give the peer's inner address only", prefix, i+1, p.Name, a.Addr())
				}
			}
		}
	}
	return nil
}

// Hub answers satellites on one UDP port and relays one TCP port of its inner
// addresses to the broker. Nothing else can be reached through it: no other
// port, no other address, no other peer. It needs no privilege.
type Hub struct {
	cfg     HubConfig
	log     *slog.Logger
	wire    *wire
	brokers *brokers
	refused refusals
	once    sync.Once

	setting sync.Mutex // one change of the peers at a time

	mu    sync.RWMutex
	peers map[PublicKey]*hubPeer // guarded by mu
}

// hubPeer is a peer and what it does; the fields below mu of the hub.
type hubPeer struct {
	Peer
	conns    map[*innerConn]struct{}
	relayed  uint64
	refused  uint64
	endpoint netip.AddrPort
	rx       uint64      // bytes from it at the last look
	heard    time.Time   // when they last grew
	moved    []time.Time // recent changes of its endpoint
	warned   time.Time
}

// OpenHub starts answering satellites; Serve relays for them.
func OpenHub(ctx context.Context, cfg HubConfig, log *slog.Logger) (*Hub, error) {
	if cfg.PeersFile != "" {
		peers, err := readPeers(cfg.PeersFile)
		if err != nil {
			return nil, err
		}
		cfg.Peers = peers
	}
	if err := cfg.Validate(); err != nil {
		return nil, fmt.Errorf("hub configuration: %w", err)
	}
	own := Config{MTU: cfg.MTU}
	stack, err := newNetstack(cfg.Addresses, newLink(own.mtu(), gate(cfg.Addresses)))
	if err != nil {
		return nil, fmt.Errorf("hub: %w", err)
	}
	h := &Hub{cfg: cfg, log: log, brokers: newBrokers(cfg.Brokers), peers: map[PublicKey]*hubPeer{}}
	h.wire, err = openWire(stack, newSocket(), h.listenIn(ctx, deviceLog(ctx, log)), cfg.PrivateKey, cfg.ListenPort)
	if err != nil {
		return nil, fmt.Errorf("hub: %w", err)
	}
	if err := h.SetPeers(ctx, cfg.Peers); err != nil {
		return nil, errors.Join(err, h.Close())
	}
	return h, nil
}

// ServeHub runs a hub until ctx ends.
func ServeHub(ctx context.Context, cfg HubConfig, log *slog.Logger) error {
	h, err := OpenHub(ctx, cfg, log)
	if err != nil {
		return err
	}
	return errors.Join(h.Serve(ctx), h.Close())
}

// Serve relays until ctx ends, which is no error.
func (h *Hub) Serve(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	listeners, err := h.listen()
	defer func() {
		for _, l := range listeners {
			l.close()
		}
	}()
	if err != nil {
		return fmt.Errorf("hub: %w", err)
	}
	for _, l := range listeners {
		group.Go(func() error { return h.accept(ctx, l) })
	}
	group.Go(func() error { h.watchFile(ctx); return nil })
	group.Go(func() error { h.watchPeers(ctx); return nil })
	h.log.InfoContext(ctx, "hub is up", "udp_port", h.UDPPort(), "inner_port", h.cfg.Port, "peers", len(h.cfg.Peers))
	err = group.Wait()
	h.wire.net.abort()
	return err
}

// listen opens the one port on each inner address. After an error those that
// are open are returned with it.
func (h *Hub) listen() (listeners []*listener, err error) {
	for _, a := range h.cfg.Addresses {
		l, err := h.wire.net.listen(netip.AddrPortFrom(a.Addr(), h.cfg.Port), idleKeepalive())
		if err != nil {
			return listeners, err
		}
		listeners = append(listeners, l)
	}
	return listeners, nil
}

// Close cuts every peer and stops the device.
func (h *Hub) Close() error {
	err := net.ErrClosed
	h.once.Do(func() { err = h.wire.close() })
	return err
}

// UDPPort is the port that satellites send to.
func (h *Hub) UDPPort() uint16 { return h.wire.port() }

// SetPeers makes the hub's peers these. Those that stay keep their session
// and their connections; those that are gone are cut at once.
func (h *Hub) SetPeers(ctx context.Context, peers []Peer) error {
	if err := h.cfg.checkPeers(peers); err != nil {
		return fmt.Errorf("hub: %w", err)
	}
	h.setting.Lock()
	defer h.setting.Unlock()
	before := h.wire.states()
	removed, changed := h.replace(peers)
	h.settle(ctx, removed, before)
	var errs []error
	for key := range removed {
		errs = append(errs, h.wire.set(removeText(key)))
	}
	for i := range changed {
		errs = append(errs, h.wire.set(peerText(&changed[i], netip.AddrPort{}, 0)))
	}
	cut := h.cutStrangers()
	h.log.InfoContext(ctx, "hub's peers are set", "peers", len(peers), "removed", len(removed), "new_or_changed", len(changed), "connections_cut", cut)
	return errors.Join(errs...)
}

// settle lets the resets of removed peers' connections leave while there is a
// session to send them in: so the satellite learns at once that it is cut.
func (h *Hub) settle(ctx context.Context, removed map[PublicKey]int, before map[PublicKey]peerState) {
	const limit, step = 300 * time.Millisecond, 10 * time.Millisecond
	tick := time.NewTicker(step)
	defer tick.Stop()
	for range limit / step {
		waiting := false
		now := h.wire.states()
		for key, conns := range removed {
			waiting = waiting || (conns > 0 && now[key].tx == before[key].tx)
		}
		if !waiting {
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// replace brings the table up to date and says what to tell the device: which
// peers are removed, with the number of connections they had, and which are
// new or changed.
func (h *Hub) replace(peers []Peer) (removed map[PublicKey]int, changed []Peer) {
	removed = map[PublicKey]int{}
	h.mu.Lock()
	defer h.mu.Unlock()
	wanted := map[PublicKey]bool{}
	for _, p := range peers {
		wanted[p.PublicKey] = true
		old := h.peers[p.PublicKey]
		if old == nil {
			old = &hubPeer{conns: map[*innerConn]struct{}{}}
			h.peers[p.PublicKey] = old
		} else if samePeer(&old.Peer, &p) {
			old.Name = p.Name
			continue
		}
		old.Peer = p
		changed = append(changed, p)
	}
	for key, p := range h.peers {
		if wanted[key] {
			continue
		}
		removed[key] = len(p.conns)
		delete(h.peers, key)
		for c := range p.conns {
			c.reset()
		}
	}
	return removed, changed
}

// cutStrangers ends connections from addresses that their peer no longer has.
func (h *Hub) cutStrangers() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	cut := 0
	for _, p := range h.peers {
		for c := range p.conns {
			if !p.has(c.remote.Addr()) {
				c.reset()
				cut++
			}
		}
	}
	return cut
}

func (p *Peer) has(addr netip.Addr) bool {
	for _, prefix := range p.AllowedIPs {
		if prefix.Contains(addr) {
			return true
		}
	}
	return false
}

// Reload reads the peers' file again.
func (h *Hub) Reload(ctx context.Context) error {
	if h.cfg.PeersFile == "" {
		return nil
	}
	peers, err := readPeers(h.cfg.PeersFile)
	if err != nil {
		return err
	}
	return h.SetPeers(ctx, peers)
}

func readPeers(path string) ([]Peer, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("peers' file: %w", err)
	}
	defer f.Close()
	peers, err := ParsePeers(f)
	if err != nil {
		return nil, fmt.Errorf("peers' file %s: %w", path, err)
	}
	return peers, nil
}
