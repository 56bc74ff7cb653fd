package web

import (
	"bytes"
	"compress/flate"
	"compress/gzip"
	"compress/zlib"
	"io"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"testing"

	"usm-satellite/jobs"
)

// packer packs in one of the ways that servers do.
type packer struct {
	coding string // Content-Encoding
	open   func(io.Writer) io.WriteCloser
}

func packers() map[string]packer {
	return map[string]packer{
		"gzip": {"gzip", func(w io.Writer) io.WriteCloser { return gzip.NewWriter(w) }},
		"x":    {"X-GZIP", func(w io.Writer) io.WriteCloser { return gzip.NewWriter(w) }},
		"zlib": {"deflate", func(w io.Writer) io.WriteCloser { return zlib.NewWriter(w) }},
		"raw": {"Deflate", func(w io.Writer) io.WriteCloser {
			raw, err := flate.NewWriter(w, flate.BestCompression)
			if err != nil {
				panic(err)
			}
			return raw
		}},
	}
}

func packed(p packer, body []byte) []byte {
	var b bytes.Buffer
	w := p.open(&b)
	_, _ = w.Write(body)
	_ = w.Close()
	return b.Bytes()
}

// serving answers /name with a body packed by the packer of that name.
func serving(t *testing.T, change func(packed []byte) []byte, body []byte) string {
	t.Helper()
	all := packers()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		p := all[r.URL.Path[1:]]
		w.Header().Set("Content-Encoding", p.coding)
		if r.URL.RawQuery == "304" {
			w.WriteHeader(http.StatusNotModified)
			return
		}
		_, _ = w.Write(change(packed(p, body)))
	}))
	t.Cleanup(server.Close)
	return server.URL
}

func TestBodiesAreUnpacked(t *testing.T) {
	page := strings.Repeat("the page of sw1. ", 1000)
	whole := serving(t, func(b []byte) []byte { return b }, []byte(page))
	half := serving(t, func(b []byte) []byte { return b[:len(b)/2] }, []byte(page))
	junk := serving(t, func(b []byte) []byte { return []byte{0xff, 0xfe, 0xfd} }, nil)
	empty := serving(t, func([]byte) []byte { return nil }, nil)
	for name := range packers() {
		if found, out, fault := ask(t, map[string]any{"url": whole + "/" + name}, ""); fault != nil || found.Body == nil || *found.Body != page || out.Truncated || out.Partial {
			t.Errorf("%s: got %v, %+v", name, fault, out)
		}
		if _, out, fault := ask(t, map[string]any{"url": half + "/" + name}, ""); fault == nil || fault.Code != jobs.CodeProtocolError || !out.Partial {
			t.Errorf("%s, half of it: got %v", name, fault)
		}
		if _, _, fault := ask(t, map[string]any{"url": junk + "/" + name}, ""); fault == nil || fault.Code != jobs.CodeProtocolError {
			t.Errorf("%s, of junk: got %v", name, fault)
		}
		for _, nothing := range []map[string]any{
			{"url": empty + "/" + name}, {"url": whole + "/" + name + "?304"}, {"url": whole + "/" + name, "method": "HEAD"},
		} {
			if found, _, fault := ask(t, nothing, ""); fault != nil || found.Body == nil || *found.Body != "" {
				t.Errorf("%s: %v: got %v, %+v", name, nothing, fault, found)
			}
		}
	}
}

// bomb returns how a packed body of zeros begins, and what goes on with it,
// any number of times: 256 KiB each.
func bomb(t *testing.T, p packer) (first, more []byte) {
	t.Helper()
	var b bytes.Buffer
	w := p.open(&b)
	var parts [2][]byte
	for i := range parts {
		b.Reset()
		if _, err := w.Write(make([]byte, 256<<10)); err != nil {
			t.Fatal(err)
		}
		if err := w.(interface{ Flush() error }).Flush(); err != nil {
			t.Fatal(err)
		}
		parts[i] = bytes.Clone(b.Bytes())
	}
	return parts[0], parts[1]
}

// A body that packs a thousand to one and never ends is unpacked no further than it is wanted.
func TestBombsAreNotUnpacked(t *testing.T) {
	for name, p := range packers() {
		first, more := bomb(t, p)
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Encoding", p.coding)
			_, err := w.Write(first)
			for err == nil && r.Context().Err() == nil {
				_, err = w.Write(more)
			}
		}))
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		found, out, fault := ask(t, map[string]any{"url": server.URL, "max_bytes": 1000}, "")
		runtime.ReadMemStats(&after)
		server.Close()
		if fault != nil || !out.Truncated || len(found.BodyBase64) > 1400 {
			t.Errorf("%s: got %d bytes, %v", name, len(found.BodyBase64), fault)
		}
		if used := after.TotalAlloc - before.TotalAlloc; used > 16<<20 { // with the server's
			t.Errorf("%s: %d MiB were allocated", name, used>>20)
		}
	}
}
