package chaos

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"strconv"
	"sync"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"usm-satellite/deploy/chaos/ledger"
)

const (
	jobQueue    = "usm_poller-sat-7"
	resultQueue = "chaos.results"
	lateQueue   = "chaos.results.late" // not there until the faults are over
	jobTimeout  = 4 * time.Second
	willReach   = 15 * time.Second                // from a message's end until a write that its satellite left is answered
	community   = "chaos/canary+of the community" // must show up nowhere
	maxLate     = 60
	trapAddress = "127.0.0.2" // not in the satellites' policy
)

// core publishes jobs until each is confirmed, and collects the results.
// It is no Core of the product: the two would share their mistakes.
type core struct {
	dsn                string
	devicePort         int
	published, results *ledger.Log
	failed             func(error)

	mu      sync.Mutex
	next    int                 // number of the next job. Guarded by mu
	late    int                 // jobs whose results cannot be routed until the end. Guarded by mu
	rng     *rand.Rand          // guarded by mu
	pending map[string]jobState // without result. Guarded by mu
}

type jobState struct {
	expires time.Time
	late    bool // its result can come only when the faults are over
}

// draft is a job on its way to become a message.
type draft struct {
	ledger.Published

	message     amqp.Publishing
	job, target map[string]any
}

// draft begins the next job.
func (c *core) draft(write bool, device string) *draft {
	c.next++
	n := strconv.Itoa(c.next)
	d := &draft{
		Published: ledger.Published{Job: "job-" + n, Write: write, Sequence: c.next},
		target:    map[string]any{"address": "127.0.0.1", "port": c.devicePort, "device_id": device},
	}
	d.job = map[string]any{
		"schema": 1, "job_id": d.Job, "timeout_ms": jobTimeout.Milliseconds(), "target": d.target,
		"credentials": []any{map[string]any{"snmp": map[string]any{"version": "2c", "community": community}}},
	}
	d.message = amqp.Publishing{
		ContentType: "application/json", DeliveryMode: amqp.Persistent, Type: "job",
		MessageId: d.Job, CorrelationId: d.Job, ReplyTo: resultQueue, Timestamp: time.Now(),
	}
	if write {
		d.Nonce = "w" + n
		d.job["action"], d.job["params"] = "snmp.set", map[string]any{"varbinds": []any{
			map[string]any{"oid": writeRoot + "." + n, "type": "OctetString", "value": d.Nonce},
		}}
		return d
	}
	d.Nonce = "r" + n
	d.job["action"], d.job["params"] = "snmp.get", map[string]any{"oids": []any{readRoot + "." + n}}
	return d
}

func (d *draft) endsAfter(limit time.Duration) {
	d.Deadline = time.Now().Add(limit)
	d.job["deadline"] = d.Deadline.UTC().Format("2006-01-02T15:04:05.000Z07:00")
}

func (d *draft) expiresAfter(limit time.Duration) {
	d.Expires = time.Now().Add(limit)
	d.message.Expiration = strconv.FormatInt(limit.Milliseconds(), 10)
}

func (d *draft) refuse() {
	d.Refused = true
	d.target["address"] = trapAddress
}

// finish makes the message, and expects a result of it.
func (c *core) finish(d *draft) (ledger.Published, amqp.Publishing) {
	d.message.Body, _ = json.Marshal(d.job) // maps of plain values
	c.pending[d.Job] = jobState{d.Expires, d.message.ReplyTo == lateQueue}
	return d.Published, d.message
}

// make makes the next job at random: its entry in the ledger, and its message.
func (c *core) make() (ledger.Published, amqp.Publishing) {
	c.mu.Lock()
	defer c.mu.Unlock()
	d := c.draft(c.rng.IntN(10) < 7, "device-"+strconv.Itoa(c.rng.IntN(100)))
	switch limit := time.Duration(500+c.rng.IntN(3000)) * time.Millisecond; c.rng.IntN(20) {
	case 0:
		d.endsAfter(limit)
	case 1:
		d.expiresAfter(limit)
	case 2:
		d.refuse()
	case 3:
		// Each satellite that starts tries to send all of them first.
		if c.late++; c.late <= maxLate {
			d.message.ReplyTo = lateQueue
		}
	}
	return c.finish(d)
}

