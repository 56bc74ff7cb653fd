package impair

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"io"
	"net"
	"os"
	"testing"
	"time"
)

// echo answers every connection with what it sends.
func echoTCP(t *testing.T) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = listener.Close() })
	go func() { // ends with its listener
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go func() {
				_, _ = io.Copy(conn, conn)
				_ = conn.Close()
			}()
		}
	}()
	return listener.Addr().String()
}

func line(t *testing.T) (*Line, net.Conn) {
	t.Helper()
	l, err := ListenTCP(t.Context(), 1, echoTCP(t))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	conn, err := net.Dial("tcp", l.Addr())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	if err := conn.SetDeadline(time.Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	return l, conn
}

// roundTrip sends and demands the same back, whole and in order.
func roundTrip(t *testing.T, conn net.Conn, size int) time.Duration {
	t.Helper()
	sent, got := make([]byte, size), make([]byte, size)
	_, _ = rand.Read(sent)
	began := time.Now()
	go func() { _, _ = conn.Write(sent) }()
	if _, err := io.ReadFull(conn, got); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(sent, got) {
		t.Fatal("what comes back is not what was sent")
	}
	return time.Since(began)
}

func TestLineDelaysAndThrottles(t *testing.T) {
	t.Parallel()
	l, conn := line(t)
	roundTrip(t, conn, 1<<20)
	l.Set(LineRules{Delay: 100 * time.Millisecond, Jitter: 50 * time.Millisecond})
	if took := roundTrip(t, conn, 100_000); took < 200*time.Millisecond {
		t.Errorf("there and back with 100 ms each took %s", took)
	}
	l.Set(LineRules{Rate: 100_000})
	if took := roundTrip(t, conn, 50_000); took < 500*time.Millisecond {
		t.Errorf("50 kB at 100 kB/s took %s", took)
	}
}

func TestLineHoldsBackAndCuts(t *testing.T) {
	t.Parallel()
	l, conn := line(t)
	ctx, cancel := context.WithCancel(t.Context())
	muted := make(chan struct{})
	go func() {
		defer close(muted)
		l.Mute(ctx, time.Hour)
	}()
	for !l.rulesNow()[up].BlackHole {
		<-time.After(time.Millisecond)
	}
	if _, err := conn.Write([]byte("held back")); err != nil {
		t.Fatal(err)
	}
	_ = conn.SetReadDeadline(time.Now().Add(300 * time.Millisecond))
	got := make([]byte, 9)
	if n, err := conn.Read(got); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("a line that is silent gave %q, %v", got[:n], err)
	}
	cancel()
	<-muted
	_ = conn.SetReadDeadline(time.Now().Add(time.Minute))
	if _, err := io.ReadFull(conn, got); err != nil || string(got) != "held back" {
		t.Errorf("when it speaks again: %q, %v", got, err)
	}
	l.Cut()
	if _, err := conn.Read(got); err == nil {
		t.Error("a line that was cut goes on")
	}
}

func TestLineCutsByChance(t *testing.T) {
	t.Parallel()
	l, conn := line(t)
	l.SetUp(LineRules{Cut: 1})
	_, _ = conn.Write([]byte("x"))
	if _, err := conn.Read(make([]byte, 1)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("the connection was not ended: %v", err)
	}
}
