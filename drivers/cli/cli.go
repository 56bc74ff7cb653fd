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
//	driver := cli.New(cli.Options{Network: network, SSH: dialer})
//	defer driver.Close()
//	maps.Copy(registry, driver.Actions())
package cli

import (
	"context"
	"time"

	"usm-satellite/drivers/secureshell"
	"usm-satellite/jobs"
)

// Options of a Driver.
type Options struct {
	Network *jobs.Network
	SSH     *secureshell.Dialer // shared with the other drivers that work over SSH
	Idle    time.Duration       // how long a session is kept for the device's next job; 0: not at all
}

// Driver is what the actions share. Make it with New.
type Driver struct {
	network   *jobs.Network
	ssh       *secureshell.Dialer
	platforms platforms
	broken    error // of the embedded platforms
	pool      *pool
}

// New returns a Driver.
func New(o Options) *Driver {
	d := &Driver{network: o.Network, ssh: o.SSH, pool: newPool(o.Idle)}
	d.platforms, d.broken = loadPlatforms()
	return d
}

// Close ends the sessions that wait for a next job.
func (d *Driver) Close() { d.pool.close() }

// Actions returns the rows of the registry that the driver serves.
func (d *Driver) Actions() jobs.Registry {
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
func (d *Driver) decode(job *jobs.Job) (*params, *jobs.Fault) {
	if d.broken != nil {
		return nil, jobs.Faultf(jobs.CodeInternal, jobs.StageQueue, "the satellite's own platform files cannot be read")
	}
	return d.platforms.decode(job)
}

func (d *Driver) checkRun(job *jobs.Job) *jobs.Fault {
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
func (d *Driver) run(ctx context.Context, job *jobs.Job) (jobs.Output, error) {
	r, fault := d.runner(job)
	if fault != nil {
		return jobs.Output{}, fault
	}
	return d.with(ctx, r, func(ctx context.Context) *jobs.Fault {
		return r.all(ctx, r.p.Commands)
	})
}

// runner makes the runner of a job.
func (d *Driver) runner(job *jobs.Job) (*runner, *jobs.Fault) {
	p, fault := d.decode(job)
	if fault != nil {
		return nil, fault
	}
	if job, fault = d.ssh.Resolve(job); fault != nil {
		return nil, fault
	}
	return newRunner(job, p), nil
}

// with opens a session for a runner, lets work use it and tells what came of
// it. The session is kept for the next job only when all went well.
func (d *Driver) with(ctx context.Context, r *runner, work func(context.Context) *jobs.Fault) (jobs.Output, error) {
	if fault := d.open(ctx, r); fault != nil {
		return r.output(), fault
	}
	good := false
	defer func() { d.leave(r, good) }() // also when work panics: the dispatcher goes on
	if fault := work(ctx); fault != nil {
		return r.output(), fault
	}
	good = true
	return r.output(), nil
}
