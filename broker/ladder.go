package broker

import (
	"context"
	"time"
)

const (
	stepDown    = 2 * time.Second  // before the next route is tried beside the first
	probeEvery  = 10 * time.Second // of the preferred route while a lesser one is in use
	probeLimit  = 8 * time.Second
	stableAfter = 3 // probes in a row that say so
)

type attempt struct {
	link *link
	err  error
	r    Route
}

// connect tries the routes: the first at once, each further one two seconds
// later beside it. The first that logs in wins; the others are closed.
func (s *Session) connect(ctx context.Context) (*link, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	results := make(chan attempt, len(s.Routes))
	started, ended := 0, 0
	start := func() {
		r := s.Routes[started]
		started++
		go func() { // ends by ctx; a link that comes too late is closed below
			l, err := s.open(ctx, r)
			results <- attempt{l, err, r}
		}()
	}
	start()
	timer := time.NewTimer(stepDown)
	defer timer.Stop()
	var first *Problem
	for {
		select {
		case a := <-results:
			ended++
			if a.err == nil {
				s.closeLate(results, started-ended)
				return a.link, nil
			}
			if first == nil || a.r.Name == s.Routes[0].Name {
				first = s.explain(a.err, a.r)
			}
			if started < len(s.Routes) {
				start()
			} else if ended == started {
				return nil, first
			}
		case <-timer.C:
			if started < len(s.Routes) {
				start()
				timer.Reset(stepDown)
			}
		}
	}
}

// closeLate waits for the attempts that lost the race.
func (s *Session) closeLate(results <-chan attempt, n int) {
	if n == 0 {
		return
	}
	s.old.Go(func() {
		for range n {
			if a := <-results; a.link != nil {
				a.link.close()
			}
		}
	})
}

// lookForBetter probes the routes above the one in use, and says so when one
// has been stable.
func (s *Session) lookForBetter(ctx context.Context, l *link, better chan<- struct{}) {
	preferred := s.Routes[0]
	if l.route.Name == preferred.Name {
		return
	}
	ticker := time.NewTicker(probeEvery)
	defer ticker.Stop()
	for good := 0; good < stableAfter; {
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return
		}
		if s.probe(ctx, preferred) {
			good++
		} else {
			good = 0
		}
	}
	s.Logger.InfoContext(ctx, "the preferred route to the broker is stable again; moving there", "transport", preferred.Name, "from", l.route.Name)
	better <- struct{}{}
}

func (s *Session) probe(ctx context.Context, r Route) bool {
	ctx, cancel := context.WithTimeout(ctx, probeLimit)
	defer cancel()
	if r.Probe != nil {
		return r.Probe(ctx) == nil
	}
	conn, _, err := r.dial(ctx)
	if err != nil {
		return false
	}
	_ = conn.Close()
	return true
}
