package tunnel

import (
	"context"
	"errors"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
)

// Not parallel: it counts the goroutines and the sockets of the whole process.
func TestOpenAndCloseLeavesNothing(t *testing.T) {
	cycles := func(n int) func(*testing.T) {
		return func(t *testing.T) {
			s, key := newSite(7), NewPrivateKey()
			h, _ := startHub(t, hubConfig(key, startEcho(t), s), quiet())
			cfg := s.config(key.Public(), local(h))
			for i := range n {
				<-time.After(25 * time.Millisecond) // the hub takes one handshake of a peer in 20 ms (HandshakeInitationRate)
				eventually(t, "the hub has room for a connection", func() bool { return h.Status().Peers[0].Connections < connsPerPeer/2 })
				if err := cycle(t, cfg, i); err != nil {
					t.Fatalf("cycle %d: %v", i, err)
				}
			}
		}
	}
	t.Run("warm up", cycles(3)) // what starts once, starts now
	before, sockets := goleak.IgnoreCurrent(), openSockets(t)
	n := soak(50, 1000)
	start := measureResidue(t)
	t.Run("cycles", cycles(n/2))
	middle := measureResidue(t)
	t.Run("as many again", cycles(n/2))
	eventually(t, "no more sockets are open than before", func() bool { return openSockets(t) <= sockets })
	eventually(t, "no more goroutines run than before", func() bool { return goleak.Find(before) == nil })
	end := measureResidue(t)
	t.Logf("%d cycles: before: %v; half-way: %v; after: %v", n, start, middle, end)
	if soaking() { // of few cycles memory says nothing
		noSlope(t, n/2, middle, end)
	}
}

// cycle opens a tunnel, uses it, and closes it: idle, with a connection open,
// or in the middle of traffic.
func cycle(t *testing.T, cfg Config, i int) error {
	t.Helper()
	tun, err := Open(t.Context(), cfg, quiet())
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	c, err := tun.DialContext(ctx, "tcp", inner(hubAddr4()))
	if err != nil {
		return errors.Join(err, tun.Close())
	}
	switch i % 3 {
	case 0:
		err = say(c, "hello")
		c.Close()
	case 1:
		err = say(c, "hello")
	default:
		go flood(c) // ends when Close resets the connection
	}
	if err != nil {
		return errors.Join(err, tun.Close())
	}
	return tun.Close()
}

func flood(c net.Conn) {
	buf := make([]byte, 16<<10)
	go func() { // ends with the connection
		for {
			if _, err := c.Read(make([]byte, 16<<10)); err != nil {
				return
			}
		}
	}()
	for {
		if _, err := c.Write(buf); err != nil {
			return
		}
	}
}

// openSockets leaves out what the runtime keeps open for itself, such as the
// pipes of io.Copy.
func openSockets(t *testing.T) int {
	t.Helper()
	files, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, f := range files {
		if to, err := os.Readlink("/proc/self/fd/" + f.Name()); err == nil && strings.HasPrefix(to, "socket:") {
			n++
		}
	}
	return n
}

func TestTunnelClosesOnce(t *testing.T) {
	t.Parallel()
	s, key := newSite(7), NewPrivateKey()
	h, _ := startHub(t, hubConfig(key, startEcho(t), s), quiet())
	tun, err := Open(t.Context(), s.config(key.Public(), local(h)), quiet())
	if err != nil {
		t.Fatal(err)
	}
	c := dial(t, tun, inner(hubAddr4()))
	read := make(chan error, 1)
	go func() { _, err := c.Read(make([]byte, 1)); read <- err }()
	if err := tun.Close(); err != nil {
		t.Errorf("Close: %v", err)
	}
	if err := tun.Close(); err == nil {
		t.Error("a second Close is no error")
	}
	select {
	case err := <-read:
		if err == nil {
			t.Error("Read of an open connection gave no error")
		}
	case <-time.After(patience):
		t.Error("Read of an open connection hangs after Close")
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if c, err := tun.DialContext(ctx, "tcp", inner(hubAddr4())); err == nil {
		c.Close()
		t.Error("a closed tunnel dials")
	}
	if ctx.Err() != nil {
		t.Error("a closed tunnel hangs in DialContext")
	}
}
