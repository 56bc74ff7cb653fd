package netconf

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
)

// endOfMessage closes each message of NETCONF 1.0 (RFC 6242, 4.3).
const endOfMessage = "]]>]]>"

// What ends a stream of messages.
var (
	errFraming = errors.New("netconf: the framing is broken")
	errTooLong = errors.New("netconf: the message is longer than the limit")
)

// framer cuts a stream into messages and makes one of messages.
type framer struct {
	r       *bufio.Reader
	w       io.Writer
	chunked bool // NETCONF 1.1 (RFC 6242, 4.2); until both have said hello it is not
	limit   int  // bytes of a message
}

func newFramer(rw io.ReadWriter, limit int) *framer {
	return &framer{r: bufio.NewReader(rw), w: rw, limit: limit}
}

// write sends one message.
func (f *framer) write(message []byte) error {
	var b bytes.Buffer
	if f.chunked {
		fmt.Fprintf(&b, "\n#%d\n", len(message))
		b.Write(message)
		b.WriteString("\n##\n")
	} else {
		b.Write(message)
		b.WriteString(endOfMessage)
	}
	_, err := f.w.Write(b.Bytes())
	return err
}

// read returns the next message.
func (f *framer) read() ([]byte, error) {
	if f.chunked {
		return f.readChunks()
	}
	var message []byte
	for {
		piece, err := f.r.ReadSlice('>')
		message = append(message, piece...)
		switch {
		case err != nil && !errors.Is(err, bufio.ErrBufferFull):
			return nil, err
		case bytes.HasSuffix(message, []byte(endOfMessage)):
			return bytes.TrimSuffix(message, []byte(endOfMessage)), nil
		case len(message) > f.limit+len(endOfMessage):
			return nil, errTooLong
		}
	}
}

func (f *framer) readChunks() ([]byte, error) {
	var message []byte
	for first := true; ; first = false {
		size, err := f.chunkSize()
		switch {
		case err != nil:
			return nil, err
		case size == 0 && first:
			return nil, errFraming // a message has at least one chunk
		case size == 0:
			return message, nil
		case len(message)+size > f.limit:
			return nil, errTooLong
		}
		if message, err = f.fill(message, size); err != nil {
			return nil, err
		}
	}
}

// fill appends a chunk. Memory grows with what has come, not with what was
// announced.
func (f *framer) fill(message []byte, size int) ([]byte, error) {
	for size > 0 {
		step := min(size, 64<<10)
		start := len(message)
		message = append(message, make([]byte, step)...)
		if _, err := io.ReadFull(f.r, message[start:]); err != nil {
			return nil, err
		}
		size -= step
	}
	return message, nil
}

// maxChunk is the largest size of a chunk (RFC 6242, 4.2).
const maxChunk = 1<<32 - 1

// chunkSize reads LF # size LF, or LF ## LF, for which it returns 0.
func (f *framer) chunkSize() (int, error) {
	for _, want := range []byte("\n#") {
		if err := f.expect(want); err != nil {
			return 0, err
		}
	}
	b, err := f.r.ReadByte()
	if err != nil {
		return 0, err
	}
	if b == '#' {
		return 0, f.expect('\n')
	}
	if b == '0' {
		return 0, errFraming
	}
	size := int64(0)
	for ; b != '\n'; b, err = f.r.ReadByte() {
		if err != nil {
			return 0, err
		}
		if b < '0' || b > '9' {
			return 0, errFraming
		}
		if size = size*10 + int64(b-'0'); size > maxChunk {
			return 0, errFraming
		}
	}
	if err != nil {
		return 0, err
	}
	if size > int64(f.limit) {
		return 0, errTooLong
	}
	return int(size), nil
}

func (f *framer) expect(want byte) error {
	b, err := f.r.ReadByte()
	if err == nil && b != want {
		err = errFraming
	}
	return err
}
