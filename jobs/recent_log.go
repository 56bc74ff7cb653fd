package jobs

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"
)

// recentLog keeps the answers of the last jobs in a file as well, so that a
// process which dies between the publish of an answer and its ack, and starts
// again, gives the copy of the job the same answer. It is not synced: it is
// for deaths of the process, which the page cache survives; for deaths of the
// machine there is the Journal, as far as writes go.
//
// Each process has a file of its own (the first that no other holds), and
// reads those of all.
type recentLog struct {
	file *os.File
	size int64
}

const (
	recentLogBytes = 8 << 20 // of one file; it is begun anew when full
	maxRecentFiles = 64
	recentPrefix   = "recent-"
)

var errNoRecentFile = errors.New("every file for recent answers is in use")

// openRecentLog takes a file in dir, and calls found for each answer that the
// files there hold, oldest first in each.
func openRecentLog(dir string, found func(answer)) (*recentLog, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	paths, err := filepath.Glob(filepath.Join(dir, recentPrefix+"*"))
	if err != nil {
		return nil, err
	}
	for _, path := range paths {
		readRecentLog(path, found)
	}
	for i := range maxRecentFiles {
		f, err := os.OpenFile(filepath.Join(dir, fmt.Sprintf("%s%d", recentPrefix, i)), os.O_CREATE|os.O_RDWR|os.O_APPEND, 0o600)
		if err != nil {
			return nil, err
		}
		if err := lock(f); err != nil {
			_ = f.Close()
			continue
		}
		info, err := f.Stat()
		if err != nil {
			_ = f.Close()
			return nil, err
		}
		return &recentLog{file: f, size: info.Size()}, nil
	}
	return nil, errNoRecentFile
}

// logged is the head of a record.
type logged struct {
	JobID string
	Only  string `json:",omitempty"`
	At    time.Time
}

// readRecentLog reads up to the first record that is not whole.
func readRecentLog(path string, found func(answer)) {
	f, err := os.Open(path)
	if err != nil {
		return
	}
	defer func() { _ = f.Close() }()
	r := bufio.NewReader(f)
	for {
		head, err := r.ReadString('\n')
		if err != nil {
			return
		}
		var format, digest string
		var length int
		if _, err := fmt.Sscanf(head, "%s %s %d", &format, &digest, &length); err != nil || length < 0 || length > recentLogBytes {
			return
		}
		record := make([]byte, len(head)+length)
		copy(record, head)
		if _, err := io.ReadFull(r, record[len(head):]); err != nil {
			return
		}
		body, err := decodeRecord(record)
		if err != nil {
			return
		}
		line, result, _ := bytes.Cut(body, []byte("\n"))
		var a logged
		if json.Unmarshal(line, &a) == nil {
			found(answer{jobID: a.JobID, only: a.Only, at: a.At, body: result})
		}
	}
}

// add notes an answer. What cannot be written is not: the log is a comfort.
func (l *recentLog) add(a *answer) {
	line, err := json.Marshal(logged{a.jobID, a.only, a.at})
	if err != nil {
		return
	}
	record := encodeRecord(bytes.Join([][]byte{line, a.body}, []byte("\n")))
	if len(record) > recentLogBytes/4 {
		return
	}
	if l.size+int64(len(record)) > recentLogBytes {
		if l.file.Truncate(0) != nil {
			return
		}
		l.size = 0
	}
	n, err := l.file.Write(record)
	l.size += int64(n)
	if err != nil { // half a record would hide what follows it
		l.size -= int64(n)
		_ = l.file.Truncate(l.size)
	}
}

func (l *recentLog) close() { _ = l.file.Close() }
