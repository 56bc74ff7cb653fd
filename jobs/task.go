package jobs

import (
	"context"
	"errors"
	"net/netip"
	"sync/atomic"
	"time"
)

// task is one delivery on its way through the dispatcher:
//
//	decode → judge → policy → (one task for each job id) → slot → device's turn
//	→ live? in time? → claim (writes) → driver → result → publish or keep → settle
type task struct {
	d      *Dispatcher
	del    *Delivery
	job    *Job
	action Action

	ctx     context.Context // of everything done for the job; ends with a cause
	cancel  context.CancelCauseFunc
	done    chan struct{} // closed when the task has settled its delivery
	started atomic.Bool   // the driver runs
	writing atomic.Bool   // a byte of a change may have left
	share   *share        // of the room for results; nil: the driver did not run

	expires    time.Time // by the monotonic clock; zero: never
	attempts   int
	deviceWait time.Duration
	startedAt  time.Time
	silent     bool // the device did not answer
}

// errDropped ends a task whose connection is gone: the broker gives its job
// out again, so nothing is to be said here.
var errDropped = errors.New("the connection that brought the job is gone")

func newTask(ctx context.Context, d *Dispatcher, del *Delivery) *task {
	t := &task{d: d, del: del, done: make(chan struct{}), attempts: 1}
	t.ctx, t.cancel = context.WithCancelCause(ctx)
	if del.TTL > 0 {
		t.expires = del.ReceivedAt.Add(del.TTL)
	}
	return t
}

func (t *task) handle() {
	job, fault := t.decode()
	t.job = job
	if fault != nil && job.ID == "" && t.del.ReplyTo == "" && t.del.CorrelationID == "" {
		t.d.counts.rejected.Add(1)
		t.d.Logger.WarnContext(t.ctx, "a message that is no job and names nobody to answer is rejected", "cause", fault.Message)
		t.del.Receipt.Reject()
		return
	}
	if fault == nil {
		fault = t.admit()
	}
	if job.ID == "" {
		t.answer(t.fail(fault))
		return
	}
	if !t.lead() {
		return
	}
	defer t.d.resign(t)
	if t.answerAgain() {
		return
	}
	if fault != nil {
		t.refuse(fault)
		return
	}
	t.run()
}

func (t *task) decode() (*Job, *Fault) {
	if t.del.Problem != nil {
		return &Job{}, t.del.Problem
	}
	return Decode(t.del.Body)
}

// admit says what speaks against the job before anything is done for it.
func (t *task) admit() *Fault {
	action, fault := t.d.Registry.Judge(t.job)
	if fault != nil {
		return fault
	}
	t.action = action
	if t.job.Class == Write {
		t.d.remember(t)
	}
	if fault := t.d.Policy.CheckAction(t.job.Action, t.job.Class); fault != nil {
		return fault
	}
	if addr, err := netip.ParseAddr(t.job.Target.Address); err == nil {
		if err := t.d.Policy.CheckAddr(addr); err != nil {
			return FaultOf(t.ctx, err)
		}
	}
	return t.late()
}

// late says that nobody waits for the answer any more.
func (t *task) late() *Fault {
	if !t.expires.IsZero() && !time.Now().Before(t.expires) {
		return Faultf(CodeExpired, StageQueue, "the message's time to live ended before the job could start")
	}
	if !t.job.Deadline.IsZero() && !time.Now().Before(t.job.Deadline) {
		return Faultf(CodeExpired, StageQueue, "the job's deadline passed before it could start (by this satellite's clock)")
	}
	return nil
}

// lead waits until no other task runs the same job. False: the satellite is
// stopping, and the delivery has been given back.
func (t *task) lead() bool {
	for {
		other := t.d.lead(t)
		if other == nil {
			return true
		}
		select {
		case <-other.done:
		case <-t.ctx.Done():
			t.giveBack()
			return false
		}
	}
}

// answerAgain sends the answer that the job got before, if it did.
func (t *task) answerAgain() bool {
	body, ok := t.d.recent.get(t.job.ID, t.del.MessageID, t.del.Redelivered)
	write := false
	if !ok && t.d.Outbox != nil {
		var m Message
		m, ok = t.d.Outbox.Find(t.job.ID)
		body, write = m.Body, m.Write
	}
	if !ok {
		return false
	}
	t.send(fromStore(body), write)
	t.d.counts.fromStore.Add(1)
	return true
}

// run takes a job through the limits to its driver.
func (t *task) run() {
	result, err := t.queue()
	switch {
	case err == nil:
		t.answer(result)
	case errors.Is(err, errAnswered):
	case errors.Is(err, errDropped):
		t.d.counts.dropped.Add(1)
	case errors.Is(err, ErrStopping):
		t.giveBack()
	default:
		t.refuse(FaultOf(t.ctx, err))
	}
}

// queue waits for a slot and for the device, and runs the job. The errors are
// Faults, causes of the context and errDropped.
func (t *task) queue() (*Result, error) {
	waitCtx, stopWaiting := t.waitLimit()
	defer stopWaiting()
	releaseSlot, err := t.d.slots.acquire(waitCtx, t.del.Priority)
	if err != nil {
		return nil, err
	}
	defer releaseSlot()
	waited := time.Now()
	releaseDevice, err := t.d.lanes.acquire(waitCtx, t.job.Target.Device(), t.job.Class, t.job.Limits.DeviceConcurrency)
	if err != nil {
		return nil, err
	}
	t.deviceWait = time.Since(waited)
	defer func() { releaseDevice(t.silent) }()

	if err := t.mayStart(); err != nil {
		return nil, err
	}
	return t.start()
}

var errBusy = Faultf(CodeBusy, StageQueue, "the device or the satellite was busy with other jobs for longer than the job's own time limit")

// waitLimit bounds the wait in front of the device: by the deadline of the
// job, and by its own time limit (at least ten seconds).
func (t *task) waitLimit() (context.Context, context.CancelFunc) {
	limit := time.Now().Add(max(t.job.Timeout, 10*time.Second))
	cause := error(errBusy)
	expired := Faultf(CodeExpired, StageQueue, "the job's deadline passed while it waited for the device")
	if !t.expires.IsZero() && t.expires.Before(limit) {
		limit, cause = t.expires, expired
	}
	if !t.job.Deadline.IsZero() && t.job.Deadline.Before(limit) {
		limit, cause = t.job.Deadline, expired
	}
	return context.WithDeadlineCause(t.ctx, limit, cause)
}

// mayStart is asked right before each step that cannot be undone.
func (t *task) mayStart() error {
	if cause := context.Cause(t.ctx); cause != nil {
		return cause
	}
	if !t.del.Receipt.Live() {
		return errDropped
	}
	if fault := t.late(); fault != nil {
		return fault
	}
	return nil
}

// giveRoom gives the room of the result back, once that has been sent.
func (t *task) giveRoom() {
	if t.share != nil {
		t.share.release()
	}
}

// giveBack returns the delivery to the queue.
func (t *task) giveBack() {
	t.d.counts.requeued.Add(1)
	t.del.Receipt.Requeue()
}
