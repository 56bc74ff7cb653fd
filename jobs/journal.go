package jobs

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// JournalOptions say where a journal is and how large it may become.
type JournalOptions struct {
	Dir      string
	MaxAge   time.Duration // of terminal records; 0: 7 days
	MaxBytes int64         // of all of them; 0: 256 MiB
	Logger   *slog.Logger
}

// Journal makes sure that a write is run at most once, under any number of
// crashes of any number of processes on one host. For each write there are, in
// one directory, named by the digest of its key:
//
//	NAME.claim   the right to run it: put there by link(2), so that only one
//	             process can; locked (flock) by whoever runs it, as long as it
//	             lives; its last line says whether a byte may have been sent
//	NAME.done    its result: put there by link(2), so that the first one stays
//	NAME.try     how often it has been begun (of any job that came again)
//
// A claim whose lock is free and that has no result belonged to a process that
// died: nobody knows whether the change was made. A journal holds no
// credentials: a claim has the id of its job, a record the result.
type Journal struct {
	JournalOptions

	born time.Time
	boot string // tells crashes of a process from crashes of the machine
}

// ErrHeld is what Claim finds in place of the right to run a write.
var ErrHeld = errors.New("another process runs this write now")

// FinishedError holds the result of a write that has ended.
type FinishedError struct{ Result []byte }

func (*FinishedError) Error() string { return "this write has been run" }

// InterruptedError says that the process which ran a write died.
type InterruptedError struct {
	Sent bool // a byte of the change may have left
	At   time.Time
}

func (*InterruptedError) Error() string { return "the process that ran this write died" }

const (
	defaultJournalAge   = 7 * 24 * time.Hour
	defaultJournalBytes = 256 << 20
	journalVersion      = "usm-journal-1"
)

// OpenJournal opens the journal in a directory, or makes it. An error means
// that writes must not be run.
func OpenJournal(o JournalOptions) (*Journal, error) {
	if o.MaxAge <= 0 {
		o.MaxAge = defaultJournalAge
	}
	if o.MaxBytes <= 0 {
		o.MaxBytes = defaultJournalBytes
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	j := &Journal{JournalOptions: o, boot: bootID()}
	if err := prepareDir(o.Dir); err != nil {
		return nil, err
	}
	return j, j.identify()
}

// identify reads when the journal was made and by which version, or writes it.
func (j *Journal) identify() error {
	path := filepath.Join(j.Dir, "version")
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		if err := j.place(path, versionLine(time.Now().UTC())); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
		text, err = os.ReadFile(path)
	}
	if err != nil {
		return err
	}
	version, born, _ := strings.Cut(string(text), " ")
	j.born, err = time.Parse(time.RFC3339Nano+"\n", born)
	switch {
	case err == nil && version == journalVersion:
		return nil
	case err == nil && strings.HasPrefix(version, "usm-journal-"):
		return fmt.Errorf("the journal in %s was written by another version of the satellite (%s)", j.Dir, version)
	}
	// Damaged: what came before may be lost with it, so it counts as new.
	j.born = time.Now().UTC()
	j.Logger.Warn("the journal's version file is damaged; the journal counts as made now", "dir", j.Dir)
	return j.replace(path, versionLine(j.born))
}

func versionLine(born time.Time) []byte {
	return []byte(journalVersion + " " + born.Format(time.RFC3339Nano) + "\n")
}

// place puts data at path, whole and durable, unless there is something.
func (j *Journal) place(path string, data []byte) error {
	f, err := writeTemp(j.Dir, data)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	err = os.Link(f.Name(), path)
	_ = os.Remove(f.Name())
	if err != nil {
		return err
	}
	return syncDir(j.Dir)
}

// Born returns when the journal was made, by the clock of that moment.
func (j *Journal) Born() time.Time { return j.born }

func (j *Journal) path(key, kind string) string { return filepath.Join(j.Dir, nameOf(key)+kind) }

// Claim is the right to run one write. It is given back by Finish or Release;
// the death of the process leaves it behind for others to find.
type Claim struct {
	j     *Journal
	key   string
	file  *os.File
	phase int64 // offset of the claim's last line
	will  *Will // nil: the broker gives the job out again
}

type claimHead struct {
	JobID string    `json:"job_id"`
	At    time.Time `json:"at"`
	Boot  string    `json:"boot"`
	Key   string    `json:"key,omitempty"`
	Will  *Will     `json:"will,omitempty"`
}

// The last line of a claim. The one is written over the other: a claim that
// lost its end, in whatever way, then never looks like one that sent nothing.
const (
	claimedLine = "claimed\n"
	sendingLine = "sending\n"
)

