package broker

import (
	"context"
	"errors"
	"sync"
	"time"

	"usm-satellite/jobs"
)

const (
	flushWindow   = 64                     // results that are sent at a time
	flushPause    = 100 * time.Millisecond // between windows: at most 640 a second, so that a returning fleet does not flood the broker
	flushAgain    = 15 * time.Second       // for what could not be routed
	parkFor       = 5 * time.Minute        // what no queue takes is tried again after that
	flushDeadline = 30 * time.Second       // of one result
)

// flush sends what the spool holds, oldest first. What cannot be routed stays
// there; a lost link is an error.
func (s *Session) flush(ctx context.Context, l *link) error {
	if s.Spool == nil {
		return nil
	}
	skip := s.parked.now()
	for {
		ids := s.nextWindow(skip)
		if len(ids) == 0 {
			return nil
		}
		if err := s.flushAll(ctx, l, ids, skip); err != nil {
			return &stepError{stepServe, err}
		}
		timer := time.NewTimer(flushPause)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return nil
		}
	}
}

// nextWindow returns the oldest results that have not been tried in this round.
func (s *Session) nextWindow(skip map[string]bool) []string {
	var ids []string
	for _, id := range s.Spool.Oldest(flushWindow + len(skip)) {
		if !skip[id] && len(ids) < flushWindow {
			ids = append(ids, id)
		}
	}
	return ids
}

func (s *Session) flushAll(ctx context.Context, l *link, ids []string, skip map[string]bool) error {
	errs := make([]error, len(ids))
	var all sync.WaitGroup
	for i, id := range ids {
		all.Go(func() { errs[i] = s.flushOne(ctx, l, id) })
	}
	all.Wait()
	for i, err := range errs {
		if err == nil {
			continue
		}
		skip[ids[i]] = true
		if errors.Is(err, errUnroutable) {
			s.parked.add(ids[i])
		}
		if !errors.Is(err, errUnroutable) && !errors.Is(err, errKept) {
			return err
		}
	}
	return nil
}

var errKept = errors.New("the result stays in the spool")

func (s *Session) flushOne(ctx context.Context, l *link, id string) error {
	m, done, err := s.Spool.Take(id)
	if err != nil {
		return errKept // somebody else sends it, or it cannot be read: the spool deals with that
	}
	ctx, cancel := context.WithTimeout(ctx, flushDeadline)
	defer cancel()
	err = l.publish(ctx, s, m)
	if errors.Is(err, errUnroutable) {
		s.state.unroutable()
	}
	jobs.Failpoint("flushed")
	done(err == nil)
	return err
}

// parking remembers the results that no queue takes (their core is gone, most
// likely), so that they are not sent over and over.
type parking struct {
	mu    sync.Mutex
	until map[string]time.Time // guarded by mu
}

func (p *parking) add(id string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.until == nil {
		p.until = make(map[string]time.Time)
	}
	p.until[id] = time.Now().Add(parkFor)
}

// now returns those that are not to be tried yet.
func (p *parking) now() map[string]bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	ids := make(map[string]bool)
	for id, until := range p.until {
		if time.Now().After(until) {
			delete(p.until, id)
			continue
		}
		ids[id] = true
	}
	return ids
}

// keepFlushing sends what comes into the spool while the link lives.
func (s *Session) keepFlushing(ctx context.Context, l *link) {
	ticker := time.NewTicker(flushAgain)
	defer ticker.Stop()
	for {
		select {
		case <-s.kick:
		case <-ticker.C:
		case <-ctx.Done():
			return
		}
		if l.blocked.Load() {
			continue
		}
		if err := s.flush(ctx, l); err != nil {
			s.Logger.DebugContext(ctx, "the spool could not be emptied", "cause", err)
		}
	}
}
