// Package icmp pings equipment (RFC 792, RFC 4443) over one shared socket per
// family, without privileges where the kernel allows it.
package icmp

import (
	"context"
	"errors"
	"math"
	"net/netip"
	"sync"
	"syscall"
	"time"

	"usm-satellite/jobs"
)

// Pinger holds the sockets. They are opened at the first ping and stay.
type Pinger struct {
	network *jobs.Network

	mu      sync.Mutex
	sockets [2]*socket // IPv4, IPv6; nil: not open yet. Guarded by mu
	closed  bool       // guarded by mu
}

// New returns a Pinger; nothing is opened yet.
func New(network *jobs.Network) *Pinger { return &Pinger{network: network} }

// Actions returns icmp.ping.
func (p *Pinger) Actions() jobs.Registry {
	return jobs.Registry{"icmp.ping": {Class: jobs.Read, Target: true, Check: check, Driver: jobs.DriverFunc(p.run)}}
}

// Close closes the sockets.
func (p *Pinger) Close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = true
	for i, s := range p.sockets {
		if s != nil {
			s.close()
			p.sockets[i] = nil
		}
	}
}

type params struct {
	Count      int `json:"count"`
	IntervalMS int `json:"interval_ms"`
	Size       int `json:"size"`
}

func read(job *jobs.Job) (params, *jobs.Fault) {
	p := params{Count: 3, IntervalMS: 200, Size: 56}
	fault := jobs.DecodeParams(job, &p)
	return p, fault
}

func check(job *jobs.Job) *jobs.Fault {
	p, fault := read(job)
	switch {
	case fault != nil:
		return fault
	case p.Count < 1 || p.Count > 1000:
		return jobs.Invalid("params.count", "must be 1 to 1000")
	case p.IntervalMS < 10 || p.IntervalMS > 60000:
		return jobs.Invalid("params.interval_ms", "must be 10 to 60000")
	case p.Size < 0 || p.Size > 65000:
		return jobs.Invalid("params.size", "must be 0 to 65000 bytes")
	}
	return nil
}

type data struct {
	Address  string  `json:"address"`
	Sent     int     `json:"sent"`
	Received int     `json:"received"`
	LossPct  float64 `json:"loss_pct"`
	RTT      *rtt    `json:"rtt_ms,omitempty"`
	Replies  []reply `json:"replies"`
}

type rtt struct {
	Min    float64 `json:"min"`
	Avg    float64 `json:"avg"`
	Max    float64 `json:"max"`
	Stddev float64 `json:"stddev"`
}

type reply struct {
	Seq   int     `json:"seq"`
	RTTMS float64 `json:"rtt_ms"`
	TTL   int     `json:"ttl"`
}

// lastWait is how long the last reply is waited for.
const lastWait = 2 * time.Second

func (p *Pinger) run(ctx context.Context, job *jobs.Job) (jobs.Output, error) {
	want, fault := read(job)
	if fault != nil {
		return jobs.Output{}, fault
	}
	addr, err := p.network.Resolve(ctx, job.Target.Address)
	if err != nil {
		return jobs.Output{}, err
	}
	if err := p.network.Policy.CheckAddr(addr); err != nil {
		return jobs.Output{}, err
	}
	s, err := p.socket(addr.Is6())
	if err != nil {
		return jobs.Output{}, err
	}
	r := round{s: s, addr: addr, want: want, data: data{Address: addr.String(), Replies: []reply{}}}
	return r.run(ctx)
}

func (p *Pinger) socket(v6 bool) (*socket, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	i := 0
	if v6 {
		i = 1
	}
	if p.closed {
		return nil, jobs.Faultf(jobs.CodeInternal, jobs.StageConnect, "the satellite is stopping")
	}
	if p.sockets[i] == nil {
		s, err := open(v6)
		if err != nil {
			return nil, err
		}
		p.sockets[i] = s
	}
	return p.sockets[i], nil
}

// round is the pings of one job. Those of which the reply is still under way
// stay so while the next ones are sent: a reply may take longer than the
// interval (by satellite it takes 600 ms).
type round struct {
	s       *socket
	addr    netip.Addr
	want    params
	data    data
	err     *jobs.Fault // the last that a router said
	replies chan echo
	sent    map[uint16]request // by sequence number
}

