package broker

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"usm-satellite/jobs"
)

// CoreOptions says how a Core reaches its broker.
type CoreOptions struct {
	DSN  DSN
	Dial DialFunc    // nil: a net.Dialer
	TLS  *tls.Config // for amqps; nil: the system's roots
	Name string      // shown in the broker's list of connections

	// ResultsExchange is the exchange that the satellites answer through. Empty:
	// they answer to the Core's own queue through the default exchange.
	ResultsExchange string

	// AnswerQueue is a queue that exists, to take the answers from in place of
	// one of the Core's own: with a durable one, answers survive the Core.
	AnswerQueue string
}

// CoreMessage is a job as a Core publishes it.
type CoreMessage struct {
	Queue      string
	ID         string // message_id and correlation_id: comes back with each answer
	Body       []byte
	ReplyTo    string        // queue for the answers; empty: the Core's
	Priority   uint8         // 0 to 9
	Expiration time.Duration // longest wait in the queue; 0: none
}

// CoreAnswer is what came of a CoreMessage: a message of the satellite, or the
// reason why there will be none.
type CoreAnswer struct {
	ID   string
	Part bool // of a streamed result: more will come
	Body []byte
	Err  error // ErrNoQueue, ErrNotConfirmed
}

// What a Core's message can come to without an answer.
var (
	ErrNoQueue      = errors.New("the queue does not exist")
	ErrNotConfirmed = errors.New("the broker did not take the message")
	ErrDisconnected = errors.New("the connection to the broker ended")
)

const coreUnconfirmed = 1024 // messages that wait for their confirm

// Core is the core's side of the contract: it publishes jobs, mandatory and
// with confirms, and receives the answers on an exclusive queue of its own.
// It does not reconnect: its queue, and the answers in it, end with the
// connection.
type Core struct {
	conn    *amqp.Connection
	publish *amqp.Channel
	replyTo string
	answers chan CoreAnswer
	unsure  chan unconfirmed
	closing chan struct{}
	once    sync.Once
	done    sync.WaitGroup

	mu  sync.Mutex // guards publishing and err
	err error
}

type unconfirmed struct {
	settled chan struct{} // of no message: closed when its turn comes
	id      string
	confirm *amqp.DeferredConfirmation
}

// OpenCore connects, and declares and consumes the queue for the answers. Its
// errors name what the broker refused, and hold no secret.
func OpenCore(ctx context.Context, options CoreOptions) (*Core, error) {
	conn, err := dialCore(ctx, options)
	if err != nil {
		return nil, err
	}
	c := &Core{
		conn:    conn,
		replyTo: options.AnswerQueue,
		answers: make(chan CoreAnswer, coreUnconfirmed),
		unsure:  make(chan unconfirmed, coreUnconfirmed),
		closing: make(chan struct{}),
	}
	if err := c.start(options.ResultsExchange); err != nil {
		_ = conn.CloseDeadline(time.Now().Add(time.Second))
		return nil, err
	}
	return c, nil
}

func dialCore(ctx context.Context, o CoreOptions) (*amqp.Connection, error) {
	route := o.route()
	conn, _, err := route.dial(ctx)
	if err != nil {
		return nil, coreProblem(err, route)
	}
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer stop()
	if err := conn.SetDeadline(time.Now().Add(openTimeout)); err != nil {
		_ = conn.Close()
		return nil, coreProblem(&stepError{stepDial, err}, route)
	}
	properties := amqp.NewConnectionProperties()
	properties.SetClientConnectionName(o.Name)
	opened, err := amqp.Open(conn, amqp.Config{
		SASL:       []amqp.Authentication{&amqp.PlainAuth{Username: o.DSN.Username, Password: o.DSN.Password.Reveal()}},
		Vhost:      o.DSN.VHost,
		Heartbeat:  DefaultHeartbeat,
		Locale:     "en_US",
		Properties: properties,
	})
	if err != nil {
		_ = conn.Close()
		return nil, coreProblem(&stepError{stepOpen, err}, route)
	}
	_ = conn.SetDeadline(time.Time{})
	return opened, nil
}

