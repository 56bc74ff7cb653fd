package jobs

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

func openJournal(t testing.TB, dir string) *Journal {
	t.Helper()
	j, err := OpenJournal(JournalOptions{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	return j
}

// die leaves a claim as the death of its process does.
func die(c *Claim) { _ = c.file.Close() }

func mustClaim(t testing.TB, j *Journal, key string) *Claim {
	t.Helper()
	c, err := j.Claim(key, "job-"+key, nil)
	if err != nil {
		t.Fatalf("claim of %s: %v", key, err)
	}
	return c
}

func TestClaimIsHeldByOne(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	first, second := openJournal(t, dir), openJournal(t, dir)
	if first.Known("k") {
		t.Fatal("a new write is known")
	}
	c := mustClaim(t, first, "k")
	if !second.Known("k") {
		t.Fatal("a claimed write is not known")
	}
	if _, err := second.Claim("k", "job", nil); !errors.Is(err, ErrHeld) {
		t.Fatalf("a second claim: %v, want ErrHeld", err)
	}
	if err := c.Release(); err != nil {
		t.Fatal(err)
	}
	c = mustClaim(t, second, "k")
	if err := c.Sending(); err != nil {
		t.Fatal(err)
	}
	winner, err := c.Finish([]byte("result"))
	if err != nil || string(winner) != "result" {
		t.Fatalf("finish: %q, %v", winner, err)
	}
	var finished *FinishedError
	if _, err := first.Claim("k", "job", nil); !errors.As(err, &finished) || string(finished.Result) != "result" {
		t.Fatalf("a claim after the end: %v, want the result", err)
	}
}

func TestDeadHolder(t *testing.T) {
	t.Parallel()
	j := openJournal(t, t.TempDir())

	die(mustClaim(t, j, "idle"))
	c := mustClaim(t, j, "idle") // nothing was sent: it may be run
	if err := c.Sending(); err != nil {
		t.Fatal(err)
	}
	die(c)
	for range 2 { // also for the one who finds the finder dead
		c, err := j.Claim("idle", "job", nil)
		var interrupted *InterruptedError
		if !errors.As(err, &interrupted) || !interrupted.Sent || interrupted.At.IsZero() || c == nil {
			t.Fatalf("a claim that was sending: %v", err)
		}
		die(c)
	}
	c, _ = j.Claim("idle", "job", nil)
	if winner, err := c.Finish([]byte("unknown")); err != nil || string(winner) != "unknown" {
		t.Fatalf("finish: %q, %v", winner, err)
	}
}

func TestDeadMachineCountsAsSent(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	j := openJournal(t, dir)
	die(mustClaim(t, j, "k"))
	later := openJournal(t, dir)
	later.boot = "another boot" // what was not synced may be lost
	if _, err := later.Claim("k", "job", nil); !isInterrupted(err) {
		t.Fatalf("a claim of an earlier boot: %v, want interrupted", err)
	}
}

func TestFirstRecordStays(t *testing.T) {
	t.Parallel()
	j := openJournal(t, t.TempDir())
	c := mustClaim(t, j, "k")
	if err := j.place(j.path("k", ".done"), encodeRecord([]byte("first"))); err != nil {
		t.Fatal(err)
	}
	if winner, err := c.Finish([]byte("second")); err != nil || string(winner) != "first" {
		t.Fatalf("the winner is %q (%v), want the first", winner, err)
	}
}

func TestAttemptsAreCounted(t *testing.T) {
	t.Parallel()
	j := openJournal(t, t.TempDir())
	for want := range 3 {
		earlier, _, err := j.Begin("k")
		if err != nil || earlier != want {
			t.Fatalf("earlier attempts: %d (%v), want %d", earlier, err, want)
		}
	}
	_, done, _ := j.Begin("k")
	done()
	if earlier, _, _ := j.Begin("k"); earlier != 0 {
		t.Fatalf("after an end: %d earlier attempts, want 0", earlier)
	}
}

func TestJournalSaysWhenItWasMade(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	born := openJournal(t, dir).Born()
	if age := time.Since(born); age < 0 || age > time.Hour {
		t.Fatalf("a new journal was made %v ago", age)
	}
	if again := openJournal(t, dir).Born(); !again.Equal(born) {
		t.Fatalf("opened again it was made at %v, want %v", again, born)
	}
	newer := []byte("usm-journal-9 " + born.Format(time.RFC3339Nano) + "\n")
	if err := os.WriteFile(filepath.Join(dir, "version"), newer, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenJournal(JournalOptions{Dir: dir}); err == nil || !strings.Contains(err.Error(), "another version") {
		t.Fatalf("a journal of another version was opened: %v", err)
	}
}

// journalCase is a directory in which one write of each kind of past is on disk.
type journalCase struct {
	key    string
	file   string // the one to damage, in the directory
	safe   bool   // whole, it may be run again
	result string // whole, its result
}

func journalCases(t testing.TB, dir string) []journalCase {
	t.Helper()
	j := openJournal(t, dir)
	die(mustClaim(t, j, "claimed"))
	sent := mustClaim(t, j, "sent")
	if err := sent.Sending(); err != nil {
		t.Fatal(err)
	}
	die(sent)
	if _, err := mustClaim(t, j, "done").Finish([]byte("the result")); err != nil {
		t.Fatal(err)
	}
	if _, _, err := j.Begin("done"); err != nil {
		t.Fatal(err)
	}
	return []journalCase{
		{key: "claimed", file: nameOf("claimed") + ".claim", safe: true},
		{key: "sent", file: nameOf("sent") + ".claim"},
		{key: "done", file: nameOf("done") + ".done", result: "the result"},
		{key: "sent", file: "version"},
		{key: "done", file: nameOf("done") + ".try", result: "the result"},
	}
}

// Every file of a journal cut off at every byte: it opens, nothing is run that
// may have been run, and the answer is then recorded for good.
func TestJournalSurvivesTruncation(t *testing.T) {
	t.Parallel()
	origin := t.TempDir()
	for _, c := range journalCases(t, origin) {
		whole, err := os.ReadFile(filepath.Join(origin, c.file))
		if err != nil {
			t.Fatal(err)
		}
		for n := range whole {
			dir := t.TempDir()
			if err := os.CopyFS(dir, os.DirFS(origin)); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(dir, c.file), whole[:n], 0o600); err != nil {
				t.Fatal(err)
			}
			checkDamaged(t, dir, c)
		}
	}
}

func checkDamaged(t *testing.T, dir string, c journalCase) {
	t.Helper()
	j := openJournal(t, dir)
	claim, err := j.Claim(c.key, "job", nil)
	var finished *FinishedError
	switch {
	case errors.As(err, &finished) && c.result != "" && string(finished.Result) == c.result:
		return
	case claim == nil || !isInterrupted(err):
		t.Fatalf("%s damaged: claim of %s: %v, %v; want interrupted", c.file, c.key, claim, err)
	}
	if _, err := claim.Finish([]byte("unknown")); err != nil {
		t.Fatalf("%s damaged: %v", c.file, err)
	}
	if _, err := j.Claim(c.key, "job", nil); !errors.As(err, &finished) || string(finished.Result) != "unknown" {
		t.Fatalf("%s damaged: the end of %s was not kept: %v", c.file, c.key, err)
	}
	if openJournal(t, dir).Born().After(time.Now()) {
		t.Fatal("made in the future")
	}
}

// Whatever the files hold, a write is run again only where its claim says,
// whole and in this boot, that nothing was sent.
func FuzzJournalRecovery(f *testing.F) {
	dir := f.TempDir()
	for _, c := range journalCases(f, dir) {
		data, err := os.ReadFile(filepath.Join(dir, c.file))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data, []byte(nil), false)
		f.Add(data, data, true)
	}
	f.Fuzz(func(t *testing.T, data, record []byte, ended bool) {
		dir := t.TempDir()
		for name, text := range map[string][]byte{nameOf("k") + ".claim": data, nameOf("k") + ".try": data, "version": data} {
			if err := os.WriteFile(filepath.Join(dir, name), text, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if ended {
			if err := os.WriteFile(filepath.Join(dir, nameOf("k")+".done"), record, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		j, err := OpenJournal(JournalOptions{Dir: dir})
		if err != nil {
			return // of another version
		}
		if _, _, err := j.Begin("k"); err != nil {
			t.Fatal(err)
		}
		claim, err := j.Claim("k", "job", nil)
		if claim != nil {
			defer die(claim)
		}
		if err == nil && (ended || !bytes.HasSuffix(data, []byte("\n"+claimedLine)) || !bytes.Contains(data, []byte(j.boot))) {
			t.Fatalf("it would be run again; claim %q, record %q (%v)", data, record, ended)
		}
	})
}

func TestJournalIsBounded(t *testing.T) {
	t.Parallel()
	j, err := OpenJournal(JournalOptions{Dir: t.TempDir(), MaxBytes: 3000, MaxAge: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	keys := []string{"a", "b", "c", "d"}
	for i, key := range keys {
		if _, err := mustClaim(t, j, key).Finish(make([]byte, 1000)); err != nil {
			t.Fatal(err)
		}
		at := time.Now().Add(time.Duration(i-10) * time.Minute)
		if err := os.Chtimes(j.path(key, ".done"), at, at); err != nil {
			t.Fatal(err)
		}
	}
	if err := j.Sweep(time.Now()); err != nil {
		t.Fatal(err)
	}
	for _, key := range keys {
		_, err := j.Claim(key, "job", nil)
		var finished *FinishedError
		dropped := slices.Contains(keys[:2], key) // 3 × (1000 + header) do not fit
		if errors.As(err, &finished) == dropped || isInterrupted(err) != dropped {
			t.Errorf("%s after a sweep: %v; its result dropped should be %v", key, err, dropped)
		}
	}
	if err := j.Sweep(time.Now().Add(2 * time.Hour)); err != nil {
		t.Fatal(err)
	}
	if left, _ := os.ReadDir(j.Dir); len(left) != 1 || left[0].Name() != "version" {
		t.Fatalf("after the time that records are kept for, %v are left", left)
	}
}

func TestJournalUnavailable(t *testing.T) {
	t.Parallel()
	if _, err := OpenJournal(JournalOptions{Dir: "/proc/usm-journal"}); err == nil {
		t.Fatal("a journal was opened where nothing can be written")
	}
	j := openJournal(t, filepath.Join(t.TempDir(), "journal"))
	held := mustClaim(t, j, "held")
	if err := os.RemoveAll(j.Dir); err != nil {
		t.Fatal(err)
	}
	claim, err := j.Claim("k", "job", nil)
	var finished *FinishedError
	if claim != nil || err == nil || errors.Is(err, ErrHeld) || isInterrupted(err) || errors.As(err, &finished) {
		t.Fatalf("a claim in a directory that is gone: %v, %v", claim, err)
	}
	if _, err := held.Finish([]byte("r")); err == nil {
		t.Fatal("a result was recorded in a directory that is gone")
	}
}

// The cost of the promise: what a write waits for before it starts.
func BenchmarkJournalClaim(b *testing.B) {
	j := openJournal(b, b.TempDir())
	var took []time.Duration
	for i := 0; b.Loop(); i++ {
		begun := time.Now()
		c, err := j.Claim("key"+time.Duration(i).String(), "job", nil)
		if err == nil {
			err = c.Sending()
		}
		took = append(took, time.Since(begun))
		if err != nil {
			b.Fatal(err)
		}
		b.StopTimer()
		if _, err := c.Finish([]byte("result")); err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
	}
	slices.Sort(took)
	b.ReportMetric(float64(took[len(took)/2].Microseconds()), "p50-µs")
	b.ReportMetric(float64(took[len(took)*99/100].Microseconds()), "p99-µs")
}
