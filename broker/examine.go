package broker

import (
	"context"
	"errors"
	"fmt"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
)

// Finding is one step of Examine.
type Finding struct {
	Step    string
	Took    time.Duration
	Message string // where all is well
	Err     error  // what is wrong and what to do
	Warning bool   // Err does not keep the satellite from working
}

// ExamineSteps lists the steps of Examine in their order.
func ExamineSteps() []string {
	return []string{"connect", "tls", "login", "queue", "read right", "publish"}
}

// Examine tries what a session would do on its first route, without taking a
// job and without leaving anything behind. It ends at the first step that
// fails.
func Examine(ctx context.Context, o Options) []Finding {
	s := NewSession(o)
	var all []Finding
	began := time.Now()
	note := func(step, message string, err error) {
		all = append(all, Finding{Step: step, Took: time.Since(began), Message: message, Err: err})
		began = time.Now()
	}
	r := s.Routes[0]
	l, err := s.open(ctx, r)
	if err != nil {
		p := s.explain(err, r)
		if p.Step == string(stepDial) {
			note("connect", "", p)
			return all
		}
		note("connect", "the broker's port answers", nil)
		if p.Step == string(stepTLS) {
			note("tls", "", p)
			return all
		}
		note("tls", tlsWords(r), nil)
		note("login", "", p)
		return all
	}
	defer l.close()
	note("connect", fmt.Sprintf("%s answers (%s)", r.DSN.Address(), r.Name), nil)
	note("tls", tlsWords(r), nil)
	note("login", fmt.Sprintf("as %q in the virtual host %q", r.DSN.Username, r.DSN.VHost), nil)
	waiting, consumers, err := l.look(s.Queue)
	if err != nil {
		note("queue", "", s.explain(&stepError{stepQueue, err}, r))
		return all
	}
	note("queue", fmt.Sprintf("%s is there: %d jobs wait, %d consumers", s.Queue, waiting, consumers), nil)
	if err := l.mayRead(s.Queue); err != nil {
		note("read right", "", s.explain(&stepError{stepQueue, err}, r))
		return all
	}
	note("read right", "the queue may be read", nil)
	message, err := l.mayPublish(ctx, s)
	note("publish", message, err)
	all[len(all)-1].Warning = errors.Is(err, errNoResultsQueue)
	return all
}

func tlsWords(r Route) string {
	if r.TLS == nil {
		return "not asked for (" + r.Name + ")"
	}
	return fmt.Sprintf("the broker's certificate is good for %q", r.TLS.ServerName)
}

func (l *link) look(queue string) (waiting, consumers int, err error) {
	ch, err := l.conn.Channel()
	if err != nil {
		return 0, 0, err
	}
	q, err := ch.QueueDeclarePassive(queue, true, false, false, false, nil)
	return q.Messages, q.Consumers, err
}

// mayRead finds out whether the queue may be read without reading it: a
// consumer with a priority of the wrong type is refused for that (406) only
// after the permission was found (else 403).
func (l *link) mayRead(queue string) error {
	ch, err := l.conn.Channel()
	if err != nil {
		return err
	}
	_, err = ch.Consume(queue, "", false, false, false, false, amqp.Table{"x-priority": "none"})
	var amqpErr *amqp.Error
	if errors.As(err, &amqpErr) && amqpErr.Code == amqp.PreconditionFailed {
		return nil
	}
	if err == nil {
		return nil
	}
	return err
}

var errNoResultsQueue = errors.New("results of jobs without reply_to have no queue")

// mayPublish sends a message that no queue takes, where results go.
func (l *link) mayPublish(ctx context.Context, s *Session) (string, error) {
	exchange, key := s.ResultsExchange, s.key()+".check"
	where := "the default exchange"
	if exchange == "" {
		key = "satellite-check-" + s.Name
	} else {
		where = "the exchange " + exchange
	}
	ctx, cancel := context.WithTimeout(ctx, openTimeout)
	defer cancel()
	confirmation, err := l.results.PublishWithDeferredConfirm(exchange, key, true, false, amqp.Publishing{MessageId: "check", Type: "check"})
	if err != nil {
		return "", errLinkLost
	}
	confirmed, err := confirmation.WaitContext(ctx)
	if err != nil || !confirmed {
		return "", fmt.Errorf("the user may not publish to %s, where results go: give it the write permission, or set USM_RESULTS_EXCHANGE to one that it may write to", where)
	}
	if s.ResultsExchange == "" && s.ResultsQueue != "" {
		if _, _, err := l.look(s.ResultsQueue); err != nil {
			return "", fmt.Errorf("results can be published, but %w: %s (USM_RESULTS_QUEUE) does not exist; jobs with reply_to are not concerned", errNoResultsQueue, s.ResultsQueue)
		}
	}
	return "results can be published to " + where, nil
}
