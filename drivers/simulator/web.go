package simulator

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"
)

// serveHTTP serves one connection.
func (d *device) serveHTTP(ctx context.Context, conn net.Conn) {
	l := &oneConn{conn: conn, done: make(chan struct{})}
	server := &http.Server{
		Handler: http.HandlerFunc(d.web), ReadHeaderTimeout: time.Minute, MaxHeaderBytes: 64 << 10,
		BaseContext: func(net.Listener) context.Context { return ctx },
		ConnState: func(_ net.Conn, state http.ConnState) {
			if state == http.StateClosed || state == http.StateHijacked {
				l.end()
			}
		},
	}
	server.SetKeepAlivesEnabled(false)
	_ = server.Serve(l) // ends with the connection
}

// oneConn is a listener that has one connection, and waits for its end.
type oneConn struct {
	conn net.Conn
	done chan struct{}
	once sync.Once
}

var errServed = errors.New("the connection has been served")

func (l *oneConn) Accept() (net.Conn, error) {
	if conn := l.conn; conn != nil {
		l.conn = nil
		return conn, nil
	}
	<-l.done
	return nil, errServed
}

func (l *oneConn) end()           { l.once.Do(func() { close(l.done) }) }
func (l *oneConn) Close() error   { return nil }
func (l *oneConn) Addr() net.Addr { return &net.TCPAddr{} }

func (d *device) web(w http.ResponseWriter, r *http.Request) {
	d.log.Info("request", "service", string(HTTP), "method", r.Method, "path", r.URL.Path)
	switch d.faults[HTTP] {
	case Endless:
		pour(w, bytes.Repeat([]byte("this page has no end\n"), 100))
		return
	case Bomb:
		bomb(w)
		return
	default: // a page
	}
	p, ok := d.pages[r.URL.Path]
	if !ok {
		http.NotFound(w, r)
		return
	}
	w.Header().Set("Content-Type", p.contentType)
	w.WriteHeader(p.status)
	_, _ = io.Copy(w, strings.NewReader(p.body))
}

// bomb sends 64 GiB of zeros in 64 MiB: a gzip file may have many parts
// (RFC 1952, 2.2), and all are the same here.
func bomb(w http.ResponseWriter) {
	const parts, size = 4096, 16 << 20
	var part bytes.Buffer
	z := gzip.NewWriter(&part)
	if _, err := z.Write(make([]byte, size)); err != nil {
		return
	}
	if z.Close() != nil {
		return
	}
	w.Header().Set("Content-Encoding", "gzip")
	w.Header().Set("Content-Type", "text/plain")
	for range parts {
		if _, err := w.Write(part.Bytes()); err != nil {
			return
		}
	}
}
