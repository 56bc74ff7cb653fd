package main

import (
	"bufio"
	"encoding/binary"
	"io"
	"net"
	"net/http"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
)

// proxyServer is a small HTTP or SOCKS5 proxy which knows the lab's broker by a
// name of its own; used counts its connections.
func proxyServer(t *testing.T, kind string) (address string, used *atomic.Int64) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	used = new(atomic.Int64)
	serve(t, ln, func(conn net.Conn) {
		reader := bufio.NewReader(conn)
		target, err := greet(kind, conn, reader)
		if err != nil {
			return
		}
		used.Add(1)
		relay(conn, reader, target)
	})
	return ln.Addr().String(), used
}

func greet(kind string, conn net.Conn, r *bufio.Reader) (target string, err error) {
	if kind == "http" {
		request, err := http.ReadRequest(r)
		if err != nil {
			return "", err
		}
		_, err = io.WriteString(conn, "HTTP/1.1 200 OK\r\n\r\n")
		return request.Host, err
	}
	head := make([]byte, 2) // RFC 1928, 3
	if _, err := io.ReadFull(r, head); err != nil {
		return "", err
	}
	_, _ = io.CopyN(io.Discard, r, int64(head[1]))
	_, _ = conn.Write([]byte{5, 0})
	head = make([]byte, 5)
	if _, err := io.ReadFull(r, head); err != nil {
		return "", err
	}
	length := int(head[4])
	rest := make([]byte, length+2)
	host := ""
	switch head[3] {
	case 3:
		_, err = io.ReadFull(r, rest)
		host = string(rest[:length])
	case 1:
		rest = append([]byte{head[4]}, make([]byte, 5)...)
		_, err = io.ReadFull(r, rest[1:])
		host = net.IP(rest[:4]).String()
	}
	_, _ = conn.Write([]byte{5, 0, 0, 1, 0, 0, 0, 0, 0, 0})
	return net.JoinHostPort(host, strconv.Itoa(int(binary.BigEndian.Uint16(rest[len(rest)-2:])))), err
}

func relay(conn net.Conn, r io.Reader, target string) {
	_, port, _ := net.SplitHostPort(target)
	up, err := net.Dial("tcp", "127.0.0.1:"+port)
	if err != nil {
		return
	}
	defer func() { _ = up.Close() }()
	var both sync.WaitGroup
	both.Go(func() { _, _ = io.Copy(up, r); _ = up.(*net.TCPConn).CloseWrite() })
	_, _ = io.Copy(conn, up)
	_ = conn.Close()
	both.Wait()
}
