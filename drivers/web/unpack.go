package web

import (
	"bufio"
	"compress/flate"
	"compress/gzip"
	"compress/zlib"
	"context"
	"errors"
	"io"
	"net/http"
	"strings"

	"usm-satellite/jobs"
)

// unpack reads at most limit octets of the body as they are after unpacking:
// a body that unpacks to more is not unpacked any further. Of the codings of
// RFC 9110, 8.4.1, gzip and deflate are undone; a body in any other, or in
// several, is kept as it came.
func unpack(ctx context.Context, res *http.Response, limit int64) ([]byte, error) {
	var open func(*bufio.Reader) (io.Reader, error)
	switch strings.ToLower(strings.TrimSpace(res.Header.Get("Content-Encoding"))) {
	case "gzip", "x-gzip":
		open = func(packed *bufio.Reader) (io.Reader, error) { return gzip.NewReader(packed) }
	case "deflate":
		open = inflate
	}
	if open == nil || res.Request.Method == http.MethodHead {
		return io.ReadAll(jobs.TakeReader(ctx, io.LimitReader(res.Body, limit)))
	}
	packed := bufio.NewReader(res.Body)
	if _, err := packed.Peek(1); errors.Is(err, io.EOF) {
		return nil, nil // no body at all, as of status 304
	}
	body, err := open(packed)
	if err != nil {
		return nil, err
	}
	return io.ReadAll(jobs.TakeReader(ctx, io.LimitReader(body, limit)))
}

// inflate undoes the coding deflate. It stands for the zlib format (RFC 1950),
// but some servers send what is inside of that alone (RFC 1951). The two bytes
// that zlib begins with tell them apart: a method, and a multiple of 31.
func inflate(packed *bufio.Reader) (io.Reader, error) {
	const method = 8
	head, err := packed.Peek(2)
	if err != nil {
		return nil, err
	}
	if head[0]&0x0f == method && (int(head[0])<<8+int(head[1]))%31 == 0 {
		return zlib.NewReader(packed)
	}
	return flate.NewReader(packed), nil
}