// route is the one way of a core to its broker.
func (o CoreOptions) route() Route {
	route := Route{Name: "amqp", DSN: o.DSN, Dial: o.Dial}
	if route.Dial == nil {
		route.Dial = (&net.Dialer{}).DialContext
	}
	if !o.DSN.TLS {
		return route
	}
	route.Name, route.TLS = "amqps", &tls.Config{MinVersion: tls.VersionTLS12}
	if o.TLS != nil {
		route.TLS = o.TLS.Clone()
	}
	if route.TLS.ServerName == "" {
		route.TLS.ServerName = o.DSN.Host
	}
	return route
}

// coreProblem explains as a session does.
func coreProblem(err error, route Route) error {
	var at *stepError
	if !errors.As(err, &at) {
		return err
	}
	p := &Problem{Step: string(at.step), cause: err}
	switch at.step {
	case stepDial:
		p.Message = explainDial(err, route, "US_AMQP_DSN")
	case stepTLS:
		p.Message = explainTLS(err, route)
	default:
		p.Message, p.Permanent = explainOpen(err, route, "US_AMQP_DSN")
	}
	return p
}

func (c *Core) start(exchange string) error {
	deliveries, err := c.consume(exchange)
	if err != nil {
		return err
	}
	if c.publish, err = c.conn.Channel(); err != nil {
		return fmt.Errorf("open a channel: %w", err)
	}
	if err := c.publish.Confirm(false); err != nil {
		return fmt.Errorf("switch to publisher confirms: %w", err)
	}
	returns := c.publish.NotifyReturn(make(chan amqp.Return, coreUnconfirmed))
	c.done.Go(func() { c.receive(deliveries) })
	c.done.Go(func() { c.settle(returns) })
	go func() { // ends with the two above, which end with the connection
		c.done.Wait()
		close(c.answers)
	}()
	return nil
}

func (c *Core) consume(exchange string) (<-chan amqp.Delivery, error) {
	channel, err := c.conn.Channel()
	if err != nil {
		return nil, fmt.Errorf("open a channel: %w", err)
	}
	if c.replyTo != "" {
		deliveries, err := channel.Consume(c.replyTo, "", true, false, false, false, nil)
		if err != nil {
			return nil, fmt.Errorf("consume the queue %q for the answers: %w", c.replyTo, err)
		}
		return deliveries, nil
	}
	queue, err := channel.QueueDeclare("", false, true, true, false, nil)
	if err != nil {
		return nil, fmt.Errorf("declare a queue for the answers: %w", err)
	}
	c.replyTo = queue.Name
	if exchange != "" {
		if err := channel.QueueBind(queue.Name, "#", exchange, false, nil); err != nil {
			return nil, fmt.Errorf("bind the queue for the answers to the exchange %q: %w", exchange, err)
		}
	}
	deliveries, err := channel.Consume(queue.Name, "", true, true, false, false, nil)
	if err != nil {
		return nil, fmt.Errorf("consume the queue for the answers: %w", err)
	}
	return deliveries, nil
}

