package broker

import (
	"context"
	"math/rand/v2"
	"time"
)

// pace is how long a session waits between attempts. Failures in a row make it
// slower; the loss of a link that took jobs does not, unless links are lost
// again and again.
type pace struct {
	limit time.Duration // of the last wait; 0: none yet
	lost  []time.Time   // when links were lost that had taken jobs, lately
}

const (
	lostAllowed = 20
	lostWithin  = 30 * time.Second
)

// next takes in what ended at now, a link that took jobs or an attempt that
// came to nothing, and returns the longest wait before the next attempt.
func (p *pace) next(now time.Time, served bool) time.Duration {
	recent := p.lost[:0]
	for _, at := range p.lost {
		if now.Sub(at) < lostWithin {
			recent = append(recent, at)
		}
	}
	p.lost = recent
	if served {
		p.lost = append(p.lost, now)
	}
	if p.limit == 0 || served && len(p.lost) <= lostAllowed {
		p.limit = minBackoff
	} else {
		p.limit = min(2*p.limit, maxBackoff)
	}
	return p.limit
}

// pause waits before the next attempt: full jitter, so that a fleet does not
// come back in one wave. Where the wait is for the far end of a tunnel, it is
// over soon after that is heard again.
func (s *Session) pause(ctx context.Context, p *Problem, limit time.Duration) {
	const spread = 250 * time.Millisecond
	wait := rand.N(limit) + 50*time.Millisecond //nolint:gosec // jitter is no secret
	if p.Permanent {
		wait += permanentBackoff
	}
	ends := time.Now().Add(wait)
	timer := time.NewTimer(wait)
	defer timer.Stop()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	heard := s.whenHeard(ctx)
	for {
		select {
		case <-timer.C:
			return
		case <-heard:
			heard = nil
			timer.Reset(min(time.Until(ends), rand.N(spread))) //nolint:gosec // jitter is no secret
		case <-ctx.Done():
			return
		}
	}
}

// whenHeard is closed when the silent far end of a tunnel is heard again; nil
// is one that is not silent.
func (s *Session) whenHeard(ctx context.Context) <-chan struct{} {
	first := s.Routes[0]
	if first.silence() == 0 {
		return nil
	}
	heard := make(chan struct{})
	go func() { // ends with ctx
		if first.Way.Heard(ctx) == nil {
			close(heard)
		}
	}()
	return heard
}
