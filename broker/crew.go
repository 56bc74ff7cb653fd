package broker

import "sync/atomic"

// maxIdle is how many goroutines wait for the next job.
const maxIdle = 64

// crew runs jobs on goroutines that have run some before: the stack of a new
// one has to grow several times on its way through a job, which costs more
// than all that is published of it.
type crew struct {
	next chan func()
	end  chan struct{}
	idle atomic.Int32
}

func newCrew() *crew { return &crew{next: make(chan func()), end: make(chan struct{})} }

// run waits for nothing: neither for f nor for a goroutine.
func (c *crew) run(f func()) {
	select {
	case c.next <- f:
	default:
		go c.work(f) // ends with dismiss, or where enough are idle
	}
}

func (c *crew) work(f func()) {
	for {
		f()
		if c.idle.Add(1) > maxIdle {
			c.idle.Add(-1)
			return
		}
		select {
		case f = <-c.next:
			c.idle.Add(-1)
		case <-c.end:
			return
		}
	}
}

// dismiss lets the idle ones go, and the others when they are done.
func (c *crew) dismiss() { close(c.end) }
