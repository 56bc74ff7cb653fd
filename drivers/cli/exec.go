package cli

import (
	"context"
	"errors"
	"io"
	"strings"
	"sync"

	"golang.org/x/crypto/ssh"

	"usm-satellite/drivers/secureshell"
	"usm-satellite/jobs"
)

// execParams are those of ssh.exec.
type execParams struct {
	Command      string `json:"command"`
	Stdin        string `json:"stdin"`
	HostKey      string `json:"host_key"`
	LegacyCrypto bool   `json:"legacy_crypto"`
}

// execData is the data of ssh.exec.
type execData struct {
	Stdout     string `json:"stdout"`
	Stderr     string `json:"stderr"`
	ExitCode   *int   `json:"exit_code"` // null where the device has sent none
	ExitSignal string `json:"exit_signal,omitempty"`
}

func decodeExec(job *jobs.Job) (*execParams, *jobs.Fault) {
	p := &execParams{}
	if fault := jobs.DecodeParams(job, p); fault != nil {
		return nil, fault
	}
	if p.Command == "" {
		return nil, jobs.Invalid("params.command", "is missing")
	}
	if err := secureshell.CheckPin(p.HostKey); err != nil {
		return nil, jobs.Invalid("params.host_key", "%v", err)
	}
	return p, nil
}

func (d *Driver) checkExec(job *jobs.Job) *jobs.Fault {
	_, fault := decodeExec(job)
	return fault
}

// exec is ssh.exec: one command without a terminal (RFC 4254, 6.5).
func (d *Driver) exec(ctx context.Context, job *jobs.Job) (jobs.Output, error) {
	p, fault := decodeExec(job)
	if fault != nil {
		return jobs.Output{}, fault
	}
	if job, fault = d.ssh.Resolve(job); fault != nil {
		return jobs.Output{}, fault
	}
	client, err := d.dialSSH(ctx, job, sshParams{hostKey: p.HostKey, legacy: p.LegacyCrypto})
	if err != nil {
		return jobs.Output{}, err
	}
	defer func() { _ = client.End() }()
	stop, err := client.Bind(ctx)
	if err != nil {
		return jobs.Output{}, jobs.Faultf(jobs.CodeUnreachable, jobs.StageLogin, "the device closed the connection after the login")
	}
	defer stop()
	out := jobs.Output{Learned: learned{HostKey: client.HostKey}, Warnings: client.Warnings}
	e := &execution{job: job, budget: budget{
		left: job.Limits.ResultBytes(),
		room: func(n int) error { return jobs.Take(ctx, n) },
	}}
	fault = e.run(ctx, client, p)
	out.Data, out.Partial = e.data(), e.partial
	out.Truncated = e.budget.cut
	out.Warnings = append(out.Warnings, e.warnings...)
	if fault != nil {
		if fault.Stage != jobs.StageExecute {
			out.Data = nil
		}
		return out, fault
	}
	return out, nil
}

// execution is one command and what it has said.
type execution struct {
	job            *jobs.Job
	budget         budget
	stdout, stderr limited
	exit           *int
	signal         string
	partial        bool
	warnings       []string
}

// data cuts what is longer as JSON than it was as bytes.
func (e *execution) data() execData {
	room := e.job.Limits.ResultBytes() - 256
	out := execData{ExitCode: e.exit, ExitSignal: e.signal}
	for _, stream := range []struct {
		from []byte
		to   *string
	}{{e.stderr.b, &out.Stderr}, {e.stdout.b, &out.Stdout}} {
		s := text(stream.from)
		for jobs.JSONSize(s) > room { // halves: a few times at most
			s, e.budget.cut = strings.ToValidUTF8(s[:len(s)/2], ""), true
		}
		room -= jobs.JSONSize(s)
		*stream.to = s
	}
	return out
}

func (e *execution) run(ctx context.Context, client *secureshell.Client, p *execParams) *jobs.Fault {
	session, err := client.NewSession()
	if err != nil {
		return jobs.Faultf(codeOf(ctx, err), jobs.StageLogin, "the device let us in by SSH and gave no session")
	}
	e.stdout.budget, e.stderr.budget = &e.budget, &e.budget
	session.Stdout, session.Stderr = &e.stdout, &e.stderr
	if p.Stdin != "" {
		session.Stdin = strings.NewReader(p.Stdin)
	}
	if err := session.Start(p.Command); err != nil {
		if code := codeOf(ctx, err); code != jobs.CodeProtocolError {
			return jobs.Faultf(code, jobs.StageExecute, "the command was sent and not acknowledged")
		}
		return jobs.Faultf(jobs.CodeCommandError, jobs.StageExecute, "the device runs no commands this way; use cli.run")
	}
	return e.finish(ctx, client, session.Wait())
}

// finish reads the way in which the command ended.
func (e *execution) finish(ctx context.Context, client *secureshell.Client, err error) *jobs.Fault {
	var status *ssh.ExitError
	var missing *ssh.ExitMissingError
	code := 0
	switch {
	case err == nil:
		e.exit = &code
	case errors.As(err, &status):
		code, e.signal = status.ExitStatus(), status.Signal()
		e.exit = &code
	case ctx.Err() != nil:
		return jobs.Faultf(jobs.CodeTimeout, jobs.StageExecute, "the command did not end in time")
	case errors.Is(err, errEndless):
		return jobs.Faultf(jobs.CodeResultTooLarge, jobs.StageExecute, "the output does not end (%d MiB so far)", maxReceived>>20)
	case errors.As(err, &missing):
		return e.noStatus(client)
	default:
		return jobs.Faultf(codeOf(ctx, err), jobs.StageExecute, "the connection broke while the command ran")
	}
	return nil
}

// noStatus judges an end without an exit status. Some equipment never sends
// one; then the connection still answers. Where it does not, the output may be
// cut.
func (e *execution) noStatus(client *secureshell.Client) *jobs.Fault {
	if _, _, err := client.SendRequest("keepalive@openssh.com", true, nil); err == nil {
		e.warnings = append(e.warnings, "the device sent no exit status")
		return nil
	}
	if e.job.Class == jobs.Write || e.budget.got == 0 {
		return jobs.Faultf(jobs.CodeUnreachable, jobs.StageExecute, "the device closed the connection before the command's exit status")
	}
	e.partial = true
	e.warnings = append(e.warnings, "the device closed the connection before an exit status: the output may be cut")
	return nil
}

// budget is what both outputs may take together.
type budget struct {
	room func(n int) error // of the satellite, for what is kept

	mu   sync.Mutex // guards all below: the library writes from two goroutines
	left int
	got  int // received, kept or not
	cut  bool
}

// limited keeps what its budget allows and counts the rest.
type limited struct {
	budget *budget
	b      []byte
}

// Write keeps the beginning.
func (l *limited) Write(p []byte) (int, error) {
	l.budget.mu.Lock()
	defer l.budget.mu.Unlock()
	if l.budget.got += len(p); l.budget.got > maxReceived {
		return 0, errEndless
	}
	take := min(len(p), l.budget.left)
	if err := l.budget.room(take); err != nil {
		return 0, err
	}
	l.budget.left -= take
	l.budget.cut = l.budget.cut || take < len(p)
	l.b = append(l.b, p[:take]...)
	return len(p), nil
}

var _ io.Writer = (*limited)(nil)
