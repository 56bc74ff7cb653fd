package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"regexp"
	"time"

	"usm-satellite/jobs"
)

const submitHelp = `Usage:
  satctl submit --satellite ID --action ACTION --target ADDRESS [options]
  satctl submit --satellite ID [options] - < jobs.jsonl

Sends one job, or one for each line of JSON from standard input, to a satellite
through the broker, waits for the answers and prints them.

Examples:
  export US_AMQP_DSN_FILE=/etc/satctl/dsn
  satctl submit --satellite 7 --action icmp.ping --target 192.0.2.10
  satctl submit --satellite 7 --action snmp.get --target 192.0.2.10 \
      --community public --params oids=1.3.6.1.2.1.1.1.0 --params oids=1.3.6.1.2.1.1.3.0
  satctl submit --satellite 7 --action snmp.walk --target 192.0.2.10 \
      --credentials-file v3.json --params root=1.3.6.1.2.1.2.2
  satctl submit --satellite 7 --action tcp.connect --target 192.0.2.10 --port 22 --timeout 3s
  satctl submit --satellite 7 --json - < jobs.jsonl > results.jsonl
where v3.json is
  {"snmp": {"version": "3", "username": "monitor", "auth_protocol": "SHA-256",
   "auth_password": "…", "priv_protocol": "AES", "priv_password": "…"}}
and a line of jobs.jsonl is
  {"action": "icmp.ping", "target": {"address": "192.0.2.10"}, "job_id": "p-1"}

To whom:
  --satellite ID             its queue is usm_poller-sat-ID
                             (default: USM_POLLER_SATELLITE_ID)
  --queue NAME               this queue instead, for example usm_poller

The job (with JSON lines: what a line does not say itself):
  --action ACTION            icmp.ping, tcp.connect, snmp.get, …
  --target ADDRESS           address or name of the equipment
  --port PORT                its port, where it is not the usual one
  --device-id ID             key of the limits per device (default: the address)
  --params PARAMS            arguments of the action: a JSON object, or
                             name=value as often as needed
  --community NAME           SNMP v2c community
  --credentials-file FILE    one credential or a list of them, in JSON
  --ref NAME                 a secret that lies at the satellite
  --timeout TIME             limit of the run (default 30s)
  --deadline TIME            when an answer is worthless: 90s, or RFC 3339
  --class CLASS              read or write, where the action leaves it open
  --idempotency-key KEY      two writes with one key are one change
  --metadata JSON            comes back with the answer
  --stream                   print parts of the result as they come

How:
  --priority 0…9             9: a person waits (default 9 for one job, 0 for many)
  --wait TIME                longest wait for an answer after sending (default:
                             the job's timeout and 30s); a job still in the
                             queue then is dropped by the broker
  --window N                 jobs in flight at a time (default 1000)
  --json                     print the answers as JSON lines as they came

` + connectionHelp + `
Exit codes:
  0  every job was ok
  1  a job was not ok, or had no answer
  2  the command line, a setting or a job is wrong; nothing more is sent
  3  the broker could not be used, or has no such queue
`

type submitOptions struct {
	connection
	job       jobFlags
	satellite string
	queue     string
	priority  int
	wait      time.Duration
	window    int
	json      bool
	lines     bool // jobs come from standard input
}

func (o *submitOptions) register(flags *flag.FlagSet, getenv func(string) string) {
	o.connection.register(flags, getenv)
	flags.StringVar(&o.satellite, "satellite", getenv("USM_POLLER_SATELLITE_ID"), "")
	flags.StringVar(&o.queue, "queue", "", "")
	flags.StringVar(&o.job.action, "action", "", "")
	flags.StringVar(&o.job.target, "target", "", "")
	flags.IntVar(&o.job.port, "port", 0, "")
	flags.StringVar(&o.job.deviceID, "device-id", "", "")
	flags.Var(&o.job.params, "params", "")
	flags.StringVar(&o.job.community, "community", "", "")
	flags.StringVar(&o.job.credentialsFile, "credentials-file", "", "")
	flags.StringVar(&o.job.ref, "ref", "", "")
	flags.DurationVar(&o.job.timeout, "timeout", 0, "")
	flags.StringVar(&o.job.deadline, "deadline", "", "")
	flags.StringVar(&o.job.class, "class", "", "")
	flags.StringVar(&o.job.idempotencyKey, "idempotency-key", "", "")
	flags.StringVar(&o.job.metadata, "metadata", "", "")
	flags.BoolVar(&o.job.stream, "stream", false, "")
	flags.IntVar(&o.priority, "priority", -1, "")
	flags.DurationVar(&o.wait, "wait", 0, "")
	flags.IntVar(&o.window, "window", 1000, "")
	flags.BoolVar(&o.json, "json", false, "")
}

