// Package chaos runs a few satellites, a hub, a broker and a device, kills and
// separates them at random moments under load, lets them come to rest, and has
// the ledger judge what was promised. All parts are the real ones; the device
// is a small SNMP agent that writes down each request before it answers.
package chaos

import (
	"context"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"usm-satellite/deploy/chaos/ledger"
	"usm-satellite/tunnel/impair"
)

// Options say what a run does.
type Options struct {
	Binary   string        // the satellite
	Dir      string        // for the files of the run; must be empty
	Seed     uint64        // of every random choice but the timing of processes
	Duration time.Duration // of the faults
	Kills    int           // of satellites, at least: the faults go on until then, and as many of the others as belong to it (quota)
	Replicas int           // of the satellite, an even number: half behind the tunnel, half on a plain line. 0: 2

	// Failpoints: the binary was built with the tag failpoints, and satellites
	// end themselves at a random one of them, in place of any moment.
	Failpoints bool

	Out io.Writer // for progress
}

// limits are what the ledger allows. A machine that runs all of it on two
// cores is slow: the slack is for that.
func limits() ledger.Limits {
	return ledger.Limits{StartSlack: 5 * time.Second, FaultReach: 2 * time.Second, DropReach: time.Minute, Resident: 256 << 20, Files: 512}
}

const (
	publishers = 3
	jobEvery   = 60 * time.Millisecond // of each publisher
	maxWaiting = 600                   // jobs; more of them would only grow old
	calm       = 5 * time.Second       // load without faults, at the end
	restLimit  = 3 * time.Minute
)

// Run makes one run; Judge then says what it shows. An error means that it
// shows nothing.
func Run(ctx context.Context, o Options) error {
	s := &site{dir: o.Dir, errs: make(chan error, 1)}
	defer s.end()
	if err := s.build(ctx, o); err != nil {
		return err
	}
	if err := s.load(ctx, o); err != nil {
		return err
	}
	select {
	case err := <-s.errs:
		return err
	default:
		return nil
	}
}

// load runs jobs and faults, and waits until all is at rest.
func (s *site) load(ctx context.Context, o Options) error {
	collectCtx, stopCollecting := context.WithCancel(ctx)
	publishCtx, stopPublishing := context.WithCancel(ctx)
	var publishing, collecting sync.WaitGroup
	collecting.Go(func() { s.core.collect(collectCtx, resultQueue) })
	for range publishers {
		publishing.Go(func() { s.core.publish(publishCtx, jobEvery) })
	}
	defer func() {
		stopPublishing()
		stopCollecting()
		publishing.Wait()
		collecting.Wait()
	}()
	if err := s.torment(ctx, o); err != nil {
		return err
	}
	if err := s.rabbit.DeclareQueue(ctx, "/", lateQueue, "quorum"); err != nil {
		return err
	}
	collecting.Go(func() { s.core.collect(collectCtx, lateQueue) })
	if err := s.revive(); err != nil {
		return err
	}
	pause(ctx, calm)
	stopPublishing()
	publishing.Wait()
	return s.rest(ctx, o)
}

// torment makes the faults: each victim has a tormentor with a seed of its own.
func (s *site) torment(ctx context.Context, o Options) error {
	interrupted := ctx.Err
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	var all sync.WaitGroup
	start := func(stream uint64, torment func(context.Context, *rand.Rand) error) {
		all.Go(func() {
			rng := rand.New(rand.NewPCG(o.Seed, stream))
			for ctx.Err() == nil {
				if err := torment(ctx, rng); err != nil {
					s.failed(err)
					return
				}
			}
		})
	}
	for i, p := range s.replicas {
		start(uint64(10+i), func(ctx context.Context, rng *rand.Rand) error {
			if o.Failpoints {
				return s.trapReplica(ctx, rng, p)
			}
			return s.hurtReplica(ctx, rng, p)
		})
	}
	start(3, s.hurtHub)
	start(4, s.hurtBroker)
	start(5, s.hurtLine)
	start(6, s.hurtTunnel)
	start(7, s.sample)

	began := time.Now()
	told := began
	for ctx.Err() == nil && len(s.errs) == 0 && (time.Since(began) < o.Duration || !s.counts.reached(quota(o.Kills))) {
		pause(ctx, 100*time.Millisecond)
		if time.Since(told) >= time.Minute {
			told = time.Now()
			_, _ = fmt.Fprintf(o.Out, "%s: %s, %d jobs wait\n", time.Since(began).Round(time.Second), s.counts.String(), s.core.waiting(false))
		}
	}
	stop()
	all.Wait()
	return interrupted()
}

