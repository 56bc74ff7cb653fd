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
	p, err := l.send(ctx, s, m)
	if err != nil {
		return err
	}
	return p.wait(ctx)
}

// publication is a message on its way to the broker. It holds a place among
// those that may be under way until wait returns.
type publication struct {
	s       *Session
	l       *link
	to      destination
	id      string
	confirm *amqp.DeferredConfirmation
}

// send hands m to the connection: what is sent first is routed first. Who
// gets no error has to wait.
func (l *link) send(ctx context.Context, s *Session, m jobs.Message) (p publication, err error) {
	select {
	case l.inFlight <- struct{}{}:
	case <-ctx.Done():
		return p, context.Cause(ctx)
	}
	defer func() {
		if err != nil {
			<-l.inFlight
		}
	}()
	switch {
	case l.lost.Load():
		return p, errLinkLost
	case l.blocked.Load():
		return p, errBlocked
	}
	p = publication{s: s, l: l, to: s.destination(m), id: m.MessageID}
	if p.id == "" {
		p.id = l.returner.fresh()
	}
	p.confirm, err = l.results.PublishWithDeferredConfirm(p.to.exchange, p.to.key, true, false, s.publishing(m, p.id))
	if err != nil {
		return p, errLinkLost
	}
	return p, nil
}

// wait returns nil once the broker has the message.
func (p publication) wait(ctx context.Context) error {
	defer func() { <-p.l.inFlight }()
	confirmed, err := p.confirm.WaitContext(ctx)
	switch {
	case err != nil:
		return context.Cause(ctx)
	case !confirmed: // refused, or the channel is gone: the library tells both this way
		return errUnconfirmed
	case p.l.returner.returned(p.id):
		p.s.state.unroutable()
		return errUnroutable
	}
	if p.s.parked.end(p.to) {
		p.s.Kick()
	}
	return nil
}

// destination is where a result goes: what the broker chooses its queue by.
type destination struct{ exchange, key string }

func (s *Session) destination(m jobs.Message) destination {
	if s.ResultsExchange != "" {
		return destination{s.ResultsExchange, s.key()}
	}
	if m.ReplyTo == "" {
		return destination{key: s.ResultsQueue}
	}
	return destination{key: m.ReplyTo}
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
