// Package ledger judges, from what others saw of it, whether a satellite kept
// its promises: no job lost, no write run twice, no answer that is not true.
// It reads four append-only logs, kept by the core (what it published, what it
// got back), by the device (what reached it) and by whoever made the faults.
// It imports nothing of the product, so that no mistake is shared.
package ledger

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"
)

// Published is a job that the broker has confirmed.
type Published struct {
	At       time.Time `json:"at"` // of the confirm
	Job      string    `json:"job"`
	Write    bool      `json:"write"`
	Nonce    string    `json:"nonce"`              // what the device is to be told, or to say
	Deadline time.Time `json:"deadline,omitzero"`  // nothing may start after it
	Expires  time.Time `json:"expires,omitzero"`   // the broker may drop it after that
	Refused  bool      `json:"refused,omitempty"`  // its target is not allowed: it must not reach any device
	Sequence int       `json:"sequence,omitempty"` // for people
}

// Device is a request that reached a device. It is recorded before the reply.
type Device struct {
	At        time.Time `json:"at"`
	Nonce     string    `json:"nonce"`
	Write     bool      `json:"write"`
	Probe     bool      `json:"probe,omitempty"`     // it belongs to no job in particular
	Forbidden bool      `json:"forbidden,omitempty"` // this device is outside the policy
}

// Result is a terminal answer as it came to the core.
type Result struct {
	At     time.Time `json:"at"`
	Job    string    `json:"job"`
	Status string    `json:"status"`
	Nonce  string    `json:"nonce,omitempty"` // what the device said, with status ok
}

// Fault is something that was done to the system, from At until Until; or,
// with Kind "sample", a measurement of a process.
type Fault struct {
	At       time.Time `json:"at"`
	Until    time.Time `json:"until"`
	Kind     string    `json:"kind"`
	Resident int64     `json:"resident,omitempty"` // bytes
	Files    int       `json:"files,omitempty"`    // open descriptors
}

// Sample is the kind of a Fault that is none.
const Sample = "sample"

// Ledger holds the four logs.
type Ledger struct {
	Published []Published
	Device    []Device
	Results   []Result
	Faults    []Fault
}

// The names of the logs in their directory.
const (
	PublishedLog = "published"
	DeviceLog    = "device"
	ResultsLog   = "results"
	FaultsLog    = "faults"
)

// Log appends entries to one of the logs.
type Log struct {
	mu sync.Mutex
	f  *os.File
}

// OpenLog opens a log of a directory for appending.
func OpenLog(dir, name string) (*Log, error) {
	f, err := os.OpenFile(filepath.Join(dir, name+".jsonl"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	return &Log{f: f}, err
}

// Add writes an entry. It is with the kernel when Add returns.
func (l *Log) Add(entry any) error {
	line, err := json.Marshal(entry)
	if err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	_, err = l.f.Write(append(line, '\n'))
	return err
}

// Close ends the log.
func (l *Log) Close() error { return l.f.Close() }

// Read reads the logs of a directory. A log that is not there is an error: a
// ledger without one of its witnesses proves nothing.
func Read(dir string) (*Ledger, error) {
	var l Ledger
	err := errors.Join(
		readLog(dir, PublishedLog, &l.Published), readLog(dir, DeviceLog, &l.Device),
		readLog(dir, ResultsLog, &l.Results), readLog(dir, FaultsLog, &l.Faults))
	return &l, err
}

func readLog[T any](dir, name string, entries *[]T) error {
	f, err := os.Open(filepath.Join(dir, name+".jsonl"))
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("the log %s is missing", name)
	}
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	r := bufio.NewReader(f)
	for n := 1; ; n++ {
		line, err := r.ReadBytes('\n')
		if errors.Is(err, io.EOF) && len(line) == 0 {
			return nil
		}
		if err != nil {
			return fmt.Errorf("the log %s, line %d: %w", name, n, err)
		}
		var entry T
		if err := json.Unmarshal(line, &entry); err != nil {
			return fmt.Errorf("the log %s, line %d: %w", name, n, err)
		}
		*entries = append(*entries, entry)
	}
}
