package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"usm-satellite/broker"
	"usm-satellite/jobs"
)

const (
	answerGrace = 30 * time.Second // of an answer beyond the job's own limit
	maxTries    = 5
	overdueTick = 250 * time.Millisecond
)

// flight sends jobs, at most a window of them at a time, and waits for the
// answers. All of its fields are touched by run's goroutine only.
type flight struct {
	core    *broker.Core
	options *submitOptions
	printer *printer
	pending map[string]waiting
	bad     int   // jobs that were not ok
	failure error // what ended the reading before its end
}

type waiting struct {
	request
	until time.Time
	tries int // beyond the first: of sending
}

// departure is what the reading goroutine hands over: a job, or the error
// that ends the reading.
type departure struct {
	request
	err error
}

func (f *flight) run(ctx context.Context, next source) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	departures := make(chan departure)
	go read(ctx, next, departures) // ends with ctx, or when its Read does
	ticker := time.NewTicker(overdueTick)
	defer ticker.Stop()
	for departures != nil || len(f.pending) > 0 {
		open := departures
		if len(f.pending) >= f.options.window {
			open = nil
		}
		select {
		case d := <-open:
			if d.err != nil {
				departures = nil // what is on its way is waited for
				f.end(d.err)
				continue
			}
			if err := f.depart(ctx, d.request); err != nil {
				return err
			}
		case answer, ok := <-f.core.Answers():
			if err := f.arrive(ctx, answer, ok); err != nil {
				return err
			}
			if len(f.core.Answers()) == 0 {
				_ = f.printer.Flush() // the last Flush reports the error
			}
		case now := <-ticker.C:
			f.overdue(now)
		case <-ctx.Done():
			return fmt.Errorf("stopped with %d jobs without an answer", len(f.pending))
		}
	}
	return f.failure
}

func (f *flight) end(err error) {
	if !errors.Is(err, io.EOF) {
		f.failure = err
	}
}

func read(ctx context.Context, next source, out chan<- departure) {
	for {
		req, err := next()
		select {
		case out <- departure{req, err}:
		case <-ctx.Done():
			return
		}
		if err != nil {
			return
		}
	}
}

func (f *flight) depart(ctx context.Context, req request) error {
	wait := f.options.wait
	if wait == 0 {
		wait = req.limit + answerGrace
	}
	job := waiting{request: req, until: time.Now().Add(wait)}
	key := newID()
	f.pending[key] = job
	return f.send(ctx, key, job)
}

func (f *flight) send(ctx context.Context, key string, job waiting) error {
	err := f.core.Submit(ctx, broker.CoreMessage{
		Queue: f.options.queue, ID: key, Body: job.body,
		Priority:   uint8(f.options.priority), //nolint:gosec // checked: 0 to 9
		Expiration: max(time.Until(job.until), time.Millisecond),
	})
	if err != nil {
		return brokerError(err)
	}
	return nil
}

func (f *flight) arrive(ctx context.Context, answer broker.CoreAnswer, ok bool) error {
	if !ok {
		return brokerError(fmt.Errorf("%w with %d jobs without an answer", broker.ErrDisconnected, len(f.pending)))
	}
	job, ours := f.pending[answer.ID]
	switch {
	case !ours: // a copy, or late
		return nil
	case errors.Is(answer.Err, broker.ErrNoQueue):
		return brokerError(fmt.Errorf("there is no queue %q on the broker; satctl enroll makes one, or the core that the satellite works for", f.options.queue))
	case errors.Is(answer.Err, broker.ErrNotConfirmed) && job.tries < maxTries: // its queue has no leader just now
		job.tries++
		f.pending[answer.ID] = job
		return f.send(ctx, answer.ID, job)
	case answer.Err != nil:
		return brokerError(fmt.Errorf("job %s: %w", job.id, answer.Err))
	case answer.Part:
		f.printer.Part(job.request, answer.Body)
		return nil
	}
	delete(f.pending, answer.ID)
	f.print(job.request, answer.Body)
	return nil
}

func (f *flight) print(req request, body []byte) {
	var result jobs.Result
	if json.Unmarshal(body, &result) != nil || result.Status == "" {
		f.bad++
		f.printer.Missing(req, "bad_answer", "the answer is not a result of the contract")
		return
	}
	if result.Status != jobs.StatusOK {
		f.bad++
	}
	f.printer.Result(req, &result, body)
}

// overdue gives up on the jobs whose answer did not come.
func (f *flight) overdue(now time.Time) {
	for key, job := range f.pending {
		if now.After(job.until) {
			delete(f.pending, key)
			f.bad++
			f.printer.Missing(job.request, "no_answer", "no satellite answered in time; is one connected to "+f.options.queue+"?")
		}
	}
}
