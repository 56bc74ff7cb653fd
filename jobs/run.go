package jobs

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"runtime/debug"
	"time"
)

// How long the watchdog waits for a driver that should have returned. After
// that its goroutine is abandoned, counted and the job answered without it.
const abandonAfter = 30 * time.Second

// start counts the attempt, claims a write, and runs the job.
func (t *task) start() (*Result, error) {
	done, fault := t.countAttempt()
	if fault != nil && t.job.Class == Write {
		return t.earlier(fault)
	}
	if fault != nil {
		return t.fail(fault), nil
	}
	defer done()
	Failpoint("counted")
	if t.job.Class == Write {
		return t.write()
	}
	out, err := t.drive()
	Failpoint("read")
	if errors.Is(context.Cause(t.ctx), ErrStopping) && err != nil {
		return nil, ErrStopping // a read is run again by whoever gets it next
	}
	return t.result(out, err), nil
}

// countAttempt finds jobs that kill the process. Only a delivery that comes
// again is counted on disk: the first one costs nothing.
func (t *task) countAttempt() (done func(), fault *Fault) {
	if !t.del.Redelivered || t.d.Journal == nil {
		return func() {}, nil
	}
	earlier, done, err := t.d.Journal.Begin(t.job.ID)
	if err != nil {
		t.d.Logger.WarnContext(t.ctx, "the attempts of a job cannot be counted", "job_id", t.job.ID, "cause", err)
		return func() {}, nil
	}
	t.attempts = earlier + 1
	if earlier >= t.d.MaxAttempts {
		// The count stays: a copy that another process gets, which does not
		// know this answer, must not be begun either.
		return nil, Faultf(CodePoison, StageQueue, "the satellite died %d times while it ran this job; it is not run again", earlier)
	}
	return done, nil
}

// drive calls the driver under the job's time limit, with a watchdog.
func (t *task) drive() (Output, error) {
	t.startedAt = time.Now()
	t.started.Store(true)
	ctx, cancel := context.WithTimeoutCause(t.ctx, t.job.Timeout, ErrTimeout)
	defer cancel()
	if !t.job.Deadline.IsZero() {
		ctx, cancel = context.WithDeadlineCause(ctx, t.job.Deadline, ErrTimeout)
		defer cancel()
	}
	t.share = t.d.Room.share(t.job.Class)
	ctx = withShare(ctx, t.share)
	if t.job.Stream {
		ctx = WithEmit(ctx, t.emit)
	}
	type outcome struct {
		out Output
		err error
	}
	ended := make(chan outcome, 1)
	go func() { // owned by drive; outlives it only where the driver breaks its contract
		out, err := t.guarded(ctx)
		ended <- outcome{out, err}
	}()
	select {
	case o := <-ended:
		return o.out, t.faultOf(ctx, o.err)
	case <-ctx.Done():
	}
	timer := time.NewTimer(abandonAfter)
	defer timer.Stop()
	select {
	case o := <-ended:
		return o.out, t.faultOf(ctx, o.err)
	case <-timer.C:
		t.d.counts.abandoned.Add(1)
		t.d.Logger.ErrorContext(ctx, "a driver did not return after its time limit and is abandoned", "action", t.job.Action, "job_id", t.job.ID)
		return Output{}, t.faultOf(ctx, errAbandoned)
	}
}

var errAbandoned = errors.New("the driver did not return")

func (t *task) faultOf(ctx context.Context, err error) error {
	if err == nil {
		return nil
	}
	if t.share.starved.Load() && errors.Is(context.Cause(ctx), ErrTimeout) {
		return errNoRoom
	}
	var fault *Fault
	if ctx.Err() == nil && !errors.As(err, &fault) {
		// The text may quote what the library was given: it stays at home.
		t.d.Logger.WarnContext(ctx, "a driver failed with an error of no known kind", "action", t.job.Action, "job_id", t.job.ID, "type", fmt.Sprintf("%T", err))
	}
	return FaultOf(ctx, err)
}

// guarded turns a panic of a driver into a fault. The value of the panic is
// not shown: it may hold anything.
func (t *task) guarded(ctx context.Context) (out Output, err error) {
	defer func() {
		if v := recover(); v != nil {
			t.d.counts.panics.Add(1)
			t.d.Logger.ErrorContext(ctx, "a driver panicked", "action", t.job.Action, "job_id", t.job.ID,
				"type", fmt.Sprintf("%T", v), "stack", string(debug.Stack()))
			out, err = Output{}, Faultf(CodeInternal, StageExecute, "the driver of %s failed inside; this is a bug of the satellite", t.job.Action)
		}
	}()
	return t.action.Driver.Run(ctx, t.job)
}

// emit sends a part of the output ahead of the result. Parts are not kept and
// not repeated: the result at the end says whether all is well.
func (t *task) emit(part any) error {
	data, err := json.Marshal(part)
	if err != nil {
		return err
	}
	body, err := json.Marshal(struct {
		Schema int             `json:"schema"`
		JobID  string          `json:"job_id"`
		Action string          `json:"action"`
		Data   json.RawMessage `json:"data"`
	}{SchemaVersion, t.job.ID, t.job.Action, data})
	if err != nil {
		return err
	}
	m := t.message(body, false)
	m.Type, m.MessageID = TypePart, ""
	return t.del.Receipt.Publish(t.ctx, m)
}

