// Package cli works with equipment on its command line, over SSH and Telnet:
// cli.run, cli.configure, config.backup and ssh.exec.
//
// One engine finds prompts, answers pagers and questions, logs in, gets
// privileges and tells errors from output; what differs between families of
// equipment is data (Platform). What a command means is the core's affair.
//
// A job's commands are steps. A result lists each with its state, so that
// after a lost connection a person knows which line was the last to be
// acknowledged: nothing is ever sent twice.
//
//	for name, action := range cli.Actions(cli.Options{Network: network, StateDir: dir}) {
//		registry[name] = action
//	}
package cli

import (
	"context"
	"time"

	"usm-satellite/drivers/secureshell"
	"usm-satellite/jobs"
)

// Options of the actions.
type Options struct {
	Network  *jobs.Network
	StateDir string              // where known_hosts is kept; empty: host keys last as long as the process
	Dialer   *secureshell.Dialer // shared with other drivers; nil: one of its own
	Idle     time.Duration       // how long a session is kept for the device's next job; 0: not at all
}

// driver is what the actions share.
type driver struct {
	network   *jobs.Network
	ssh       *secureshell.Dialer
	platforms platforms
	broken    error // of the embedded platforms
	pool      *pool
}

// Actions returns the rows of the registry that this package serves.
func Actions(o Options) jobs.Registry {
	d := &driver{network: o.Network, ssh: o.Dialer, pool: newPool(o.Idle)}
	if d.ssh == nil {
		d.ssh = secureshell.New(o.Network, secureshell.OpenHostKeys(o.StateDir))
	}
	d.platforms, d.broken = loadPlatforms()
	return jobs.Registry{
		"cli.run": {
			Class: jobs.Write, Asks: true, Target: true,
			Check: d.checkRun, Driver: jobs.DriverFunc(d.run),
		},
		"cli.configure": {
			Class: jobs.Write, Target: true,
			Check: d.checkConfigure, Driver: jobs.DriverFunc(d.configure),
		},
		"config.backup": {
			Class: jobs.Read, Target: true,
			Check: d.checkBackup, Driver: jobs.DriverFunc(d.backup),
		},
		"ssh.exec": {
			Class: jobs.Write, Asks: true, Target: true,
			Check: d.checkExec, Driver: jobs.DriverFunc(d.exec),
		},
	}
}

// decode reads the parameters that the actions with a prompt share.
func (d *driver) decode(job *jobs.Job) (*params, *jobs.Fault) {
	if d.broken != nil {
		return nil, jobs.Faultf(jobs.CodeInternal, jobs.StageQueue, "the satellite's own platform files cannot be read")
	}
	return d.platforms.decode(job)
}

func (d *driver) checkRun(job *jobs.Job) *jobs.Fault {
	p, fault := d.decode(job)
	switch {
	case fault != nil:
		return fault
	case len(p.Commands) == 0:
		return jobs.Invalid("params.commands", "is missing; it must be a list of at least one command")
	case p.Save:
		return jobs.Invalid("params.save", "is no parameter of %s", job.Action)
	}
	return nil
}

// run is cli.run.
func (d *driver) run(ctx context.Context, job *jobs.Job) (jobs.Output, error) {
	p, fault := d.decode(job)
	if fault != nil {
		return jobs.Output{}, fault
	}
	r := newRunner(job, p)
	return d.with(ctx, r, func(ctx context.Context) *jobs.Fault {
		return r.all(ctx, p.Commands)
	})
}

// with opens a session for a runner, lets work use it and tells what came of
// it. The session is kept for the next job only when all went well.
func (d *driver) with(ctx context.Context, r *runner, work func(context.Context) *jobs.Fault) (jobs.Output, error) {
	if fault := d.open(ctx, r); fault != nil {
		return r.output(), fault
	}
	fault := work(ctx)
	d.leave(r, fault == nil)
	if fault != nil {
		return r.output(), fault
	}
	return r.output(), nil
}
