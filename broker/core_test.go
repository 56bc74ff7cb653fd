package broker

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"usm-satellite/deploy/lab"
	"usm-satellite/jobs"
)

const coreWait = 60 * time.Second

// coreVhost makes a virtual host for the test and returns who may do all in it.
func coreVhost(t *testing.T, node *lab.Rabbit) DSN {
	t.Helper()
	if err := node.NewVhost(t.Context(), t.Name()); err != nil {
		t.Fatal(err)
	}
	dsn, err := ParseDSN(node.DSN(t.Name()))
	if err != nil {
		t.Fatal(err)
	}
	return dsn
}

func openCore(t *testing.T, options CoreOptions) *Core {
	t.Helper()
	core, err := OpenCore(t.Context(), options)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = core.Close() })
	return core
}

// rawChannel is a client without the rules of the product, for the far end
// and for what it must not be able to do.
func rawChannel(t *testing.T, dsn DSN) *amqp.Channel {
	t.Helper()
	conn, err := dialCore(t.Context(), CoreOptions{DSN: dsn, Name: "test"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.CloseDeadline(time.Now().Add(5 * time.Second)) })
	channel, err := conn.Channel()
	if err != nil {
		t.Fatal(err)
	}
	return channel
}

func declare(t *testing.T, channel *amqp.Channel, name string) {
	t.Helper()
	_, err := channel.QueueDeclare(name, true, false, false, false, amqp.Table{"x-queue-type": "quorum"})
	if err != nil {
		t.Fatal(err)
	}
}

// answerAll answers each job with its own body.
func answerAll(t *testing.T, dsn DSN, queue string) {
	t.Helper()
	channel := rawChannel(t, dsn)
	declare(t, channel, queue)
	deliveries, err := channel.Consume(queue, "", true, false, false, false, nil)
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for d := range deliveries {
			answer := amqp.Publishing{CorrelationId: d.CorrelationId, Type: "result", Body: d.Body}
			_ = channel.PublishWithContext(context.Background(), "", d.ReplyTo, false, false, answer)
		}
	})
	t.Cleanup(func() {
		_ = channel.Close()
		wg.Wait()
	})
}

func nextAnswer(t *testing.T, core *Core) CoreAnswer {
	t.Helper()
	select {
	case a, ok := <-core.Answers():
		if !ok {
			t.Fatalf("the answers ended: %v", core.Err())
		}
		return a
	case <-time.After(coreWait):
		t.Fatal("no answer")
		return CoreAnswer{}
	}
}

func TestCore(t *testing.T) {
	dsn := coreVhost(t, rabbit) // not parallel: another test may end the broker
	t.Run("thousands of jobs in flight, each answered once", func(t *testing.T) { testCoreMany(t, dsn) })
	t.Run("a missing queue is said of each job and of no other", func(t *testing.T) { testCoreMissing(t, dsn) })
	t.Run("properties", func(t *testing.T) { testCoreProperties(t, dsn) })
	t.Run("refusals name what is wrong and no secret", func(t *testing.T) { testCoreRefusals(t, dsn) })
	t.Run("a lost connection ends all waiting", func(t *testing.T) { testCoreLost(t, dsn) })
	t.Run("the grant", func(t *testing.T) { testGrant(t, rabbit, dsn) })
	t.Run("withdrawal", func(t *testing.T) { testWithdraw(t, rabbit, dsn) })
}

// TestCoreOnRabbitMQ4 runs what depends on the broker's version.
func TestCoreOnRabbitMQ4(t *testing.T) {
	node, err := lab.StartRabbit4(t.Context(), lab.RabbitConfig{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = node.Close() })
	dsn := coreVhost(t, node)
	t.Run("jobs", func(t *testing.T) { testCoreMany(t, dsn) })
	t.Run("a missing queue", func(t *testing.T) { testCoreMissing(t, dsn) })
	t.Run("the grant", func(t *testing.T) { testGrant(t, node, dsn) })
	t.Run("withdrawal", func(t *testing.T) { testWithdraw(t, node, dsn) })
}

func testCoreMany(t *testing.T, dsn DSN) {
	const many = 3000
	answerAll(t, dsn, "core-many")
	core := openCore(t, CoreOptions{DSN: dsn, Name: "many"})
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() {
		for i := range many {
			id := fmt.Sprint(i)
			if err := core.Submit(t.Context(), CoreMessage{Queue: "core-many", ID: id, Body: []byte(id)}); err != nil {
				t.Error(err)
				return
			}
		}
	})
	seen := map[string]bool{}
	for range many {
		a := nextAnswer(t, core)
		if a.Err != nil || string(a.Body) != a.ID || seen[a.ID] {
			t.Fatalf("answer %+v, seen before: %v", a, seen[a.ID])
		}
		seen[a.ID] = true
	}
}

