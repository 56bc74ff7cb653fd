package jobs

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// fakeBroker is the broker's side of a dispatcher: it records what happens to
// deliveries, and misbehaves where told to.
type fakeBroker struct {
	mu      sync.Mutex
	results map[string][]Result // by job id
	settled map[string]string   // by message id: ack, requeue, reject
	dead    bool                // Live is false
	refuse  bool                // Publish fails
}

func newFakeBroker() *fakeBroker {
	return &fakeBroker{results: make(map[string][]Result), settled: make(map[string]string)}
}

type fakeReceipt struct {
	b  *fakeBroker
	id string
}

func (r fakeReceipt) Live() bool {
	r.b.mu.Lock()
	defer r.b.mu.Unlock()
	return !r.b.dead
}

func (r fakeReceipt) Publish(_ context.Context, m Message) error {
	r.b.mu.Lock()
	defer r.b.mu.Unlock()
	if r.b.refuse {
		return errors.New("refused")
	}
	var result Result
	if m.Type == TypeResult {
		if err := json.Unmarshal(m.Body, &result); err != nil {
			return err
		}
	}
	r.b.results[m.JobID] = append(r.b.results[m.JobID], result)
	return nil
}

func (r fakeReceipt) Ack()     { r.settle("ack") }
func (r fakeReceipt) Requeue() { r.settle("requeue") }
func (r fakeReceipt) Reject()  { r.settle("reject") }

func (r fakeReceipt) settle(how string) {
	r.b.mu.Lock()
	defer r.b.mu.Unlock()
	if old := r.b.settled[r.id]; old != "" {
		panic("settled twice: " + r.id + " " + old + " " + how)
	}
	r.b.settled[r.id] = how
}

func (b *fakeBroker) delivery(id, body string) *Delivery {
	return &Delivery{Body: []byte(body), MessageID: id, ReplyTo: "core", ReceivedAt: time.Now(), Receipt: fakeReceipt{b, id}}
}

// one returns the only result of a job.
func (b *fakeBroker) one(t *testing.T, id string) Result {
	t.Helper()
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.results[id]) != 1 {
		t.Fatalf("job %s has %d results", id, len(b.results[id]))
	}
	return b.results[id][0]
}

func body(id, action, more string) string {
	if more != "" {
		more = "," + more
	}
	return fmt.Sprintf(`{"schema":1,"job_id":%q,"action":%q,"target":{"address":"192.0.2.1","device_id":"d-%s"}%s}`, id, action, id, more)
}

// testRegistry has a driver for everything that drivers do.
func testRegistry() Registry {
	sleep := func(ctx context.Context, d time.Duration) error {
		timer := time.NewTimer(d)
		defer timer.Stop()
		select {
		case <-timer.C:
			return nil
		case <-ctx.Done():
			return Faultf(CodeTimeout, StageExecute, "interrupted")
		}
	}
	action := func(class Class, f DriverFunc) Action { return Action{Class: class, Target: true, Driver: f} }
	return Registry{
		"ok":    action(Read, func(context.Context, *Job) (Output, error) { return Output{Data: 1}, nil }),
		"slow":  action(Read, func(ctx context.Context, _ *Job) (Output, error) { return Output{}, sleep(ctx, time.Hour) }),
		"ten":   action(Read, func(ctx context.Context, _ *Job) (Output, error) { return Output{Data: 10}, sleep(ctx, 10*time.Second) }),
		"panic": action(Read, func(context.Context, *Job) (Output, error) { panic(canary) }),
		"deaf": action(Read, func(context.Context, *Job) (Output, error) {
			time.Sleep(3 * time.Hour)
			return Output{}, nil
		}),
		"error": action(Read, func(context.Context, *Job) (Output, error) { return Output{}, errors.New(canary) }),
		"big": action(Read, func(context.Context, *Job) (Output, error) {
			return Output{Data: strings.Repeat("x", 2000)}, nil
		}),
		"silent": action(Read, func(context.Context, *Job) (Output, error) {
			return Output{}, Faultf(CodeTimeout, StageConnect, "silence")
		}),
		"write":      action(Write, func(ctx context.Context, _ *Job) (Output, error) { return Output{Data: 1}, sleep(ctx, 10*time.Second) }),
		"write-slow": action(Write, func(ctx context.Context, _ *Job) (Output, error) { return Output{}, sleep(ctx, time.Hour) }),
		"write-login": action(Write, func(ctx context.Context, _ *Job) (Output, error) {
			_ = sleep(ctx, time.Hour)
			return Output{}, Faultf(CodeTimeout, StageLogin, "no prompt")
		}),
	}
}

