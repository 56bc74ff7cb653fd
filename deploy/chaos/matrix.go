package chaos

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"usm-satellite/deploy/chaos/ledger"
	"usm-satellite/deploy/lab"
)

// class is a kind of job whose way through the satellite differs.
type class struct {
	name  string
	write bool
	late  bool // the queue for its result is not there at first
	short bool // its message expires before a satellite is there again
	mould func(*draft)
}

const (
	silentAddress = "127.0.0.3"
	ample         = 10 * time.Minute // a limit that no cell comes near
	shortLife     = 4 * time.Second  // of a message; it must be taken in time
)

func classes() []class {
	later := func(d *draft) { d.message.ReplyTo = lateQueue + "." + d.Job }
	return []class{
		{name: "read", mould: func(*draft) {}},
		{name: "read with deadline", mould: func(d *draft) { d.endsAfter(ample) }},
		{name: "read refused", mould: (*draft).refuse},
		{name: "read answered later", late: true, mould: later},
		{name: "write", write: true, mould: func(*draft) {}},
		{name: "write with key", write: true, mould: func(d *draft) { d.job["idempotency_key"] = "key-of-" + d.Job }},
		{name: "write with expiration", write: true, mould: func(d *draft) { d.expiresAfter(ample) }},
		{name: "write that expires", write: true, short: true, mould: func(d *draft) { d.expiresAfter(shortLife) }},
		{name: "write answered later", write: true, late: true, mould: later},
		{name: "write without reply", write: true, mould: func(d *draft) {
			d.target["address"], d.job["timeout_ms"] = silentAddress, 500
		}},
	}
}

// cell is what came of one job of a class with one failpoint.
type cell struct {
	reached bool   // the satellite died there
	job     string // its id
}

// matrix tries every failpoint with every class of job.
type matrix struct {
	*site

	mu    sync.Mutex
	cells map[[2]string][]cell // by failpoint and class. Guarded by mu
}

// Matrix ends a satellite at every failpoint of the way of every class of job,
// as often as repeats says, starts it again and waits for the job's result.
// The table goes to o.Out; Judge then says whether a promise was broken.
func Matrix(ctx context.Context, o Options, repeats int) error {
	m := &matrix{site: &site{dir: o.Dir, errs: make(chan error, 1)}, cells: map[[2]string][]cell{}}
	defer m.end()
	if err := m.prepare(ctx, o, m.startCalmDevices); err != nil {
		return err
	}
	if err := m.fill(ctx, o, repeats); err != nil {
		return err
	}
	return m.show(o.Out)
}

func (m *matrix) startCalmDevices(context.Context, Options) error {
	port := lab.Port()
	m.newCore(port, 0)
	return errors.Join(
		m.startDevice(&device{calm: true}, "127.0.0.1", port),
		m.startDevice(&device{forbidden: true}, trapAddress, port),
		m.startDevice(&device{silent: true}, silentAddress, port))
}

// lanes is how many satellites are tried at a time, each with a queue and a
// state directory of its own.
const lanes = 3

func (m *matrix) fill(ctx context.Context, o Options, repeats int) error {
	collectCtx, stop := context.WithCancel(ctx)
	type pair struct {
		failpoint string
		class     class
	}
	pairs := make(chan pair)
	errs := make(chan error, lanes)
	var all, collecting sync.WaitGroup
	collecting.Go(func() { m.core.collect(collectCtx, resultQueue) })
	defer collecting.Wait()
	defer stop()
	for i := range lanes {
		all.Go(func() {
			lane := m.lane(o, i)
			for p := range pairs {
				c, err := lane.try(ctx, p.failpoint, p.class)
				if err != nil {
					errs <- fmt.Errorf("%s at %q: %w", p.class.name, p.failpoint, err)
					return
				}
				m.mu.Lock()
				key := [2]string{p.failpoint, p.class.name}
				m.cells[key] = append(m.cells[key], c)
				m.mu.Unlock()
			}
		})
	}
	defer all.Wait()
	defer close(pairs)
	for round := range repeats {
		for _, failpoint := range failpoints() {
			for _, class := range classes() {
				select {
				case pairs <- pair{failpoint, class}:
				case err := <-errs:
					return err
				case err := <-m.errs:
					return err
				case <-ctx.Done():
					return ctx.Err()
				}
			}
		}
		_, _ = fmt.Fprintf(o.Out, "round %d of %d: %s\n", round+1, repeats, m.counts.String())
	}
	return nil
}

// lane is a satellite and its queue.
type lane struct {
	*matrix

	process *process
	queue   string
	link    publisher
}

func (m *matrix) lane(o Options, i int) *lane {
	id := strconv.Itoa(100 + i)
	p := &process{
		name: "satellite " + id, binary: o.Binary, args: []string{"run"}, log: m.path("out/satellite-" + id + ".log"),
		env: []string{
			"US_AMQP_DSN=" + m.core.dsn, "USM_POLLER_SATELLITE_ID=" + id, "USM_STATE_DIR=" + m.path("state/"+id),
			"USM_ALLOW_TARGETS=127.0.0.1/32,127.0.0.3/32", "USM_CONCURRENCY=4", "USM_DRAIN_TIMEOUT=10s", "USM_LOG_FORMAT=json",
		},
	}
	return &lane{matrix: m, process: p, queue: "usm_poller-sat-" + id}
}

// Within these times a satellite has started and done its one job, also on a
// machine that does much else.
const (
	cellLimit  = time.Minute
	settleTime = 300 * time.Millisecond
)

