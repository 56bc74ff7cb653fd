package broker

import (
	"context"
	"errors"
	"math"
	"sync"
	"time"

	"usm-satellite/jobs"
)

const (
	flushWindow   = 64                     // results that are sent at a time
	flushPause    = 100 * time.Millisecond // between windows: at most 640 a second, so that a returning fleet does not flood the broker
	flushAgain    = 15 * time.Second       // for what could not be routed
	parkFor       = 5 * time.Minute        // a destination that no queue stands for is tried again after that
	flushDeadline = 30 * time.Second       // of one window
	flushReads    = 4 * flushWindow        // results that are read in search of a window's worth, once there is something to send
)

// flush sends what the spool holds, each destination's results oldest first.
// The first that cannot be routed parks its destination: the results for it
// stay where they are, and keep none of the others waiting. A lost link is an
// error.
func (s *Session) flush(ctx context.Context, l *link) error {
	if s.Spool == nil {
		return nil
	}
	r := s.newRound()
	for left := flushWindow; ; {
		window := r.next(left)
		if len(window) == 0 {
			return nil
		}
		if err := r.send(ctx, l, window); err != nil {
			return &stepError{stepServe, err}
		}
		if left -= len(window); left > 0 {
			continue
		}
		if pause(ctx, flushPause) != nil {
			return nil //nolint:nilerr // the end of ctx is no error
		}
		left = flushWindow
	}
}

// round is one pass over what the spool holds. What comes meanwhile is for the
// next one.
type round struct {
	s       *Session
	pending []string             // names, oldest first
	open    map[destination]bool // true: takes results; false: took none, and gets no more in this round
}

func (s *Session) newRound() *round {
	r := &round{s: s, pending: s.Spool.Oldest(math.MaxInt), open: make(map[destination]bool)}
	kept := make(map[string]destination, len(r.pending)) // without what is gone from the spool
	for _, name := range r.pending {
		if to, known := s.kept[name]; known {
			kept[name] = to
		}
	}
	s.kept = kept
	return r
}

// keptResult is a result that was taken from the spool.
type keptResult struct {
	name string
	m    jobs.Message
	to   destination
	done func(sent bool)
}

// next takes up to n results: of each destination the oldest, and more of those
// that are known to take them.
func (r *round) next(n int) []keptResult {
	var window []keptResult
	asked := make(map[destination]bool) // have their one result in the window
	rest, reads := r.pending[:0], 0
	for i, name := range r.pending {
		if len(window) == n || len(window) > 0 && reads >= flushReads {
			rest = append(rest, r.pending[i:]...)
			break
		}
		to, known := r.s.kept[name]
		if known && r.closed(to) {
			continue
		}
		if known && asked[to] {
			rest = append(rest, name)
			continue
		}
		k, err := r.take(name)
		if err != nil {
			continue // somebody else sends it, or it cannot be read: the spool deals with that
		}
		reads++
		switch {
		case r.closed(k.to):
			k.done(false)
		case asked[k.to]:
			k.done(false)
			rest = append(rest, name)
		default:
			window = append(window, k)
			asked[k.to] = !r.open[k.to]
		}
	}
	r.pending = rest
	return window
}

func (r *round) take(name string) (keptResult, error) {
	m, done, err := r.s.Spool.Take(name)
	if err != nil {
		return keptResult{}, err
	}
	k := keptResult{name, m, r.s.destination(m), done}
	r.s.kept[name] = k.to
	return k, nil
}

// closed says that nothing is to be sent to a destination in this round.
func (r *round) closed(to destination) bool {
	open, tried := r.open[to]
	return tried && !open || r.s.parked.holds(to)
}

// send sends a window in its order. The error is the first that is not about
// one destination.
func (r *round) send(ctx context.Context, l *link, window []keptResult) (failed error) {
	ctx, cancel := context.WithTimeout(ctx, flushDeadline)
	defer cancel()
	sent, errs := make([]publication, len(window)), make([]error, len(window))
	for i, k := range window {
		sent[i], errs[i] = l.send(ctx, r.s, k.m)
	}
	for i, k := range window {
		err := errs[i]
		if err == nil {
			err = sent[i].wait(ctx)
		}
		jobs.Failpoint("flushed")
		k.done(err == nil)
		switch {
		case err == nil:
			r.open[k.to] = true
			delete(r.s.kept, k.name)
		case errors.Is(err, errUnroutable):
			r.open[k.to] = false
			r.s.parked.add(k.to)
		case failed == nil:
			failed = err
		}
	}
	return failed
}

// parking remembers the destinations that no queue stands for (their core is
// gone, most likely), so that results are not sent there over and over.
type parking struct {
	mu    sync.Mutex
	until map[destination]time.Time // guarded by mu
}

func (p *parking) add(to destination) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.until == nil {
		p.until = make(map[destination]time.Time)
	}
	p.until[to] = time.Now().Add(parkFor)
}

// holds says that a destination is not to be tried yet.
func (p *parking) holds(to destination) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	until, parked := p.until[to]
	if parked && time.Now().After(until) {
		delete(p.until, to)
		return false
	}
	return parked
}

// end is for a destination that took a message, and says whether it was parked.
func (p *parking) end(to destination) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	_, parked := p.until[to]
	delete(p.until, to)
	return parked
}

// keepFlushing sends what comes into the spool while the link lives.
func (s *Session) keepFlushing(ctx context.Context, l *link) {
	ticker := time.NewTicker(flushAgain)
	defer ticker.Stop()
	for pause(ctx, flushPause) == nil {
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