// result makes the answer of a job that was run.
func (t *task) result(out Output, err error) *Result {
	r := t.blank()
	r.Truncated, r.Warnings = out.Truncated, append(r.Warnings, out.Warnings...)
	r.Status = StatusOK
	if out.Partial {
		r.Status = StatusPartial
	}
	var fault *Fault
	if errors.As(err, &fault) {
		r.Error = fault
		t.silent = fault.Code == CodeTimeout
		r.Status = statusOf(fault, t.job.Class)
		if out.Partial && r.Status != StatusIndeterminate {
			r.Status = StatusPartial
		}
	}
	t.attach(r, out)
	return r
}

// attach encodes what the driver found, within the job's limit.
func (t *task) attach(r *Result, out Output) {
	if out.Data != nil {
		data, err := json.Marshal(out.Data)
		switch limit := t.job.Limits.ResultBytes(); {
		case err != nil:
			r.Status, r.Error = StatusFailed, Faultf(CodeInternal, StageParse, "the data of the job cannot be encoded")
		case len(data) > limit:
			r.Truncated = true
			fault := Faultf(CodeResultTooLarge, StageParse, "the result has %d bytes; the limit is %d (limits.max_result_bytes)", len(data), limit)
			if r.Status == StatusOK || r.Status == StatusPartial {
				r.Status, r.Error = StatusFailed, fault
			}
		default:
			r.Data = data
		}
	}
	if out.Learned != nil {
		if data, err := json.Marshal(out.Learned); err == nil {
			r.Learned = data
		}
	}
}

// fail makes the answer of a job that ended with f.
func (t *task) fail(f *Fault) *Result {
	r := t.blank()
	r.Status, r.Error = statusOf(f, t.job.Class), f
	return r
}

func (t *task) blank() *Result {
	now := time.Now()
	r := &Result{
		Schema: SchemaVersion, JobID: t.job.ID, Action: t.job.Action,
		SatelliteID: t.d.SatelliteID, Replica: t.d.Replica, Transport: t.del.Transport,
		Attempts: t.attempts, Redelivered: t.del.Redelivered, Metadata: t.job.Metadata,
		ReceivedAt: Time{t.del.ReceivedAt}, FinishedAt: Time{now}, DeviceWait: t.deviceWait.Milliseconds(),
	}
	if t.startedAt.IsZero() {
		r.QueueWaitMS = (now.Sub(t.del.ReceivedAt) - t.deviceWait).Milliseconds()
		return r
	}
	r.StartedAt = &Time{t.startedAt}
	r.QueueWaitMS = max(0, t.startedAt.Sub(t.del.ReceivedAt)-t.deviceWait).Milliseconds()
	r.RunMS = now.Sub(t.startedAt).Milliseconds()
	return r
}

// answer sends r and settles the delivery.
func (t *task) answer(r *Result) {
	t.d.counts.result(r.Status)
	t.d.begun(t) // or never to be
	body := r.encode()
	if t.job.ID != "" {
		t.d.recent.put(t.job.ID, t.onlyFor(r), body)
	}
	t.send(body, t.job.Class == Write)
}

// onlyFor says which message alone r answers. A copy of that one gets the same
// answer; but a core that asks anew under the same id, because the job was
// refused (and has been mended) or because asking again may help, is served.
// "": r is the end of the job.
func (t *task) onlyFor(r *Result) string {
	refused := r.Status == StatusInvalid || r.Status == StatusUnsupported || r.Status == StatusDenied
	mayHelp := r.Error != nil && r.Error.Retryable && (t.job.Class != Write || t.startedAt.IsZero())
	if refused || mayHelp {
		return t.del.MessageID
	}
	return ""
}

// send publishes a result. Where that fails it is kept, and the delivery
// settled all the same: whoever gets the job again finds the answer. False: the
// job goes back to the queue.
func (t *task) send(body []byte, write bool) (settled bool) {
	m := t.message(body, write)
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.ctx), publishTimeout)
	defer cancel()
	Failpoint("publishing")
	err := t.del.Receipt.Publish(ctx, m)
	if err == nil {
		Failpoint("published")
		t.d.counts.published.Add(1)
		t.del.Receipt.Ack()
		Failpoint("acknowledged")
		return true
	}
	t.d.Logger.DebugContext(ctx, "a result is kept until it can be sent", "job_id", t.job.ID, "cause", err)
	if t.d.Outbox == nil {
		t.giveBack()
		return false
	}
	if err := t.d.Outbox.Put(m); err != nil {
		t.d.Logger.ErrorContext(ctx, "a result can be neither sent nor kept; its job goes back to the queue", "job_id", t.job.ID, "cause", err)
		t.giveBack()
		return false
	}
	Failpoint("kept")
	t.d.counts.spooled.Add(1)
	t.del.Receipt.Ack()
	t.d.Kick()
	return true
}

func (t *task) message(body []byte, write bool) Message {
	correlation := t.del.CorrelationID
	if correlation == "" {
		correlation = t.del.MessageID
	}
	if correlation == "" {
		correlation = t.job.ID
	}
	return Message{
		JobID: t.job.ID, ReplyTo: t.del.ReplyTo, CorrelationID: correlation, MessageID: "result-" + t.job.ID,
		Type: TypeResult, Priority: t.del.Priority, Write: write, Body: body,
	}
}
