package jobs

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// knownSeeds are schedules that found a bug once.
func knownSeeds() []uint64 { return []uint64{1} }

// TestSimulate runs random schedules of jobs, losses of the connection,
// refused publishes, cancels and restarts in good order, in virtual time, and
// checks after each: one answer for each job, no write run twice, nothing
// started after its deadline. SIM_SEEDS is how many (default 300); SIM_SEED
// runs one again.
func TestSimulate(t *testing.T) {
	if text := os.Getenv("SIM_SEED"); text != "" {
		seed, err := strconv.ParseUint(text, 10, 64)
		if err != nil {
			t.Fatal("SIM_SEED must be a number")
		}
		simulate(t, seed)
		return
	}
	n := 300
	if text := os.Getenv("SIM_SEEDS"); text != "" {
		n, _ = strconv.Atoi(text)
	}
	for _, seed := range knownSeeds() {
		simulate(t, seed)
	}
	first := rand.Uint64()
	t.Logf("%d seeds from %d", n, first)
	for i := range n {
		if simulate(t, first+uint64(i)); t.Failed() {
			t.Fatalf("run it again by SIM_SEED=%d", first+uint64(i))
		}
	}
}

// world is a broker, a core and a device around a dispatcher.
type world struct {
	t    *testing.T
	dir  string
	seed uint64
	rng  *rand.Rand // of the schedule; the device has its own

	mu         sync.Mutex
	queue      []*simJob          // ready. Guarded by mu
	jobs       map[string]*simJob // guarded by mu
	generation int                // of the connection; even: there is none. Guarded by mu
	refuse     bool               // of publishes. Guarded by mu
	late       []string           // jobs that were started after their deadline. Guarded by mu

	d     *Dispatcher
	spool *Spool
	all   sync.WaitGroup
}

type simJob struct {
	id        string
	body      string
	write     bool
	deadline  time.Time
	published time.Time
	delivered int
	settled   bool
	runs      int
	answers   []string // without what differs between copies
}

// simReceipt is a receipt of one generation of the connection.
type simReceipt struct {
	w   *world
	job *simJob
	gen int
}

func (r simReceipt) Live() bool {
	r.w.mu.Lock()
	defer r.w.mu.Unlock()
	return r.gen == r.w.generation
}

func (r simReceipt) Publish(_ context.Context, m Message) error {
	r.w.mu.Lock()
	defer r.w.mu.Unlock()
	if r.gen != r.w.generation || r.w.refuse {
		return errors.New("not taken")
	}
	r.w.answer(m)
	return nil
}

func (r simReceipt) settle(requeue bool) {
	r.w.mu.Lock()
	defer r.w.mu.Unlock()
	if r.gen != r.w.generation || r.job.settled {
		return
	}
	if requeue {
		r.w.queue = append(r.w.queue, r.job)
	} else {
		r.job.settled = true
	}
}

func (r simReceipt) Ack()     { r.settle(false) }
func (r simReceipt) Requeue() { r.settle(true) }
func (r simReceipt) Reject()  { r.settle(false) }

// answer takes a result; w.mu is held.
func (w *world) answer(m Message) {
	var r Result
	if err := json.Unmarshal(m.Body, &r); err != nil {
		w.t.Errorf("seed %d: %v", w.seed, err)
		return
	}
	code := Code("")
	if r.Error != nil {
		code = r.Error.Code
	}
	w.jobs[m.JobID].answers = append(w.jobs[m.JobID].answers, fmt.Sprint(r.Status, code, string(r.Data), r.FinishedAt))
}

func simulate(t *testing.T, seed uint64) {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "sim-")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = os.RemoveAll(dir) }()
	journal := openJournal(t, dir+"/journal")
	spool, err := OpenSpool(SpoolOptions{Dir: dir + "/spool"})
	if err != nil {
		t.Fatal(err)
	}
	synctest.Test(t, func(t *testing.T) {
		journal.born = time.Now()
		w := &world{t: t, dir: dir + "/recent", seed: seed, rng: rand.New(rand.NewPCG(seed, 1)), jobs: make(map[string]*simJob), spool: spool, generation: 1}
		w.start(journal)
		w.publish(3 + w.rng.IntN(8))
		for range 5 + w.rng.IntN(20) {
			w.step(journal)
			time.Sleep(time.Duration(w.rng.IntN(8000)) * time.Millisecond)
		}
		w.settle()
		w.d.Close()
		w.check()
	})
}

func (w *world) start(j *Journal) {
	if w.d != nil {
		w.d.Close()
	}
	w.d = NewDispatcher(Options{RecentDir: w.dir, Registry: w.registry(), SatelliteID: "7", Journal: j, Outbox: w.spool, Concurrency: 1 + w.rng.IntN(8)})
}

