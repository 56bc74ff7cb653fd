// Package traceroute finds the routers on the way to equipment: traceroute.
//
// Its probes are datagrams to ports of 33434 and up whose time to live ends
// on the way. What the routers say comes back through the error queue of the
// socket (ip(7), IP_RECVERR), which needs no capability.
package traceroute

import (
	"context"
	"net/netip"
	"time"

	"usm-satellite/jobs"
)

const (
	firstPort   = 33434
	defaultHops = 30
	mostHops    = 64
	mostProbes  = 5
	probeWait   = 2 * time.Second
)

type params struct {
	MaxHops int `json:"max_hops"` // 30
	Probes  int `json:"probes"`   // of each hop, 1
}

type probe struct {
	Address string   `json:"address,omitempty"` // empty: nobody answered
	RTTMS   *float64 `json:"rtt_ms"`
	Note    string   `json:"note,omitempty"` // why the way ends here
}

type hop struct {
	TTL    int     `json:"ttl"`
	Probes []probe `json:"probes"`
}

type data struct {
	Address string `json:"address"`
	Reached bool   `json:"reached"`
	Hops    []hop  `json:"hops"`
}

type driver struct{ network *jobs.Network }

// Actions returns traceroute.
func Actions(network *jobs.Network) jobs.Registry {
	return jobs.Registry{"traceroute": {Class: jobs.Read, Target: true, Check: check, Driver: driver{network}}}
}

func check(job *jobs.Job) *jobs.Fault {
	_, fault := decode(job)
	return fault
}

func decode(job *jobs.Job) (*params, *jobs.Fault) {
	p := &params{MaxHops: defaultHops, Probes: 1}
	if fault := jobs.DecodeParams(job, p); fault != nil {
		return nil, fault
	}
	switch {
	case p.MaxHops < 1 || p.MaxHops > mostHops:
		return nil, jobs.Invalid("params.max_hops", "must be 1 to %d", mostHops)
	case p.Probes < 1 || p.Probes > mostProbes:
		return nil, jobs.Invalid("params.probes", "must be 1 to %d", mostProbes)
	}
	return p, nil
}

// Run goes one hop further until the target answers.
func (d driver) Run(ctx context.Context, job *jobs.Job) (jobs.Output, error) {
	p, fault := decode(job)
	if fault != nil {
		return jobs.Output{}, fault
	}
	addr, err := d.network.Resolve(ctx, job.Target.Address)
	if err != nil {
		return jobs.Output{}, err
	}
	found := data{Address: addr.String(), Hops: []hop{}}
	port := uint16(firstPort)
	for ttl := 1; ttl <= p.MaxHops; ttl++ {
		h, ended := hop{TTL: ttl}, false
		for range p.Probes {
			r, err := d.probe(ctx, netip.AddrPortFrom(addr, port), ttl)
			if err != nil {
				return jobs.Output{Data: found, Partial: true}, err
			}
			port++
			h.Probes = append(h.Probes, r.probe)
			found.Reached = found.Reached || r.reached
			ended = ended || r.reached || r.Note != ""
		}
		found.Hops = append(found.Hops, h)
		if ended {
			break
		}
	}
	return jobs.Output{Data: found}, nil
}

type reply struct {
	probe
	reached bool
}
