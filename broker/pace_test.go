package broker

import (
	"context"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"usm-satellite/jobs"
)

func TestPace(t *testing.T) {
	t.Parallel()
	now := time.Unix(1_800_000_000, 0)
	var p pace
	for want := minBackoff; want < 2*maxBackoff; want *= 2 {
		if got := p.next(now, false); got != min(want, maxBackoff) {
			t.Errorf("after a failure %v, want %v", got, min(want, maxBackoff))
		}
	}
	for range 20 { // a link that works, lost every five seconds
		now = now.Add(5 * time.Second)
		if got := p.next(now, true); got != minBackoff {
			t.Fatalf("after the loss of a link that worked %v, want %v", got, minBackoff)
		}
	}
	slowest := time.Duration(0)
	for range 3 * lostAllowed { // one that dies at once, again and again
		now = now.Add(100 * time.Millisecond)
		slowest = p.next(now, true)
	}
	if slowest != maxBackoff {
		t.Errorf("links that die at once are made again after %v, want %v", slowest, maxBackoff)
	}
	now = now.Add(2 * lostWithin)
	if got := p.next(now, true); got != minBackoff {
		t.Errorf("after a quiet time %v, want %v", got, minBackoff)
	}
}

// playedWay is a tunnel whose far end does what a test says.
type playedWay struct {
	silent atomic.Bool
	dead   atomic.Bool
	heard  chan struct{}
}

func (w *playedWay) Silence() (time.Duration, bool) {
	if w.silent.Load() {
		return time.Minute, w.dead.Load()
	}
	return 0, false
}

func (w *playedWay) Heard(ctx context.Context) error {
	select {
	case <-w.heard:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// The wait for a hub that is down ends when the hub is heard, not when the
// backoff does.
func TestPauseEndsWhenTheTunnelIsHeard(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		way := &playedWay{heard: make(chan struct{})}
		s := NewSession(Options{Routes: []Route{{Name: "tunnel", Way: way}}})
		permanent := &Problem{Permanent: true} // waits for ten seconds at least
		pause := func() time.Duration {
			began := time.Now()
			s.pause(t.Context(), permanent, minBackoff)
			return time.Since(began)
		}
		if took := pause(); took < permanentBackoff {
			t.Errorf("nobody was silent, and the pause ended after %v", took)
		}
		way.silent.Store(true)
		time.AfterFunc(2*time.Second, func() { close(way.heard) })
		if took := pause(); took < 2*time.Second || took > 3*time.Second {
			t.Errorf("heard after two seconds, and the pause ended after %v", took)
		}
	})
}

// swallower is a connection through a tunnel that can be blocked.
type swallower struct {
	net.Conn
	blocked *atomic.Bool
	closed  chan struct{}
	once    sync.Once
}

func (c *swallower) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if c.blocked.Load() {
		<-c.closed
		return 0, net.ErrClosed
	}
	return n, err
}

func (c *swallower) Write(b []byte) (int, error) {
	if c.blocked.Load() {
		return len(b), nil
	}
	return c.Conn.Write(b)
}

func (c *swallower) Close() error {
	c.once.Do(func() { close(c.closed) })
	return c.Conn.Close()
}

func (b *bench) begun() (n int) {
	b.runs.Range(func(any, any) bool { n++; return true })
	return n
}

// A tunnel that dies with jobs in hand: the next route takes over without its
// head start, and each job is answered.
func TestDeadTunnelIsLeft(t *testing.T) {
	t.Parallel()
	way := &playedWay{heard: make(chan struct{})}
	var blocked atomic.Bool
	var direct net.Dialer
	b := newBench(t, func(so *Options, _ *jobs.Options) {
		so.Heartbeat = 30 * time.Second // which must not be what finds out
		plain := so.Routes[0]
		first := Route{Name: "tunnel", DSN: plain.DSN, Way: way, Dial: func(ctx context.Context, network, address string) (net.Conn, error) {
			if blocked.Load() {
				<-ctx.Done()
				return nil, ctx.Err()
			}
			c, err := direct.DialContext(ctx, network, address)
			return &swallower{Conn: c, blocked: &blocked, closed: make(chan struct{})}, err
		}}
		so.Routes = []Route{first, plain}
	})
	b.submit(t, "before", "test.read", 0)
	if r := b.collect(t, 1)["before"]; r.Transport != "tunnel" {
		t.Fatalf("answered by %s", r.Transport)
	}
	const n = 5 // of one device: one runs, the others wait for it
	for i := range n {
		b.submit(t, fmt.Sprintf("job-%d", i), "test.write", 300)
	}
	deadline := time.Now().Add(patience)
	for begun := 0; begun < 2; begun = b.begun() { // "before" is the first
		if time.Now().After(deadline) {
			t.Fatal("no job starts")
		}
		time.Sleep(10 * time.Millisecond)
	}
	blocked.Store(true)
	way.dead.Store(true)
	way.silent.Store(true)
	b.submit(t, "into-silence", "test.read", 0)
	for id, r := range b.collect(t, n+1) {
		if r.Status != jobs.StatusOK {
			t.Errorf("%s: %s", id, r.Status)
		}
	}
	b.runs.Range(func(id, runs any) bool {
		if n := runs.(*atomic.Int64).Load(); n != 1 {
			t.Errorf("%s ran %d times", id, n)
		}
		return true
	})
	if s := b.session.State(); s.Transport != "amqp" || s.Connections != 2 {
		t.Errorf("on %s after %d connections", s.Transport, s.Connections)
	}
}
