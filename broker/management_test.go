package broker

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"usm-satellite/deploy/lab"
	"usm-satellite/jobs"
)

func management(t *testing.T, node *lab.Rabbit) *Management {
	t.Helper()
	api, err := NewManagement(node.ManagementURL(), lab.RabbitUser, jobs.NewSecret(lab.RabbitPassword), nil)
	if err != nil {
		t.Fatal(err)
	}
	return api
}

func grantOf(vhost, satellite string) Grant {
	return Grant{
		VHost: vhost, User: "sat-" + satellite, Password: jobs.NewSecret("pw-" + satellite),
		Queue: "usm_poller-sat-" + satellite, ResultsExchange: "usm_poller.results", StatusExchange: "usm_poller.status",
		ResultsQueue: "erp.core", RoutingKey: "sat." + satellite,
	}
}

func (g Grant) dsn(at DSN) DSN {
	at.Username, at.Password = g.User, g.Password
	return at
}

// testGrant tries, as satellite 7, all that it must not do (the table of
// research/reliability.md, part 4), and what it must be able to do.
func testGrant(t *testing.T, node *lab.Rabbit, dsn DSN) {
	api := management(t, node)
	own, other := grantOf(dsn.VHost, "7"), grantOf(dsn.VHost, "8")
	for _, g := range []Grant{own, other} {
		if err := api.Apply(t.Context(), g); err != nil {
			t.Fatal(err)
		}
	}
	for name, try := range allowed(own) {
		if err := tryAs(t, own.dsn(dsn), try); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, try := range forbidden(own, other) {
		err := tryAs(t, own.dsn(dsn), try)
		var refused *amqp.Error
		if !errors.As(err, &refused) || refused.Code != amqp.AccessRefused && refused.Code != amqp.PreconditionFailed {
			t.Errorf("%s: got %v, want a refusal", name, err)
		}
	}
	intruder, err := NewManagement(node.ManagementURL(), own.User, own.Password, nil)
	if err != nil {
		t.Fatal(err)
	}
	if exists, err := intruder.HasUser(t.Context(), other.User); err == nil {
		t.Errorf("the satellite's user may use the management API: %v", exists)
	}
	if err := api.Apply(t.Context(), own); err != nil {
		t.Errorf("applying again: %v", err)
	}
}

type attemptFunc func(ctx context.Context, c *amqp.Channel) error

// tryAs runs try on a connection of its own. A refusal may come later, as
// the end of the channel: a synchronous call after it brings it to light.
func tryAs(t *testing.T, dsn DSN, try attemptFunc) error {
	t.Helper()
	channel := rawChannel(t, dsn)
	closed := channel.NotifyClose(make(chan *amqp.Error, 1))
	if err := try(t.Context(), channel); err != nil {
		return err
	}
	if err := channel.Qos(1, 0, false); err != nil {
		select {
		case reason := <-closed:
			if reason != nil {
				return reason
			}
		case <-time.After(coreWait):
		}
		return err
	}
	return nil
}

func publishTo(exchange, key, userID string) attemptFunc {
	return func(ctx context.Context, c *amqp.Channel) error {
		if err := c.Confirm(false); err != nil {
			return err
		}
		confirm, err := c.PublishWithDeferredConfirm(exchange, key, true, false, amqp.Publishing{UserId: userID})
		if err != nil {
			return err
		}
		ctx, cancel := context.WithTimeout(ctx, coreWait)
		defer cancel()
		_, err = confirm.WaitContext(ctx)
		return err
	}
}

func consumeFrom(queue string) attemptFunc {
	return func(_ context.Context, c *amqp.Channel) error {
		_, err := c.Consume(queue, "", false, false, false, false, nil)
		return err
	}
}

func allowed(own Grant) map[string]attemptFunc {
	return map[string]attemptFunc{
		"passive declare of the own queue": func(_ context.Context, c *amqp.Channel) error {
			_, err := c.QueueDeclarePassive(own.Queue, true, false, false, false, nil)
			return err
		},
		"consume the own queue":         consumeFrom(own.Queue),
		"publish a result":              publishTo(own.ResultsExchange, own.RoutingKey, ""),
		"publish a result as who it is": publishTo(own.ResultsExchange, own.RoutingKey, own.User),
		"publish a heartbeat":           publishTo(own.StatusExchange, own.RoutingKey, ""),
		"passive declare of the exchange": func(_ context.Context, c *amqp.Channel) error {
			return c.ExchangeDeclarePassive(own.ResultsExchange, "topic", true, false, false, false, nil)
		},
	}
}

func forbidden(own, other Grant) map[string]attemptFunc {
	declareQueue := func(name string, exclusive bool) attemptFunc {
		return func(_ context.Context, c *amqp.Channel) error {
			_, err := c.QueueDeclare(name, !exclusive, false, exclusive, false, amqp.Table{})
			return err
		}
	}
	tries := map[string]attemptFunc{
		"declare the own queue":      declareQueue(own.Queue, false),
		"declare a new queue":        declareQueue("new", false),
		"declare an exclusive queue": declareQueue("", true),
		"declare an exchange": func(_ context.Context, c *amqp.Channel) error {
			return c.ExchangeDeclare("new", "topic", true, false, false, false, nil)
		},
		"delete the own queue": func(_ context.Context, c *amqp.Channel) error {
			_, err := c.QueueDelete(own.Queue, false, false, false)
			return err
		},
		"delete the results exchange": func(_ context.Context, c *amqp.Channel) error {
			return c.ExchangeDelete(own.ResultsExchange, false, false)
		},
		"bind the own queue to the results": func(_ context.Context, c *amqp.Channel) error {
			return c.QueueBind(own.Queue, "#", own.ResultsExchange, false, nil)
		},
		"unbind the core's queue": func(_ context.Context, c *amqp.Channel) error {
			return c.QueueUnbind(own.ResultsQueue, "#", own.ResultsExchange, nil)
		},
		"a result under another's key":    publishTo(own.ResultsExchange, other.RoutingKey, ""),
		"a result under a longer key":     publishTo(own.ResultsExchange, own.RoutingKey+"1", ""),
		"a heartbeat under another's key": publishTo(own.StatusExchange, other.RoutingKey, ""),
		"a result in another's name":      publishTo(own.ResultsExchange, own.RoutingKey, other.User),
		"a job for another satellite":     publishTo("", other.Queue, ""),
		"a job for itself":                publishTo("", own.Queue, ""),
		"a result past the exchange":      publishTo("", own.ResultsQueue, ""),
		"publish to amq.topic":            publishTo("amq.topic", own.RoutingKey, ""),
		"publish to amq.fanout":           publishTo("amq.fanout", own.RoutingKey, ""),
	}
	for name, queue := range map[string]string{"another's jobs": other.Queue, "results": own.ResultsQueue} {
		tries["consume "+name] = consumeFrom(queue)
		tries["get "+name] = func(_ context.Context, c *amqp.Channel) error {
			_, _, err := c.Get(queue, true)
			return err
		}
		tries["purge "+name] = func(_ context.Context, c *amqp.Channel) error {
			_, err := c.QueuePurge(queue, false)
			return err
		}
	}
	return tries
}

func testWithdraw(t *testing.T, node *lab.Rabbit, dsn DSN) {
	api := management(t, node)
	g := grantOf(dsn.VHost, "9")
	if err := api.Apply(t.Context(), g); err != nil {
		t.Fatal(err)
	}
	ended := rawChannel(t, g.dsn(dsn)).NotifyClose(make(chan *amqp.Error, 1))
	begin := time.Now()
	if _, existed, err := api.Withdraw(t.Context(), g.User); err != nil || !existed {
		t.Fatalf("withdraw: existed %v, %v", existed, err)
	}
	select {
	case <-ended:
		t.Logf("the connection ended after %v", time.Since(begin).Round(time.Millisecond))
	case <-time.After(coreWait):
		t.Fatal("the connection lives on")
	}
	if conn, err := dialCore(t.Context(), CoreOptions{DSN: g.dsn(dsn)}); err == nil {
		_ = conn.Close()
		t.Error("the user can still log in")
	}
	if closed, existed, err := api.Withdraw(t.Context(), g.User); err != nil || existed || closed != 0 {
		t.Errorf("withdraw again: %d closed, existed %v, %v", closed, existed, err)
	}
}

func TestDefinitionsHoldNoPassword(t *testing.T) {
	t.Parallel()
	g := grantOf("/", "7")
	file, err := g.Definitions()
	if err != nil {
		t.Fatal(err)
	}
	if !json.Valid(file) || strings.Contains(string(file), g.Password.Reveal()) {
		t.Errorf("got %s", file)
	}
}

func TestNewManagementQuotesNothing(t *testing.T) {
	t.Parallel()
	for _, address := range []string{"", "canary", "ftp://u:canary@h", "http://u:canary@h:%zz", "http://"} {
		if _, err := NewManagement(address, "u", jobs.NewSecret("canary"), nil); err == nil || strings.Contains(err.Error(), "canary") {
			t.Errorf("%q: got %v", address, err)
		}
	}
}
