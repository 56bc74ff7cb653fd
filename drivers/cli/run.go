package cli

import (
	"context"
	"errors"
	"strings"
	"time"

	"usm-satellite/drivers/secureshell"
	"usm-satellite/jobs"
)

// The states of a step.
const (
	stateNotSent      = "not_sent"
	stateSent         = "sent" // and no prompt came back: it may have run
	stateAcknowledged = "acknowledged"
)

// Step is a command and what came of it.
type Step struct {
	Command    string `json:"command"`
	Phase      string `json:"phase,omitempty"` // of cli.configure
	Output     string `json:"output"`
	DurationMS int64  `json:"duration_ms"`
	State      string `json:"state"`
	Error      string `json:"error,omitempty"`     // the line in which the device refused it
	Truncated  bool   `json:"truncated,omitempty"` // the output was cut at the job's limit
	Streamed   int    `json:"streamed_bytes,omitempty"`
}

// runData is the data of cli.run and cli.configure.
type runData struct {
	Steps      []Step `json:"steps"`
	Prompt     string `json:"prompt,omitempty"`
	Transcript string `json:"transcript,omitempty"`
}

// learned is what a job has found out of the device.
type learned struct {
	HostKey string `json:"host_key,omitempty"`
}

// runner runs the steps of one job on one session.
type runner struct {
	job        *jobs.Job
	p          *params
	privileges bool // the action needs them
	secrets    *strings.Replacer
	transcript *transcript

	key      string // of the pool
	live     *kept
	home     string // the prompt after the login
	session  *session
	learned  learned
	warnings []string

	steps     []Step
	at        int // index of the step that runs
	room      int // bytes of output that the result may still take
	truncated bool
	closed    bool // by the device, as was to be expected
	data      any  // of the action; nil: runData
}

func newRunner(job *jobs.Job, p *params) *runner {
	var secrets []string
	for _, c := range secureshell.Logins(job.Credentials) {
		secrets = append(secrets, c.Login.Password.Reveal(), c.Login.EnablePassword.Reveal())
	}
	room := job.Limits.ResultBytes() - 256 // what is around the steps
	for _, c := range p.Commands {
		room -= jobs.JSONSize(c.Command) + 256 // a step without its output
	}
	if p.Transcript {
		room /= 2
	}
	r := &runner{job: job, p: p, room: max(room, 0)}
	t := newTranscript(secrets, r.room)
	r.secrets = t.secrets
	if p.Transcript {
		r.transcript = t
	}
	return r
}

func (r *runner) masked(s string) string { return r.secrets.Replace(s) }

// output is what the job has to show for itself, however it ended.
func (r *runner) output() jobs.Output {
	out := jobs.Output{Data: r.data, Truncated: r.truncated, Warnings: r.warnings}
	if r.learned != (learned{}) {
		out.Learned = r.learned
	}
	if r.data == nil && (len(r.steps) > 0 || r.transcript != nil) {
		data := runData{Steps: r.steps, Transcript: r.transcript.String()}
		if r.session != nil {
			data.Prompt = strings.TrimSpace(text([]byte(r.session.prompt)))
		}
		out.Data = data
	}
	return out
}

// all runs the commands of the job in their order.
func (r *runner) all(ctx context.Context, commands []command) *jobs.Fault {
	first := len(r.steps)
	for _, c := range commands {
		r.steps = append(r.steps, Step{Command: c.Command, State: stateNotSent})
	}
	var refusal *jobs.Fault
	for i, c := range commands {
		r.at = first + i
		if fault := r.step(ctx, c); fault != nil {
			return fault
		}
		if r.steps[r.at].Error == "" {
			continue
		}
		if refusal == nil {
			refusal = r.refused()
		}
		if r.p.stopOnError() {
			break
		}
	}
	return refusal
}

func (r *runner) refused() *jobs.Fault {
	return jobs.Faultf(jobs.CodeCommandError, jobs.StageExecute, "the device refused step %d of %d: %s",
		r.at+1, len(r.steps), r.masked(r.steps[r.at].Error))
}

// step runs one command. A refusal of the device is in the step, not a fault.
func (r *runner) step(ctx context.Context, c command) *jobs.Fault {
	limit := r.p.timeout(c)
	stepCtx, cancel := ctx, func() {}
	if limit > 0 {
		stepCtx, cancel = context.WithTimeout(ctx, limit)
	}
	defer cancel()
	step := &r.steps[r.at]
	sink := newCollector(ctx, r)
	start := time.Now()
	defer func() {
		sink.close()
		step.DurationMS = time.Since(start).Milliseconds()
	}()
	step.State = stateSent // before the first byte: a part of the line may arrive
	if err := r.session.send(stepCtx, c.Command, false); err != nil {
		return r.stepFault(stepCtx, err)
	}
	err := r.untilPrompt(stepCtx, c, sink)
	if errors.Is(err, errClosed) && c.MayClose {
		err = nil
		r.closed = true
	}
	if err != nil {
		return r.stepFault(stepCtx, err)
	}
	step.State = stateAcknowledged
	return nil
}

// untilPrompt waits for the prompt and answers what is asked before it.
func (r *runner) untilPrompt(ctx context.Context, c command, sink *collector) error {
	questions := append([]question{}, c.questions...)
	own := len(questions)
	questions = append(questions, r.p.platform.confirm...)
	for range maxAnswers {
		event, err := r.session.wait(ctx, questions, sink.line)
		if err != nil || event.kind == sawPrompt {
			return err
		}
		if event.index >= own && !r.p.Confirm {
			sink.question(event.text)
			return errAsked
		}
		sink.question(event.text)
		if err := r.session.write(ctx, r.session.typed(questions[event.index])); err != nil {
			return err
		}
	}
	return errAsked
}

// stepFault names what kept a step from its end.
func (r *runner) stepFault(ctx context.Context, err error) *jobs.Fault {
	n, of := r.at+1, len(r.steps)
	fault := func(code jobs.Code, format string, args ...any) *jobs.Fault {
		return jobs.Faultf(code, jobs.StageExecute, "step %d of %d: "+format, append([]any{n, of}, args...)...)
	}
	var emit *emitError
	switch {
	case errors.As(err, &emit):
		return fault(jobs.CodeInternal, "a part of the output could not be sent to the core")
	case errors.Is(err, errClosed):
		return fault(jobs.CodeUnreachable, "the device closed the connection before the prompt came back")
	case errors.Is(err, errEndless):
		return fault(jobs.CodeResultTooLarge, "the output does not end (%d MiB so far)", maxReceived>>20)
	case errors.Is(err, errAsked):
		return fault(jobs.CodePromptNotFound, "the device asks a question; give the command answers, or set params.confirm to answer the platform's own")
	case errors.Is(err, errPager):
		return fault(jobs.CodePromptNotFound, "%v", err)
	case errors.Is(context.Cause(ctx), context.DeadlineExceeded) && r.session.stands():
		return fault(jobs.CodePromptNotFound, "no prompt of the platform %s came back in time; the last line is %q", r.p.platform.Name, r.lastLine())
	default:
		return fault(jobs.CodeTimeout, "the prompt did not come back in time")
	}
}
