package jobs

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// A record is a file that is there whole or not at all: a header line with the
// format's version, a digest and the length, then the body. It is written
// beside its place, synced, and put there by link or rename, so that neither
// a kill nor a crash of the machine leaves half of one; a file that the disk
// has damaged all the same is recognised.
const recordFormat = "usm-record-1"

var errDamaged = errors.New("the record is damaged")

func encodeRecord(body []byte) []byte {
	digest := sha256.Sum256(body)
	head := fmt.Sprintf("%s %s %d\n", recordFormat, hex.EncodeToString(digest[:]), len(body))
	return append([]byte(head), body...)
}

// decodeRecord returns the body of a record, or errDamaged.
func decodeRecord(data []byte) ([]byte, error) {
	head, body, ok := bytes.Cut(data, []byte("\n"))
	if !ok {
		return nil, errDamaged
	}
	digest := sha256.Sum256(body)
	want := fmt.Sprintf("%s %s %d", recordFormat, hex.EncodeToString(digest[:]), len(body))
	if string(head) != want {
		return nil, errDamaged
	}
	return body, nil
}

// writeTemp writes data to a new file in dir and syncs it. The caller closes
// the file and removes it, or moves it to its place.
func writeTemp(dir string, data []byte) (*os.File, error) {
	f, err := os.CreateTemp(dir, tempPrefix+"*")
	if err != nil {
		return nil, err
	}
	if _, err = f.Write(data); err == nil {
		err = f.Sync()
	}
	if err != nil {
		_ = f.Close()
		_ = os.Remove(f.Name())
		return nil, err
	}
	return f, nil
}

const tempPrefix = "tmp-"

// syncDir makes the names in dir durable.
func syncDir(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	return f.Sync()
}

// nameOf turns a key, which may hold anything, into the name of a file.
func nameOf(key string) string {
	digest := sha256.Sum256([]byte(key))
	return hex.EncodeToString(digest[:16])
}

// prepareDir makes a directory of the state, removes what a crash left of
// unfinished files, and makes sure that it can be written to.
func prepareDir(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	left, err := filepath.Glob(filepath.Join(dir, tempPrefix+"*"))
	if err != nil {
		return err
	}
	for _, path := range left {
		if info, err := os.Stat(path); err == nil && staleTemp(info) {
			_ = os.Remove(path)
		}
	}
	probe, err := writeTemp(dir, []byte("probe"))
	if err != nil {
		return err
	}
	return errors.Join(probe.Close(), os.Remove(probe.Name()))
}
