package jobs

import (
	"context"
	"time"
)

// Delivery is a message of the job queue, with its receipt.
type Delivery struct {
	Body          []byte // uncompressed
	Problem       *Fault // set where the body could not be read (an unknown content encoding)
	MessageID     string
	CorrelationID string
	ReplyTo       string
	Priority      uint8
	TTL           time.Duration // what was left of the message's expiration when it came; 0: none
	PublishedAt   time.Time     // as the publisher says; zero: it does not
	Redelivered   bool          // a hint
	ReceivedAt    time.Time
	Transport     string // what carried it, for the result
	Receipt       Receipt
}

// Receipt settles a delivery, on the connection that brought it. After that
// connection is gone every call is a no-op: the broker gives the job out again.
type Receipt interface {
	// Live says whether a job may still be started: the connection is there
	// and was heard of not too long ago. A false answer means that somebody
	// else may have got the job.
	Live() bool
	// Publish sends a message to the core and returns when the broker has
	// taken charge of it. Any error means that it must be sent again.
	Publish(ctx context.Context, m Message) error
	Ack()
	Requeue()
	Reject()
}

// The AMQP types of the messages that a satellite sends.
const (
	TypeResult = "result"
	TypePart   = "part"
)

// Message is what goes back to the core: a result, or a part of one.
type Message struct {
	JobID         string
	ReplyTo       string
	CorrelationID string
	MessageID     string // the same for every copy of one result
	Type          string
	Priority      uint8
	Write         bool // of a job of class write: never dropped
	Body          []byte
}

// Outbox keeps results that could not be sent, until they can.
type Outbox interface {
	// Put takes charge of a result. An error means that it did not.
	Put(m Message) error
	// Find returns the kept result of a job.
	Find(jobID string) (Message, bool)
}
