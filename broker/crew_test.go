package broker

import (
	"runtime"
	"sync"
	"testing"
	"time"
)

// Any number of jobs run at once, few goroutines wait for the next ones, and
// none is left.
func TestCrew(t *testing.T) {
	before := runtime.NumGoroutine()
	c := newCrew()
	const n = 1000
	var started, done sync.WaitGroup
	for range 3 {
		hold := make(chan struct{})
		for range n {
			started.Add(1)
			done.Add(1)
			c.run(func() {
				started.Done()
				<-hold
				done.Done()
			})
		}
		started.Wait() // all at once: nobody waits for somebody else's end
		close(hold)
		done.Wait()
	}
	settles(t, "only some stay", func() bool { return runtime.NumGoroutine() <= before+maxIdle })
	c.dismiss()
	settles(t, "none is left", func() bool { return runtime.NumGoroutine() <= before })
}

func settles(t *testing.T, what string, is func() bool) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !is(); <-time.After(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not so: %s; %d goroutines", what, runtime.NumGoroutine())
		}
	}
}
