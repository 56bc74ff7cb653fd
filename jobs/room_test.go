package jobs

import (
	"context"
	"errors"
	"fmt"
	"math"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

func TestRoomOfAProcess(t *testing.T) {
	for memory, want := range map[int64]int64{0: DefaultRoomBytes, math.MaxInt64: DefaultRoomBytes, 64 << 20: 64 << 20 / 12, 1 << 40: DefaultRoomBytes} {
		if got := NewRoom(memory).Bytes(); got != want {
			t.Errorf("room with %d bytes of memory: %d, want %d", memory, got, want)
		}
	}
}

// Twenty jobs of six bytes in room for ten: never more than ten are held but
// by the one that came first, and all come to their end.
func TestRoomIsShared(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &Room{limit: 10, freed: make(chan struct{})}
		var all sync.WaitGroup
		for range 20 {
			all.Go(func() {
				s := r.share(Read)
				defer s.release()
				for range 6 {
					if err := Take(withShare(t.Context(), s), 1); err != nil {
						t.Error(err)
					}
					r.mu.Lock()
					if others := r.held - r.order[0].held; others > r.limit { // the first may go on past it
						t.Errorf("%d of %d bytes are held by others than the first", others, r.limit)
					}
					r.mu.Unlock()
					time.Sleep(time.Second)
				}
			})
		}
		all.Wait()
		if r.held != 0 || len(r.order) != 0 {
			t.Errorf("at the end %d bytes are held by %d jobs", r.held, len(r.order))
		}
	})
}

func TestNoRoom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &Room{limit: 10, freed: make(chan struct{})}
		first, second, write := r.share(Read), r.share(Read), r.share(Write)
		if err := first.take(t.Context(), 30); err != nil { // it alone may take more than there is
			t.Fatal(err)
		}
		if err := write.take(t.Context(), 5); err != nil { // a write is never held up
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeoutCause(t.Context(), time.Second, ErrTimeout)
		defer cancel()
		if err := second.take(ctx, 1); !errors.Is(err, ErrTimeout) || !second.starved.Load() {
			t.Errorf("without room: %v", err)
		}
		first.release()
		if err := second.take(t.Context(), 1); err != nil {
			t.Errorf("with room again: %v", err)
		}
	})
}

// greedy takes room as a driver does.
type greedy struct{ bytes int }

func (g greedy) Check(*Job) *Fault { return nil }
func (g greedy) Run(ctx context.Context, _ *Job) (Output, error) {
	for range g.bytes {
		if err := Take(ctx, 1); err != nil {
			return Output{}, err
		}
	}
	time.Sleep(10 * time.Second)
	return Output{Data: "all"}, nil
}

// Where one job has all the room, another waits for its end, or is answered
// "busy" when its own time is over.
func TestJobsWaitForRoom(t *testing.T) {
	options := func(o *Options) {
		o.Room = &Room{limit: 10, freed: make(chan struct{})}
		o.Registry["greedy"] = Action{Driver: greedy{8}, Class: Read}
	}
	inBubble(t, options, func(t *testing.T, d *Dispatcher, b *fakeBroker) {
		var all sync.WaitGroup
		for i, timeout := range []int{60_000, 15_000, 5_000} {
			id := fmt.Sprint(i)
			all.Go(func() {
				d.Handle(t.Context(), b.delivery(id, body(id, "greedy", fmt.Sprintf(`"timeout_ms":%d`, timeout))))
			})
			synctest.Wait()
		}
		all.Wait()
		if r := b.results["0"][0]; r.Status != StatusOK {
			t.Errorf("the first: %s %v", r.Status, r.Error)
		}
		if r := b.results["2"][0]; r.Error == nil || r.Error.Code != CodeBusy || !r.Error.Retryable {
			t.Errorf("the one with no time: %s %v", r.Status, r.Error)
		}
	})
}
