package broker

import (
	"bytes"
	"compress/gzip"
	"context"
	"io"
	"strconv"
	"time"

	"github.com/klauspost/compress/zstd"
	amqp "github.com/rabbitmq/amqp091-go"

	"usm-satellite/jobs"
)

// receipt settles one delivery on the link that brought it.
type receipt struct {
	s   *Session
	l   *link
	tag uint64
}

var _ jobs.Receipt = receipt{}

func (r receipt) Live() bool { return r.l.live() }
func (r receipt) Publish(ctx context.Context, m jobs.Message) error {
	return r.l.publish(ctx, r.s, m)
}

// The library's errors say that the channel is gone: the broker then gives the
// job out again by itself.
func (r receipt) Ack()     { r.settle(func() error { return r.l.work.Ack(r.tag, false) }) }
func (r receipt) Requeue() { r.settle(func() error { return r.l.work.Nack(r.tag, false, true) }) }
func (r receipt) Reject()  { r.settle(func() error { return r.l.work.Reject(r.tag, false) }) }

func (r receipt) settle(do func() error) {
	if !r.l.lost.Load() {
		_ = do()
	}
}

// delivery translates a message of the library.
func (s *Session) delivery(l *link, d amqp.Delivery) *jobs.Delivery {
	body, problem := unpack(d.ContentEncoding, d.Body)
	return &jobs.Delivery{
		Body: body, Problem: problem,
		MessageID: d.MessageId, CorrelationID: d.CorrelationId, ReplyTo: d.ReplyTo, Priority: d.Priority,
		TTL: ttl(d.Expiration), PublishedAt: d.Timestamp, Redelivered: d.Redelivered,
		ReceivedAt: time.Now(), Transport: l.route.Name,
		Receipt: receipt{s, l, d.DeliveryTag},
	}
}

func ttl(expiration string) time.Duration {
	ms, err := strconv.ParseInt(expiration, 10, 64)
	if err != nil || ms <= 0 || ms > (24*time.Hour*365).Milliseconds() {
		return 0
	}
	return time.Duration(ms) * time.Millisecond
}

// unpack undoes the content encoding of a job, up to the largest job there may
// be: a bomb is cut, and then refused as too large.
func unpack(encoding string, body []byte) ([]byte, *jobs.Fault) {
	var r io.Reader
	switch encoding {
	case "":
		return body, nil
	case "gzip":
		zr, err := gzip.NewReader(bytes.NewReader(body))
		if err != nil {
			return nil, jobs.Invalid("the job", "is not gzip, though its content_encoding says so")
		}
		r = zr
	case "zstd":
		zr, err := zstd.NewReader(bytes.NewReader(body), zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(16<<20))
		if err != nil {
			return nil, jobs.Invalid("the job", "is not zstd, though its content_encoding says so")
		}
		defer zr.Close()
		r = zr
	default:
		return nil, jobs.Invalid("content_encoding", "must be gzip, zstd or nothing")
	}
	plain, err := io.ReadAll(io.LimitReader(r, jobs.MaxJobBytes+1))
	if err != nil {
		return nil, jobs.Invalid("the job", "cannot be unpacked as its content_encoding says")
	}
	return plain, nil
}
