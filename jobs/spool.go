package jobs

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"
)

// SpoolOptions say where a spool is and how large it may become.
type SpoolOptions struct {
	Dir      string
	MaxBytes int64         // 0: 256 MiB
	MaxAge   time.Duration // of results of reads; 0: 24 hours
	Logger   *slog.Logger
}

// Spool keeps results on disk until the broker takes them: one record file
// each, named by the digest of the job's id, so that any process of the host
// finds the answer to a job. Results of reads give way, oldest first, where
// the spool is full; results of writes never do.
type Spool struct {
	SpoolOptions

	dir *os.File // to look at its time without the way to it

	mu      sync.Mutex
	bytes   int64     // of all records, as far as known. Guarded by mu
	names   []string  // oldest first, as of scanned. Guarded by mu
	scanned time.Time // guarded by mu
	evicted uint64    // guarded by mu
	seenAt  time.Time // when the directory had last changed when it was looked at. Guarded by mu
	nothing bool      // was in it then. Guarded by mu
}

var _ Outbox = (*Spool)(nil)

// Why a spool does not take or give a result.
var (
	ErrSpoolFull = errors.New("the spool is full of results of writes")
	ErrTaken     = errors.New("another process sends this result")
)

const (
	defaultSpoolBytes = 256 << 20
	defaultSpoolAge   = 24 * time.Hour
	maxSpoolAge       = 7 * 24 * time.Hour // of results of writes: as long as the journal has them besides
	spoolSuffix       = ".msg"
	damagedSuffix     = ".damaged"
	rescanAfter       = 2 * time.Second
)

// OpenSpool opens the spool in a directory, or makes it.
func OpenSpool(o SpoolOptions) (*Spool, error) {
	if o.MaxBytes <= 0 {
		o.MaxBytes = defaultSpoolBytes
	}
	if o.MaxAge <= 0 {
		o.MaxAge = defaultSpoolAge
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if err := prepareDir(o.Dir); err != nil {
		return nil, err
	}
	dir, err := os.Open(o.Dir)
	if err != nil {
		return nil, err
	}
	s := &Spool{SpoolOptions: o, dir: dir}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s, s.scan()
}

// spooled is the head of a record: the message without its body.
type spooled struct {
	Message // its Body is empty, and follows as it is

	StoredAt time.Time
}

// Put takes charge of a result: it is on disk when Put returns nil. Of two
// results of one job the first stays.
func (s *Spool) Put(m Message) error {
	body := m.Body
	m.Body = nil
	head, err := json.Marshal(spooled{m, time.Now().UTC()})
	if err != nil {
		return err
	}
	record := encodeRecord(slices.Concat(head, []byte("\n"), body))
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.makeRoom(int64(len(record))); err != nil {
		return err
	}
	f, err := writeTemp(s.Dir, record)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	name := nameOf(m.JobID) + spoolSuffix
	err = os.Link(f.Name(), filepath.Join(s.Dir, name))
	_ = os.Remove(f.Name())
	switch {
	case errors.Is(err, fs.ErrExist):
		return nil
	case err != nil:
		return err
	}
	s.bytes += int64(len(record))
	s.names = append(s.names, name)
	return syncDir(s.Dir)
}

// makeRoom evicts results of reads, oldest first, until n bytes fit.
func (s *Spool) makeRoom(n int64) error {
	if s.bytes+n <= s.MaxBytes {
		return nil
	}
	if err := s.scan(); err != nil {
		return err
	}
	for _, name := range slices.Clone(s.names) {
		if s.bytes+n <= s.MaxBytes {
			return nil
		}
		m, size, err := s.read(name)
		if err != nil || m.Write {
			continue
		}
		if os.Remove(filepath.Join(s.Dir, name)) == nil {
			s.evicted++
			s.forget(name, size)
			s.Logger.Warn("the spool is full: the oldest result of a read is dropped", "job_id", m.JobID, "dropped_so_far", s.evicted)
		}
	}
	if s.bytes+n <= s.MaxBytes {
		return nil
	}
	return ErrSpoolFull
}

// scan reads the directory: other processes put results there as well.
func (s *Spool) scan() error {
	entries, err := os.ReadDir(s.Dir)
	if err != nil {
		return err
	}
	type aged struct {
		name string
		at   time.Time
	}
	var found []aged
	s.bytes = 0
	for _, e := range entries {
		info, err := e.Info()
		if err != nil || !strings.HasSuffix(e.Name(), spoolSuffix) {
			continue
		}
		s.bytes += info.Size()
		found = append(found, aged{e.Name(), info.ModTime()})
	}
	slices.SortFunc(found, func(a, b aged) int { return cmp.Or(a.at.Compare(b.at), cmp.Compare(a.name, b.name)) })
	s.names = s.names[:0]
	for _, f := range found {
		s.names = append(s.names, f.name)
	}
	s.scanned = time.Now()
	return nil
}

func (s *Spool) forget(name string, size int64) {
	s.bytes -= size
	if i := slices.Index(s.names, name); i >= 0 {
		s.names = slices.Delete(s.names, i, i+1)
	}
}

// read returns a record.
func (s *Spool) read(name string) (Message, int64, error) {
	data, err := os.ReadFile(filepath.Join(s.Dir, name))
	if err != nil {
		return Message{}, 0, err
	}
	m, err := decodeSpooled(data)
	if err != nil {
		s.putAside(name, int64(len(data)))
	}
	return m, int64(len(data)), err
}

// putAside renames a damaged record: it is in no list any more, and an
// engineer can look at it.
func (s *Spool) putAside(name string, size int64) {
	path := filepath.Join(s.Dir, name)
	_ = os.Rename(path, path+damagedSuffix)
	s.forget(name, size)
	s.Logger.Error("a kept result is damaged and cannot be sent", "file", name+damagedSuffix)
}

func decodeSpooled(data []byte) (Message, error) {
	record, err := decodeRecord(data)
	if err != nil {
		return Message{}, err
	}
	head, body, ok := bytes.Cut(record, []byte("\n"))
	var sp spooled
	if !ok || json.Unmarshal(head, &sp) != nil {
		return Message{}, errDamaged
	}
	sp.Message.Body = body
	return sp.Message, nil
}

// Oldest returns the names of up to n results that wait, oldest first.
func (s *Spool) Oldest(n int) []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.names) == 0 || time.Since(s.scanned) > rescanAfter {
		_ = s.scan() // what cannot be read now is found next time
	}
	return slices.Clone(s.names[:min(n, len(s.names))])
}