// What the faults are called in the ledger.
const (
	satelliteKilled  = "satellite kill -9"
	satelliteEnded   = "satellite SIGTERM"
	satelliteStopped = "satellite SIGSTOP"
	satelliteRestart = "satellite restart"
	hubKilled        = "hub kill -9"
	brokerKilled     = "broker kill -9"
	partition        = "partition"
)

// quota is how many of each fault belong to so many killed satellites.
func quota(kills int) map[string]int {
	return map[string]int{satelliteKilled: kills, satelliteEnded: kills / 10, partition: kills / 10, hubKilled: kills / 50, brokerKilled: kills / 50}
}

// counts are the faults so far, by their kind up to a colon.
type counts struct {
	mu     sync.Mutex
	byKind map[string]int // guarded by mu
}

func (c *counts) add(kind string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.byKind == nil {
		c.byKind = make(map[string]int)
	}
	kind, _, _ = strings.Cut(kind, ":")
	c.byKind[kind]++
}

func (c *counts) reached(quota map[string]int) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	for kind, n := range quota {
		if c.byKind[kind] < n {
			return false
		}
	}
	return true
}

func (c *counts) String() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	var all []string
	for _, kind := range slices.Sorted(maps.Keys(c.byKind)) {
		all = append(all, fmt.Sprintf("%d × %s", c.byKind[kind], kind))
	}
	return strings.Join(all, ", ")
}

