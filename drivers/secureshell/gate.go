package secureshell

import (
	"context"
	"net"
	"sync"
)

// gatedConn makes a handshake hold a token while it computes, and give it
// back while it waits for the peer: a silent device costs a socket, not a
// core. The handshake of x/crypto/ssh reads from one goroutine at a time and
// computes between two reads.
type gatedConn struct {
	net.Conn
	ctx    context.Context //nolint:containedctx // of the one handshake that the conn is wrapped for
	tokens chan struct{}

	mu      sync.Mutex // guards held and through
	held    bool
	through bool // the handshake is over: no tokens any more
}

// Read gives the token back, reads, and takes one again.
func (c *gatedConn) Read(p []byte) (int, error) {
	c.release(false)
	n, err := c.Conn.Read(p)
	if err != nil || c.isThrough() {
		return n, err
	}
	select {
	case c.tokens <- struct{}{}:
	case <-c.ctx.Done():
		return n, context.Cause(c.ctx)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.through || c.held {
		<-c.tokens
		return n, nil
	}
	c.held = true
	return n, nil
}

func (c *gatedConn) isThrough() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.through
}

// open ends the gating: the handshake is over.
func (c *gatedConn) open() { c.release(true) }

func (c *gatedConn) release(through bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.held {
		<-c.tokens
		c.held = false
	}
	c.through = c.through || through
}
