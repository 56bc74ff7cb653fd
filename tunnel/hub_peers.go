package tunnel

import (
	"bytes"
	"context"
	"crypto/sha256"
	"net/netip"
	"os"
	"slices"
	"strings"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
)

// PeerStatus is one satellite as the hub sees it.
type PeerStatus struct {
	Name        string
	PublicKey   PublicKey
	AllowedIPs  []netip.Prefix
	Endpoint    netip.AddrPort // invalid: not seen yet
	Handshake   time.Time      // last; zero: none since the hub started
	RxBytes     uint64         // from the satellite, on the wire
	TxBytes     uint64         // to the satellite, on the wire
	Connections int            // open now
	Relayed     uint64         // connections since the hub started
	Refused     uint64         // connections over the limit or without a broker
	Moving      bool           // its endpoint changes so often that its key must be in use at several places
}

// HubStatus is the hub at one moment.
type HubStatus struct {
	UDPPort uint16
	Broker  string // the host:port that answered last; empty: none has
	Peers   []PeerStatus
	// Refused counts handshakes that knew the hub's key and came from no peer:
	// a satellite with a wrong key, or a removed one, is seen here.
	Refused     uint64
	LastRefused Refusal
}

// Status lists the peers, by name and then by address.
func (h *Hub) Status() HubStatus {
	states := h.wire.states()
	s := HubStatus{UDPPort: h.UDPPort(), Broker: h.brokers.last()}
	s.Refused, s.LastRefused = h.refused.view()
	h.mu.RLock()
	defer h.mu.RUnlock()
	for key, p := range h.peers {
		state := states[key]
		s.Peers = append(s.Peers, PeerStatus{
			Name: p.Name, PublicKey: key, AllowedIPs: slices.Clone(p.AllowedIPs),
			Endpoint: state.endpoint, Handshake: state.handshake, RxBytes: state.rx, TxBytes: state.tx,
			Connections: len(p.conns), Relayed: p.relayed, Refused: p.refused,
			Moving: len(p.moved) > movesAllowed,
		})
	}
	slices.SortFunc(s.Peers, func(a, b PeerStatus) int {
		if c := strings.Compare(a.Name, b.Name); c != 0 {
			return c
		}
		return a.AllowedIPs[0].Addr().Compare(b.AllowedIPs[0].Addr())
	})
	return s
}

func samePeer(a, b *Peer) bool {
	return a.PublicKey == b.PublicKey && a.PresharedKey.equal(b.PresharedKey.secret) && slices.Equal(a.AllowedIPs, b.AllowedIPs)
}

// gate admits what a peer may send: TCP to the hub's own addresses, where the
// stack refuses every port but one, and an echo request. Everything else,
// other peers' addresses above all, is dropped.
func gate(own []netip.Prefix) func([]byte) bool {
	const echo4, echo6 = 8, 128 // RFC 792; RFC 4443, 4.1
	addrs := make([]netip.Addr, 0, len(own))
	for _, prefix := range own {
		addrs = append(addrs, prefix.Addr())
	}
	return func(packet []byte) bool {
		protocol, payload, dst, ok := upper(packet)
		if !ok || len(payload) == 0 || !slices.Contains(addrs, dst) {
			return false
		}
		switch protocol {
		case protocolTCP:
			return true
		case protocolICMP4:
			return dst.Is4() && payload[0] == echo4
		case protocolICMP6:
			return dst.Is6() && payload[0] == echo6
		}
		return false
	}
}

// watchFile reloads the peers' file when its content changes. It looks at the
// content, not at the time: two changes within one tick of the file system's
// clock are two changes.
func (h *Hub) watchFile(ctx context.Context) {
	const every = time.Second
	if h.cfg.PeersFile == "" {
		return
	}
	last := fingerprint(h.cfg.PeersFile)
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		now := fingerprint(h.cfg.PeersFile)
		if bytes.Equal(now, last) {
			continue
		}
		last = now
		if err := h.Reload(ctx); err != nil {
			h.log.ErrorContext(ctx, "the peers' file cannot be used, the peers stay as they were", "error", err)
		}
	}
}

// fingerprint is nil for a file that cannot be read.
func fingerprint(path string) []byte {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil
	}
	sum := sha256.Sum256(data)
	return sum[:]
}

const (
	movesAllowed = 3
	movesWithin  = time.Minute

	peersLook = 500 * time.Millisecond
	// A peer from which nothing came for goneAfter, while data for it was sent
	// again and again for unackedFor, is gone: by then it has asked several
	// times, and looks for another way to the broker.
	goneAfter  = 6 * time.Second
	unackedFor = 3500 * time.Millisecond
)

// watchPeers notices a key that is used at several places, for its endpoint
// goes back and forth, and peers that are gone.
func (h *Hub) watchPeers(ctx context.Context) {
	tick := time.NewTicker(peersLook)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case now := <-tick.C:
			states := h.wire.states()
			for _, p := range h.movers(now, states) {
				h.log.WarnContext(ctx, "a peer's endpoint changes again and again",
					"name", p.Name, "public_key", p.PublicKey.String(), "endpoint", p.endpoint,
					"remedy", "its key is probably in use at several places: give each process its own key")
			}
			for _, p := range h.cutGone(now, states) {
				h.log.InfoContext(ctx, "a peer is not heard any more; its connections are cut, so that the broker gives its jobs out again",
					"name", p.Name, "public_key", p.PublicKey.String(), "endpoint", p.endpoint)
			}
		}
	}
}

func (h *Hub) movers(now time.Time, states map[PublicKey]peerState) []hubPeer {
	h.mu.Lock()
	defer h.mu.Unlock()
	var movers []hubPeer
	for key, p := range h.peers {
		at := states[key].endpoint
		if p.endpoint.IsValid() && at.IsValid() && at != p.endpoint {
			p.moved = append(p.moved, now)
		}
		p.endpoint = at
		p.moved = slices.DeleteFunc(p.moved, func(t time.Time) bool { return now.Sub(t) > movesWithin })
		if len(p.moved) > movesAllowed && now.Sub(p.warned) > movesWithin {
			p.warned = now
			movers = append(movers, hubPeer{Peer: p.Peer, endpoint: at})
		}
	}
	return movers
}

// cutGone resets the connections of peers that are gone. The broker would find
// out by its heartbeat, after three times as long, and until then keep the jobs
// of the old connection from the one that the peer has made by another way.
func (h *Hub) cutGone(now time.Time, states map[PublicKey]peerState) []hubPeer {
	h.mu.Lock()
	defer h.mu.Unlock()
	var gone []hubPeer
	for key, p := range h.peers {
		if rx := states[key].rx; rx != p.rx || p.heard.IsZero() {
			p.rx, p.heard = rx, now
		}
		unacked := false
		for c := range p.conns {
			var info tcpip.TCPInfoOption
			if c.ep.GetSockOpt(&info) == nil && c.retransmits(&info) {
				unacked = unacked || time.Duration(c.stuck)*peersLook >= unackedFor
			}
		}
		if !unacked || now.Sub(p.heard) < goneAfter {
			continue
		}
		gone = append(gone, hubPeer{Peer: p.Peer, endpoint: p.endpoint})
		for c := range p.conns {
			c.reset()
		}
	}
	return gone
}
