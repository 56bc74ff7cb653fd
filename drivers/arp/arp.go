// Package arp finds the hardware addresses of neighbours: arp.lookup, by ARP
// (RFC 826) for IPv4 and Neighbor Discovery (RFC 4861) for IPv6.
//
// It makes the kernel ask, by a datagram to the discard port, and reads the
// kernel's own table: that needs no capability.
package arp

import (
	"context"
	"net/netip"
	"time"

	"usm-satellite/jobs"
)

const (
	answerWait  = 4 * time.Second // the kernel gives up after 3
	lookAgain   = 50 * time.Millisecond
	discardPort = 9 // RFC 863: whoever gets it has nothing to do
)

type params struct {
	Address   string `json:"address"`   // default: the target
	Interface string `json:"interface"` // default: any
}

// Entry is a row of the neighbour table.
type Entry struct {
	Address   string `json:"address"`
	MAC       string `json:"mac"` // empty where the interface has none
	Interface string `json:"interface"`
	State     string `json:"state"` // the kernel's: reachable, stale...; local: an address of the satellite itself
}

type data struct {
	Entries []Entry `json:"entries"`
}

type driver struct{ network *jobs.Network }

// Actions returns arp.lookup.
func Actions(network *jobs.Network) jobs.Registry {
	return jobs.Registry{"arp.lookup": {Class: jobs.Read, Check: check, Driver: driver{network}}}
}

func check(job *jobs.Job) *jobs.Fault {
	p := params{}
	if fault := jobs.DecodeParams(job, &p); fault != nil {
		return fault
	}
	if p.Address == "" && job.Target.Address == "" {
		return jobs.Invalid("params.address", "is missing; arp.lookup needs it or a target")
	}
	return nil
}

// Run returns the entry of the address.
func (d driver) Run(ctx context.Context, job *jobs.Job) (jobs.Output, error) {
	p := params{}
	if fault := jobs.DecodeParams(job, &p); fault != nil {
		return jobs.Output{}, fault
	}
	host := p.Address
	if host == "" {
		host = job.Target.Address
	}
	addr, err := d.network.Resolve(ctx, host)
	if err != nil {
		return jobs.Output{}, err
	}
	local, fault := onLink(addr, p.Interface)
	if fault != nil {
		return jobs.Output{}, fault
	}
	if local != nil {
		return jobs.Output{Data: data{[]Entry{*local}}}, nil
	}
	entry, err := d.ask(ctx, addr, p.Interface)
	if err != nil {
		return jobs.Output{}, err
	}
	return jobs.Output{Data: data{[]Entry{*entry}}}, nil
}

// ask makes the kernel resolve addr and waits for what it finds.
func (d driver) ask(ctx context.Context, addr netip.Addr, device string) (*Entry, error) {
	conn, err := d.network.DialContext(ctx, "udp", netip.AddrPortFrom(addr, discardPort).String())
	if err == nil {
		_, _ = conn.Write([]byte{0})
		defer conn.Close()
	} // without it (a policy about ports) the table may know the address all the same
	limit := time.NewTimer(answerWait)
	defer limit.Stop()
	again := time.NewTicker(lookAgain)
	defer again.Stop()
	for {
		entry, pending, fault := inTable(addr, device)
		if fault != nil {
			return nil, fault
		}
		if entry != nil {
			return entry, nil
		}
		if err != nil {
			return nil, err
		}
		select {
		case <-ctx.Done():
			return nil, jobs.Faultf(jobs.CodeTimeout, jobs.StageExecute, "nobody answered for %s within the job's time limit", addr)
		case <-limit.C:
			return nil, silent(addr, device)
		case <-again.C:
			if !pending {
				return nil, silent(addr, device)
			}
		}
	}
}

func silent(addr netip.Addr, device string) *jobs.Fault {
	where := ""
	if device != "" {
		where = " on " + device
	}
	return jobs.Faultf(jobs.CodeUnreachable, jobs.StageExecute, "nobody answered for %s%s: no device has this address there, or it is off", addr, where)
}
