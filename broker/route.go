package broker

import (
	"context"
	"crypto/tls"
	"net"
	"sync/atomic"
	"time"
)

// DialFunc opens a connection; net.Dialer.DialContext and the tunnel's
// DialContext are two.
type DialFunc func(ctx context.Context, network, address string) (net.Conn, error)

// Route is one way to a broker.
type Route struct {
	Name  string // as results and logs have it: "wireguard+amqp", "amqps", …
	DSN   DSN
	Dial  DialFunc
	TLS   *tls.Config                     // nil: plain AMQP inside what Dial gives
	Probe func(ctx context.Context) error // says that the route would work; nil: dial it
	Way   Way                             // what lies below the connection; nil: nothing that could be watched
}

// Way is a tunnel that watches its far end, and knows sooner than a connection
// through it whether that is gone.
type Way interface {
	// Silence says for how long the far end has not answered although it was
	// asked (0: it answers, or was not asked), and whether it is dead: no loss
	// of packets explains the silence any more.
	Silence() (d time.Duration, dead bool)
	// Heard waits until something new comes from the far end, and asks for it.
	Heard(ctx context.Context) error
}

func (r Route) silence() time.Duration {
	if r.Way == nil {
		return 0
	}
	d, _ := r.Way.Silence()
	return d
}

func (r Route) dead() bool {
	if r.Way == nil {
		return false
	}
	_, dead := r.Way.Silence()
	return dead
}

// Time limits of a connection.
const (
	dialTimeout  = 10 * time.Second // to the broker's port
	openTimeout  = 15 * time.Second // TLS and AMQP handshakes
	writeTimeout = 15 * time.Second // of each write: a publish has no other limit (amqp091-go's contexts do not reach the socket)
)

// watchedConn gives every write a time limit, and remembers when the broker
// was last heard of.
type watchedConn struct {
	net.Conn

	start    time.Time
	lastRead atomic.Int64 // nanoseconds after start, by the monotonic clock
}

func watch(conn net.Conn) *watchedConn { return &watchedConn{Conn: conn, start: time.Now()} }

func (c *watchedConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if n > 0 {
		c.lastRead.Store(int64(time.Since(c.start)))
	}
	return n, err
}

func (c *watchedConn) Write(b []byte) (int, error) {
	if err := c.SetWriteDeadline(time.Now().Add(writeTimeout)); err != nil {
		return 0, err
	}
	return c.Conn.Write(b)
}

// silence returns for how long nothing has come from the broker.
func (c *watchedConn) silence() time.Duration {
	return time.Since(c.start) - time.Duration(c.lastRead.Load())
}

// dial opens the connection of a route, TLS included.
func (r Route) dial(ctx context.Context) (conn net.Conn, watched *watchedConn, err error) {
	dialCtx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	raw, err := r.Dial(dialCtx, "tcp", r.DSN.Address())
	if err != nil {
		return nil, nil, &stepError{stepDial, err}
	}
	watched = watch(raw)
	if r.TLS == nil {
		return watched, watched, nil
	}
	secured := tls.Client(watched, r.TLS)
	handshakeCtx, cancelHandshake := context.WithTimeout(ctx, openTimeout)
	defer cancelHandshake()
	if err := secured.HandshakeContext(handshakeCtx); err != nil {
		_ = raw.Close()
		return nil, nil, &stepError{stepTLS, err}
	}
	return secured, watched, nil
}
