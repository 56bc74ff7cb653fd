// Bareloop takes messages from a queue and publishes as many bytes for each,
// as a satellite that has nothing to do would: what that costs is the way to
// the broker. It prints what it took as one line of JSON.
//
//	bareloop -n 20000 -size 300 -fill amqp://…
//	bareloop -n 20000 -size 300 [-config wg.conf] [-profile cpu.pprof] amqp://…
//
// The first line makes both queues anew, transient ones, and has the messages
// wait in the first.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"net"
	"os"
	"runtime/pprof"
	"syscall"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"usm-satellite/tunnel"
)

const prefetch = 256

type report struct {
	JobsPerSecond float64 `json:"jobs_per_second"`
	CPUMicros     float64 `json:"cpu_us_per_job"` // of this process
}

func main() {
	n := flag.Int("n", 20000, "messages to take; so many must wait in the queue")
	size := flag.Int("size", 300, "bytes to publish for each")
	queue := flag.String("queue", "bare.jobs", "queue to take from")
	to := flag.String("to", "bare.answers", "queue to publish to")
	config := flag.String("config", "", "file of a WireGuard tunnel to go through (wg-quick's form)")
	profile := flag.String("profile", "", "file for a profile of the CPU")
	fill := flag.Bool("fill", false, "make the queues anew and put the messages in")
	flag.Parse()
	if flag.NArg() != 1 {
		flag.Usage()
		os.Exit(2)
	}
	l := loop{n: *n, body: make([]byte, *size), queue: *queue, to: *to, profile: *profile}
	run := l.run
	if *fill {
		run = l.fill
	}
	if err := run(context.Background(), flag.Arg(0), *config); err != nil {
		fmt.Fprintln(os.Stderr, "bareloop:", err)
		os.Exit(1)
	}
}

type loop struct {
	n         int
	body      []byte
	queue, to string
	profile   string
}

func (l *loop) run(ctx context.Context, dsn, config string) error {
	cfg := amqp.Config{FrameSize: 128 << 10, Heartbeat: 10 * time.Second}
	if config != "" {
		tun, err := open(ctx, config)
		if err != nil {
			return err
		}
		defer func() { _ = tun.Close() }()
		cfg.Dial = func(network, address string) (net.Conn, error) { return tun.DialContext(ctx, network, address) }
	}
	conn, err := amqp.DialConfig(dsn, cfg)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	if l.profile != "" {
		f, err := os.Create(l.profile)
		if err != nil {
			return err
		}
		defer func() { _ = f.Close() }()
		if err := pprof.StartCPUProfile(f); err != nil {
			return err
		}
		defer pprof.StopCPUProfile()
	}
	r, err := l.work(conn)
	if err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(r)
}

func (l *loop) fill(_ context.Context, dsn, _ string) error {
	conn, err := amqp.Dial(dsn)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	ch, err := conn.Channel()
	if err != nil {
		return err
	}
	for _, queue := range []string{l.queue, l.to} {
		if _, err := ch.QueueDelete(queue, false, false, false); err != nil {
			return err
		}
		if _, err := ch.QueueDeclare(queue, false, false, false, false, nil); err != nil {
			return err
		}
	}
	confirms := ch.NotifyPublish(make(chan amqp.Confirmation, l.n))
	if err := ch.Confirm(false); err != nil {
		return err
	}
	for range l.n {
		if err := ch.Publish("", l.queue, true, false, amqp.Publishing{Body: l.body}); err != nil {
			return err
		}
	}
	for range l.n {
		if c, ok := <-confirms; !ok || !c.Ack {
			return errLost
		}
	}
	return nil
}

func open(ctx context.Context, config string) (*tunnel.Tunnel, error) {
	f, err := os.Open(config)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	cfg, err := tunnel.ParseQuick(f)
	if err != nil {
		return nil, err
	}
	return tunnel.Open(ctx, cfg, slog.New(slog.DiscardHandler))
}

var errLost = errors.New("the broker ended the loop, or did not confirm a message")

// work acknowledges a message when the one that was published for it is
// confirmed.
func (l *loop) work(conn *amqp.Connection) (*report, error) {
	in, err := conn.Channel()
	if err != nil {
		return nil, err
	}
	out, err := conn.Channel()
	if err != nil {
		return nil, err
	}
	confirms := out.NotifyPublish(make(chan amqp.Confirmation, 2*prefetch))
	if err := out.Confirm(false); err != nil {
		return nil, err
	}
	if err := in.Qos(prefetch, 0, false); err != nil {
		return nil, err
	}
	messages, err := in.Consume(l.queue, "", false, false, false, false, nil)
	if err != nil {
		return nil, err
	}
	tags := make(map[uint64]uint64) // of the message, by the number of what was published for it
	published := uint64(0)
	began, cpu := time.Now(), cpuTime()
	for done := 0; done < l.n; {
		select {
		case m, ok := <-messages:
			if !ok {
				return nil, errLost
			}
			published++
			tags[published] = m.DeliveryTag
			if err := out.Publish("", l.to, true, false, amqp.Publishing{Body: l.body}); err != nil {
				return nil, err
			}
		case c, ok := <-confirms:
			if !ok || !c.Ack {
				return nil, errLost
			}
			if err := in.Ack(tags[c.DeliveryTag], false); err != nil {
				return nil, err
			}
			delete(tags, c.DeliveryTag)
			done++
		}
	}
	n := float64(l.n)
	return &report{
		JobsPerSecond: n / time.Since(began).Seconds(),
		CPUMicros:     float64((cpuTime() - cpu).Microseconds()) / n,
	}, nil
}

// cpuTime is what this process used so far, user and system.
func cpuTime() time.Duration {
	var u syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &u)
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
