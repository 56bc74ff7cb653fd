package broker

import (
	"context"
	"errors"
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
// later beside it, or at once where those before it are dead. The first that
// logs in wins; the others are closed.
func (s *Session) connect(ctx context.Context) (*link, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	results := make(chan attempt, len(s.Routes))
	started, ended := 0, 0
	start := func() {
		for dead := true; dead && started < len(s.Routes); started++ {
			r := s.Routes[started]
			dead = r.dead()
			go func() { // ends by ctx; a link that comes too late is closed below
				l, err := s.open(ctx, r)
				results <- attempt{l, err, r}
			}()
		}
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

const (
	watchEvery = 250 * time.Millisecond
	// wayLease is for how long the far end of a tunnel may be silent before no
	// job is started any more. It is shorter than what a hub waits before it
	// lets the broker give the jobs to somebody else.
	wayLease = 5 * time.Second
)

var errWayDead = errors.New("the far end of the tunnel does not answer any more")

// watchWay says when the way below l is dead and another route is there. The
// connection itself would find out later, by its heartbeat.
func (s *Session) watchWay(ctx context.Context, l *link, dead chan<- struct{}) {
	if l.route.Way == nil || len(s.Routes) == 1 {
		return
	}
	ticker := time.NewTicker(watchEvery)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return
		}
		if l.route.dead() {
			dead <- struct{}{}
			return
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