// revive starts the satellites again, without failpoints, and with no memory
// of what could not be routed: they would try that again after minutes only.
func (s *site) revive() error {
	for _, p := range s.replicas {
		err := s.fault(satelliteRestart, func() error {
			p.signal(syscall.SIGKILL)
			p.wait(time.Minute)
			return p.start()
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// fault does something and writes down from when until when.
func (s *site) fault(kind string, do func() error) error {
	f := ledger.Fault{Kind: kind, At: time.Now()}
	err := do()
	f.Until = time.Now()
	s.counts.add(kind)
	if logErr := s.faults.Add(f); err == nil {
		err = logErr
	}
	return err
}

// between returns a time from a range, most often a short one.
func between(rng *rand.Rand, low, high time.Duration) time.Duration {
	return low + time.Duration(float64(high-low)*rng.Float64()*rng.Float64())
}

func (s *site) hurtReplica(ctx context.Context, rng *rand.Rand, p *process) error {
	if !pause(ctx, between(rng, 50*time.Millisecond, 3*time.Second)) {
		return nil
	}
	if p.hasEnded() {
		return fmt.Errorf("%s ended by itself; see %s", p.name, p.log)
	}
	switch what := rng.IntN(10); {
	case what < 7:
		return s.fault(satelliteKilled, func() error {
			p.signal(syscall.SIGKILL)
			p.wait(time.Minute)
			return p.start()
		})
	case what < 9:
		return s.fault(satelliteEnded, func() error {
			p.signal(syscall.SIGTERM)
			if !p.wait(30 * time.Second) {
				return fmt.Errorf("%s did not end within 30 s of SIGTERM; see %s", p.name, p.log)
			}
			return p.start()
		})
	default:
		return s.fault(satelliteStopped, func() error {
			p.signal(syscall.SIGSTOP)
			pause(ctx, between(rng, 100*time.Millisecond, 5*time.Second))
			p.signal(syscall.SIGCONT)
			return nil
		})
	}
}

// failpoints are the steps of a job's path at which a satellite can be told to
// end itself (jobs.Failpoint).
func failpoints() []string {
	return []string{
		"received", "counted", "claim linked", "claimed", "sending", "written", "read", "result linked", "recorded",
		"publishing", "published", "acknowledged", "kept", "flushed",
	}
}

// trapReplica tells a satellite to end itself at a failpoint. One that does
// not come by there in time is killed.
func (s *site) trapReplica(ctx context.Context, rng *rand.Rand, p *process) error {
	name := failpoints()[rng.IntN(len(failpoints()))]
	err := s.fault(satelliteRestart, func() error {
		p.signal(syscall.SIGKILL)
		p.wait(time.Minute)
		return p.start("USM_FAILPOINT=" + name + ":" + strconv.Itoa(1+rng.IntN(10)))
	})
	if err != nil {
		return err
	}
	const patience = 5 * time.Second
	if !p.waitEnd(ctx, patience) {
		return nil
	}
	now := time.Now()
	return s.faults.Add(ledger.Fault{Kind: "failpoint " + name, At: now.Add(-time.Second), Until: now})
}

func (s *site) hurtHub(ctx context.Context, rng *rand.Rand) error {
	if !pause(ctx, between(rng, time.Second, 20*time.Second)) {
		return nil
	}
	return s.fault(hubKilled, func() error {
		s.hub.signal(syscall.SIGKILL)
		s.hub.wait(time.Minute)
		pause(ctx, between(rng, 0, time.Second))
		return s.hub.start()
	})
}

func (s *site) hurtBroker(ctx context.Context, rng *rand.Rand) error {
	if !pause(ctx, between(rng, 5*time.Second, 25*time.Second)) {
		return nil
	}
	return s.fault(brokerKilled, func() error {
		s.rabbit.Kill()
		return s.rabbit.Start(context.WithoutCancel(ctx))
	})
}

// longestSilence is beyond what a satellite takes for a connection that lives.
const longestSilence = 14 * time.Second

func (s *site) hurtLine(ctx context.Context, rng *rand.Rand) error {
	if !pause(ctx, between(rng, 200*time.Millisecond, 4*time.Second)) {
		return nil
	}
	d := between(rng, 100*time.Millisecond, longestSilence)
	switch rng.IntN(4) {
	case 0, 1:
		return s.fault(partition+": line cut", func() error { s.line.Cut(); return nil })
	case 2:
		return s.fault(partition+": line silent", func() error { s.line.Mute(ctx, d); return nil })
	default:
		return s.fault("line slow", func() error {
			s.line.Set(impair.LineRules{Delay: 200 * time.Millisecond, Jitter: 300 * time.Millisecond, Rate: 16 << 10})
			defer s.line.Set(impair.LineRules{})
			pause(ctx, d)
			return nil
		})
	}
}

func (s *site) hurtTunnel(ctx context.Context, rng *rand.Rand) error {
	if !pause(ctx, between(rng, 200*time.Millisecond, 4*time.Second)) {
		return nil
	}
	kind, rules := partition+": tunnel silent", impair.Rules{BlackHole: true}
	switch rng.IntN(4) {
	case 0:
		return s.fault(partition+": NAT forgets", func() error { s.tunnel.Rebind(); return nil })
	case 1:
		kind = "tunnel bad"
		rules = impair.Rules{Loss: 0.2, Duplicate: 0.1, Reorder: 0.2, Delay: 100 * time.Millisecond, Jitter: 100 * time.Millisecond}
	}
	d := between(rng, 100*time.Millisecond, longestSilence)
	return s.fault(kind, func() error {
		s.tunnel.Set(rules)
		defer s.tunnel.Set(impair.Rules{})
		pause(ctx, d)
		return nil
	})
}

func (s *site) sample(ctx context.Context, _ *rand.Rand) error {
	pause(ctx, time.Second)
	for _, p := range append([]*process{s.hub}, s.replicas...) {
		if err := s.faults.Add(p.sample()); err != nil {
			return err
		}
	}
	return nil
}

// rest waits until every job has its result, then stops the satellites in good
// order and looks whether anything is left.
func (s *site) rest(ctx context.Context, o Options) error {
	_, _ = fmt.Fprintf(o.Out, "faults over; waiting for rest\n")
	limit := time.Now().Add(restLimit)
	for s.core.waiting(true) > 0 && time.Now().Before(limit) && pause(ctx, 100*time.Millisecond) {
		continue
	}
	for _, p := range s.replicas {
		p.signal(syscall.SIGTERM)
	}
	for _, p := range s.replicas {
		if !p.wait(30 * time.Second) {
			return fmt.Errorf("%s did not end within 30 s of SIGTERM; see %s", p.name, p.log)
		}
	}
	pause(ctx, time.Second) // the collector takes what came last
	return s.leftovers()
}

// leftovers makes an error of messages that are still in a queue: with them
// the ledger would be judged too early.
func (s *site) leftovers() error {
	conn, err := amqp.Dial(s.core.dsn)
	if err != nil {
		return err
	}
	defer func() { _ = conn.CloseDeadline(time.Now().Add(time.Second)) }()
	channel, err := conn.Channel()
	if err != nil {
		return err
	}
	queue, err := channel.QueueDeclarePassive(jobQueue, true, false, false, false, nil)
	if err == nil && queue.Messages > 0 {
		err = fmt.Errorf("%d jobs are still in the queue after %s of rest", queue.Messages, restLimit)
	}
	return err
}

// Judge judges the files of a run that is over.
func Judge(dir string) (ledger.Report, error) {
	l, err := ledger.Read(filepath.Join(dir, "ledger"))
	if err != nil {
		return ledger.Report{}, err
	}
	report := l.Check(limits())
	for _, sub := range []string{"state", "out", "hub", "ledger"} {
		leaks, err := ledger.FindSecrets(filepath.Join(dir, sub), []string{community})
		if err != nil {
			return report, err
		}
		report.Violations = append(report.Violations, leaks...)
	}
	return report, nil
}

// pause waits; false: the context ended first.
func pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}