// registry has a device that takes a random while, and counts.
func (w *world) registry() Registry {
	drive := func(ctx context.Context, job *Job) (Output, error) {
		w.mu.Lock()
		s := w.jobs[job.ID]
		s.runs++
		if !s.deadline.IsZero() && time.Now().After(s.deadline) {
			w.late = append(w.late, s.id)
		}
		number, _ := strconv.Atoi(s.id[1:])
		rng := rand.New(rand.NewPCG(w.seed, uint64(1000*number+s.runs))) // the same whoever comes first
		wait := time.Duration(rng.IntN(6000)) * time.Millisecond
		mute := rng.IntN(8) == 0
		w.mu.Unlock()
		timer := time.NewTimer(wait)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-ctx.Done():
			return Output{}, Faultf(CodeTimeout, StageExecute, "interrupted")
		}
		if mute {
			return Output{}, Faultf(CodeTimeout, StageExecute, "silence")
		}
		return Output{Data: job.ID}, nil
	}
	return Registry{
		"read":  {Class: Read, Target: true, Driver: DriverFunc(drive)},
		"write": {Class: Write, Target: true, Driver: DriverFunc(drive)},
	}
}

func (w *world) publish(n int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for range n {
		s := &simJob{id: fmt.Sprint("j", len(w.jobs)), write: w.rng.IntN(2) == 0, published: time.Now()}
		action, more := "read", ""
		if s.write {
			action = "write"
		}
		if w.rng.IntN(4) == 0 {
			s.deadline = time.Now().Add(time.Duration(w.rng.IntN(20000)) * time.Millisecond).Truncate(time.Millisecond)
			more = fmt.Sprintf(`,"deadline":%q`, s.deadline.UTC().Format(time.RFC3339Nano))
		}
		s.body = fmt.Sprintf(`{"schema":1,"job_id":%q,"action":%q,"timeout_ms":%d,"target":{"address":"192.0.2.1","device_id":"d%d"}%s}`,
			s.id, action, 1000+w.rng.IntN(8000), w.rng.IntN(3), more)
		w.jobs[s.id] = s
		w.queue = append(w.queue, s)
	}
}

// step does one thing that can happen.
func (w *world) step(j *Journal) {
	switch w.rng.IntN(10) {
	case 0:
		w.lose()
	case 1:
		w.connect()
	case 2:
		w.mu.Lock()
		w.refuse = !w.refuse
		w.mu.Unlock()
	case 3:
		w.d.Cancel(fmt.Sprint("j", w.rng.IntN(10)), "")
	case 4:
		ctx, cancel := context.WithTimeout(w.t.Context(), time.Duration(w.rng.IntN(4000))*time.Millisecond)
		w.d.Drain(ctx)
		cancel()
		w.start(j)
	case 5:
		w.publish(1)
	default:
		w.deliver()
	}
}

// lose ends the connection: what was not settled is ready again.
func (w *world) lose() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.generation%2 == 0 {
		return
	}
	w.generation++
	ready := make(map[*simJob]bool)
	for _, s := range w.queue {
		ready[s] = true
	}
	for _, s := range w.jobs {
		if !s.settled && !ready[s] {
			w.queue = append(w.queue, s)
		}
	}
}

// connect makes a connection, and sends what was kept, as a session does.
func (w *world) connect() {
	w.mu.Lock()
	if w.generation%2 == 1 {
		w.mu.Unlock()
		return
	}
	w.generation++
	w.mu.Unlock()
	w.flush()
}

func (w *world) flush() {
	for _, name := range w.spool.Oldest(100) {
		m, done, err := w.spool.Take(name)
		if err != nil {
			continue
		}
		w.mu.Lock()
		ok := w.generation%2 == 1 && !w.refuse
		if ok {
			w.answer(m)
		}
		w.mu.Unlock()
		done(ok)
	}
}

// deliver hands out a few ready jobs.
func (w *world) deliver() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for range 1 + w.rng.IntN(4) {
		if w.generation%2 == 0 || len(w.queue) == 0 {
			return
		}
		i := w.rng.IntN(len(w.queue))
		s := w.queue[i]
		w.queue = append(w.queue[:i], w.queue[i+1:]...)
		del := &Delivery{
			Body: []byte(s.body), MessageID: s.id, ReplyTo: "core", PublishedAt: s.published, Redelivered: s.delivered > 0,
			ReceivedAt: time.Now(), Receipt: simReceipt{w, s, w.generation},
		}
		s.delivered++
		d := w.d
		w.all.Go(func() { d.Handle(w.t.Context(), del) })
	}
}

// settle lets everything come to its end without further faults.
func (w *world) settle() {
	w.mu.Lock()
	w.refuse = false
	w.mu.Unlock()
	for range 1000 {
		w.connect()
		w.deliver()
		w.flush()
		time.Sleep(2 * time.Second)
		if w.quiet() {
			break
		}
	}
	w.all.Wait()
	w.flush()
}

func (w *world) quiet() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, s := range w.jobs {
		if !s.settled {
			return false
		}
	}
	return w.spool.Len() == 0
}

func (w *world) check() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, s := range w.jobs {
		if len(s.answers) == 0 {
			w.t.Errorf("seed %d: %s was lost (delivered %d times, run %d times)", w.seed, s.id, s.delivered, s.runs)
		}
		for _, a := range s.answers {
			if a != s.answers[0] {
				w.t.Errorf("seed %d: %s has two answers: %s and %s", w.seed, s.id, s.answers[0], a)
			}
		}
		if s.write && s.runs > 1 {
			w.t.Errorf("seed %d: the write %s was run %d times", w.seed, s.id, s.runs)
		}
	}
	if len(w.late) > 0 {
		w.t.Errorf("seed %d: started after their deadline: %v", w.seed, w.late)
	}
}
