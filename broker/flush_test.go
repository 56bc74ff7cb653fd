package broker

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"usm-satellite/jobs"
)

// keep puts n results for one queue into a spool, one second apart from age on.
func keep(t testing.TB, spool *jobs.Spool, queue, prefix string, n int, age time.Duration) {
	t.Helper()
	began := time.Now().Add(-age)
	for i := range n {
		id := fmt.Sprintf("%s-%d", prefix, i)
		body := fmt.Sprintf(`{"schema":1,"job_id":%q,"status":"ok"}`, id)
		if err := spool.Put(jobs.Message{JobID: id, ReplyTo: queue, CorrelationID: id, MessageID: "result-" + id, Type: jobs.TypeResult, Body: []byte(body)}); err != nil {
			t.Fatal(err)
		}
		at := began.Add(time.Duration(i) * time.Second)
		names := spool.Oldest(1 << 30)
		if err := os.Chtimes(filepath.Join(spool.Dir, names[len(names)-1]), at, at); err != nil {
			t.Fatal(err)
		}
	}
}

// tap keeps what is written to the broker.
type tap struct {
	mu      sync.Mutex
	written bytes.Buffer // guarded by mu
}

func (p *tap) dial(ctx context.Context, network, address string) (net.Conn, error) {
	conn, err := (&net.Dialer{}).DialContext(ctx, network, address)
	return tapped{conn, p}, err
}

// publishes says how often a message was sent to a queue of this name.
func (p *tap) publishes(queue string) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return bytes.Count(p.written.Bytes(), append([]byte{byte(len(queue))}, queue...))
}

type tapped struct {
	net.Conn

	tap *tap
}

func (c tapped) Write(b []byte) (int, error) {
	c.tap.mu.Lock()
	c.tap.written.Write(b)
	c.tap.mu.Unlock()
	return c.Conn.Write(b)
}

// What no queue takes is asked about once for its destination, and keeps
// neither jobs nor other results waiting; those arrive in their order.
func TestOneUnroutableResultParksItsDestination(t *testing.T) {
	t.Parallel()
	const lost, wanted = 400, 150
	var wire tap
	b := newBench(t, func(so *Options, _ *jobs.Options) {
		so.Routes[0].Dial = wire.dial
		spool := so.Spool.(*jobs.Spool)
		keep(t, spool, "gone.first", "a", lost, 3*time.Hour)
		keep(t, spool, "", "wanted", wanted, 2*time.Hour)
		keep(t, spool, "gone.second", "b", lost, time.Hour)
		spool, err := jobs.OpenSpool(jobs.SpoolOptions{Dir: spool.Dir}) // as after a restart
		if err != nil {
			t.Fatal(err)
		}
		so.Spool = spool
		so.ResultsQueue = t.Name()
		if err := rabbit.DeclareQueue(t.Context(), t.Name(), t.Name(), "quorum"); err != nil {
			t.Fatal(err)
		}
	})
	answers, err := rawChannel(t, b.session.Routes[0].DSN).Consume(t.Name(), "", true, false, false, false, nil)
	if err != nil {
		t.Fatal(err)
	}
	for i := range wanted {
		select {
		case a := <-answers:
			if want := fmt.Sprint("wanted-", i); a.CorrelationId != want {
				t.Fatalf("%s came, %s was next", a.CorrelationId, want)
			}
		case <-time.After(patience):
			t.Fatalf("%d of %d kept results came", i, wanted)
		}
	}
	b.submit(t, "next", "test.read", 0)
	if r := b.collect(t, 1)["next"]; r.Status != jobs.StatusOK {
		t.Errorf("the next job: %s", r.Status)
	}
	for _, queue := range []string{"gone.first", "gone.second"} {
		if n := wire.publishes(queue); n != 1 {
			t.Errorf("%d results were sent to %s, want 1", n, queue)
		}
	}
	if n := len(b.session.Spool.Oldest(1 << 30)); n != 2*lost {
		t.Errorf("%d results are kept, want %d", n, 2*lost)
	}
}

// A destination that takes a job's answer gets what was kept for it at once,
// however long it was to be parked.
func TestDestinationThatIsBackGetsWhatWasKept(t *testing.T) {
	t.Parallel()
	const lost = 100
	b := newBench(t, func(so *Options, _ *jobs.Options) {
		keep(t, so.Spool.(*jobs.Spool), "core.back", "kept", lost, time.Hour)
	})
	deadline := time.Now().Add(patience)
	for b.session.State().Unroutable == 0 {
		if time.Now().After(deadline) {
			t.Fatal("the kept results are not tried")
		}
		time.Sleep(10 * time.Millisecond)
	}
	if err := rabbit.DeclareQueue(t.Context(), b.vhost, "core.back", "quorum"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { // for a second run at the same broker
		if err := rabbit.DeleteQueue(context.WithoutCancel(t.Context()), b.vhost, "core.back"); err != nil {
			t.Error(err)
		}
	})
	answers, err := rawChannel(t, b.session.Routes[0].DSN).Consume("core.back", "", true, false, false, false, nil)
	if err != nil {
		t.Fatal(err)
	}
	job := CoreMessage{Queue: "usm_poller-sat-7", ID: "next", ReplyTo: "core.back", Body: []byte(`{"schema":1,"job_id":"next","action":"test.read"}`)}
	if err := b.core.Submit(t.Context(), job); err != nil {
		t.Fatal(err)
	}
	for i := range lost + 1 {
		want := "next"
		if i > 0 {
			want = fmt.Sprint("kept-", i-1)
		}
		select {
		case a := <-answers:
			if a.CorrelationId != want {
				t.Fatalf("%s came, %s was next", a.CorrelationId, want)
			}
		case <-time.After(patience):
			t.Fatalf("%d of %d answers came", i, lost+1)
		}
	}
}

func TestParkingEnds(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var p parking
		gone, other := destination{key: "gone"}, destination{"results", "gone"}
		p.add(gone)
		if !p.holds(gone) || p.holds(other) || p.end(other) {
			t.Error("another destination is parked than the one that was")
		}
		if !p.end(gone) || p.holds(gone) {
			t.Error("a destination that took a message is still parked")
		}
		p.add(gone)
		time.Sleep(parkFor)
		if !p.holds(gone) {
			t.Error("tried before its time")
		}
		time.Sleep(time.Second)
		if p.holds(gone) {
			t.Error("parked for ever")
		}
	})
}
