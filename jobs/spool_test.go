package jobs

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"testing"
	"time"
)

func openSpool(t testing.TB, o SpoolOptions) *Spool {
	t.Helper()
	s, err := OpenSpool(o)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func testMessage(id string, write bool, size int) Message {
	return Message{
		JobID: id, ReplyTo: "core", CorrelationID: "c-" + id, MessageID: "result-" + id, Type: TypeResult,
		Priority: 3, Write: write, Body: make([]byte, size),
	}
}

// age makes a kept result as old as d.
func age(t testing.TB, s *Spool, id string, d time.Duration) {
	t.Helper()
	at := time.Now().Add(-d)
	if err := os.Chtimes(filepath.Join(s.Dir, nameOf(id)+spoolSuffix), at, at); err != nil {
		t.Fatal(err)
	}
}

func TestSpoolGivesBackWhatItGot(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := openSpool(t, SpoolOptions{Dir: dir})
	m := testMessage("job", true, 0)
	m.Body = []byte("line\nanother \x00 line\n")
	second := m
	second.Body = []byte("of the same job")
	if err := errors.Join(s.Put(m), s.Put(second)); err != nil {
		t.Fatal(err)
	}
	other := openSpool(t, SpoolOptions{Dir: dir}) // as another process, or after a crash
	if found, ok := other.Find("job"); !ok || !reflect.DeepEqual(found, m) {
		t.Fatalf("found %+v, want %+v", found, m)
	}
	names := other.Oldest(10)
	if len(names) != 1 {
		t.Fatalf("%d results wait, want 1", len(names))
	}
	got, done, err := other.Take(names[0])
	if err != nil || !reflect.DeepEqual(got, m) {
		t.Fatalf("took %+v (%v), want %+v", got, err, m)
	}
	if _, _, err := s.Take(names[0]); !errors.Is(err, ErrTaken) {
		t.Fatalf("taken twice: %v", err)
	}
	done(false) // not sent: it stays
	_, done, err = s.Take(names[0])
	if err != nil {
		t.Fatal(err)
	}
	done(true)
	if _, ok := other.Find("job"); ok || s.Len() != 0 {
		t.Fatal("a result that was sent is still there")
	}
}

func TestSpoolEvictsReadsNeverWrites(t *testing.T) {
	t.Parallel()
	s := openSpool(t, SpoolOptions{Dir: t.TempDir(), MaxBytes: 5000})
	for i, write := range []bool{false, true, false} {
		id := fmt.Sprint("job", i)
		if err := s.Put(testMessage(id, write, 1000)); err != nil {
			t.Fatal(err)
		}
		age(t, s, id, time.Duration(10-i)*time.Minute)
	}
	if err := s.Put(testMessage("job3", true, 1000)); err != nil {
		t.Fatal(err)
	}
	if _, ok := s.Find("job0"); ok || s.Evicted() != 1 {
		t.Fatalf("the oldest result of a read did not give way (%d did)", s.Evicted())
	}
	if err := s.Put(testMessage("job4", true, 1000)); err != nil {
		t.Fatal(err)
	}
	if err := s.Put(testMessage("job5", false, 2000)); !errors.Is(err, ErrSpoolFull) {
		t.Fatalf("a spool full of results of writes took another: %v", err)
	}
	for _, id := range []string{"job1", "job3", "job4"} {
		if _, ok := s.Find(id); !ok {
			t.Errorf("the result of the write %s is gone", id)
		}
	}
}

func TestSpoolSweep(t *testing.T) {
	t.Parallel()
	s := openSpool(t, SpoolOptions{Dir: t.TempDir(), MaxAge: time.Hour})
	for id, write := range map[string]bool{"old-read": false, "old-write": true, "new-read": false} {
		if err := s.Put(testMessage(id, write, 10)); err != nil {
			t.Fatal(err)
		}
		if id != "new-read" {
			age(t, s, id, 2*time.Hour)
		}
	}
	left := filepath.Join(s.Dir, tempPrefix+"of-a-crash")
	if err := os.WriteFile(left, []byte("half"), 0o600); err != nil {
		t.Fatal(err)
	}
	past := time.Now().Add(-time.Hour)
	if err := os.Chtimes(left, past, past); err != nil {
		t.Fatal(err)
	}
	if err := s.Sweep(time.Now()); err != nil {
		t.Fatal(err)
	}
	for id, want := range map[string]bool{"old-read": false, "old-write": true, "new-read": true} {
		if _, ok := s.Find(id); ok != want {
			t.Errorf("%s is there: %v, want %v", id, ok, want)
		}
	}
	if _, err := os.Stat(left); err == nil {
		t.Error("an unfinished file was left")
	}
}

// A result cut off at every byte is put aside; the others are sent.
func TestSpoolSurvivesTruncation(t *testing.T) {
	t.Parallel()
	origin := openSpool(t, SpoolOptions{Dir: t.TempDir()})
	if err := errors.Join(origin.Put(testMessage("damaged", true, 10)), origin.Put(testMessage("whole", true, 10))); err != nil {
		t.Fatal(err)
	}
	name := nameOf("damaged") + spoolSuffix
	whole, err := os.ReadFile(filepath.Join(origin.Dir, name))
	if err != nil {
		t.Fatal(err)
	}
	for n := range whole {
		dir := t.TempDir()
		if err := os.CopyFS(dir, os.DirFS(origin.Dir)); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), whole[:n], 0o600); err != nil {
			t.Fatal(err)
		}
		s := openSpool(t, SpoolOptions{Dir: dir})
		if _, ok := s.Find("damaged"); ok {
			t.Fatalf("cut off at %d, a result was found", n)
		}
		var sent []string
		for _, waiting := range s.Oldest(10) {
			if m, done, err := s.Take(waiting); err == nil {
				sent = append(sent, m.JobID)
				done(true)
			}
		}
		if len(sent) != 1 || sent[0] != "whole" {
			t.Fatalf("cut off at %d, %v was sent, want the whole one", n, sent)
		}
		if left := s.Oldest(10); len(left) != 0 {
			t.Fatalf("cut off at %d, %v wait for ever", n, left)
		}
	}
}

