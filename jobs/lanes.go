package jobs

import (
	"context"
	"slices"
	"sync"
	"time"
)

// The per-device limits that hold where a job asks for no other.
const (
	defaultDeviceSlots = 4                // reads of one device at a time; a write is alone
	breakerThreshold   = 5                // timeouts in a row that open the breaker of a device
	breakerOpenFor     = 30 * time.Second // until one job may probe it
)

// lanes keeps the jobs of one device from crowding it, and from crowding out
// the jobs of others: reads share a device up to its limit, a write has it
// alone, and a device that only times out is left alone for a while (RFC-less
// common practice: a circuit breaker). Jobs of one device start in the order
// in which they came.
type lanes struct {
	mu sync.Mutex
	m  map[string]*lane // guarded by mu; entries that say nothing are removed
}

type lane struct {
	reads     int
	writing   bool
	waiting   []*waiter
	failures  int       // timeouts in a row
	openUntil time.Time // of the breaker; zero: closed
	probing   bool
}

type waiter struct {
	class   Class
	limit   int
	granted chan struct{}
}

func newLanes() *lanes { return &lanes{m: make(map[string]*lane)} }

// acquire waits for the device's turn. The error is a *Fault (the breaker is
// open) or the cause of ctx. release must be called once, and says whether
// the device failed to answer.
func (l *lanes) acquire(ctx context.Context, device string, class Class, limit int) (release func(silent bool), err error) {
	if device == "" {
		return func(bool) {}, nil
	}
	if limit <= 0 {
		limit = defaultDeviceSlots
	}
	w := &waiter{class: class, limit: limit, granted: make(chan struct{})}
	probe, fault := l.join(device, w)
	if fault != nil {
		return nil, fault
	}
	select {
	case <-w.granted:
	case <-ctx.Done():
		if l.leave(device, w, probe) {
			return nil, context.Cause(ctx)
		}
	}
	return func(silent bool) { l.release(device, class, probe, silent) }, nil
}

func (l *lanes) join(device string, w *waiter) (probe bool, fault *Fault) {
	l.mu.Lock()
	defer l.mu.Unlock()
	la := l.m[device]
	if la == nil {
		la = &lane{}
		l.m[device] = la
	}
	if !la.openUntil.IsZero() && w.class == Read {
		if la.probing || time.Now().Before(la.openUntil) {
			return false, Faultf(CodeCircuitOpen, StageQueue,
				"the device left %d jobs in a row without an answer and is not asked for up to %s", la.failures, breakerOpenFor)
		}
		la.probing, probe = true, true
	}
	la.waiting = append(la.waiting, w)
	la.grant()
	return probe, nil
}

// leave takes w out of the queue; false: it has been granted meanwhile.
func (l *lanes) leave(device string, w *waiter, probe bool) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	la := l.m[device]
	i := slices.Index(la.waiting, w)
	if i < 0 {
		return false
	}
	la.waiting = slices.Delete(la.waiting, i, i+1)
	if probe {
		la.probing = false
	}
	la.grant()
	l.forget(device, la)
	return true
}

func (l *lanes) release(device string, class Class, probe, silent bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	la := l.m[device]
	if class == Write {
		la.writing = false
	} else {
		la.reads--
	}
	if probe {
		la.probing = false
	}
	la.judge(silent)
	la.grant()
	l.forget(device, la)
}

// judge moves the breaker.
func (la *lane) judge(silent bool) {
	if !silent {
		la.failures, la.openUntil = 0, time.Time{}
		return
	}
	la.failures++
	if la.failures >= breakerThreshold {
		la.openUntil = time.Now().Add(breakerOpenFor)
	}
}

// grant lets in whoever is at the head and fits.
func (la *lane) grant() {
	for len(la.waiting) > 0 {
		w := la.waiting[0]
		if la.writing || w.class == Write && la.reads > 0 || w.class == Read && la.reads >= w.limit {
			return
		}
		if w.class == Write {
			la.writing = true
		} else {
			la.reads++
		}
		la.waiting = la.waiting[1:]
		close(w.granted)
	}
}

func (l *lanes) forget(device string, la *lane) {
	if la.reads == 0 && !la.writing && len(la.waiting) == 0 && la.failures == 0 {
		delete(l.m, device)
	}
}
