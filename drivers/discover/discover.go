// Package discover finds the equipment of a network: discover.scan asks every
// address by ping, SNMP and TCP, at a bounded rate; discover.lldp asks one
// device which neighbours it has.
//
// The policy is asked about each address before anything is sent to it. An
// address counts as a host when it answers: a reply to a ping, a connection
// accepted or refused, an answer to SNMP.
package discover

import (
	"context"
	"encoding/json"
	"net/netip"
	"sync"
	"time"

	"usm-satellite/drivers/icmp"
	"usm-satellite/jobs"
)

// Options say how addresses are asked.
type Options struct {
	Network *jobs.Network
	Pinger  *icmp.Pinger
	SNMP    jobs.Driver   // of snmp.get
	Walk    jobs.Driver   // of snmp.walk
	Wait    time.Duration // for the answer to a probe; 0: 1 s
}

type driver struct{ Options }

// Actions returns discover.scan and discover.lldp.
func Actions(o Options) jobs.Registry {
	if o.Wait == 0 {
		o.Wait = usualWait
	}
	return jobs.Registry{
		"discover.scan": {Class: jobs.Read, Check: check, Driver: driver{o}},
		"discover.lldp": {Class: jobs.Read, Target: true, Check: checkLLDP, Driver: lldpDriver{o.Walk}},
	}
}

// How a scan proceeds.
const (
	maxWorkers = 512 // addresses asked at a time: each may hold a socket
	partHosts  = 64  // a part is sent when it has so many
	partAge    = time.Second
)

type data struct {
	Network  string `json:"network"`
	Hosts    []host `json:"hosts"` // those that were not sent in parts before
	Scanned  int    `json:"scanned"`
	Answered int    `json:"answered"`
	Denied   int    `json:"denied"` // addresses that the policy keeps the satellite from
}

type part struct {
	Hosts []host `json:"hosts"`
}

// scan is one job.
type scan struct {
	driver

	job     *jobs.Job
	p       *params
	pace    pacer
	data    data
	room    int // bytes that data.Hosts may still take
	cut     bool
	pending []host // of the next part
}

// outcome is what came of one address.
type outcome struct {
	host     host
	answered bool
	err      error // ends the scan
}

// Run asks every address. When the job ends before that, its data holds what
// was found.
func (d driver) Run(ctx context.Context, job *jobs.Job) (jobs.Output, error) {
	p, fault := decode(job)
	if fault != nil {
		return jobs.Output{}, fault
	}
	s := &scan{driver: d, job: job, p: p, pace: pacer{step: time.Second / time.Duration(p.Rate)}}
	s.data = data{Network: p.prefix.String(), Hosts: []host{}}
	const frame = 1 << 10 // the rest of the result
	s.room = max(job.Limits.ResultBytes()-frame, 0)
	err := s.run(ctx)
	out := jobs.Output{Data: s.data, Partial: err != nil && s.data.Answered > 0, Truncated: s.cut}
	if err == nil && s.data.Scanned == 0 && s.data.Denied > 0 {
		err = jobs.Faultf(jobs.CodePolicyDenied, jobs.StagePolicy, "no address of %s is allowed by USM_ALLOW_TARGETS", p.prefix)
	}
	return out, err
}

// run starts the workers and collects what they find. It owns them: all have
// returned when it does.
func (s *scan) run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	todo, found := make(chan netip.Addr), make(chan outcome)
	denied := make(chan int, 1)
	var workers sync.WaitGroup
	workers.Go(func() {
		defer close(todo)
		denied <- s.feed(ctx, todo)
	})
	for range min(maxWorkers, max(s.p.Rate, 1), 1<<(s.p.prefix.Addr().BitLen()-s.p.prefix.Bits())) {
		workers.Go(func() {
			for addr := range todo {
				found <- s.ask(ctx, addr)
			}
		})
	}
	go func() { // ends with the workers
		workers.Wait()
		close(found)
	}()
	err := s.collect(ctx, cancel, found)
	s.data.Denied = <-denied
	return err
}

// feed hands out the addresses that the policy allows, and returns how many it
// does not.
func (s *scan) feed(ctx context.Context, todo chan<- netip.Addr) (denied int) {
	for addr := range s.p.addresses {
		if ctx.Err() != nil {
			return denied
		}
		if s.Network.Policy.CheckAddr(addr) != nil {
			denied++
			continue
		}
		select {
		case todo <- addr:
		case <-ctx.Done():
			return denied
		}
	}
	return denied
}

// collect takes what the workers find until the last of them has returned.
func (s *scan) collect(ctx context.Context, stop context.CancelFunc, found <-chan outcome) (err error) {
	ticker := time.NewTicker(partAge)
	defer ticker.Stop()
	note := func(e error) {
		if err == nil && e != nil {
			err = e
			stop()
		}
	}
	for {
		select {
		case o, more := <-found:
			if !more {
				if err == nil {
					err = s.ended(ctx)
				}
				if e := s.flush(ctx); err == nil {
					err = e
				}
				return err
			}
			if o.err != nil {
				note(o.err)
				continue
			}
			s.data.Scanned++
			if o.answered {
				note(s.add(ctx, o.host))
			}
		case <-ticker.C:
			note(s.flush(ctx))
		}
	}
}

func (s *scan) ended(ctx context.Context) error {
	if ctx.Err() == nil {
		return nil
	}
	return jobs.Faultf(jobs.CodeTimeout, jobs.StageExecute, "the job ended after %d addresses of %s", s.data.Scanned, s.p.prefix)
}

func (s *scan) add(ctx context.Context, h host) error {
	s.data.Answered++
	if s.job.Stream {
		s.pending = append(s.pending, h)
		if len(s.pending) < partHosts {
			return nil
		}
		return s.flush(ctx)
	}
	s.keep(h)
	return nil
}

// keep puts a host into the result, within the limits of the job.
func (s *scan) keep(h host) {
	text, err := json.Marshal(h)
	size := len(text) + 1
	rows := s.job.Limits.MaxRows
	if err != nil || size > s.room || rows > 0 && len(s.data.Hosts) >= rows {
		s.cut = true
		return
	}
	s.room -= size
	s.data.Hosts = append(s.data.Hosts, h)
}

// flush sends what is pending as a part; where nobody takes parts, it goes
// into the result.
func (s *scan) flush(ctx context.Context) error {
	if len(s.pending) == 0 {
		return nil
	}
	hosts := s.pending
	s.pending = nil
	sent, err := jobs.Emit(ctx, part{hosts})
	if !sent || err != nil {
		for _, h := range hosts {
			s.keep(h)
		}
	}
	if err != nil {
		return jobs.Faultf(jobs.CodeInternal, jobs.StageExecute, "a part of the result could not be sent")
	}
	return nil
}

// pacer spaces probes evenly: a burst would fill the queues of a radio link.
type pacer struct {
	step time.Duration

	mu   sync.Mutex
	next time.Time // guarded by mu
}

// wait returns when the next probe may be sent, or false when ctx has ended.
func (p *pacer) wait(ctx context.Context) bool {
	p.mu.Lock()
	now := time.Now()
	if p.next.Before(now) {
		p.next = now
	}
	delay := p.next.Sub(now)
	p.next = p.next.Add(p.step)
	p.mu.Unlock()
	if delay <= 0 {
		return ctx.Err() == nil
	}
	timer := time.NewTimer(delay)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}
