package tunnel

import (
	"errors"
	"io"
	"net"
	"testing"
	"time"

	"usm-satellite/tunnel/impair"
)

// startTalker is a broker that never stops talking; it tells when one of its
// connections has ended.
func startTalker(t *testing.T) (address string, ended <-chan error) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	ends := make(chan error, connsPerPeer)
	go func() { // ends with the listener
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() { // ends with the connection
				defer c.Close()
				for {
					if _, err := c.Write([]byte("a job")); err != nil {
						ends <- err
						return
					}
					<-time.After(100 * time.Millisecond)
				}
			}()
		}
	}()
	return l.Addr().String(), ends
}

// A peer that is gone is cut off the broker, which then gives its jobs to
// somebody else; one that answers is not, however long it has nothing to say.
func TestHubCutsPeersThatAreGone(t *testing.T) {
	t.Parallel()
	gone, stays, key := newSite(7), newSite(8), NewPrivateKey()
	broker, ended := startTalker(t)
	log := &journal{}
	h, _ := startHub(t, hubConfig(key, broker, gone, stays), log.logger())
	way := startProxy(t, 61, local(h))
	lost := dial(t, startTunnel(t, gone.config(key.Public(), way.Addr()), quiet()), inner(hubAddr4()))
	kept := dial(t, startTunnel(t, stays.config(key.Public(), local(h)), quiet()), inner(hubAddr4()))
	for _, c := range []net.Conn{lost, kept} {
		if _, err := c.Write([]byte("hello")); err != nil {
			t.Fatal(err)
		}
		if err := c.SetDeadline(time.Now().Add(patience)); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(c, make([]byte, 5)); err != nil {
			t.Fatal(err)
		}
	}
	heard := make(chan error, 1)
	go func() { _, err := io.Copy(io.Discard, kept); heard <- err }() // ends with the tunnel
	way.Set(impair.Rules{BlackHole: true})
	start := time.Now()
	eventually(t, "the hub cuts the peer that is gone", log.has("a peer is not heard any more"))
	select {
	case err := <-ended:
		t.Logf("cut after %v: %v", time.Since(start), err)
	case <-time.After(patience):
		t.Error("the broker was not told")
	}
	select {
	case err := <-heard:
		t.Errorf("the peer that answers was cut too: %v", err)
	default:
	}
	way.Set(impair.Rules{})
	if _, err := io.Copy(io.Discard, lost); err == nil || errors.Is(err, io.EOF) {
		t.Errorf("the peer learned of the cut by %v, want a reset", err)
	}
}