// publish makes and publishes jobs at a rate until ctx ends. A job that was
// begun is published to the end, on as many connections as it takes.
func (c *core) publish(ctx context.Context, every time.Duration) {
	ticker := time.NewTicker(every)
	defer ticker.Stop()
	var link publisher
	defer func() { link.close() }()
	for ctx.Err() == nil {
		if c.waiting(false) > maxWaiting {
			pause(ctx, every)
			continue
		}
		p, m := c.make()
		if err := c.confirmed(&link, jobQueue, p, m); err != nil {
			c.failed(err)
			return
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
		}
	}
}

// confirmed publishes a job until the broker has confirmed it.
func (c *core) confirmed(link *publisher, queue string, p ledger.Published, m amqp.Publishing) error {
	for !link.send(c.dsn, queue, m) {
		time.Sleep(200 * time.Millisecond)
	}
	p.At = time.Now()
	return c.published.Add(p)
}

// publisher is a connection that is made anew after any trouble.
type publisher struct {
	conn    *amqp.Connection
	channel *amqp.Channel
}

func (p *publisher) open(dsn string) error {
	conn, err := amqp.DialConfig(dsn, amqp.Config{Heartbeat: 10 * time.Second, Dial: amqp.DefaultDial(5 * time.Second)})
	if err != nil {
		return err
	}
	if p.channel, err = conn.Channel(); err == nil {
		err = p.channel.Confirm(false)
	}
	p.conn = conn
	return err
}

func (p *publisher) close() {
	if p.conn != nil {
		_ = p.conn.CloseDeadline(time.Now().Add(time.Second))
	}
	p.conn = nil
}

// send returns true once the broker has confirmed the message.
func (p *publisher) send(dsn, queue string, m amqp.Publishing) bool {
	if p.conn == nil && p.open(dsn) != nil {
		p.close()
		return false
	}
	confirm, err := p.channel.PublishWithDeferredConfirm("", queue, true, false, m)
	if err == nil {
		deadline := time.NewTimer(15 * time.Second)
		defer deadline.Stop()
		select {
		case <-confirm.Done():
			if confirm.Acked() {
				return true
			}
		case <-deadline.C:
		}
	}
	p.close()
	return false
}

// collect writes down results until ctx ends, on as many connections as it takes.
func (c *core) collect(ctx context.Context, queue string) {
	for ctx.Err() == nil {
		if err := c.collectOnce(ctx, queue); err != nil && ctx.Err() == nil {
			time.Sleep(200 * time.Millisecond)
		}
	}
}

var errEnded = errors.New("the connection ended")

func (c *core) collectOnce(ctx context.Context, queue string) error {
	conn, err := amqp.DialConfig(c.dsn, amqp.Config{Heartbeat: 10 * time.Second, Dial: amqp.DefaultDial(5 * time.Second)})
	if err != nil {
		return err
	}
	defer func() { _ = conn.CloseDeadline(time.Now().Add(time.Second)) }()
	channel, err := conn.Channel()
	if err != nil {
		return err
	}
	if err := channel.Qos(100, 0, false); err != nil {
		return err
	}
	deliveries, err := channel.Consume(queue, "", false, false, false, false, nil)
	if err != nil {
		return err
	}
	for {
		select {
		case d, ok := <-deliveries:
			if !ok {
				return errEnded
			}
			if err := c.receive(d); err != nil {
				c.failed(err)
				return err
			}
		case <-ctx.Done():
			return nil
		}
	}
}

func (c *core) receive(d amqp.Delivery) error {
	var body struct {
		JobID  string `json:"job_id"`
		Status string
		Data   struct {
			Varbinds []struct{ Value any }
		}
	}
	if err := json.Unmarshal(d.Body, &body); err != nil {
		return fmt.Errorf("a result that is not JSON: %w", err)
	}
	r := ledger.Result{At: time.Now(), Job: body.JobID, Status: body.Status}
	if body.JobID != d.CorrelationId {
		r.Job = body.JobID + " answered as " + d.CorrelationId
	}
	if body.Status == "ok" && len(body.Data.Varbinds) == 1 {
		r.Nonce = fmt.Sprint(body.Data.Varbinds[0].Value)
	}
	if err := c.results.Add(r); err != nil {
		return err
	}
	c.mu.Lock()
	delete(c.pending, r.Job)
	c.mu.Unlock()
	return d.Ack(false)
}

// answered says whether the result of a job came.
func (c *core) answered(job string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	_, waits := c.pending[job]
	return !waits
}

// waiting counts the jobs that a result must still come for; not those whose
// result cannot come yet, if late is false.
func (c *core) waiting(late bool) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	n := 0
	for _, state := range c.pending {
		if (late || !state.late) && (state.expires.IsZero() || time.Since(state.expires) < willReach) {
			n++
		}
	}
	return n
}
