package jobs

import (
	"context"
	"log/slog"
	"sync"
	"time"
)

// Defaults of the dispatcher.
const (
	DefaultConcurrency = 1000
	DefaultMaxAttempts = 3 // deliveries of one job that may end with the death of the process
	publishTimeout     = 30 * time.Second
	recentBytes        = 32 << 20
	recentAge          = 15 * time.Minute
)

// Options say how a Dispatcher works. They are not changed once in use.
type Options struct {
	Registry    Registry
	SatelliteID string // "" is an ordinary poller
	Replica     string // tells the processes of one satellite apart in results
	Policy      *Policy
	Journal     *Journal // nil: writes are refused
	Outbox      Outbox
	RecentDir   string      // where the last answers are kept; "": in memory only
	Full        func() bool // the Outbox takes no more results of writes; nil: never
	Kick        func()      // called after a result went into the Outbox; may be nil
	Room        *Room       // for results; nil: NewRoom(0)
	Concurrency int         // jobs that run at a time; 0: DefaultConcurrency
	MaxAttempts int         // 0: DefaultMaxAttempts
	Logger      *slog.Logger
}

// Dispatcher makes exactly one result of each delivery. Handle is called from
// many goroutines at once, one for each job in hand.
type Dispatcher struct {
	Options

	lanes  *lanes
	recent *recent
	slots  slots
	counts Counts

	mu       sync.Mutex
	tasks    map[string]*task // by job id: the one that runs it. Guarded by mu
	fresh    map[string]bool  // writes whose first delivery came here, and that were not begun. Guarded by mu
	stopping bool             // guarded by mu
	active   sync.WaitGroup   // one for each Handle that has not returned
}

// NewDispatcher returns a Dispatcher that is ready for Handle.
func NewDispatcher(o Options) *Dispatcher {
	if o.Concurrency <= 0 {
		o.Concurrency = DefaultConcurrency
	}
	if o.MaxAttempts <= 0 {
		o.MaxAttempts = DefaultMaxAttempts
	}
	if o.Room == nil {
		o.Room = NewRoom(0)
	}
	if o.Policy == nil {
		o.Policy = &Policy{}
	}
	if o.Kick == nil {
		o.Kick = func() {}
	}
	if o.Full == nil {
		o.Full = func() bool { return false }
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	d := &Dispatcher{
		Options: o,
		lanes:   newLanes(),
		recent:  newRecent(int(min(recentBytes, o.Room.Bytes())), recentAge),
		slots:   newSlots(o.Concurrency),
		tasks:   make(map[string]*task),
		fresh:   make(map[string]bool),
	}
	if o.RecentDir != "" {
		if err := d.recent.open(o.RecentDir); err != nil {
			o.Logger.Warn("the last answers are kept in memory only", "cause", err.Error())
		}
	}
	return d
}

// Handle runs the job of a delivery, sends its result and settles it. It
// returns when all of that is done. ctx bounds the whole of it from outside;
// a stop in good order goes through Drain.
func (d *Dispatcher) Handle(ctx context.Context, del *Delivery) {
	if !d.enter() {
		del.Receipt.Requeue()
		return
	}
	defer d.active.Done()
	d.counts.received.Add(1)
	Failpoint("received")
	t := newTask(ctx, d, del)
	defer t.cancel(nil)
	defer t.giveRoom()
	t.handle()
}

func (d *Dispatcher) enter() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.stopping {
		return false
	}
	d.active.Add(1)
	return true
}

// lead makes t the one that runs its job. Where another one does already, it
// returns that one.
func (d *Dispatcher) lead(t *task) (other *task) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if other := d.tasks[t.job.ID]; other != nil {
		return other
	}
	d.tasks[t.job.ID] = t
	if d.stopping {
		t.cancel(ErrStopping)
	}
	return nil
}

func (d *Dispatcher) resign(t *task) {
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.tasks, t.job.ID)
	close(t.done)
}

// Cancel ends the jobs with this id, or of this device (the key of the
// per-device limits), that have not begun to change anything, and says how
// many those were. Their answer is "cancelled".
func (d *Dispatcher) Cancel(jobID, device string) int {
	d.mu.Lock()
	defer d.mu.Unlock()
	n := 0
	for id, t := range d.tasks {
		if (jobID != "" && id == jobID || device != "" && t.job.Target.Device() == device) && !t.writing.Load() {
			t.cancel(ErrCancelled)
			n++
		}
	}
	return n
}

// Drain stops in good order. Jobs that have not started go back to the queue
// at once; those that run may go on until ctx ends. Then reads go back to the
// queue and writes are answered "indeterminate". Drain returns when every
// Handle has, and says how many had to be interrupted.
func (d *Dispatcher) Drain(ctx context.Context) (interrupted int) {
	d.mu.Lock()
	d.stopping = true
	for _, t := range d.tasks {
		if !t.started.Load() {
			t.cancel(ErrStopping)
		}
	}
	d.mu.Unlock()

	idle := make(chan struct{})
	go func() { // ends with the last Handle
		defer close(idle)
		d.active.Wait()
	}()
	select {
	case <-idle:
		return 0
	case <-ctx.Done():
	}
	d.mu.Lock()
	interrupted = len(d.tasks)
	for _, t := range d.tasks {
		t.cancel(ErrStopping)
	}
	d.mu.Unlock()
	<-idle
	return interrupted
}

// Close gives up the files of the dispatcher, once drained.
func (d *Dispatcher) Close() { d.recent.close() }

// InHand returns the number of jobs that are running or wait for a slot.
func (d *Dispatcher) InHand() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return len(d.tasks)
}

// OldestRun returns for how long the longest-running job has been running.
func (d *Dispatcher) OldestRun() time.Duration {
	d.mu.Lock()
	defer d.mu.Unlock()
	var oldest time.Duration
	for _, t := range d.tasks {
		if t.started.Load() {
			oldest = max(oldest, time.Since(t.del.ReceivedAt))
		}
	}
	return oldest
}

// slots bounds how many jobs run at a time. A quarter of them is kept for jobs
// that a person waits for (priority above 0), so that a night's worth of
// polling never makes somebody wait for all of it.
type slots struct{ all, bulk chan struct{} }

func newSlots(n int) slots {
	return slots{all: make(chan struct{}, n), bulk: make(chan struct{}, max(1, n-n/4))}
}

func (s slots) acquire(ctx context.Context, priority uint8) (release func(), err error) {
	var held []chan struct{}
	release = func() {
		for _, c := range held {
			<-c
		}
	}
	wanted := []chan struct{}{s.bulk, s.all}
	if priority > 0 {
		wanted = wanted[1:]
	}
	for _, c := range wanted {
		select {
		case c <- struct{}{}:
			held = append(held, c)
		case <-ctx.Done():
			release()
			return nil, context.Cause(ctx)
		}
	}
	return release, nil
}