// Claim takes the right to run the write with this key. It is on disk when
// Claim returns. Errors: *FinishedError, ErrHeld; with *InterruptedError a
// claim is returned all the same, for nothing but Finish: the write must not
// be run. Any other error means that the journal does not work. The will, if
// any, is found by Orphans.
func (j *Journal) Claim(key, jobID string, will *Will) (*Claim, error) {
	for {
		// Most copies of a write that has ended need no claim.
		if result, err := j.result(key); result != nil {
			return nil, &FinishedError{result}
		} else if err != nil && !isInterrupted(err) {
			return nil, err
		}
		claim, err := j.create(key, jobID, will)
		if errors.Is(err, fs.ErrExist) {
			claim, err = j.inherit(key)
			if errors.Is(err, fs.ErrNotExist) {
				continue // given back between the two looks
			}
		}
		if claim == nil {
			return nil, err
		}
		return j.confirm(claim, err)
	}
}

// Known says that a write with this key was claimed and not given back, or has
// ended. It costs next to nothing; what became of the write, Claim says.
func (j *Journal) Known(key string) bool {
	for _, kind := range []string{".done", ".claim"} {
		if _, err := os.Lstat(j.path(key, kind)); !errors.Is(err, fs.ErrNotExist) {
			return true
		}
	}
	return false
}

// confirm looks for a result once more, now that nobody else can record one:
// the write may have ended since the first look.
func (j *Journal) confirm(claim *Claim, why error) (*Claim, error) {
	result, err := j.result(claim.key)
	switch {
	case result != nil:
		_ = claim.Release()
		return nil, &FinishedError{result}
	case err == nil:
		return claim, why
	case isInterrupted(err):
		return claim, err
	default:
		_ = claim.file.Close() // the claim stays: it says what it said before
		return nil, err
	}
}

func isInterrupted(err error) bool {
	var interrupted *InterruptedError
	return errors.As(err, &interrupted)
}

