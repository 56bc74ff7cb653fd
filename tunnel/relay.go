package tunnel

import (
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// connsPerPeer bounds what one satellite, or the thief of one, can open.
	connsPerPeer = 8
	brokerDial   = 5 * time.Second
	// firstWord is how long a connection may say nothing: the client speaks
	// first in AMQP and in TLS.
	firstWord = 10 * time.Second
	// lastWord is how long the second half of a connection may go on without
	// a byte once the first half is closed.
	lastWord = 30 * time.Second

	relayBuffer = 32 << 10
)

// idleKeepalive finds satellites that went away without a word.
func idleKeepalive() keepalive {
	return keepalive{idle: 10 * time.Second, interval: 3 * time.Second, count: 3, unacked: 20 * time.Second}
}

func (h *Hub) accept(ctx context.Context, l *listener) error {
	var relays sync.WaitGroup
	defer relays.Wait()
	for {
		c, err := l.accept(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return err
		}
		key, ok := h.admit(c)
		if !ok {
			c.reset()
			continue
		}
		relays.Go(func() {
			defer h.release(key, c)
			h.relay(ctx, key, c)
		})
	}
}

// admit counts a connection for its peer. WireGuard has made sure that the
// source address is one of the peer's.
func (h *Hub) admit(c *innerConn) (PublicKey, bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for key, p := range h.peers {
		if !p.has(c.remote.Addr()) {
			continue
		}
		if len(p.conns) >= connsPerPeer {
			p.refused++
			return key, false
		}
		p.conns[c] = struct{}{}
		return key, true
	}
	return PublicKey{}, false
}

func (h *Hub) release(key PublicKey, c *innerConn) {
	c.reset()
	h.mu.Lock()
	defer h.mu.Unlock()
	if p := h.peers[key]; p != nil {
		delete(p.conns, c)
	}
}

func (h *Hub) count(key PublicKey, relayed bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	p := h.peers[key]
	switch {
	case p == nil:
	case relayed:
		p.relayed++
	default:
		p.refused++
	}
}

// relay joins a satellite's connection to a broker until both have finished.
func (h *Hub) relay(ctx context.Context, key PublicKey, c *innerConn) {
	broker, err := h.brokers.dial(ctx)
	if err != nil {
		h.count(key, false)
		h.log.WarnContext(ctx, "no broker answers the hub", "error", err, "from", c.remote)
		return
	}
	defer broker.Close()
	h.count(key, true)
	stop := context.AfterFunc(ctx, func() {
		c.reset()
		_ = broker.Close()
	})
	defer stop()

	if err := c.SetReadDeadline(time.Now().Add(firstWord)); err != nil {
		return
	}
	var both sync.WaitGroup
	var ending atomic.Bool
	both.Go(func() { pump(c, broker, &ending) })
	both.Go(func() { pump(broker, c, &ending) })
	both.Wait()
	_ = c.Close() // in good order when both halves were; else pump has cut it
}

// half is a connection whose directions close one by one.
type half interface {
	net.Conn
	CloseWrite() error
}

// pump copies one direction. At the end of it the other end is told so, and
// the direction that is left must not fall silent; an error ends both.
func pump(from, to half, ending *atomic.Bool) {
	buf := make([]byte, relayBuffer)
	spoken := false
	for {
		n, err := from.Read(buf)
		if n > 0 && !spoken {
			spoken = true
			_ = from.SetReadDeadline(time.Time{})
		}
		if n > 0 && ending.Load() {
			_ = from.SetReadDeadline(time.Now().Add(lastWord))
		}
		if _, writeErr := to.Write(buf[:n]); writeErr != nil {
			err = writeErr
		}
		if err == nil {
			continue
		}
		if errors.Is(err, io.EOF) {
			ending.Store(true)
			_ = to.CloseWrite()
			_ = to.SetReadDeadline(time.Now().Add(lastWord))
			return
		}
		cut(from)
		cut(to)
		return
	}
}

// cut resets a connection, so that its user learns that it did not end well.
func cut(c half) {
	switch c := c.(type) {
	case *innerConn:
		c.reset()
	case *net.TCPConn:
		_ = c.SetLinger(0)
		_ = c.Close()
	}
}

// brokers dials the first broker that answers, and begins with the one that
// answered last time.
type brokers struct {
	addrs []string

	mu   sync.Mutex
	good int // guarded by mu: index of the last that answered; -1: none yet
}

func newBrokers(addrs []string) *brokers { return &brokers{addrs: addrs, good: -1} }

func (b *brokers) last() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.good < 0 {
		return ""
	}
	return b.addrs[b.good]
}

func (b *brokers) dial(ctx context.Context) (*net.TCPConn, error) {
	b.mu.Lock()
	first := max(b.good, 0)
	b.mu.Unlock()
	dialer := net.Dialer{Timeout: brokerDial, KeepAlive: idleKeepalive().idle}
	var errs []error
	for i := range b.addrs {
		at := (first + i) % len(b.addrs)
		c, err := dialer.DialContext(ctx, "tcp", b.addrs[at])
		if err == nil {
			b.mu.Lock()
			b.good = at
			b.mu.Unlock()
			return c.(*net.TCPConn), nil //nolint:forcetypeassert // the dialer was told tcp
		}
		errs = append(errs, err)
	}
	return nil, errors.Join(errs...)
}
