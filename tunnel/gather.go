package tunnel

import (
	"net"
	"sync"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
)

const (
	gatherBytes = 64 << 10        // when so much waits, writers wait too
	lastWrites  = 5 * time.Second // for what waits when a connection is closed
)

// gather collects what is written while the TCP stack is busy with what was
// written before, and hands it over as one: an AMQP client writes each
// acknowledgement and each message by itself, and a few bytes cost the stack as
// much as a full packet. Nothing waits for more to come.
//
// As with the buffer of a socket, what Write took may still fail: the next
// call says so.
type gather struct {
	conn *gonet.TCPConn

	mu       sync.Mutex
	changed  sync.Cond
	buf      []byte    // guarded by mu: what waits
	spare    []byte    // guarded by mu: empty, or what is being handed over
	running  bool      // guarded by mu: run does
	ending   bool      // guarded by mu: no more is taken
	then     func()    // guarded by mu: what to do when nothing waits any more; nil: go on
	err      error     // guarded by mu: the first one
	deadline time.Time // guarded by mu: of what is handed over next
	present  time.Time // guarded by mu: of what is being handed over
}

func newGather(conn *gonet.TCPConn) *gather {
	g := &gather{conn: conn}
	g.changed.L = &g.mu
	return g
}

// Write takes b, unless the connection has failed or was closed.
func (g *gather) Write(b []byte) (int, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for g.err == nil && !g.ending && len(g.buf) >= gatherBytes {
		g.changed.Wait()
	}
	switch {
	case g.err != nil:
		return 0, g.err
	case g.ending:
		return 0, net.ErrClosed
	}
	g.buf = append(g.buf, b...)
	if !g.running {
		g.running = true
		go g.run() // ends with an error, or with end
	}
	g.changed.Broadcast()
	return len(b), nil
}

func (g *gather) run() {
	g.mu.Lock()
	for g.err == nil && (len(g.buf) > 0 || g.then == nil) {
		if len(g.buf) == 0 {
			g.changed.Wait()
			continue
		}
		out := g.buf
		g.buf, g.present = g.spare[:0], g.deadline
		err := g.conn.SetWriteDeadline(g.present)
		g.mu.Unlock()
		if err == nil {
			_, err = g.conn.Write(out)
		}
		g.mu.Lock()
		g.spare = out
		if g.err == nil {
			g.err = err
		}
		g.changed.Broadcast()
	}
	g.running = false
	then := g.then
	g.mu.Unlock()
	if then != nil {
		then()
	}
}

// end takes no more, and does something once nothing waits any more.
func (g *gather) end(then func()) {
	g.mu.Lock()
	g.ending = true
	g.changed.Broadcast()
	if !g.running {
		g.mu.Unlock()
		then()
		return
	}
	g.then = then
	g.limit(time.Now().Add(lastWrites))
	g.mu.Unlock()
}

// fail drops what waits.
func (g *gather) fail(err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.err == nil {
		g.err = err
	}
	g.changed.Broadcast()
}

// setDeadline is for what is written from now on. What is being handed over
// gets no more time than it had: else a connection that is stuck would live on
// as long as somebody writes.
func (g *gather) setDeadline(t time.Time) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.limit(t)
}

// limit does that; mu is held.
func (g *gather) limit(t time.Time) {
	g.deadline = t
	if t.IsZero() || !g.present.IsZero() && !t.Before(g.present) {
		return
	}
	g.present = t
	if err := g.conn.SetWriteDeadline(t); err != nil && g.err == nil {
		g.err = err
	}
}