type request struct {
	number int // from 0
	at     time.Time
}

func (r *round) run(ctx context.Context) (jobs.Output, error) {
	r.replies, r.sent = make(chan echo, r.want.Count), make(map[uint16]request, r.want.Count)
	defer func() {
		for seq := range r.sent {
			r.s.forget(seq, r.replies)
		}
	}()
	interval := time.Duration(r.want.IntervalMS) * time.Millisecond
	for i := range r.want.Count {
		last := i == r.want.Count-1
		wait := interval
		if last {
			wait = max(interval, lastWait)
		}
		if err := r.one(ctx, i, wait, last); err != nil {
			return r.output(), err
		}
	}
	return r.finish()
}

// one sends a request and takes what comes for the interval; after the last,
// until its own reply came.
func (r *round) one(ctx context.Context, i int, wait time.Duration, last bool) error {
	seq, err := r.s.expect(waiter{r.replies, r.addr})
	if err != nil {
		return jobs.Faultf(jobs.CodeBusy, jobs.StageExecute, "too many pings at a time")
	}
	r.sent[seq] = request{i, time.Now()}
	if err := r.s.send(r.addr, seq, r.want.Size); err != nil {
		return sendFault(err)
	}
	r.data.Sent++
	timer := time.NewTimer(wait)
	defer timer.Stop()
	for {
		select {
		case e := <-r.replies:
			r.count(e)
			if last && e.seq == seq {
				return nil
			}
		case <-timer.C:
			return nil
		case <-ctx.Done():
			return jobs.Faultf(jobs.CodeTimeout, jobs.StageExecute, "the job's time limit ended between two pings")
		}
	}
}

func (r *round) count(e echo) {
	if e.err != nil {
		r.err = e.err
		return
	}
	of := r.sent[e.seq]
	r.data.Received++
	r.data.Replies = append(r.data.Replies, reply{of.number + 1, ms(e.at.Sub(of.at)), e.ttl})
}

func ms(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

func sendFault(err error) *jobs.Fault {
	switch {
	case errors.Is(err, syscall.ENETUNREACH), errors.Is(err, syscall.EHOSTUNREACH):
		return jobs.Faultf(jobs.CodeUnreachable, jobs.StageConnect, "there is no route to the device")
	case errors.Is(err, syscall.EMSGSIZE):
		return jobs.Faultf(jobs.CodeTooBig, jobs.StageConnect, "a ping of this size cannot be sent (params.size)")
	default:
		return jobs.Faultf(jobs.CodeUnreachable, jobs.StageConnect, "the ping cannot be sent")
	}
}

func (r *round) output() jobs.Output {
	d := &r.data
	if d.Sent > 0 {
		d.LossPct = math.Round(float64(d.Sent-d.Received)/float64(d.Sent)*10000) / 100
	}
	if d.Received > 0 {
		d.RTT = statistics(d.Replies)
	}
	return jobs.Output{Data: d, Partial: d.Received > 0}
}

func statistics(replies []reply) *rtt {
	s := &rtt{Min: math.MaxFloat64}
	var sum, squares float64
	for _, r := range replies {
		s.Min, s.Max = min(s.Min, r.RTTMS), max(s.Max, r.RTTMS)
		sum += r.RTTMS
		squares += r.RTTMS * r.RTTMS
	}
	n := float64(len(replies))
	round := func(f float64) float64 { return math.Round(f*1000) / 1000 }
	s.Avg = round(sum / n)
	s.Stddev = round(math.Sqrt(max(0, squares/n-(sum/n)*(sum/n))))
	return s
}

// finish: some loss is a finding, no reply at all a fault.
func (r *round) finish() (jobs.Output, error) {
	out := r.output()
	out.Partial = false
	if r.data.Received > 0 {
		return out, nil
	}
	if r.err != nil {
		return out, r.err
	}
	return out, jobs.Faultf(jobs.CodeTimeout, jobs.StageExecute, "no reply to %d pings", r.data.Sent)
}