// try runs one job of a class on a satellite that dies at a failpoint, and
// then on one that does not.
func (l *lane) try(ctx context.Context, failpoint string, class class) (c cell, err error) {
	if err := l.rabbit.DeclareQueue(ctx, "/", l.queue, "quorum"); err != nil {
		return c, err
	}
	if err := l.process.start("USM_FAILPOINT=" + failpoint + ":1"); err != nil {
		return c, err
	}
	defer l.kill()
	if c.job, err = l.order(class); err != nil {
		return c, err
	}
	if c.reached, err = l.trap(ctx, c.job, failpoint, class); err != nil {
		return c, err
	}
	if class.late {
		queue := lateQueue + "." + c.job
		if err := l.rabbit.DeclareQueue(ctx, "/", queue, "quorum"); err != nil {
			return c, err
		}
		collecting, stop := context.WithCancel(ctx)
		defer stop()
		go l.core.collect(collecting, queue) // ends with the cell
	}
	if class.short {
		pause(ctx, shortLife)
	}
	return c, l.finish(ctx, c.job, class)
}

// finish runs satellites in good order until the job has its result and its
// queue is empty: the first one may be told to end before the broker has given
// it a job that was answered already.
func (l *lane) finish(ctx context.Context, job string, class class) error {
	limit := cellLimit
	if class.short {
		limit = willReach // it has none where it was dropped before it reached the device
	}
	for range 10 {
		if err := l.process.start(); err != nil {
			return err
		}
		if !until(ctx, limit, func() bool { return l.core.answered(job) }) && !class.short {
			return errors.New("no result came; it is lost, or late by a minute")
		}
		until(ctx, cellLimit, func() bool { ready, err := l.ready(); return err != nil || ready == 0 }) // it has begun to consume
		l.process.signal(syscall.SIGTERM)
		if !l.process.wait(cellLimit) {
			return errors.New("the satellite did not end on SIGTERM")
		}
		pause(ctx, settleTime) // the broker takes back what was not settled
		if ready, err := l.ready(); err != nil || ready == 0 {
			return err
		}
	}
	return errors.New("the job does not leave its queue")
}

// ready counts the jobs in the queue that no consumer has.
func (l *lane) ready() (int, error) {
	queue, err := l.link.channel.QueueDeclarePassive(l.queue, true, false, false, false, nil)
	return queue.Messages, err
}

// order publishes a job of a class and returns its id.
func (l *lane) order(class class) (job string, err error) {
	l.core.mu.Lock()
	d := l.core.draft(class.write, "device-"+strconv.Itoa(l.core.next))
	class.mould(d)
	p, m := l.core.finish(d)
	l.core.mu.Unlock()
	return p.Job, l.core.confirmed(&l.link, l.queue, p, m)
}

// trap waits until the satellite has died at the failpoint, or has gone past
// it. It is dead in the end.
func (l *lane) trap(ctx context.Context, job, failpoint string, class class) (reached bool, err error) {
	done := func() bool { return l.process.hasEnded() || l.core.answered(job) }
	limit := cellLimit
	if class.late {
		limit = 3 * time.Second // there is no result to see
	}
	if !until(ctx, limit, done) && !class.late {
		return false, errors.New("no result came, and the satellite lives")
	}
	reached = l.process.waitEnd(ctx, settleTime)
	now := time.Now()
	if reached {
		l.counts.add("failpoint")
		return true, l.faults.Add(ledger.Fault{Kind: "failpoint " + failpoint, At: now.Add(-cellLimit), Until: now})
	}
	return false, l.fault(satelliteRestart, func() error { l.kill(); return nil })
}

func (l *lane) kill() {
	l.process.signal(syscall.SIGKILL)
	l.process.wait(cellLimit)
}

func until(ctx context.Context, limit time.Duration, reached func() bool) bool {
	for end := time.Now().Add(limit); time.Now().Before(end); {
		if reached() {
			return true
		}
		if !pause(ctx, 5*time.Millisecond) {
			return false
		}
	}
	return reached()
}

// show prints what came of the classes at the failpoints: the status, and in
// how many of the repeats the job reached the device.
func (m *matrix) show(out io.Writer) error {
	l, err := ledger.Read(filepath.Join(m.dir, "ledger"))
	if err != nil {
		return err
	}
	runs, statuses := map[string]int{}, map[string]string{}
	nonces := map[string]string{}
	for _, p := range l.Published {
		nonces[p.Nonce] = p.Job
	}
	for _, d := range l.Device {
		runs[nonces[d.Nonce]]++
	}
	for _, r := range l.Results {
		statuses[r.Job] = r.Status
	}
	for _, failpoint := range failpoints() {
		var lines []string
		for _, class := range classes() {
			counts := map[string]int{}
			for _, c := range m.cells[[2]string{failpoint, class.name}] {
				if c.reached {
					counts[fmt.Sprintf("%s, run %d×", cmp.Or(statuses[c.job], "dropped by the broker"), runs[c.job])]++
				}
			}
			for _, text := range slices.Sorted(maps.Keys(counts)) {
				lines = append(lines, fmt.Sprintf("  %-22s %3d × %s", class.name, counts[text], text))
			}
		}
		if len(lines) == 0 {
			return fmt.Errorf("no job came by the failpoint %q", failpoint)
		}
		_, _ = fmt.Fprintf(out, "died at %q:\n%s\n", failpoint, strings.Join(lines, "\n"))
	}
	return nil
}
