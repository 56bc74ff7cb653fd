package main

import (
	"context"
	"log/slog"
	"path/filepath"
	"time"

	"usm-satellite/broker"
	"usm-satellite/jobs"
)

// spool is what the disk's and the memory's have in common.
type spool interface {
	jobs.Outbox
	broker.Spool
	Len() int
}

// store is what a satellite keeps: the journal of writes and the results that
// wait for the broker. Without a directory that can be written to, there is no
// journal (writes are refused), and results wait in memory.
type store struct {
	spool

	dir     string        // "": none works
	journal *jobs.Journal // nil: none works
	disk    *jobs.Spool   // nil: in memory
	problem string        // why there is no journal
	log     *slog.Logger
}

func openStore(dir string, log *slog.Logger) *store {
	s := &store{dir: dir, log: log}
	journal, err := jobs.OpenJournal(jobs.JournalOptions{Dir: filepath.Join(dir, "journal"), Logger: log})
	if err == nil {
		s.journal = journal
		s.disk, err = jobs.OpenSpool(jobs.SpoolOptions{Dir: filepath.Join(dir, "spool"), Logger: log})
	}
	if err != nil {
		s.dir, s.journal = "", nil
		s.spool = jobs.NewMemorySpool()
		s.problem = "the state directory " + dir + " (USM_STATE_DIR) cannot be used: " + err.Error()
		log.Warn("no state directory: jobs that change equipment are refused, and results wait in memory only; make it writable for this user, or set USM_STATE_DIR", "dir", dir, "cause", err.Error())
		return s
	}
	s.spool = s.disk
	return s
}

// recentDir is where the last answers are kept; "": nowhere.
func (s *store) recentDir() string {
	if s.dir == "" {
		return ""
	}
	return filepath.Join(s.dir, "recent")
}

func (s *store) full() bool { return s.disk != nil && s.disk.Full() }

const tidyEvery = 10 * time.Minute

// keepTidy removes what is too old, until stop is called.
func (s *store) keepTidy(ctx context.Context) (stop func()) {
	if s.journal == nil {
		return func() {}
	}
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() { // ends with stop
		defer close(done)
		ticker := time.NewTicker(tidyEvery)
		defer ticker.Stop()
		for {
			select {
			case <-ticker.C:
				if err := s.journal.Sweep(time.Now()); err != nil {
					s.log.WarnContext(ctx, "the journal cannot be tidied up", "cause", err.Error())
				}
				if err := s.disk.Sweep(time.Now()); err != nil {
					s.log.WarnContext(ctx, "the spool cannot be tidied up", "cause", err.Error())
				}
			case <-ctx.Done():
				return
			}
		}
	}()
	return func() {
		cancel()
		<-done
	}
}
