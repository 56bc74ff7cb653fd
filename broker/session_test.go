package broker

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"usm-satellite/deploy/lab"
	"usm-satellite/jobs"
)

// rabbit is the one broker of this package's tests; each test has a virtual
// host of its own.
var rabbit *lab.Rabbit

func TestMain(m *testing.M) {
	if lab.Fuzzing() {
		os.Exit(m.Run())
	}
	dir, err := os.MkdirTemp("", "broker-test-")
	if err == nil {
		rabbit, err = lab.StartRabbit(context.Background(), lab.RabbitConfig{Dir: dir})
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "the tests of broker need RabbitMQ:", err)
		os.Exit(1)
	}
	code := m.Run()
	_ = rabbit.Close()
	_ = os.RemoveAll(dir)
	os.Exit(code)
}

const patience = 60 * time.Second // of a busy machine

// bench is a satellite's inside without equipment, at the real broker.
type bench struct {
	vhost      string
	session    *Session
	spool      *jobs.Spool
	dispatcher *jobs.Dispatcher
	core       *Core
	runs       sync.Map // job id → *atomic.Int64
	stop       context.CancelFunc
	ended      chan error
}

func newBench(t *testing.T, change func(*Options, *jobs.Options)) *bench {
	t.Helper()
	b := &bench{vhost: t.Name(), ended: make(chan error, 1)}
	if err := rabbit.NewVhost(t.Context(), b.vhost); err != nil {
		t.Fatal(err)
	}
	if err := rabbit.DeclareQueue(t.Context(), b.vhost, "usm_poller-sat-7", "quorum"); err != nil {
		t.Fatal(err)
	}
	dsn, err := ParseDSN(rabbit.DSN(b.vhost))
	if err != nil {
		t.Fatal(err)
	}
	log := slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelInfo}))
	spool, err := jobs.OpenSpool(jobs.SpoolOptions{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	journal, err := jobs.OpenJournal(jobs.JournalOptions{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	b.spool = spool
	jo := jobs.Options{
		SatelliteID: "7", Outbox: spool, Journal: journal, Concurrency: 200, Logger: log, Kick: func() { b.session.Kick() },
		Registry: jobs.Registry{
			"test.read":  {Class: jobs.Read, Driver: jobs.DriverFunc(b.drive)},
			"test.write": {Class: jobs.Write, Driver: jobs.DriverFunc(b.drive)},
		},
	}
	so := Options{
		Routes: []Route{{Name: "amqp", DSN: dsn, Dial: (&net.Dialer{}).DialContext}}, Queue: "usm_poller-sat-7",
		ResultsQueue: "erp.core", SatelliteID: "7", Name: "test", Prefetch: 200, Heartbeat: 4 * time.Second,
		DrainTimeout: 10 * time.Second, Spool: spool, Logger: log,
	}
	if change != nil {
		change(&so, &jo)
	}
	b.dispatcher = jobs.NewDispatcher(jo)
	so.Handler = b.dispatcher
	b.session = NewSession(so)
	if b.core, err = OpenCore(t.Context(), CoreOptions{DSN: dsn}); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	b.stop = cancel
	go func() { b.ended <- b.session.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		select {
		case <-b.ended:
		case <-time.After(patience):
			t.Error("the session does not end")
		}
		_ = b.core.Close()
	})
	return b
}

func (b *bench) drive(ctx context.Context, job *jobs.Job) (jobs.Output, error) {
	n, _ := b.runs.LoadOrStore(job.ID, new(atomic.Int64))
	n.(*atomic.Int64).Add(1)
	var p struct {
		SleepMS int `json:"sleep_ms"`
	}
	_ = json.Unmarshal(job.Params, &p)
	timer := time.NewTimer(time.Duration(p.SleepMS) * time.Millisecond)
	defer timer.Stop()
	select {
	case <-timer.C:
		return jobs.Output{Data: map[string]string{"nonce": job.ID}}, nil
	case <-ctx.Done():
		return jobs.Output{}, context.Cause(ctx)
	}
}

func (b *bench) submit(t *testing.T, id, action string, sleep int) {
	t.Helper()
	body := fmt.Sprintf(`{"schema":1,"job_id":%q,"action":%q,"params":{"sleep_ms":%d}}`, id, action, sleep)
	if err := b.core.Submit(t.Context(), CoreMessage{Queue: "usm_poller-sat-7", ID: id, Body: []byte(body)}); err != nil {
		t.Fatal(err)
	}
}

// collect waits for n different answers. It fails on a second, different
// answer to one job.
func (b *bench) collect(t *testing.T, n int) map[string]jobs.Result {
	t.Helper()
	got := make(map[string]jobs.Result)
	deadline := time.After(patience)
	for len(got) < n {
		select {
		case a, ok := <-b.core.Answers():
			if !ok {
				t.Fatal("the core's connection ended:", b.core.Err())
			}
			var r jobs.Result
			if err := json.Unmarshal(a.Body, &r); err != nil {
				t.Fatal(err)
			}
			if old, seen := got[r.JobID]; seen && old.Status != r.Status {
				t.Fatalf("job %s was answered %s and %s", r.JobID, old.Status, r.Status)
			}
			got[r.JobID] = r
		case <-deadline:
			t.Fatalf("%d of %d answers after %s; state %+v", len(got), n, patience, b.session.State())
		}
	}
	return got
}

func TestJobsAreAnswered(t *testing.T) {
	t.Parallel()
	b := newBench(t, nil)
	for i := range 300 {
		b.submit(t, fmt.Sprintf("job-%d", i), []string{"test.read", "test.write"}[i%2], 0)
	}
	for id, r := range b.collect(t, 300) {
		if r.Status != jobs.StatusOK || r.Transport != "amqp" {
			t.Fatalf("%s: %+v", id, r)
		}
	}
}

// A result that no queue takes is kept, its job is done, and the session goes
// on.
func TestUnroutableResultsAreKept(t *testing.T) {
	t.Parallel()
	b := newBench(t, nil)
	body := `{"schema":1,"job_id":"lost","action":"test.read"}`
	if err := b.core.Submit(t.Context(), CoreMessage{Queue: "usm_poller-sat-7", ID: "lost", ReplyTo: "nowhere", Body: []byte(body)}); err != nil {
		t.Fatal(err)
	}
	deadline := time.Now().Add(patience)
	for b.spool.Len() == 0 {
		if time.Now().After(deadline) {
			t.Fatal("the result is not kept")
		}
		time.Sleep(10 * time.Millisecond)
	}
	b.submit(t, "next", "test.read", 0)
	if r := b.collect(t, 1)["next"]; r.Status != jobs.StatusOK {
		t.Errorf("the next job: %s", r.Status)
	}
	if m, ok := b.spool.Find("lost"); !ok || m.ReplyTo != "nowhere" {
		t.Errorf("kept: %+v", m)
	}
}
