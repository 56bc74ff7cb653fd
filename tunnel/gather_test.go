package tunnel

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"testing"
	"time"
)

// What was written in small pieces all arrives, also when the connection is
// closed right behind it.
func TestSmallWritesArriveBeforeTheEnd(t *testing.T) {
	t.Parallel()
	s, key := newSite(7), NewPrivateKey()
	h, _ := startHub(t, hubConfig(key, startSink(t), s), quiet())
	tun := startTunnel(t, s.config(key.Public(), local(h)), quiet())
	for i := range 20 {
		c := dial(t, tun, inner(hubAddr4()))
		sent := 0
		for j := range 5000 {
			n, err := c.Write(bytes.Repeat([]byte{byte(j)}, 1+j%90))
			if err != nil {
				t.Fatal(err)
			}
			sent += n
		}
		if err := c.(interface{ CloseWrite() error }).CloseWrite(); err != nil {
			t.Fatal(err)
		}
		if _, err := c.Write([]byte("late")); !errors.Is(err, net.ErrClosed) {
			t.Fatalf("a write after the end: %v", err)
		}
		if answer, err := io.ReadAll(c); err != nil || string(answer) != fmt.Sprint(sent) {
			t.Fatalf("round %d: %q of %d bytes arrived: %v", i, answer, sent, err)
		}
		if err := c.Close(); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, "closed connections are forgotten", func() bool { return tun.Stats().Connections == 0 })
}

// A connection whose other end takes nothing fails at the time limit of the
// write that is stuck, however often somebody writes meanwhile.
func TestStuckWriteFails(t *testing.T) {
	t.Parallel()
	deaf, err := net.Listen("tcp", "127.0.0.1:0") // it accepts, and never reads
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = deaf.Close() })
	s, key := newSite(7), NewPrivateKey()
	h, _ := startHub(t, hubConfig(key, deaf.Addr().String(), s), quiet())
	tun := startTunnel(t, s.config(key.Public(), local(h)), quiet())
	c := dial(t, tun, inner(hubAddr4())).(*innerConn)
	const limit = 500 * time.Millisecond
	write := func(b []byte) error {
		if err := c.SetWriteDeadline(time.Now().Add(limit)); err != nil {
			t.Fatal(err)
		}
		_, err := c.Write(b)
		return err
	}
	waits := func() bool {
		c.out.mu.Lock()
		defer c.out.mu.Unlock()
		return len(c.out.buf) > 0
	}
	for began := time.Now(); time.Since(began) < limit/2; { // until a piece is not taken
		if waits() {
			<-time.After(time.Millisecond)
			continue
		}
		if err := write(make([]byte, 32<<10)); err != nil {
			t.Fatal(err)
		}
		began = time.Now()
	}
	for began := time.Now(); time.Since(began) < 20*limit; {
		var netErr net.Error
		if err := write([]byte("a heartbeat")); errors.As(err, &netErr) && netErr.Timeout() {
			return
		} else if err != nil {
			t.Fatal(err)
		}
		<-time.After(10 * time.Millisecond)
	}
	t.Error("writes went on")
}
