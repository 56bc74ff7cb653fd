package broker

import (
	"context"
	"encoding/json"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
)

// The exchanges beside the job queue. Where one is missing or not permitted,
// the satellite does without.
const (
	ControlExchange = "usm_poller.control"
	StatusExchange  = "usm_poller.status"
	heartbeatEvery  = 15 * time.Second
)

// talk says hello and sends heartbeats, and answers control messages, as far
// as the broker lets it.
func (s *Session) talk(ctx context.Context, l *link) {
	requests := s.listen(ctx, l)
	status := s.hello(ctx, l)
	ticker := time.NewTicker(heartbeatEvery)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
			status = s.say(ctx, l, status, "heartbeat")
		case d, ok := <-requests:
			if !ok {
				requests = nil
				continue
			}
			s.answerControl(ctx, l, d)
		case <-ctx.Done():
			s.say(context.WithoutCancel(ctx), l, status, "goodbye")
			return
		}
	}
}

// hello opens the channel for status messages; nil: there is none.
func (s *Session) hello(ctx context.Context, l *link) *amqp.Channel {
	if s.Status == nil {
		return nil
	}
	ch, err := l.conn.Channel()
	if err != nil {
		return nil
	}
	if err := ch.ExchangeDeclarePassive(StatusExchange, amqp.ExchangeTopic, true, false, false, false, nil); err != nil {
		s.state.once("status", func() {
			s.Logger.InfoContext(ctx, "no heartbeats: the exchange is not there or not permitted", "exchange", StatusExchange)
		})
		return nil
	}
	return s.say(ctx, l, ch, "hello")
}

// say publishes one status message; it returns the channel while that lives.
func (s *Session) say(ctx context.Context, l *link, ch *amqp.Channel, kind string) *amqp.Channel {
	if ch == nil || ch.IsClosed() || l.lost.Load() || l.blocked.Load() {
		return nil
	}
	body, err := json.Marshal(s.Status())
	if err != nil {
		return ch
	}
	err = ch.PublishWithContext(ctx, StatusExchange, s.key(), false, false, amqp.Publishing{
		Type: kind, ContentType: "application/json", Timestamp: time.Now(), AppId: "satellite",
		Expiration: "60000", Body: body,
	})
	if err != nil {
		return nil
	}
	return ch
}

// listen binds a queue of this process to the control exchange; nil: it cannot.
func (s *Session) listen(ctx context.Context, l *link) <-chan amqp.Delivery {
	if s.Control == nil {
		return nil
	}
	ch, err := l.conn.Channel()
	if err != nil {
		return nil
	}
	requests, err := s.bindControl(ch)
	if err != nil {
		s.state.once("control", func() {
			s.Logger.InfoContext(ctx, "no control messages (cancel, ping): the exchange is not there or not permitted", "exchange", ControlExchange)
		})
		return nil
	}
	return requests
}

func (s *Session) bindControl(ch *amqp.Channel) (<-chan amqp.Delivery, error) {
	if err := ch.ExchangeDeclarePassive(ControlExchange, amqp.ExchangeTopic, true, false, false, false, nil); err != nil {
		return nil, err
	}
	q, err := ch.QueueDeclare("", false, true, true, false, nil)
	if err != nil {
		return nil, err
	}
	if err := ch.QueueBind(q.Name, s.key(), ControlExchange, false, nil); err != nil {
		return nil, err
	}
	return ch.Consume(q.Name, "", true, true, false, false, nil)
}

func (s *Session) answerControl(ctx context.Context, l *link, d amqp.Delivery) {
	answer, err := json.Marshal(s.Control(ctx, d.Body))
	if err != nil || d.ReplyTo == "" || l.lost.Load() || l.blocked.Load() {
		return
	}
	exchange, key := "", d.ReplyTo
	if s.ResultsExchange != "" {
		exchange, key = s.ResultsExchange, s.key()+".control"
	}
	ch, err := l.conn.Channel() // of its own: a refusal closes it, and nothing else
	if err != nil {
		return
	}
	defer func() { _ = ch.Close() }()
	_ = ch.PublishWithContext(ctx, exchange, key, false, false, amqp.Publishing{
		Type: "control", ContentType: "application/json", CorrelationId: d.CorrelationId,
		Headers: amqp.Table{"reply_to": d.ReplyTo}, Timestamp: time.Now(), AppId: "satellite", Body: answer,
	})
}