func testCoreMissing(t *testing.T, dsn DSN) {
	answerAll(t, dsn, "core-there")
	core := openCore(t, CoreOptions{DSN: dsn})
	const each = 200
	for i := range each {
		for _, queue := range []string{"core-there", "core-missing"} {
			if err := core.Submit(t.Context(), CoreMessage{Queue: queue, ID: fmt.Sprint(queue, i)}); err != nil {
				t.Fatal(err)
			}
		}
	}
	missing := 0
	for range 2 * each {
		a := nextAnswer(t, core)
		wantMissing := strings.HasPrefix(a.ID, "core-missing")
		if errors.Is(a.Err, ErrNoQueue) != wantMissing {
			t.Fatalf("%s: %v", a.ID, a.Err)
		}
		if wantMissing {
			missing++
		}
	}
	if missing != each {
		t.Errorf("%d of %d were said to be missing", missing, each)
	}
}

func testCoreProperties(t *testing.T, dsn DSN) {
	channel := rawChannel(t, dsn)
	declare(t, channel, "core-properties")
	core := openCore(t, CoreOptions{DSN: dsn})
	err := core.Submit(t.Context(), CoreMessage{Queue: "core-properties", ID: "id-1", Body: []byte("{}"), Priority: 9, Expiration: 90 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	deliveries, err := channel.Consume("core-properties", "", true, false, false, false, nil)
	if err != nil {
		t.Fatal(err)
	}
	select {
	case d := <-deliveries:
		got := fmt.Sprintln(d.MessageId, d.CorrelationId, d.Type, d.ContentType, d.Priority, d.DeliveryMode, d.Expiration, d.ReplyTo == core.replyTo)
		if want := "id-1 id-1 job application/json 9 2 90000 true\n"; got != want || d.Timestamp.IsZero() {
			t.Errorf("got %s at %v, want %s", got, d.Timestamp, want)
		}
	case <-time.After(coreWait):
		t.Fatal("no delivery")
	}
}

func testCoreRefusals(t *testing.T, dsn DSN) {
	const secret = "canary-5ecret"
	with := func(change func(*DSN)) CoreOptions {
		changed := dsn
		change(&changed)
		return CoreOptions{DSN: changed}
	}
	silent, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closedPort := silent.Addr().(*net.TCPAddr).Port //nolint:forcetypeassert // a TCP listener
	_ = silent.Close()
	for want, options := range map[string]CoreOptions{
		"refused the login": with(func(d *DSN) { d.Password = jobs.NewSecret(secret) }),
		"virtual host":      with(func(d *DSN) { d.VHost = "nope" }),
		"refused":           with(func(d *DSN) { d.Port = closedPort }),
		"TLS ":              with(func(d *DSN) { d.TLS = true }),
		"exchange":          {DSN: dsn, ResultsExchange: "no-such-exchange"},
	} {
		core, err := OpenCore(t.Context(), options)
		if err == nil {
			_ = core.Close()
		}
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), secret) {
			t.Errorf("want %q: got %v", want, err)
		}
	}
}

func testCoreLost(t *testing.T, dsn DSN) {
	channel := rawChannel(t, dsn)
	declare(t, channel, "core-lost")
	var socket net.Conn
	core := openCore(t, CoreOptions{DSN: dsn, Dial: func(ctx context.Context, network, address string) (conn net.Conn, err error) {
		socket, err = (&net.Dialer{}).DialContext(ctx, network, address)
		return socket, err
	}})
	_ = socket.Close()
	_ = core.Submit(t.Context(), CoreMessage{Queue: "core-lost", ID: "1"})
	deadline := time.After(coreWait)
	for open := true; open; {
		select {
		case _, open = <-core.Answers():
		case <-deadline:
			t.Fatal("the answers do not end")
		}
	}
	if !errors.Is(core.Err(), ErrDisconnected) {
		t.Errorf("Err: %v", core.Err())
	}
	if err := core.Submit(t.Context(), CoreMessage{Queue: "core-lost", ID: "2"}); !errors.Is(err, ErrDisconnected) {
		t.Errorf("Submit: %v", err)
	}
	if err := core.Close(); err != nil {
		t.Errorf("Close: %v", err)
	}
}