// inBubble runs a test of a dispatcher in virtual time.
func inBubble(t *testing.T, change func(*Options), test func(t *testing.T, d *Dispatcher, b *fakeBroker)) {
	t.Helper()
	journal := openJournal(t, t.TempDir())
	spool, err := OpenSpool(SpoolOptions{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	synctest.Test(t, func(t *testing.T) {
		journal.born = time.Now().Add(-time.Hour)
		o := Options{Registry: testRegistry(), SatelliteID: "7", Journal: journal, Outbox: spool, Concurrency: 100}
		if change != nil {
			change(&o)
		}
		test(t, NewDispatcher(o), newFakeBroker())
	})
}

func TestOutcomes(t *testing.T) {
	for _, tt := range []struct {
		action, more string
		status       Status
		code         Code
		took         time.Duration
	}{
		{"ok", "", StatusOK, "", 0},
		{"slow", `"timeout_ms":5000`, StatusTimeout, CodeTimeout, 5 * time.Second},
		{"panic", "", StatusFailed, CodeInternal, 0},
		{"error", "", StatusFailed, CodeInternal, 0},
		{"deaf", `"timeout_ms":1000`, StatusTimeout, CodeTimeout, time.Second + abandonAfter},
		{"big", `"limits":{"max_result_bytes":100}`, StatusFailed, CodeResultTooLarge, 0},
		{"write", "", StatusOK, "", 10 * time.Second},
		{"write-slow", `"timeout_ms":5000`, StatusIndeterminate, CodeInterruptedWrite, 5 * time.Second},
		{"write-login", `"timeout_ms":5000`, StatusTimeout, CodeTimeout, 5 * time.Second},
		{"ok", `"deadline":"1990-01-01T00:00:00Z"`, StatusExpired, CodeExpired, 0},
		{"none", "", StatusUnsupported, CodeUnsupportedAction, 0},
	} {
		t.Run(tt.action+" "+tt.more, func(t *testing.T) {
			inBubble(t, nil, func(t *testing.T, d *Dispatcher, b *fakeBroker) {
				began := time.Now()
				d.Handle(t.Context(), b.delivery("m", body("j", tt.action, tt.more)))
				r := b.one(t, "j")
				if r.Status != tt.status || tt.code != "" && (r.Error == nil || r.Error.Code != tt.code) {
					t.Errorf("got %s, %v", r.Status, r.Error)
				}
				if took := time.Since(began); took != tt.took {
					t.Errorf("took %s, want %s", took, tt.took)
				}
				if b.settled["m"] != "ack" {
					t.Errorf("settled by %s", b.settled["m"])
				}
				if r.Error != nil && strings.Contains(r.Error.Message, canary) {
					t.Errorf("a library's text is in the result: %s", r.Error.Message)
				}
				time.Sleep(4 * time.Hour) // lets what was abandoned end
			})
		})
	}
}

func TestNobodyToAnswer(t *testing.T) {
	inBubble(t, nil, func(t *testing.T, d *Dispatcher, b *fakeBroker) {
		del := b.delivery("m", "no JSON")
		del.ReplyTo = ""
		d.Handle(t.Context(), del)
		if b.settled["m"] != "reject" {
			t.Errorf("settled by %s", b.settled["m"])
		}
	})
}

func TestCopyWaitsForTheFirst(t *testing.T) {
	inBubble(t, nil, func(t *testing.T, d *Dispatcher, b *fakeBroker) {
		var all sync.WaitGroup
		for i := range 3 {
			all.Go(func() { d.Handle(t.Context(), b.delivery(fmt.Sprint(i), body("j", "write", ""))) })
		}
		all.Wait()
		stored := 0
		for _, r := range b.results["j"] {
			if r.FromStore {
				stored++
			}
		}
		if len(b.results["j"]) != 3 || stored != 2 {
			t.Errorf("%d answers, %d of them copies", len(b.results["j"]), stored)
		}
	})
}

func TestLostConnection(t *testing.T) {
	inBubble(t, nil, func(t *testing.T, d *Dispatcher, b *fakeBroker) {
		b.dead = true
		d.Handle(t.Context(), b.delivery("m1", body("j1", "write", "")))
		if len(b.results) > 0 || b.settled["m1"] != "" {
			t.Fatal("a job was started on a connection that is gone")
		}
		// It comes again; this time the answer cannot be sent.
		b.dead, b.refuse = false, true
		del := b.delivery("m2", body("j1", "write", ""))
		del.Redelivered, del.PublishedAt = true, time.Now().Add(-24*time.Hour)
		d.Handle(t.Context(), del)
		if len(b.results) > 0 {
			t.Fatal("it was sent")
		}
		b.refuse = false
		d.Handle(t.Context(), b.delivery("m3", body("j1", "write", "")))
		if r := b.one(t, "j1"); r.Status != StatusOK || !r.FromStore {
			t.Errorf("got %s, %v", r.Status, r.Error)
		}
	})
}

func TestWriteOlderThanTheJournal(t *testing.T) {
	inBubble(t, nil, func(t *testing.T, d *Dispatcher, b *fakeBroker) {
		del := b.delivery("m", body("j", "write", ""))
		del.Redelivered, del.PublishedAt = true, time.Now().Add(-24*time.Hour)
		d.Handle(t.Context(), del)
		if r := b.one(t, "j"); r.Status != StatusIndeterminate {
			t.Errorf("got %s", r.Status)
		}
	})
}

func TestNoJournal(t *testing.T) {
	inBubble(t, func(o *Options) { o.Journal = nil }, func(t *testing.T, d *Dispatcher, b *fakeBroker) {
		d.Handle(t.Context(), b.delivery("w", body("w", "write", "")))
		d.Handle(t.Context(), b.delivery("r", body("r", "ok", "")))
		if r := b.one(t, "w"); r.Status != StatusFailed || r.Error.Code != CodeJournalUnavailable {
			t.Errorf("a write: %s, %v", r.Status, r.Error)
		}
		if r := b.one(t, "r"); r.Status != StatusOK {
			t.Errorf("a read: %s, %v", r.Status, r.Error)
		}
	})
}

func TestPoison(t *testing.T) {
	inBubble(t, nil, func(t *testing.T, d *Dispatcher, b *fakeBroker) {
		for range DefaultMaxAttempts {
			_, _, _ = d.Journal.Begin("j") // and the process dies
		}
		del := b.delivery("m", body("j", "ok", ""))
		del.Redelivered = true
		d.Handle(t.Context(), del)
		if r := b.one(t, "j"); r.Status != StatusPoison {
			t.Errorf("got %s", r.Status)
		}
	})
}

// The answer to a poisonous job may be sent and its ack lost: the process that
// gets the copy, and does not know that answer, must not begin the job.
func TestPoisonStaysPoison(t *testing.T) {
	inBubble(t, nil, func(t *testing.T, d *Dispatcher, b *fakeBroker) {
		for range DefaultMaxAttempts {
			_, _, _ = d.Journal.Begin("w") // and the process dies
		}
		for copies := range 3 {
			del := b.delivery(fmt.Sprint(copies), body("w", "write", "")) // the number stands for the receipt
			del.Redelivered = true
			d.Handle(t.Context(), del)
			d.recent = newRecent(recentBytes, recentAge) // another process
		}
		if len(b.results["w"]) != 3 {
			t.Errorf("%d answers to three copies", len(b.results["w"]))
		}
		for i, r := range b.results["w"] {
			if r.Status != StatusPoison {
				t.Errorf("copy %d: %s", i+1, r.Status)
			}
		}
	})
}

func TestCancel(t *testing.T) {
	inBubble(t, nil, func(t *testing.T, d *Dispatcher, b *fakeBroker) {
		var all sync.WaitGroup
		all.Go(func() { d.Handle(t.Context(), b.delivery("r", body("r", "slow", `"timeout_ms":60000`))) })
		all.Go(func() { d.Handle(t.Context(), b.delivery("w", body("w", "write", ""))) })
		time.Sleep(time.Second)
		if n := d.Cancel("r", ""); n != 1 {
			t.Errorf("cancelled %d", n)
		}
		if n := d.Cancel("", "d-w"); n != 0 {
			t.Errorf("cancelled %d writes that were under way", n)
		}
		all.Wait()
		if r := b.one(t, "r"); r.Status != StatusCancelled {
			t.Errorf("the read: %s", r.Status)
		}
		if r := b.one(t, "w"); r.Status != StatusOK {
			t.Errorf("the write: %s", r.Status)
		}
	})
}

func TestDrainOfAllKinds(t *testing.T) {
	inBubble(t, nil, func(t *testing.T, d *Dispatcher, b *fakeBroker) {
		start := func(id, action, device string) {
			go d.Handle(t.Context(), b.delivery(id, fmt.Sprintf(`{"schema":1,"job_id":%q,"action":%q,"timeout_ms":1200000,"target":{"address":"192.0.2.1","device_id":%q}}`, id, action, device)))
		}
		start("read", "slow", "a")
		start("short", "ten", "b")
		start("write", "write-slow", "c")
		time.Sleep(time.Second)
		start("waits", "write", "c")
		time.Sleep(time.Second)
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		defer cancel()
		if n := d.Drain(ctx); n != 2 {
			t.Errorf("%d interrupted", n)
		}
		want := map[string]string{"read": "requeue", "waits": "requeue", "short": "ack", "write": "ack"}
		for id, how := range want {
			if b.settled[id] != how {
				t.Errorf("%s: %s, want %s", id, b.settled[id], how)
			}
		}
		if r := b.one(t, "write"); r.Status != StatusIndeterminate {
			t.Errorf("the write: %s", r.Status)
		}
		d.Handle(t.Context(), b.delivery("late", body("late", "ok", "")))
		if b.settled["late"] != "requeue" {
			t.Errorf("what comes after the stop: %s", b.settled["late"])
		}
	})
}

func TestBreaker(t *testing.T) {
	inBubble(t, nil, func(t *testing.T, d *Dispatcher, b *fakeBroker) {
		ask := func(id string) Code {
			d.Handle(t.Context(), b.delivery(id, fmt.Sprintf(`{"schema":1,"job_id":%q,"action":"silent","target":{"address":"192.0.2.1"}}`, id)))
			return b.one(t, id).Error.Code
		}
		for i := range breakerThreshold {
			if code := ask(fmt.Sprint("a", i)); code != CodeTimeout {
				t.Fatalf("job %d: %s", i, code)
			}
		}
		if code := ask("open"); code != CodeCircuitOpen {
			t.Errorf("after %d timeouts: %s", breakerThreshold, code)
		}
		time.Sleep(breakerOpenFor)
		if code := ask("probe"); code != CodeTimeout {
			t.Errorf("the probe: %s", code)
		}
		if code := ask("again"); code != CodeCircuitOpen {
			t.Errorf("after the probe: %s", code)
		}
	})
}

func TestDeviceLimit(t *testing.T) {
	inBubble(t, nil, func(t *testing.T, d *Dispatcher, b *fakeBroker) {
		began := time.Now()
		var all sync.WaitGroup
		for i := range 8 {
			all.Go(func() {
				id := fmt.Sprint(i)
				d.Handle(t.Context(), b.delivery(id, fmt.Sprintf(`{"schema":1,"job_id":%q,"action":"ten","timeout_ms":60000,"target":{"address":"192.0.2.1"},"limits":{"device_concurrency":2}}`, id)))
			})
		}
		all.Wait()
		if took := time.Since(began); took != 40*time.Second {
			t.Errorf("8 jobs of 10 s, two at a time, took %s", took)
		}
	})
}

func TestSlotsForPeople(t *testing.T) {
	inBubble(t, func(o *Options) { o.Concurrency = 8 }, func(t *testing.T, d *Dispatcher, b *fakeBroker) {
		for i := range 8 {
			go d.Handle(t.Context(), b.delivery(fmt.Sprint(i), body(fmt.Sprint(i), "slow", `"timeout_ms":60000`)))
		}
		synctest.Wait()
		began := time.Now()
		del := b.delivery("urgent", body("urgent", "ok", ""))
		del.Priority = 9
		d.Handle(t.Context(), del)
		if took := time.Since(began); took != 0 {
			t.Errorf("a job that a person waits for waited %s", took)
		}
		time.Sleep(10 * time.Minute)
	})
}

// A core that mends a job, or asks again where that may help, is served under
// the same id; a copy of one message never is.
func TestAskingAgain(t *testing.T) {
	inBubble(t, nil, func(t *testing.T, d *Dispatcher, b *fakeBroker) {
		last := func(id string) Result { return b.results[id][len(b.results[id])-1] }
		d.Handle(t.Context(), b.delivery("1", body("a", "ok", `"timeout_ms":-1`)))
		d.Handle(t.Context(), b.delivery("2", body("a", "ok", "")))
		if r := last("a"); r.Status != StatusOK || r.FromStore {
			t.Errorf("the mended job: %s, from store %t", r.Status, r.FromStore)
		}
		d.Handle(t.Context(), b.delivery("3", body("a", "ok", "")))
		if r := last("a"); !r.FromStore {
			t.Error("a job that was ok is run again")
		}
		d.Handle(t.Context(), b.delivery("4", body("s", "silent", "")))
		again := b.delivery("4", body("s", "silent", ""))
		again.Receipt = fakeReceipt{b, "4, again"}
		d.Handle(t.Context(), again)
		if r := last("s"); !r.FromStore {
			t.Error("a copy of a message is run again")
		}
		d.Handle(t.Context(), b.delivery("5", body("s", "silent", "")))
		if r := last("s"); r.FromStore {
			t.Error("a timeout is the end of a read for a core that asks anew")
		}
		d.Handle(t.Context(), b.delivery("6", body("w", "write-slow", `"timeout_ms":1000`)))
		d.Handle(t.Context(), b.delivery("7", body("w", "write-slow", `"timeout_ms":1000`)))
		if r := last("w"); !r.FromStore || r.Status != StatusIndeterminate {
			t.Errorf("a write that may have run: %s, from store %t", r.Status, r.FromStore)
		}
	})
}
