package broker

import (
	"context"
	"errors"
	"strconv"
	"sync"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"usm-satellite/jobs"
)

// Why a message was not taken by the broker.
var (
	errLinkLost    = errors.New("the connection to the broker is gone")
	errBlocked     = errors.New("the broker asks publishers to wait (memory or disk alarm)")
	errUnroutable  = errors.New("no queue takes the result: the queue of reply_to does not exist")
	errUnconfirmed = errors.New("the broker did not confirm the result")
)

// publish sends m and returns nil once the broker has it: confirmed, and not
// returned as unroutable.
func (l *link) publish(ctx context.Context, s *Session, m jobs.Message) error {
	select {
	case l.inFlight <- struct{}{}:
		defer func() { <-l.inFlight }()
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	switch {
	case l.lost.Load():
		return errLinkLost
	case l.blocked.Load():
		return errBlocked
	}
	exchange, key := s.address(m)
	id := m.MessageID
	if id == "" {
		id = l.returner.fresh()
	}
	confirmation, err := l.results.PublishWithDeferredConfirm(exchange, key, true, false, s.publishing(m, id))
	if err != nil {
		return errLinkLost
	}
	confirmed, err := confirmation.WaitContext(ctx)
	switch {
	case err != nil:
		return context.Cause(ctx)
	case !confirmed: // refused, or the channel is gone: the library tells both this way
		return errUnconfirmed
	case l.returner.returned(id):
		return errUnroutable
	}
	return nil
}

// address says where a result goes.
func (s *Session) address(m jobs.Message) (exchange, key string) {
	if s.ResultsExchange != "" {
		return s.ResultsExchange, s.key()
	}
	if m.ReplyTo == "" {
		return "", s.ResultsQueue
	}
	return "", m.ReplyTo
}

// key is the routing key of everything that this satellite says.
func (s *Session) key() string {
	if s.SatelliteID == "" {
		return "poller"
	}
	return "sat." + s.SatelliteID
}

func (s *Session) publishing(m jobs.Message, id string) amqp.Publishing {
	p := amqp.Publishing{
		MessageId: id, CorrelationId: m.CorrelationID, Type: m.Type, Priority: m.Priority,
		ContentType: "application/json", DeliveryMode: amqp.Persistent, Timestamp: time.Now(),
		AppId: "satellite", Body: m.Body,
	}
	if s.ResultsExchange != "" && m.ReplyTo != "" {
		p.Headers = amqp.Table{"reply_to": m.ReplyTo}
	}
	return p
}

// returner pairs the broker's returns with publishes. The broker sends a
// return before the confirm of the same message, and the library hands both on
// in that order from one goroutine: so when a confirm is seen, the return is in
// the channel.
type returner struct {
	mu   sync.Mutex
	ch   chan amqp.Return
	ids  map[string]int // returned and not asked for yet. Guarded by mu
	next uint64         // guarded by mu
}

func (r *returner) init(ch *amqp.Channel) {
	r.ch = ch.NotifyReturn(make(chan amqp.Return, notifyBacklog))
	r.ids = make(map[string]int)
}

func (r *returner) fresh() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.next++
	return "part-" + strconv.FormatUint(r.next, 10) + "-" + strconv.FormatInt(time.Now().UnixNano(), 36)
}

func (r *returner) returned(id string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.collect()
	if r.ids[id] == 0 {
		return false
	}
	delete(r.ids, id)
	return true
}

func (r *returner) collect() {
	for {
		select {
		case ret, ok := <-r.ch:
			if !ok {
				return
			}
			r.ids[ret.MessageId]++
		default:
			return
		}
	}
}
