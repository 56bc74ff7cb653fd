// Package telnet is the client side of the Telnet protocol as a net.Conn: what
// is read has the protocol's commands taken out and answered, what is written
// is escaped.
//
// It knows RFC 854 (commands, end of line, IAC doubled), 855 (negotiation),
// 857 (echo), 858 (suppress go ahead), 1073 (window size) and 1091 (terminal
// type); every other option is refused. Commands are understood anywhere in
// the stream, also when they come in pieces. It is not for servers, and it
// knows nothing of logins or prompts.
//
//	conn := telnet.Wrap(tcp, telnet.Options{Width: 500, Height: 1000})
//	conn.Write([]byte("show version\n")) // goes as CR LF
package telnet

import (
	"errors"
	"net"
	"sync"
	"sync/atomic"
)

// Defaults of Options. No byte of the sizes is 255: such a one is doubled on
// the wire, and busybox telnetd (1.35) takes the rest of the suboption for
// something typed.
const (
	DefaultTerminal = "vt100"
	DefaultWidth    = 500
	DefaultHeight   = 1000
)

// Limits on what a peer may make us do.
const (
	maxAnswers        = 256  // negotiation answers on one connection
	maxSubnegotiation = 1024 // bytes between IAC SB and IAC SE
)

// ErrFlood ends a connection whose peer negotiates for ever.
var ErrFlood = errors.New("telnet: the peer does not stop negotiating options")

// ErrSubnegotiation ends a connection whose peer sends an endless suboption.
var ErrSubnegotiation = errors.New("telnet: the peer sent a suboption that is too long")

// Options say how the terminal presents itself. Zero values are the defaults.
type Options struct {
	Terminal string // name of the terminal type (RFC 1091)
	Width    int    // columns (RFC 1073), at most 65535
	Height   int    // rows
}

// Conn is a Telnet connection. Read and Write may be called at the same time
// by one goroutine each, as with any net.Conn.
type Conn struct {
	net.Conn

	// Owned by the reading goroutine.
	parser parser
	raw    []byte
	err    error // kept for the next Read when the last one had data to give

	write sync.Mutex // keeps an answer from landing inside of what Write sends
	echo  atomic.Bool
}

// Wrap puts Telnet over conn. Nothing is sent before the peer asks: a server
// that speaks no Telnet never sees a byte of it.
func Wrap(conn net.Conn, o Options) *Conn {
	if o.Terminal == "" {
		o.Terminal = DefaultTerminal
	}
	if o.Width <= 0 {
		o.Width = DefaultWidth
	}
	if o.Height <= 0 {
		o.Height = DefaultHeight
	}
	return &Conn{Conn: conn, parser: parser{options: o}, raw: make([]byte, 4096)}
}

// Echoes says whether the peer has offered to echo what is typed (RFC 857).
func (c *Conn) Echoes() bool {
	return c.echo.Load()
}

// Read returns data of the stream. Negotiations on the way are answered; an
// answer that cannot be sent ends the connection.
func (c *Conn) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	for {
		if c.err != nil {
			return 0, c.err
		}
		size := min(len(p), len(c.raw))
		n, err := c.Conn.Read(c.raw[:size])
		data, answer, parseErr := c.parser.feed(p[:0], c.raw[:n])
		c.echo.Store(c.parser.peer[optEcho])
		if len(answer) > 0 {
			if writeErr := c.writeRaw(answer); writeErr != nil && err == nil {
				err = writeErr
			}
		}
		if parseErr != nil {
			err = parseErr
		}
		c.err = keep(err)
		if len(data) > 0 || err != nil {
			if len(data) > 0 && c.err != nil {
				err = nil
			}
			return len(data), err
		}
	}
}

// keep says which errors stay: a deadline may be moved, all else is final.
func keep(err error) error {
	var netErr net.Error
	if errors.As(err, &netErr) && netErr.Timeout() {
		return nil
	}
	return err
}

func (c *Conn) writeRaw(b []byte) error {
	c.write.Lock()
	defer c.write.Unlock()
	_, err := c.Conn.Write(b)
	return err
}

// Write sends p: LF becomes CR LF, a CR that no LF follows becomes CR NUL,
// IAC is doubled (RFC 854). A CR at the end of p is taken as one alone. The
// count is of p.
func (c *Conn) Write(p []byte) (int, error) {
	out := make([]byte, 0, len(p)+8)
	for i, b := range p {
		switch {
		case b == iac:
			out = append(out, iac, iac)
		case b == '\n' && (i == 0 || p[i-1] != '\r'):
			out = append(out, '\r', '\n')
		case b == '\r' && (i+1 == len(p) || p[i+1] != '\n'):
			out = append(out, '\r', 0)
		default:
			out = append(out, b)
		}
	}
	if err := c.writeRaw(out); err != nil {
		return 0, err
	}
	return len(p), nil
}
