package broker

import (
	"bytes"
	"compress/gzip"
	"testing"

	"github.com/klauspost/compress/zstd"

	"usm-satellite/jobs"
)

// FuzzUnpack demands that no body breaks the unpacking, and that no bomb comes
// out larger than the largest job.
func FuzzUnpack(f *testing.F) {
	bomb := make([]byte, 4*jobs.MaxJobBytes)
	for _, plain := range [][]byte{[]byte(`{"schema":1}`), bomb} {
		var zipped bytes.Buffer
		w := gzip.NewWriter(&zipped)
		if _, err := w.Write(plain); err != nil || w.Close() != nil {
			f.Fatal("gzip does not pack")
		}
		f.Add("gzip", zipped.Bytes())
		enc, err := zstd.NewWriter(nil)
		if err != nil {
			f.Fatal(err)
		}
		f.Add("zstd", enc.EncodeAll(plain, nil))
	}
	f.Fuzz(func(t *testing.T, encoding string, body []byte) {
		plain, fault := unpack(encoding, body)
		if fault != nil && (plain != nil || fault.Code != jobs.CodeInvalidJob) {
			t.Fatalf("got %d bytes and %v", len(plain), fault)
		}
		if encoding != "" && len(plain) > jobs.MaxJobBytes+1 {
			t.Fatalf("%d bytes were unpacked to %d", len(body), len(plain))
		}
	})
}