func FuzzSpoolRecovery(f *testing.F) {
	s := openSpool(f, SpoolOptions{Dir: f.TempDir()})
	if err := s.Put(testMessage("k", true, 10)); err != nil {
		f.Fatal(err)
	}
	whole, err := os.ReadFile(filepath.Join(s.Dir, nameOf("k")+spoolSuffix))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(whole)
	f.Add(encodeRecord([]byte("{}\n")))
	f.Fuzz(func(t *testing.T, data []byte) {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, nameOf("k")+spoolSuffix), data, 0o600); err != nil {
			t.Fatal(err)
		}
		s := openSpool(t, SpoolOptions{Dir: dir})
		if m, ok := s.Find("k"); ok && m.JobID != "k" {
			t.Fatalf("found the result of %q", m.JobID)
		}
		for _, name := range s.Oldest(10) {
			if _, done, err := s.Take(name); err == nil {
				done(true)
			}
		}
		if left := s.Oldest(10); len(left) != 0 {
			t.Fatalf("%v wait for ever", left)
		}
	})
}

// A result of another process is found however soon it came after somebody
// looked: the time of the directory is all that tells, and before Linux 6.13 it
// stands still for some milliseconds.
func TestSpoolFindsWhatOthersPut(t *testing.T) {
	t.Parallel()
	ours, theirs := openSpool(t, SpoolOptions{Dir: t.TempDir()}), openSpool(t, SpoolOptions{Dir: t.TempDir()})
	const id = "job-1"
	name := nameOf(id) + spoolSuffix
	here, there := filepath.Join(ours.Dir, name), filepath.Join(theirs.Dir, name)
	if err := theirs.Put(Message{JobID: id, Body: []byte("{}")}); err != nil {
		t.Fatal(err)
	}
	for i := range 2000 {
		if i%100 == 0 { // an empty directory is trusted after that
			<-time.After(25 * time.Millisecond)
		}
		for range i % 7 {
			if _, ok := ours.Find(id); ok {
				t.Fatal("found what nobody has put")
			}
		}
		if err := os.Rename(there, here); err != nil {
			t.Fatal(err)
		}
		if _, ok := ours.Find(id); !ok {
			t.Fatalf("round %d: a result that waits is not found", i)
		}
		if err := os.Rename(here, there); err != nil {
			t.Fatal(err)
		}
	}
}
