package broker

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"usm-satellite/jobs"
)

// Defaults and fixed times of a session.
const (
	DefaultHeartbeat    = 8 * time.Second
	DefaultDrainTimeout = 50 * time.Second
	minBackoff          = 500 * time.Millisecond
	maxBackoff          = 15 * time.Second
	permanentBackoff    = 10 * time.Second // least wait after what will not mend itself
	lastWords           = 5 * time.Second  // for what a drain interrupts to be answered
)

// Handler takes deliveries; jobs.Dispatcher is it.
type Handler interface {
	Handle(ctx context.Context, d *jobs.Delivery)
	Drain(ctx context.Context) (interrupted int)
}

// Spool holds the results that wait for the broker.
type Spool interface {
	Oldest(n int) []string
	// Take gives a result to send; done(true) removes it.
	Take(id string) (m jobs.Message, done func(sent bool), err error)
}

// Options say where a session goes and for whom.
type Options struct {
	Routes          []Route // in order of preference; not empty
	Queue           string
	DeclareQueue    bool   // make the queue where it is missing: for local work
	ResultsExchange string // "": results go to reply_to over the default exchange
	ResultsQueue    string // for jobs without reply_to
	SatelliteID     string
	Name            string // of this process at the broker
	Version         string
	Prefetch        int
	Heartbeat       time.Duration // 0: DefaultHeartbeat
	DrainTimeout    time.Duration // 0: DefaultDrainTimeout
	Handler         Handler
	Spool           Spool
	Status          func() any                                    // body of the heartbeat; nil: none
	Control         func(ctx context.Context, request []byte) any // answers a control message; nil: none
	Logger          *slog.Logger
}

// Session keeps a satellite at its queue. One goroutine (Run) owns the
// connection:
//
//	choose a route → dial → log in → send what was kept → consume ─┐
//	   ↑                                                           │
//	   └── wait (full jitter) ←── lost, refused, cancelled ────────┤
//	       drain, reopen      ←── a better route is stable ────────┘
type Session struct {
	Options

	kick    chan struct{} // a result went into the spool
	state   state
	work    context.Context // of handlers: ends after the drain
	endWork context.CancelFunc
	old     sync.WaitGroup // links that are being drained
	crew    *crew          // runs the handlers

	parked      parking
	kept        map[string]destination // of what waits in the spool, by name, as far as known; flush's alone
	interrupted int                    // jobs, by the drain
}

