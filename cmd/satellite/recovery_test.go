//go:build recovery

package main

import (
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	"usm-satellite/broker"
	"usm-satellite/deploy/lab/rounds"
	"usm-satellite/jobs"
	"usm-satellite/tunnel/impair"
)

// How long jobs stand still when the way to the broker breaks. The figures are
// logged; the verdict is only that jobs flow again (wait's patience), for the
// machine may be slow. RECOVERY_ROUNDS is how often each is tried (default 1).
const recoveryRounds = "RECOVERY_ROUNDS"

// sayIfSlow shows what the process said while a recovery took longer than it
// should.
func sayIfSlow(t *testing.T, p *process, from int, since time.Time, limit time.Duration) {
	t.Helper()
	if took := time.Since(since); took > limit {
		t.Logf("%s since %s:\n%s", took, since.Format(time.RFC3339Nano), p.out.String()[from:])
	}
}

func TestRecoveryOfARestartedHub(t *testing.T) {
	s := newSite(t, rabbit)
	hub, _, settings := s.hub()
	env := hub.settings()
	p := s.satellite(settings...)
	core := s.core(broker.CoreOptions{})
	var took []time.Duration
	for i := range rounds.Of(t, recoveryRounds, 1) {
		s.answered(core, fmt.Sprintf("before-%d", i), "wireguard+amqp")
		before := len(p.out.String())
		hub.kill()
		time.Sleep(time.Second)
		hub = start(t, []string{"hub"}, env)
		hub.says(t, "hub is up")
		back := time.Now()
		s.answered(core, fmt.Sprintf("after-%d", i), "wireguard+amqp")
		took = append(took, time.Since(back))
		sayIfSlow(t, p, before, back, 5*time.Second)
	}
	rounds.Log(t, "hub restarted, first job answered", took)
}

// blockable puts a UDP path that can be blocked before the hub.
func (s *site) blockable() (path *impair.Proxy, settings []string) {
	s.t.Helper()
	_, port, settings := s.hub()
	path, err := impair.Listen(1, "127.0.0.1:"+strconv.Itoa(port))
	s.must(err)
	s.t.Cleanup(func() { _ = path.Close() })
	return path, append(settings, "USM_WG_ENDPOINT", path.Addr(),
		"USM_FALLBACK_DSN", s.node.TLSDSN(s.vhost), "USM_AMQP_CA_FILE", s.node.CAFile)
}

func TestRecoveryFromUDPBlockedAtTheStart(t *testing.T) {
	s := newSite(t, rabbit)
	path, settings := s.blockable()
	path.Set(impair.Rules{BlackHole: true})
	core := s.core(broker.CoreOptions{})
	var took []time.Duration
	for i := range rounds.Of(t, recoveryRounds, 1) {
		began := time.Now()
		p := start(t, nil, s.env(settings...))
		s.answered(core, fmt.Sprintf("first-%d", i), "amqps")
		took = append(took, time.Since(began))
		p.stop(t)
	}
	rounds.Log(t, "UDP blocked from the start, first job answered by AMQPS", took)
}

// The tunnel is taken back by drain and reopen: no job is lost, and none is
// run twice, while jobs go on and on.
func TestRecoveryWhenUDPIsUnblocked(t *testing.T) {
	s := newSite(t, rabbit)
	path, settings := s.blockable()
	core := s.core(broker.CoreOptions{})
	p := s.satellite(settings...)
	s.answered(core, "before", "wireguard+amqp")
	var took []time.Duration
	for round := range rounds.Of(t, recoveryRounds, 1) {
		if round == 3 { // each takes most of a minute
			break
		}
		before := strings.Count(p.out.String(), "stable again")
		path.Set(impair.Rules{BlackHole: true})
		s.answered(core, fmt.Sprintf("silence-%d", round), "amqps")
		path.Set(impair.Rules{})
		unblocked := time.Now()
		sent := 0
		for strings.Count(p.out.String(), "stable again") == before {
			if time.Since(unblocked) > 2*patience {
				t.Fatal("the tunnel is not taken back")
			}
			id := fmt.Sprintf("round-%d-%d", round, sent)
			sent++
			body := job(id, "icmp.ping", `"target":{"address":"127.0.0.1"},"params":{"count":2,"interval_ms":200}`)
			s.must(core.Submit(t.Context(), broker.CoreMessage{Queue: "usm_poller-sat-7", ID: id, Body: body}))
			time.Sleep(50 * time.Millisecond)
		}
		took = append(took, time.Since(unblocked))
		twice := 0
		for id, r := range s.collect(core, sent) {
			if r.Status != jobs.StatusOK {
				t.Errorf("%s: %s", id, r.Status)
			}
			if r.Attempts > 1 || r.FromStore {
				twice++
			}
		}
		s.answered(core, fmt.Sprintf("back-%d", round), "wireguard+amqp")
		t.Logf("%d jobs while the tunnel was taken back, %d of them more than once", sent, twice)
		if twice > 0 {
			t.Errorf("%d jobs were given out twice by a move that should have drained", twice)
		}
	}
	rounds.Log(t, "UDP unblocked, back on the tunnel", took)
}

// The hub has moved: its name has another address, and the old one is silent.
func TestRecoveryOfAMovedName(t *testing.T) {
	r := newRemote(t)
	r.name(r.v4[0])
	core := r.core(broker.CoreOptions{})
	p := r.start()
	var took []time.Duration
	for i := range rounds.Of(t, recoveryRounds, 1) {
		from, to := r.v4[i%2], r.v4[1-i%2]
		r.answered(core, fmt.Sprintf("before-%d", i), "wireguard+amqp")
		before := len(p.out.String())
		r.name(to)
		r.unblock()
		r.block(from)
		moved := time.Now()
		r.answered(core, fmt.Sprintf("after-%d", i), "wireguard+amqp")
		took = append(took, time.Since(moved))
		sayIfSlow(t, p, before, moved, 5*time.Second)
	}
	rounds.Log(t, "the name moved to another address, first job answered", took)
	t.Logf("%d connections to the broker; 1 where each move was survived", strings.Count(p.out.String(), "taking jobs"))
}

// The site's firewall begins to drop UDP, both ways and without a word.
func TestRecoveryFromUDPBlockedInTheMiddle(t *testing.T) {
	r := newRemote(t)
	r.name(r.v4[0])
	core := r.core(broker.CoreOptions{})
	var moved, took []time.Duration // the satellite is on AMQPS; a job is answered that was sent into the silence
	for i := range rounds.Of(t, recoveryRounds, 1) {
		r.unblock()
		p := r.start("USM_FALLBACK_DSN", r.node.TLSDSN(r.vhost), "USM_AMQP_CA_FILE", r.node.CAFile)
		r.answered(core, fmt.Sprintf("before-%d", i), "wireguard+amqp")
		before := len(p.out.String())
		r.block(r.v4[0])
		blocked := time.Now()
		taken := make(chan time.Duration, 1)
		go func() { // ends with the process
			for {
				select {
				case <-p.done:
					close(taken)
					return
				case <-time.After(20 * time.Millisecond):
				}
				if strings.Count(p.out.String(), "taking jobs") > 1 {
					taken <- time.Since(blocked)
					return
				}
			}
		}()
		r.answered(core, fmt.Sprintf("after-%d", i), "amqps")
		moved = append(moved, <-taken)
		took = append(took, time.Since(blocked))
		sayIfSlow(t, p, before, blocked, 10*time.Second)
		p.stop(t)
	}
	rounds.Log(t, "UDP blocked in the middle, on AMQPS", moved)
	rounds.Log(t, "UDP blocked in the middle, first job answered by AMQPS", took)
}
