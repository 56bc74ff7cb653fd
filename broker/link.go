package broker

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
)

// link is one connection with its channels: one generation of a session. It is
// never repaired; what is lost is replaced as a whole.
type link struct {
	route   Route
	conn    *amqp.Connection
	watched *watchedConn
	work    *amqp.Channel // consumes and acknowledges
	results *amqp.Channel // publishes, in confirm mode
	tag     string        // of the consumer
	lease   time.Duration // how long the broker may be silent before nothing is started any more

	jobs      <-chan amqp.Delivery
	workDone  chan *amqp.Error
	resultEnd chan *amqp.Error
	connEnd   chan *amqp.Error
	cancelled chan string
	blocking  chan amqp.Blocking

	blocked  atomic.Bool // the broker asked publishers to wait (memory or disk alarm)
	lost     atomic.Bool
	expire   sync.Once
	expired  chan struct{} // closed when a job was not started for the link's silence
	returner returner
	inFlight chan struct{}  // bounds unconfirmed publishes
	handlers sync.WaitGroup // of the jobs that this link brought
}

const (
	maxInFlight   = 2048
	notifyBacklog = 2 * maxInFlight // the library blocks its reader on a full one
	closeTimeout  = 3 * time.Second
)

// open dials a route and logs in; the queue is not touched yet.
func (s *Session) open(ctx context.Context, r Route) (*link, error) {
	conn, watched, err := r.dial(ctx)
	if err != nil {
		return nil, err
	}
	// Whatever ends ctx ends the handshake: the library takes no context.
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer stop()
	if err := conn.SetDeadline(time.Now().Add(openTimeout)); err != nil {
		_ = conn.Close()
		return nil, &stepError{stepDial, err}
	}
	ac, err := amqp.Open(conn, amqp.Config{
		SASL:       []amqp.Authentication{&amqp.PlainAuth{Username: r.DSN.Username, Password: r.DSN.Password.Reveal()}},
		Vhost:      r.DSN.VHost,
		Heartbeat:  s.Heartbeat,
		Locale:     "en_US",
		ChannelMax: 16,
		FrameSize:  128 << 10,
		Properties: s.clientProperties(r),
	})
	if err != nil {
		_ = conn.Close()
		if cause := context.Cause(ctx); cause != nil {
			err = errors.Join(cause, err)
		}
		return nil, &stepError{stepOpen, err}
	}
	_ = conn.SetDeadline(time.Time{})
	l := &link{
		route: r, conn: ac, watched: watched, lease: leaseOf(ac.Config.Heartbeat),
		connEnd:  ac.NotifyClose(make(chan *amqp.Error, 1)),
		blocking: ac.NotifyBlocked(make(chan amqp.Blocking, 16)),
		inFlight: make(chan struct{}, maxInFlight),
		expired:  make(chan struct{}),
	}
	if err := l.openChannels(s); err != nil {
		l.close()
		return nil, err
	}
	return l, nil
}

// leaseOf: a live broker sends a frame at least each half heartbeat.
func leaseOf(heartbeat time.Duration) time.Duration {
	if heartbeat <= 0 {
		heartbeat = DefaultHeartbeat
	}
	return heartbeat
}

func (s *Session) clientProperties(r Route) amqp.Table {
	p := amqp.NewConnectionProperties()
	p["product"] = "satellite"
	p["version"] = s.Version
	p["connection_name"] = s.Name + " via " + r.Name
	return p
}

func (l *link) openChannels(s *Session) (err error) {
	if l.results, err = l.conn.Channel(); err != nil {
		return &stepError{stepOpen, err}
	}
	if s.ResultsExchange != "" {
		if err := l.results.ExchangeDeclarePassive(s.ResultsExchange, amqp.ExchangeTopic, true, false, false, false, nil); err != nil {
			return &stepError{stepResults, err}
		}
	}
	if err := l.results.Confirm(false); err != nil {
		return &stepError{stepOpen, err}
	}
	l.returner.init(l.results)
	l.resultEnd = l.results.NotifyClose(make(chan *amqp.Error, 1))
	if l.work, err = l.conn.Channel(); err != nil {
		return &stepError{stepOpen, err}
	}
	l.workDone = l.work.NotifyClose(make(chan *amqp.Error, 1))
	l.cancelled = l.work.NotifyCancel(make(chan string, 1))
	return nil
}

// consume finds the queue (or makes it, where told to) and takes jobs from it.
func (l *link) consume(s *Session) (err error) {
	if s.DeclareQueue {
		_, err = l.work.QueueDeclare(s.Queue, true, false, false, false, amqp.Table{amqp.QueueTypeArg: amqp.QueueTypeQuorum})
	} else {
		_, err = l.work.QueueDeclarePassive(s.Queue, true, false, false, false, nil)
	}
	if err != nil {
		return &stepError{stepQueue, err}
	}
	if err := l.work.Qos(s.Prefetch, 0, false); err != nil {
		return &stepError{stepQueue, err}
	}
	l.tag = s.Name
	if l.jobs, err = l.work.Consume(s.Queue, l.tag, false, false, false, false, nil); err != nil {
		return &stepError{stepQueue, err}
	}
	return nil
}

// live says whether a job that came over l may still be started. One that may
// not is for the broker to give out again, so a silent link is then given up.
func (l *link) live() bool {
	if l.lost.Load() {
		return false
	}
	if l.watched.silence() < l.lease && l.route.silence() < wayLease {
		return true
	}
	l.expire.Do(func() { close(l.expired) })
	return false
}

// stopConsuming ends the subscription and returns what was delivered and not
// taken to the queue. What is running goes on.
func (l *link) stopConsuming() {
	if l.lost.Load() || l.jobs == nil {
		return
	}
	cancelled := make(chan struct{})
	go func() { // ends with the answer, or with the connection
		defer close(cancelled)
		_ = l.work.Cancel(l.tag, false)
	}()
	timer := time.NewTimer(closeTimeout)
	defer timer.Stop()
	for {
		select {
		case d, ok := <-l.jobs:
			if !ok {
				return
			}
			_ = d.Nack(false, true)
		case <-cancelled:
			cancelled = nil // the channel of jobs is closed next
		case <-timer.C:
			return
		}
	}
}

// abandon ends the connection without a word, for nobody would hear it: what
// waits for the broker's answer, helpers of the session too, learns at once
// that none will come.
func (l *link) abandon() {
	l.lost.Store(true)
	_ = l.watched.Close()
	_ = l.conn.CloseDeadline(time.Now())
}

// close ends the connection, whatever state it is in.
func (l *link) close() {
	l.lost.Store(true)
	_ = l.conn.CloseDeadline(time.Now().Add(closeTimeout))
	_ = l.watched.Close()
}