// Submit publishes a job. It returns when the job is on its way; an answer, or
// the reason why there is none, comes from Answers. It blocks while too many
// messages wait for the broker's confirm.
func (c *Core) Submit(ctx context.Context, m CoreMessage) error {
	confirm, err := c.send(m)
	if err != nil {
		return c.endError(err)
	}
	select {
	case c.unsure <- unconfirmed{id: m.ID, confirm: confirm}:
		return nil
	case <-c.closing:
		return c.endError(nil)
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (c *Core) send(m CoreMessage) (*amqp.DeferredConfirmation, error) {
	publishing := amqp.Publishing{
		ContentType:   "application/json",
		DeliveryMode:  amqp.Persistent,
		Priority:      m.Priority,
		CorrelationId: m.ID,
		MessageId:     m.ID,
		ReplyTo:       c.replyTo,
		Timestamp:     time.Now(),
		Type:          "job",
		Body:          m.Body,
	}
	if m.Expiration > 0 {
		publishing.Expiration = fmt.Sprint(m.Expiration.Milliseconds())
	}
	if m.ReplyTo != "" {
		publishing.ReplyTo = m.ReplyTo
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.publish.PublishWithDeferredConfirm("", m.Queue, true, false, publishing)
}

// Settled returns when the broker has confirmed or refused every job that was
// submitted before.
func (c *Core) Settled(ctx context.Context) error {
	settled := make(chan struct{})
	select {
	case c.unsure <- unconfirmed{settled: settled}:
	case <-c.closing:
		return c.endError(nil)
	case <-ctx.Done():
		return ctx.Err()
	}
	select {
	case <-settled:
		return nil
	case <-c.closing:
		return c.endError(nil)
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Answers delivers what comes of the jobs, in the order of arrival. It is
// closed when the connection has ended; Err then says why.
func (c *Core) Answers() <-chan CoreAnswer { return c.answers }

// Err returns why the connection ended: ErrDisconnected, or nil after Close.
func (c *Core) Err() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err
}

// Close ends the connection. Answers that were not received are lost.
func (c *Core) Close() error {
	c.once.Do(func() { close(c.closing) })
	err := c.conn.CloseDeadline(time.Now().Add(5 * time.Second))
	for range c.answers { // until both goroutines have ended
	}
	if errors.Is(err, amqp.ErrClosed) {
		return nil
	}
	return err
}

func (c *Core) receive(deliveries <-chan amqp.Delivery) {
	for d := range deliveries {
		c.deliver(CoreAnswer{ID: d.CorrelationId, Part: d.Type == jobs.TypePart, Body: d.Body})
	}
	c.fail()
}

func (c *Core) deliver(answer CoreAnswer) {
	select {
	case c.answers <- answer:
	case <-c.closing:
	}
}

// settle waits for the confirms in the order of publishing. A return arrives
// before the confirm of its message, so it has been seen by then: it is read
// here and nowhere else.
func (c *Core) settle(returns chan amqp.Return) {
	returned := map[string]bool{}
	for {
		select {
		case r, ok := <-returns:
			if !ok {
				c.fail()
				return
			}
			returned[r.MessageId] = true
		case next := <-c.unsure:
			if next.settled != nil {
				close(next.settled)
				continue
			}
			if !c.await(next, returns, returned) {
				c.fail()
				return
			}
		}
	}
}

// await reports false when the channel has died.
func (c *Core) await(next unconfirmed, returns chan amqp.Return, returned map[string]bool) bool {
	confirmed := next.confirm.Done()
	for {
		select {
		case r, ok := <-returns:
			if !ok {
				return false
			}
			returned[r.MessageId] = true
			continue
		case <-confirmed:
		}
		break
	}
	for len(returns) > 0 {
		if r, ok := <-returns; ok {
			returned[r.MessageId] = true
		}
	}
	switch {
	case returned[next.id]:
		delete(returned, next.id)
		c.deliver(CoreAnswer{ID: next.id, Err: ErrNoQueue})
	case !next.confirm.Acked():
		c.deliver(CoreAnswer{ID: next.id, Err: ErrNotConfirmed})
	}
	return true
}

// fail notes that the connection ended without being asked to.
func (c *Core) fail() {
	select {
	case <-c.closing:
		return
	default:
	}
	c.mu.Lock()
	c.err = ErrDisconnected
	c.mu.Unlock()
	c.once.Do(func() { close(c.closing) })
	_ = c.conn.CloseDeadline(time.Now().Add(time.Second))
}

func (c *Core) endError(err error) error {
	if known := c.Err(); known != nil {
		return known
	}
	if err == nil || errors.Is(err, amqp.ErrClosed) {
		return ErrDisconnected
	}
	return fmt.Errorf("publish: %w", err)
}
