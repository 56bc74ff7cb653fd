// Package tcp measures whether and how fast a TCP port answers.
package tcp

import (
	"context"
	"net"
	"strconv"
	"time"

	"usm-satellite/jobs"
)

// Actions returns tcp.connect.
func Actions(network *jobs.Network) jobs.Registry {
	return jobs.Registry{"tcp.connect": {Class: jobs.Read, Target: true, Check: check, Driver: driver{network}}}
}

type driver struct{ network *jobs.Network }

func check(job *jobs.Job) *jobs.Fault {
	if job.Target.Port == 0 {
		return jobs.Invalid("target.port", "is missing; tcp.connect needs one")
	}
	return jobs.NoParams(job)
}

type data struct {
	Address   string  `json:"address"` // that the name, if any, resolved to
	ConnectMS float64 `json:"connect_ms"`
}

// Run connects and closes.
func (d driver) Run(ctx context.Context, job *jobs.Job) (jobs.Output, error) {
	addr, err := d.network.Resolve(ctx, job.Target.Address)
	if err != nil {
		return jobs.Output{}, err
	}
	began := time.Now()
	conn, err := d.network.DialContext(ctx, "tcp", net.JoinHostPort(addr.String(), strconv.Itoa(job.Target.Port)))
	if err != nil {
		return jobs.Output{}, err
	}
	took := time.Since(began)
	_ = conn.Close()
	return jobs.Output{Data: data{addr.String(), float64(took.Microseconds()) / 1000}}, nil
}
