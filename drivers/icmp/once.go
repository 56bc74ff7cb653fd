package icmp

import (
	"context"
	"net/netip"
	"time"

	"usm-satellite/jobs"
)

// Ping sends one echo request of 56 bytes and waits for its reply as long as
// ctx lasts. It is for drivers that ask many addresses; ok says that the
// address itself replied. The policy is asked first. The error is a *jobs.Fault
// of StagePolicy, or of StageConnect where nothing could be sent; silence and
// what routers say are none.
func (p *Pinger) Ping(ctx context.Context, addr netip.Addr) (rtt time.Duration, ok bool, err error) {
	if err := p.network.Policy.CheckAddr(addr); err != nil {
		return 0, false, err
	}
	s, err := p.socket(addr.Is6())
	if err != nil {
		return 0, false, err
	}
	replies := make(chan echo, 1)
	seq, err := s.expect(waiter{replies, addr})
	if err != nil {
		return 0, false, jobs.Faultf(jobs.CodeBusy, jobs.StageConnect, "too many pings at a time")
	}
	defer s.forget(seq, replies)
	began := time.Now()
	if err := s.send(addr, seq, 56); err != nil {
		return 0, false, sendFault(err)
	}
	select {
	case e := <-replies:
		return e.at.Sub(began), e.err == nil, nil
	case <-ctx.Done():
		return 0, false, nil
	}
}
