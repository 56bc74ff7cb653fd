package cli

import (
	"context"

	"usm-satellite/jobs"
)

// The phases of cli.configure.
const (
	phaseEnter     = "enter"
	phaseConfigure = "configure"
	phaseCommit    = "commit"
	phaseAbort     = "abort"
	phaseLeave     = "leave"
	phaseSave      = "save"
)

func (d *Driver) checkConfigure(job *jobs.Job) *jobs.Fault {
	p, fault := d.decode(job)
	switch {
	case fault != nil:
		return fault
	case len(p.Commands) == 0:
		return jobs.Invalid("params.commands", "is missing; it must be a list of at least one command")
	case len(p.platform.Configure.Enter) == 0 && !p.platform.Configure.Direct:
		return jobs.Invalid("params.platform.configure.enter", "is missing: the platform %s has no configuration mode that is known", p.platform.Name)
	case p.Save && len(p.platform.Configure.Save) == 0:
		return jobs.Invalid("params.save", "is not for the platform %s: it has no command for it", p.platform.Name)
	case p.StopOnError != nil:
		return jobs.Invalid("params.stop_on_error", "is no parameter of %s: it always stops", job.Action)
	}
	return nil
}

// configure is cli.configure. The device is left in its normal mode also after
// a command that it has refused: where it has candidates, nothing of them is
// kept; elsewhere the lines before are in force, as the steps say.
func (d *Driver) configure(ctx context.Context, job *jobs.Job) (jobs.Output, error) {
	r, fault := d.runner(job)
	if fault != nil {
		return jobs.Output{}, fault
	}
	r.privileges = true
	return d.with(ctx, r, r.change)
}

func (r *runner) change(ctx context.Context) *jobs.Fault {
	c := r.p.platform.Configure
	phases := []struct {
		name     string
		commands []command
	}{
		{phaseEnter, own(c.Enter)},
		{phaseConfigure, r.p.Commands},
		{phaseCommit, own(c.Commit)},
		{phaseLeave, own(c.Leave)},
	}
	for _, phase := range phases {
		fault := r.phase(ctx, phase.name, phase.commands)
		if fault == nil {
			continue
		}
		if fault.Code == jobs.CodeCommandError && (phase.name == phaseConfigure || phase.name == phaseCommit) {
			r.retreat(ctx)
		}
		return fault
	}
	if r.p.Save {
		return r.phase(ctx, phaseSave, own(c.Save))
	}
	return nil
}

// retreat leaves the configuration mode after a refusal. That it fails is in
// the steps; the refusal is what the job is told.
func (r *runner) retreat(ctx context.Context) {
	c := r.p.platform.Configure
	name, commands := phaseAbort, c.Abort
	if len(commands) == 0 {
		name, commands = phaseLeave, c.Leave
	}
	r.phase(ctx, name, own(commands)) //nolint:errcheck // see above
}

func (r *runner) phase(ctx context.Context, name string, commands []command) *jobs.Fault {
	first := len(r.steps)
	confirm := r.p.Confirm
	r.p.Confirm = confirm || name != phaseConfigure
	fault := r.all(ctx, commands)
	r.p.Confirm = confirm
	for i := first; i < len(r.steps); i++ {
		r.steps[i].Phase = name
	}
	return fault
}

// own makes steps of a platform's commands.
func own(lines []string) []command {
	out := make([]command, len(lines))
	for i, line := range lines {
		out[i] = command{Command: line}
	}
	return out
}