// result returns the terminal record of a write; nil: there is none.
func (j *Journal) result(key string) ([]byte, error) {
	data, err := os.ReadFile(j.path(key, ".done"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	body, err := decodeRecord(data)
	if err != nil {
		// The disk lost it. That it is there says that the write was run.
		return nil, &InterruptedError{Sent: true, At: time.Now()}
	}
	return body, nil
}

// create puts a claim there that is locked from its first moment on.
func (j *Journal) create(key, jobID string, will *Will) (*Claim, error) {
	head, err := json.Marshal(claimHead{JobID: jobID, At: time.Now().UTC(), Boot: j.boot, Key: key, Will: will})
	if err != nil {
		return nil, err
	}
	head = append(head, '\n')
	f, err := writeTemp(j.Dir, slices.Concat(head, []byte(claimedLine)))
	if err != nil {
		return nil, err
	}
	if err := lock(f); err != nil {
		_ = f.Close()
		_ = os.Remove(f.Name())
		return nil, err
	}
	err = os.Link(f.Name(), j.path(key, ".claim"))
	_ = os.Remove(f.Name())
	Failpoint("claim linked")
	if err == nil {
		err = syncDir(j.Dir)
	}
	if err != nil {
		_ = f.Close()
		return nil, err
	}
	return &Claim{j, key, f, int64(len(head)), will}, nil
}

// inherit looks at a claim that is there already.
func (j *Journal) inherit(key string) (*Claim, error) {
	f, err := os.OpenFile(j.path(key, ".claim"), os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	if err := lock(f); err != nil {
		_ = f.Close()
		return nil, err
	}
	if !sameFile(f, j.path(key, ".claim")) {
		_ = f.Close()
		return nil, fs.ErrNotExist
	}
	phase, will, interrupted := j.lastPhase(f)
	claim := &Claim{j, key, f, phase, will}
	if interrupted != nil {
		return claim, interrupted
	}
	return claim, nil
}

// lastPhase says what is known of the run of a holder that died. Where the
// machine has been up since, "claimed" proves that nothing was sent: the line
// is written over (if not synced) before the first byte. Everything else, and
// everything damaged, counts as sent.
func (j *Journal) lastPhase(f *os.File) (offset int64, will *Will, interrupted *InterruptedError) {
	unknown := &InterruptedError{Sent: true, At: time.Now()}
	if info, err := f.Stat(); err == nil {
		unknown.At = info.ModTime()
	}
	data, err := io.ReadAll(io.LimitReader(f, maxClaim))
	if err != nil {
		return 0, nil, unknown
	}
	line, rest, _ := bytes.Cut(data, []byte("\n"))
	var head claimHead
	if json.Unmarshal(line, &head) != nil {
		return 0, nil, unknown
	}
	unknown.At = head.At
	if string(rest) == claimedLine && head.Boot != "" && head.Boot == j.boot {
		return int64(len(line)) + 1, head.Will, nil
	}
	return 0, head.Will, unknown
}

// maxClaim is more than a claim ever has: the id of a job is bounded, and so
// is a will.
const maxClaim = 128 << 10

// Sending notes that the next thing to happen is the first byte to the device.
func (c *Claim) Sending() error {
	_, err := c.file.WriteAt([]byte(sendingLine), c.phase)
	return err
}

// Finish makes result the end of the write, unless there is one already, and
// returns the one that stands. After an error the claim stays: the write
// counts as interrupted. One that has a will is kept until Answered, so that
// whoever finds it sends the result.
func (c *Claim) Finish(result []byte) (winner []byte, err error) {
	defer func() {
		if c.will == nil || err != nil {
			_ = c.file.Close()
		}
	}()
	done := c.j.path(c.key, ".done")
	err = c.j.place(done, encodeRecord(result))
	if errors.Is(err, fs.ErrExist) {
		winner, err = c.j.result(c.key)
		if isInterrupted(err) {
			winner, err = result, c.j.replace(done, encodeRecord(result))
		}
	} else if err == nil {
		winner = result
	}
	if err != nil {
		_ = c.file.Truncate(0) // the caller answers, so no will may; and no end says "sent", whatever was
		return nil, err
	}
	Failpoint("result linked")
	if c.will == nil {
		_ = os.Remove(c.j.path(c.key, ".claim"))
	}
	return winner, nil
}

// Answered says that the core has the result that Finish recorded, or will get
// it: there is nothing left to be found.
func (c *Claim) Answered() {
	if c.will != nil {
		_ = c.Release()
	}
}

func (j *Journal) replace(path string, data []byte) error {
	f, err := writeTemp(j.Dir, data)
	if err != nil {
		return err
	}
	return errors.Join(f.Close(), os.Rename(f.Name(), path), syncDir(j.Dir))
}

// Release gives the right back: nothing was sent, the write may be run later.
func (c *Claim) Release() error {
	defer func() { _ = c.file.Close() }()
	return os.Remove(c.j.path(c.key, ".claim"))
}

// lockDevice makes the writes of this process to a device exclude those of
// others on the host. ErrHeld: another process writes to it now.
func (j *Journal) lockDevice(device string) (unlock func(), err error) {
	path := j.path(device, ".device")
	for {
		f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
		if err != nil {
			return nil, err
		}
		if err := lock(f); err != nil {
			_ = f.Close()
			return nil, err
		}
		if sameFile(f, path) {
			return func() { _ = f.Close() }, nil
		}
		_ = f.Close() // swept away between the two steps
	}
}

// Begin counts an attempt at a job on disk. It returns how many were begun
// before and never ended; done must be called when this one ends.
func (j *Journal) Begin(key string) (earlier int, done func(), err error) {
	path := j.path(key, ".try")
	if text, err := os.ReadFile(path); err == nil {
		earlier, _ = strconv.Atoi(strings.TrimSpace(string(text)))
	}
	// Not synced: it counts deaths of the process, which the page cache survives.
	if err := os.WriteFile(path, []byte(strconv.Itoa(earlier+1)), 0o600); err != nil {
		return earlier, func() {}, err
	}
	return earlier, func() { _ = os.Remove(path) }, nil
}

// Sweep removes what is too old. Where the results are too large together, the
// oldest lose their content but not their place: that they are there keeps
// their writes from being run again (the answer is then "indeterminate").
func (j *Journal) Sweep(now time.Time) error {
	entries, err := os.ReadDir(j.Dir)
	if err != nil {
		return err
	}
	var kept []fs.FileInfo
	var total int64
	for _, e := range entries {
		info, err := e.Info()
		if err != nil || e.Name() == "version" {
			continue
		}
		old := now.Sub(info.ModTime()) > j.MaxAge
		if old || strings.HasPrefix(e.Name(), tempPrefix) && staleTemp(info) {
			_ = os.Remove(filepath.Join(j.Dir, e.Name()))
			continue
		}
		if strings.HasSuffix(e.Name(), ".done") {
			kept = append(kept, info)
			total += info.Size()
		}
	}
	slices.SortFunc(kept, func(a, b fs.FileInfo) int { return a.ModTime().Compare(b.ModTime()) })
	for _, info := range kept {
		if total <= j.MaxBytes {
			break
		}
		if err := os.Truncate(filepath.Join(j.Dir, info.Name()), 0); err != nil {
			return err
		}
		total -= info.Size()
	}
	return nil
}

// staleTemp: an unfinished file of a process that is gone, or as good as.
func staleTemp(info fs.FileInfo) bool { return time.Since(info.ModTime()) > time.Minute }

// lock takes the exclusive lock of a file without waiting. It ends with the
// file's last descriptor, that is with the process at the latest.
func lock(f *os.File) error {
	err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	if errors.Is(err, syscall.EWOULDBLOCK) {
		return ErrHeld
	}
	return err
}

func sameFile(f *os.File, path string) bool {
	here, err := f.Stat()
	if err != nil {
		return false
	}
	there, err := os.Stat(path)
	return err == nil && os.SameFile(here, there)
}

// bootID is fixed for as long as the kernel runs; "" where it cannot be known.
func bootID() string {
	text, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(text))
}
