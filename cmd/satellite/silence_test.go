package main

import (
	"net"
	"strconv"
	"testing"
)

// silence binds a UDP port that takes packets and never answers.
func silence(t *testing.T, port int) (end func()) {
	t.Helper()
	conn, err := net.ListenPacket("udp", "127.0.0.1:"+strconv.Itoa(port))
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for buf := make([]byte, 2048); ; {
			if _, _, err := conn.ReadFrom(buf); err != nil {
				return
			}
		}
	}()
	return func() {
		_ = conn.Close()
		<-done
	}
}
