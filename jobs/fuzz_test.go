package jobs

import (
	"os"
	"path/filepath"
	"testing"
	"time"
)

// FuzzRecentLog demands that no file breaks the reading of kept answers, and
// that what is damaged is left out.
func FuzzRecentLog(f *testing.F) {
	dir := f.TempDir()
	log, err := openRecentLog(dir, func(answer) {})
	if err != nil {
		f.Fatal(err)
	}
	for _, id := range []string{"a", "b"} {
		log.add(&answer{jobID: id, at: time.Now(), body: []byte(`{"job_id":"` + id + `"}`)})
	}
	log.close()
	whole, err := os.ReadFile(filepath.Join(dir, recentPrefix+"0"))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(whole)
	f.Add(whole[:len(whole)-1])
	f.Add([]byte("usm-record-1 00 99999999999\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		path := filepath.Join(t.TempDir(), "recent-0")
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		size := 0
		readRecentLog(path, func(a answer) {
			size += len(a.body)
			_ = withJobID(fromStore(a.body), "other")
		})
		if size > len(data) {
			t.Fatalf("%d bytes of answers in %d", size, len(data))
		}
	})
}
