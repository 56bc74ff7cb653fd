package jobs

import (
	"container/list"
	"sync"
	"time"
)

// recent remembers the answers of the last jobs in memory, so that a copy of a
// job that comes again (a lost ack, a core that asks twice) gets the same
// answer without asking the device again. Writes have the Journal besides.
type recent struct {
	mu       sync.Mutex
	maxBytes int
	maxAge   time.Duration
	bytes    int
	order    *list.List // of *answer, oldest first
	byJob    map[string]*list.Element
}

type answer struct {
	jobID string
	body  []byte
	at    time.Time
}

func newRecent(maxBytes int, maxAge time.Duration) *recent {
	return &recent{maxBytes: maxBytes, maxAge: maxAge, order: list.New(), byJob: make(map[string]*list.Element)}
}

func (r *recent) put(jobID string, body []byte) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if old, ok := r.byJob[jobID]; ok {
		r.remove(old)
	}
	r.byJob[jobID] = r.order.PushBack(&answer{jobID: jobID, body: body, at: time.Now()})
	r.bytes += len(body)
	for front := r.order.Front(); front != nil && r.stale(front.Value.(*answer)); front = r.order.Front() {
		r.remove(front)
	}
}

func (r *recent) stale(a *answer) bool { return r.bytes > r.maxBytes || time.Since(a.at) > r.maxAge }

func (r *recent) remove(e *list.Element) {
	a := r.order.Remove(e).(*answer)
	delete(r.byJob, a.jobID)
	r.bytes -= len(a.body)
}

func (r *recent) get(jobID string) ([]byte, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	e, ok := r.byJob[jobID]
	if !ok || time.Since(e.Value.(*answer).at) > r.maxAge {
		return nil, false
	}
	return e.Value.(*answer).body, true
}
