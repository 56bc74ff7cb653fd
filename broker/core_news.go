package broker

import (
	"context"
	"errors"
	"fmt"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
)

// CoreNews is a hello, a heartbeat or a goodbye of a satellite.
type CoreNews struct {
	Kind string // "hello", "heartbeat", "goodbye"
	Key  string // as sat.7
	Body []byte
}

// FollowStatus opens a connection and hands on what the satellites say of
// themselves, until ctx ends (nil) or the connection does (ErrDisconnected).
func FollowStatus(ctx context.Context, options CoreOptions, each func(CoreNews)) error {
	conn, err := dialCore(ctx, options)
	if err != nil {
		return err
	}
	defer func() { _ = conn.CloseDeadline(time.Now().Add(closeTimeout)) }()
	deliveries, err := bindStatus(conn)
	if err != nil {
		return err
	}
	for {
		select {
		case d, ok := <-deliveries:
			if !ok {
				return ErrDisconnected
			}
			each(CoreNews{Kind: d.Type, Key: d.RoutingKey, Body: d.Body})
		case <-ctx.Done():
			return nil
		}
	}
}

func bindStatus(conn *amqp.Connection) (<-chan amqp.Delivery, error) {
	channel, err := conn.Channel()
	if err != nil {
		return nil, fmt.Errorf("open a channel: %w", err)
	}
	err = channel.ExchangeDeclarePassive(StatusExchange, amqp.ExchangeTopic, true, false, false, false, nil)
	var refused *amqp.Error
	switch {
	case errors.As(err, &refused) && refused.Code == amqp.NotFound:
		return nil, fmt.Errorf("the exchange %s, over which satellites say how they are, does not exist; satctl enroll makes it", StatusExchange)
	case err != nil:
		return nil, fmt.Errorf("find the exchange %s: %w", StatusExchange, err)
	}
	queue, err := channel.QueueDeclare("", false, true, true, false, nil)
	if err != nil {
		return nil, fmt.Errorf("declare a queue for heartbeats: %w", err)
	}
	if err := channel.QueueBind(queue.Name, "#", StatusExchange, false, nil); err != nil {
		return nil, fmt.Errorf("bind the queue to the exchange %s: %w", StatusExchange, err)
	}
	return channel.Consume(queue.Name, "", true, true, false, false, nil)
}
