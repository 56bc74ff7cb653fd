package jobs

import (
	"context"
	"errors"
	"time"
)

// write runs a job that changes the equipment: once, or never.
//
//	claim on disk → live and in time? → phase "sending" → driver → terminal
//	record on disk (the first one wins) → result
//
// What a crash leaves behind is answered by whoever gets the job next.
func (t *task) write() (*Result, error) {
	if t.d.Journal == nil {
		return t.fail(Faultf(CodeJournalUnavailable, StageQueue,
			"writes are refused: the satellite has no working journal; give it a state directory (USM_STATE_DIR) that it can write to")), nil
	}
	if fault := t.speaksAgainst(); fault != nil {
		if t.d.Journal.Known(t.writeKey()) {
			return t.earlier(fault)
		}
		return t.fail(fault), nil
	}
	var unlock func()
	if err := t.patiently(func() (err error) {
		unlock, err = t.d.Journal.lockDevice(t.job.Target.Device())
		return err
	}); err != nil {
		return t.withoutClaim(err)
	}
	defer unlock()
	claim, err := t.claim()
	if claim == nil {
		return t.withoutClaim(err)
	}
	var interrupted *InterruptedError
	if errors.As(err, &interrupted) {
		return t.record(claim, t.fail(interruptedFault(interrupted)))
	}
	Failpoint("claimed")
	if err := t.mayStart(); err != nil {
		_ = claim.Release() // nothing was sent: the job may be run later
		return nil, err
	}
	if claim.Sending() != nil {
		_ = claim.Release()
		return t.fail(journalFault()), nil
	}
	t.d.begun(t)
	Failpoint("sending")
	t.writing.Store(true)
	out, err := t.drive()
	Failpoint("written")
	var fault *Fault
	if errors.Is(context.Cause(t.ctx), ErrStopping) && errors.As(err, &fault) && !fault.leavesWriteUnknown() {
		_ = claim.Release() // stopped before the first byte left
		return nil, ErrStopping
	}
	return t.record(claim, t.writeResult(out, err))
}

// speaksAgainst says why a write may not be begun now.
func (t *task) speaksAgainst() *Fault {
	if t.d.Full() {
		return Faultf(CodeBusy, StageQueue, "the write was not run: too many results wait for the broker (the spool is full); try again later")
	}
	return t.bornAfter()
}

// refuse answers a job that may not be run (again) with the reason. A write
// that was run before, perhaps by a process that died over it, has another
// answer than "too late" or "poison": what the journal knows of it.
func (t *task) refuse(fault *Fault) {
	if t.job.Class != Write || t.d.Journal == nil || !t.d.Journal.Known(t.writeKey()) {
		t.answer(t.fail(fault))
		return
	}
	result, err := t.earlier(fault)
	switch {
	case err == nil:
		t.answer(result)
	case errors.Is(err, errAnswered):
	default: // another process runs it, or the journal cannot tell
		timer := time.NewTimer(heldRetry)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-t.ctx.Done():
		}
		t.giveBack()
	}
}

// earlier is the outcome of an earlier run of a write; without one, the fault.
func (t *task) earlier(fault *Fault) (*Result, error) {
	claim, err := t.claim()
	var finished *FinishedError
	var interrupted *InterruptedError
	switch {
	case errors.As(err, &finished):
		return nil, t.repeat(finished.Result)
	case errors.As(err, &interrupted):
		return t.record(claim, t.fail(interruptedFault(interrupted)))
	case err != nil:
		return nil, err
	}
	_ = claim.Release() // nothing was sent
	return t.fail(fault), nil
}

func (t *task) writeResult(out Output, err error) *Result {
	r := t.result(out, err)
	if r.Status == StatusIndeterminate {
		r.Error = Faultf(CodeInterruptedWrite, r.Error.Stage,
			"it is not known whether the change was made: %s (sending began at %s)", r.Error.Message, t.startedAt.UTC().Format(timeLayout))
	}
	return r
}

// writeKey names the change that the job makes.
func (t *task) writeKey() string {
	if t.job.IdempotencyKey != "" {
		return t.job.IdempotencyKey
	}
	return t.job.ID
}

// heldRetry is how often a task looks whether a write that another process of
// this host runs has ended.
const heldRetry = 200 * time.Millisecond