func parseSubmit(args []string, getenv func(string) string) (*submitOptions, error) {
	o := &submitOptions{}
	flags := newFlags("submit")
	o.register(flags, getenv)
	if err := parse(flags, args); err != nil {
		return nil, err
	}
	switch {
	case flags.NArg() == 1 && flags.Arg(0) == "-":
		o.lines = true
	case flags.NArg() > 0:
		return nil, usagef("does not know what to do with %q", flags.Arg(0))
	}
	return o, o.check()
}

func (o *submitOptions) check() error {
	if o.queue == "" {
		if err := checkSatelliteID(o.satellite); err != nil {
			return err
		}
		o.queue = "usm_poller-sat-" + o.satellite
	}
	switch {
	case !o.lines && o.job.action == "":
		return usagef("--action is missing; jobs from standard input are asked for by a - at the end")
	case o.priority < -1 || o.priority > 9:
		return usagef("--priority must be 0 to 9")
	case o.window < 1:
		return usagef("--window must be at least 1")
	case o.wait < 0:
		return usagef("--wait must be more than 0")
	}
	if o.priority < 0 {
		o.priority = 9
		if o.lines {
			o.priority = 0
		}
	}
	return nil
}

func checkSatelliteID(id string) error {
	switch {
	case id == "":
		return usagef("--satellite is missing; it is the number or name of the satellite, as 7")
	case !regexp.MustCompile(`^[A-Za-z0-9_-]{1,64}$`).MatchString(id):
		return usagef("--satellite must be 1 to 64 of the characters A-Z a-z 0-9 _ -")
	}
	return nil
}

func submit(ctx context.Context, args []string, sys system) error {
	o, err := parseSubmit(args, sys.Getenv)
	if err != nil {
		return err
	}
	defaults, err := o.job.fields(time.Now())
	if err != nil {
		return err
	}
	next := single(defaults)
	if o.lines {
		next = lines(sys.Stdin, defaults)
	} else if _, err := requestOf(defaults); err != nil {
		return err // before connecting
	}
	core, err := o.open(ctx, sys.Getenv)
	if err != nil {
		return err
	}
	printer := newPrinter(sys.Stdout, o.json)
	flight := &flight{core: core, options: o, printer: printer, pending: map[string]waiting{}}
	err = flight.run(ctx, next)
	err = errors.Join(err, printer.Flush())
	_ = core.Close()
	if err == nil && flight.bad > 0 {
		return errQuiet
	}
	return err
}

// source gives one job after the other, and io.EOF at the end.
type source func() (request, error)

func single(fields map[string]any) source {
	sent := false
	return func() (request, error) {
		if sent {
			return request{}, io.EOF
		}
		sent = true
		return requestOf(fields)
	}
}

// lines reads JSON lines. An error names the line and does not quote it: it
// may hold a password.
func lines(in io.Reader, defaults map[string]any) source {
	scanner := bufio.NewScanner(in)
	scanner.Buffer(make([]byte, 64<<10), jobs.MaxJobBytes+64<<10)
	number := 0
	return func() (request, error) {
		for scanner.Scan() {
			number++
			line := bytes.TrimSpace(scanner.Bytes())
			if len(line) == 0 {
				continue
			}
			req, err := requestOfLine(line, defaults)
			if err != nil {
				return request{}, codedError{exitUsage, fmt.Errorf("line %d: %w", number, err)}
			}
			return req, nil
		}
		if err := scanner.Err(); err != nil {
			return request{}, usagef("line %d: %w", number+1, err)
		}
		return request{}, io.EOF
	}
}