// NewSession returns a session that is ready for Run.
func NewSession(o Options) *Session {
	if o.Heartbeat <= 0 {
		o.Heartbeat = DefaultHeartbeat
	}
	if o.DrainTimeout <= 0 {
		o.DrainTimeout = DefaultDrainTimeout
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	return &Session{Options: o, kick: make(chan struct{}, 1)}
}

// Kick tells the session that a result waits in the spool.
func (s *Session) Kick() {
	select {
	case s.kick <- struct{}{}:
	default:
	}
}

// Run works until ctx ends, then drains: nothing new is taken, what runs may
// end within DrainTimeout. The error is nil where nothing had to be
// interrupted, else ErrInterrupted.
func (s *Session) Run(ctx context.Context) error {
	s.work, s.endWork = context.WithCancel(context.WithoutCancel(ctx))
	defer s.endWork()
	s.crew = newCrew()
	defer s.crew.dismiss()
	var pace pace
	for ctx.Err() == nil {
		served, err := s.once(ctx)
		if ctx.Err() != nil || errors.Is(err, errMoved) {
			continue
		}
		problem, limit := s.note(err), pace.next(time.Now(), served)
		if !served || !s.Routes[0].dead() { // else another way waits
			s.pause(ctx, problem, limit)
		}
	}
	return s.finish()
}

// ErrInterrupted says that jobs were still running when the drain ended.
var ErrInterrupted = errors.New("jobs were still running when the time for the drain was over")

// finish ends what still runs after the last link is gone (or was never there).
func (s *Session) finish() error {
	s.interrupted += s.drain()
	s.old.Wait()
	if s.interrupted > 0 {
		return ErrInterrupted
	}
	return nil
}

func (s *Session) drain() int {
	ctx, cancel := context.WithTimeout(s.work, s.DrainTimeout)
	defer cancel()
	return s.Handler.Drain(ctx)
}

// note remembers and logs what went wrong: each problem once, then every tenth
// time.
func (s *Session) note(err error) *Problem {
	p := s.explain(err, s.Routes[0])
	attempts, fresh := s.state.failed(p)
	if fresh || attempts%10 == 0 {
		s.Logger.Warn("no session with the broker", "problem", p.Message, "step", p.Step, "attempts", attempts)
	}
	return p
}

// once makes a link, serves on it, and returns what ended it, and whether it
// has served at all.
func (s *Session) once(ctx context.Context) (served bool, err error) {
	l, err := s.connect(ctx)
	if err != nil {
		return false, err
	}
	if err := s.prepare(ctx, l); err != nil {
		l.close()
		return false, s.explain(err, l.route)
	}
	s.state.connected(l.route.Name)
	s.Logger.InfoContext(ctx, "taking jobs", "queue", s.Queue, "transport", l.route.Name, "broker", l.route.DSN.Address(), "prefetch", s.Prefetch)
	err = s.serve(ctx, l)
	s.state.disconnected()
	switch {
	case errors.Is(err, errMoved):
		s.retire(l)
		return true, err
	case ctx.Err() != nil:
		l.stopConsuming()
		s.drainOn(l)
		return true, nil //nolint:nilerr // the end of ctx is no error
	}
	problem := s.explain(err, l.route)
	l.close()
	return true, problem
}

// prepare sends what was kept, then begins to consume: a job that comes again
// then finds its answer sent.
func (s *Session) prepare(ctx context.Context, l *link) error {
	if err := s.flush(ctx, l); err != nil {
		return err
	}
	return l.consume(s)
}

// drainOn lets the jobs in hand end on a link that takes no new ones.
func (s *Session) drainOn(l *link) {
	stopped := make(chan struct{})
	var watch sync.WaitGroup
	watch.Go(func() { s.watchDraining(l, stopped) })
	if n := s.drain(); n > 0 {
		s.Logger.Warn("jobs were interrupted by the stop", "count", n)
		s.interrupted += n
	}
	ctx, cancel := context.WithTimeout(s.work, lastWords)
	defer cancel()
	_ = s.flush(ctx, l)
	close(stopped)
	watch.Wait()
	l.close()
}

// watchDraining notices the loss of a link on which nobody waits for jobs.
func (s *Session) watchDraining(l *link, stopped <-chan struct{}) {
	for {
		select {
		case b := <-l.blocking:
			l.blocked.Store(b.Active)
		case <-l.connEnd: //nolint:errcheck // that it ended is all
			l.lost.Store(true)
			return
		case <-l.workDone: //nolint:errcheck // that it ended is all
			l.lost.Store(true)
			return
		case <-stopped:
			return
		}
	}
}

// maxRetire bounds how long a link that was left for a better one stays for
// the sake of its jobs.
const maxRetire = 25 * time.Minute

// retire lets the jobs of l end where they came from, beside the next link.
func (s *Session) retire(l *link) {
	l.stopConsuming()
	s.old.Go(func() {
		stopped := make(chan struct{})
		var watch sync.WaitGroup
		watch.Go(func() { s.watchDraining(l, stopped) })
		idle := make(chan struct{})
		go func() { // ends with the last job of l
			defer close(idle)
			l.handlers.Wait()
		}()
		timer := time.NewTimer(maxRetire)
		defer timer.Stop()
		select {
		case <-idle:
		case <-timer.C:
		}
		close(stopped)
		watch.Wait()
		l.close()
	})
}

// serve takes jobs until the link is lost, ctx ends or a better route is there.
func (s *Session) serve(ctx context.Context, l *link) error {
	serveCtx, cancel := context.WithCancel(ctx)
	var helpers sync.WaitGroup
	defer helpers.Wait()
	defer cancel()
	better, dead := make(chan struct{}, 1), make(chan struct{}, 1)
	helpers.Go(func() { s.lookForBetter(serveCtx, l, better) })
	helpers.Go(func() { s.watchWay(serveCtx, l, dead) })
	helpers.Go(func() { s.talk(serveCtx, l) })
	helpers.Go(func() { s.keepFlushing(serveCtx, l) })
	for {
		deliveries := l.jobs
		if l.blocked.Load() {
			deliveries = nil // nothing new while answers cannot be sent
		}
		select {
		case d, ok := <-deliveries:
			if !ok {
				return s.lose(l, l.reason())
			}
			del := s.delivery(l, d)
			l.handlers.Add(1)
			s.crew.run(func() {
				defer l.handlers.Done()
				s.Handler.Handle(s.work, del)
			})
		case b := <-l.blocking:
			s.block(l, b.Active, b.Reason)
		case err := <-l.connEnd:
			return s.lose(l, err)
		case err := <-l.workDone:
			return s.lose(l, err)
		case err := <-l.resultEnd:
			return s.lose(l, err)
		case <-l.cancelled:
			return s.lose(l, errCancelled)
		case <-l.expired:
			l.abandon()
			return s.lose(l, errSilent)
		case <-dead:
			l.abandon()
			return s.lose(l, errWayDead)
		case <-better:
			return errMoved
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

var (
	errMoved  = errors.New("a better route to the broker is stable")
	errSilent = errors.New("the broker was silent for so long that it may have given the jobs to somebody else")
)

func (s *Session) lose(l *link, err error) error {
	l.lost.Store(true)
	if err == nil {
		err = errLinkLost
	}
	return &stepError{stepServe, err}
}

// reason says why the channel of jobs ended: what the broker said first.
func (l *link) reason() error {
	timer := time.NewTimer(time.Second)
	defer timer.Stop()
	select {
	case <-l.cancelled:
		return errCancelled
	case err := <-l.workDone:
		if err != nil {
			return err
		}
	case err := <-l.connEnd:
		if err != nil {
			return err
		}
	case <-timer.C:
	}
	return errLinkLost
}

func (s *Session) block(l *link, active bool, reason string) {
	l.blocked.Store(active)
	s.state.blocked(active)
	if active {
		s.Logger.Warn("the broker asks publishers to wait; results are kept, no new jobs are started", "reason", reason)
		return
	}
	s.Logger.Info("the broker takes results again")
	s.Kick()
}