// Take returns a waiting result for sending. No other process gets it until
// done is called; done(true) removes it.
func (s *Spool) Take(name string) (m Message, done func(sent bool), err error) {
	path := filepath.Join(s.Dir, name)
	f, err := os.Open(path)
	if err != nil {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.forget(name, 0)
		return Message{}, nil, err
	}
	defer func() {
		if err != nil {
			_ = f.Close()
		}
	}()
	if err := lock(f); err != nil {
		return Message{}, nil, ErrTaken
	}
	if !sameFile(f, path) {
		return Message{}, nil, fs.ErrNotExist
	}
	data, err := io.ReadAll(f)
	if err != nil {
		return Message{}, nil, err
	}
	if m, err = decodeSpooled(data); err != nil {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.putAside(name, int64(len(data)))
		return Message{}, nil, err
	}
	return m, func(sent bool) {
		if sent && os.Remove(path) == nil {
			s.mu.Lock()
			defer s.mu.Unlock()
			s.forget(name, int64(len(data)))
		}
		_ = f.Close()
	}, nil
}

// Find returns the waiting result of a job.
func (s *Spool) Find(jobID string) (Message, bool) {
	if s.empty() {
		return Message{}, false
	}
	data, err := os.ReadFile(filepath.Join(s.Dir, nameOf(jobID)+spoolSuffix))
	if err != nil {
		return Message{}, false
	}
	m, err := decodeSpooled(data)
	return m, err == nil && m.JobID == jobID
}

// empty says that nothing waits, also of other processes. It is asked for each
// job, and looking at the time of the directory costs a quarter of looking for
// the job's file.
func (s *Spool) empty() bool {
	const tick = 20 * time.Millisecond // two changes within one may have the same time
	info, err := s.dir.Stat()
	if err != nil {
		return false
	}
	changed := info.ModTime()
	s.mu.Lock()
	defer s.mu.Unlock()
	if changed.Equal(s.seenAt) {
		return s.nothing
	}
	if time.Since(changed) < tick {
		return false
	}
	entries, err := os.ReadDir(s.Dir)
	waits := func(e fs.DirEntry) bool { return strings.HasSuffix(e.Name(), spoolSuffix) }
	s.seenAt, s.nothing = changed, err == nil && !slices.ContainsFunc(entries, waits)
	return s.nothing
}

// Len returns how many results wait, as far as this process knows.
func (s *Spool) Len() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.names)
}

// Full says that nine tenths of the spool are taken.
func (s *Spool) Full() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.bytes > s.MaxBytes/10*9
}

// Evicted returns how many results of reads had to give way.
func (s *Spool) Evicted() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.evicted
}

// Sweep removes results that are too old for anybody to want them: of reads
// after MaxAge, of writes after a week.
func (s *Spool) Sweep(now time.Time) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.sweepLeftovers(now); err != nil {
		return err
	}
	if err := s.scan(); err != nil {
		return err
	}
	for _, name := range slices.Clone(s.names) {
		info, err := os.Stat(filepath.Join(s.Dir, name))
		if err != nil || now.Sub(info.ModTime()) <= s.MaxAge {
			continue
		}
		m, size, err := s.read(name)
		if err != nil || m.Write && now.Sub(info.ModTime()) <= maxSpoolAge {
			continue
		}
		if os.Remove(filepath.Join(s.Dir, name)) == nil {
			s.evicted++
			s.forget(name, size)
			s.Logger.Warn("a result was kept for too long and is dropped: no queue took it", "job_id", m.JobID, "write", m.Write)
		}
	}
	return nil
}

// sweepLeftovers removes what processes that died left unfinished, and old
// damaged results.
func (s *Spool) sweepLeftovers(now time.Time) error {
	entries, err := os.ReadDir(s.Dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		info, err := e.Info()
		if err != nil {
			continue
		}
		damaged := strings.HasSuffix(e.Name(), damagedSuffix) && now.Sub(info.ModTime()) > s.MaxAge
		if damaged || strings.HasPrefix(e.Name(), tempPrefix) && staleTemp(info) {
			_ = os.Remove(filepath.Join(s.Dir, e.Name()))
		}
	}
	return nil
}
