package broker

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"github.com/rabbitmq/amqp091-go"
)

// CoreOptions says how a Core reaches its broker.
type CoreOptions struct {
	DSN  DSN
	Dial func(ctx context.Context, network, address string) (net.Conn, error) // nil: a net.Dialer
	TLS  *tls.Config                                                          // for amqps; nil: the system's roots
	Name string                                                               // shown in the broker's list of connections

	// ResultsExchange is the exchange that the satellites answer through. Empty:
	// they answer to the Core's own queue through the default exchange.
	ResultsExchange string
}

// CoreMessage is a job as a Core publishes it.
type CoreMessage struct {
	Queue      string
	ID         string // message_id and correlation_id: comes back with each answer
	Body       []byte
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

const (
	coreDialTimeout = 15 * time.Second
	coreWriteLimit  = 15 * time.Second
	coreHeartbeat   = 10 * time.Second
	coreUnconfirmed = 1024
	partType        = "part"
)

// Core is the core's side of the contract: it publishes jobs, mandatory and
// with confirms, and receives the answers on an exclusive queue of its own.
// It does not reconnect: its queue, and the answers in it, end with the
// connection.
type Core struct {
	conn    *amqp091.Connection
	publish *amqp091.Channel
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
	id      string
	confirm *amqp091.DeferredConfirmation
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

func dialCore(ctx context.Context, o CoreOptions) (*amqp091.Connection, error) {
	ctx, cancel := context.WithTimeout(ctx, coreDialTimeout)
	defer cancel()
	conn, err := dialSocket(ctx, o)
	if err != nil {
		return nil, fmt.Errorf("connect to %s: %w", o.DSN, err)
	}
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	properties := amqp091.NewConnectionProperties()
	properties.SetClientConnectionName(o.Name)
	amqpConn, err := amqp091.Open(writeLimited{conn}, amqp091.Config{
		SASL:       []amqp091.Authentication{&amqp091.PlainAuth{Username: o.DSN.Username, Password: o.DSN.Password.Reveal()}},
		Vhost:      o.DSN.VHost,
		Heartbeat:  coreHeartbeat,
		Locale:     "en_US",
		Properties: properties,
	})
	if !stop() && err == nil {
		err = ctx.Err()
	}
	if err != nil {
		_ = conn.Close()
		return nil, fmt.Errorf("open %s: %w", o.DSN, openError(o.DSN, err))
	}
	return amqpConn, nil
}

func dialSocket(ctx context.Context, o CoreOptions) (net.Conn, error) {
	dial := o.Dial
	if dial == nil {
		dial = (&net.Dialer{}).DialContext
	}
	conn, err := dial(ctx, "tcp", o.DSN.Address())
	if err != nil || !o.DSN.TLS {
		return conn, err
	}
	config := &tls.Config{MinVersion: tls.VersionTLS12}
	if o.TLS != nil {
		config = o.TLS.Clone()
	}
	if config.ServerName == "" {
		config.ServerName = o.DSN.Host
	}
	secure := tls.Client(conn, config)
	if err := secure.HandshakeContext(ctx); err != nil {
		_ = conn.Close()
		return nil, fmt.Errorf("TLS: %w", err)
	}
	return secure, nil
}

// openError says what the broker refused; it does not tell a wrong password
// from an unknown user.
func openError(dsn DSN, err error) error {
	var amqpErr *amqp091.Error
	if !errors.As(err, &amqpErr) {
		return errors.New("no AMQP 0-9-1 broker answers there in time")
	}
	switch amqpErr.Code {
	case amqp091.AccessRefused:
		if amqpErr.Reason == amqp091.ErrVhost.Reason {
			return fmt.Errorf("the user %q may not use the virtual host %q, or there is none of that name", dsn.Username, dsn.VHost)
		}
		return fmt.Errorf("the broker refused the login of the user %q; check the name and the password", dsn.Username)
	case amqp091.NotAllowed:
		return fmt.Errorf("the virtual host %q does not exist or is not for the user %q", dsn.VHost, dsn.Username)
	default:
		return fmt.Errorf("the broker closed the connection with code %d", amqpErr.Code)
	}
}

// writeLimited bounds each write: the library writes without a deadline, and a
// write into a dead connection would hold its lock.
type writeLimited struct{ net.Conn }

func (c writeLimited) Write(p []byte) (int, error) {
	if err := c.SetWriteDeadline(time.Now().Add(coreWriteLimit)); err != nil {
		return 0, err
	}
	return c.Conn.Write(p)
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
	returns := c.publish.NotifyReturn(make(chan amqp091.Return, coreUnconfirmed))
	c.done.Go(func() { c.receive(deliveries) })
	c.done.Go(func() { c.settle(returns) })
	go func() { // ends with the two above, which end with the connection
		c.done.Wait()
		close(c.answers)
	}()
	return nil
}

func (c *Core) consume(exchange string) (<-chan amqp091.Delivery, error) {
	channel, err := c.conn.Channel()
	if err != nil {
		return nil, fmt.Errorf("open a channel: %w", err)
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
	case c.unsure <- unconfirmed{m.ID, confirm}:
		return nil
	case <-c.closing:
		return c.endError(nil)
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (c *Core) send(m CoreMessage) (*amqp091.DeferredConfirmation, error) {
	publishing := amqp091.Publishing{
		ContentType:   "application/json",
		DeliveryMode:  amqp091.Persistent,
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
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.publish.PublishWithDeferredConfirm("", m.Queue, true, false, publishing)
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
	if errors.Is(err, amqp091.ErrClosed) {
		return nil
	}
	return err
}

func (c *Core) receive(deliveries <-chan amqp091.Delivery) {
	for d := range deliveries {
		c.deliver(CoreAnswer{ID: d.CorrelationId, Part: d.Type == partType, Body: d.Body})
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
func (c *Core) settle(returns chan amqp091.Return) {
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
			if !c.await(next, returns, returned) {
				c.fail()
				return
			}
		}
	}
}

// await reports false when the channel has died.
func (c *Core) await(next unconfirmed, returns chan amqp091.Return, returned map[string]bool) bool {
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
	if err == nil || errors.Is(err, amqp091.ErrClosed) {
		return ErrDisconnected
	}
	return fmt.Errorf("publish: %w", err)
}
