package simulator

import (
	"bufio"
	"bytes"
	"io"
	"net"
)

// Bytes of RFC 854, and the options that a server turns on: it echoes (RFC
// 857), and sends no go-ahead (RFC 858).
const (
	iac       = 255
	will      = 251
	dont      = 254
	sb        = 250
	se        = 240
	optEcho   = 1
	optNoWait = 3
)

func (d *device) serveTelnet(conn net.Conn) {
	if _, err := conn.Write([]byte{iac, will, optEcho, iac, will, optNoWait}); err != nil {
		return
	}
	c := d.newConsole(&typed{raw: bufio.NewReader(conn)}, &escaped{conn}, Telnet)
	if c.login() == nil {
		c.run()
	}
}

// typed is the input with the protocol taken out.
type typed struct{ raw *bufio.Reader }

func (t *typed) Read(p []byte) (int, error) {
	for len(p) > 0 {
		b, err := t.raw.ReadByte()
		if err != nil {
			return 0, err
		}
		if b == iac {
			data, err := t.command()
			if err != nil {
				return 0, err
			}
			if !data {
				continue
			}
		}
		p[0] = b
		return 1, nil
	}
	return 0, nil
}

// command reads what follows IAC, and says whether it stands for a byte 255.
func (t *typed) command() (data bool, err error) {
	verb, err := t.raw.ReadByte()
	switch {
	case err != nil:
		return false, err
	case verb == iac:
		return true, nil
	case verb >= will && verb <= dont:
		_, err = t.raw.ReadByte()
		return false, err
	case verb != sb:
		return false, nil
	}
	for last := byte(0); ; {
		b, err := t.raw.ReadByte()
		if err != nil {
			return false, err
		}
		if last == iac && b == se {
			return false, nil
		}
		if last == iac && b == iac {
			b = 0 // a doubled one
		}
		last = b
	}
}

// escaped doubles IAC on the way out.
type escaped struct{ w io.Writer }

func (e *escaped) Write(p []byte) (int, error) {
	if _, err := e.w.Write(bytes.ReplaceAll(p, []byte{iac}, []byte{iac, iac})); err != nil {
		return 0, err
	}
	return len(p), nil
}