// claim takes the right to run the write. It waits where a living process has
// it: that one's answer is then found.
func (t *task) claim() (*Claim, error) {
	key := t.writeKey()
	var claim *Claim
	err := t.patiently(func() (err error) {
		claim, err = t.d.Journal.Claim(key, t.job.ID, t.will())
		return err
	})
	return claim, err
}

// patiently tries again for as long as another process has what is wanted and
// the job may still be started.
func (t *task) patiently(try func() error) error {
	for {
		err := try()
		if !errors.Is(err, ErrHeld) {
			return err
		}
		timer := time.NewTimer(heldRetry)
		select {
		case <-timer.C:
		case <-t.ctx.Done():
			timer.Stop()
			return context.Cause(t.ctx)
		}
		if err := t.mayStart(); err != nil {
			return err
		}
	}
}

// withoutClaim says what becomes of a write that may not be run here.
func (t *task) withoutClaim(err error) (*Result, error) {
	var finished *FinishedError
	var fault *Fault
	switch {
	case errors.As(err, &finished):
		return nil, t.repeat(finished.Result)
	case errors.As(err, &fault), errors.Is(err, errDropped), errors.Is(err, ErrStopping), errors.Is(err, ErrCancelled):
		return nil, err
	default:
		t.d.Logger.ErrorContext(t.ctx, "a write is refused: the journal does not work", "job_id", t.job.ID, "cause", err)
		return t.fail(journalFault()), nil
	}
}

func journalFault() *Fault {
	return Faultf(CodeJournalUnavailable, StageQueue,
		"the write was not run: the satellite's journal cannot be written (is the state directory full or read-only?)")
}

func interruptedFault(e *InterruptedError) *Fault {
	return Faultf(CodeInterruptedWrite, StageExecute,
		"the satellite died while it ran this write (claimed at %s): it is not known whether the change was made, and it is not run again", e.At.UTC().Format(timeLayout))
}

// maxFresh bounds what is remembered of writes that were not begun.
const maxFresh = 100_000

// remember notes that the first delivery of a write came to this process: the
// broker says so where it does not say "redelivered". When it comes again
// before it was begun here, it was begun nowhere.
func (d *Dispatcher) remember(t *task) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !t.del.Redelivered && len(d.fresh) < maxFresh {
		d.fresh[t.job.ID] = true
	}
}

// untouched says whether a write was never begun anywhere.
func (d *Dispatcher) untouched(t *task) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.fresh[t.job.ID]
}

// begun notes that a write is being run: from here on the journal knows it.
func (d *Dispatcher) begun(t *task) {
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.fresh, t.job.ID)
}

// bornAfter finds writes that were claimed, perhaps, in a journal that is
// gone: delivered before, and older than the journal.
func (t *task) bornAfter() *Fault {
	if t.d.untouched(t) || !t.del.Redelivered || t.del.PublishedAt.IsZero() || !t.del.PublishedAt.Before(t.d.Journal.Born().Truncate(time.Second)) {
		return nil
	}
	return Faultf(CodeInterruptedWrite, StageExecute,
		"this write was delivered before and is older than this satellite's journal: a satellite without that journal may have run it (is the state directory on a volume?); it is not run again")
}

// record makes the terminal record of a write. What stands in the journal
// after that is the answer, whoever wrote it.
func (t *task) record(claim *Claim, r *Result) (*Result, error) {
	body := r.encode()
	winner, err := claim.Finish(body)
	if err != nil {
		t.d.Logger.ErrorContext(t.ctx, "the end of a write cannot be recorded", "job_id", t.job.ID, "cause", err)
		return r, nil
	}
	Failpoint("recorded")
	t.d.counts.result(r.Status)
	t.d.recent.put(t.job.ID, "", winner)
	if t.send(winner, true) {
		claim.Answered()
	}
	return nil, errAnswered
}

// errAnswered ends a task that has sent its answer by itself.
var errAnswered = errors.New("answered")

// repeat sends the terminal record of an earlier run. Where another job made
// the change under the same idempotency key, the answer is that job's outcome
// under this job's id.
func (t *task) repeat(recorded []byte) error {
	t.d.counts.fromStore.Add(1)
	t.send(fromStore(withJobID(recorded, t.job.ID)), true)
	return errAnswered
}
