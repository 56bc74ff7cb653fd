package jobs

import (
	"container/list"
	"sync"
	"time"
)

// recent remembers the answers of the last jobs, so that a copy of a
// job that comes again (a lost ack, a core that asks twice) gets the same
// answer without asking the device again. Writes have the Journal besides.
type recent struct {
	mu       sync.Mutex
	maxBytes int
	maxAge   time.Duration
	bytes    int
	order    *list.List // of *answer, oldest first
	log      *recentLog // nil: in memory only
	byJob    map[string]*list.Element
}

type answer struct {
	jobID string
	only  string // the one message that it answers: a later one may do better. "": it is the end of the job
	body  []byte
	at    time.Time
}

func newRecent(maxBytes int, maxAge time.Duration) *recent {
	return &recent{maxBytes: maxBytes, maxAge: maxAge, order: list.New(), byJob: make(map[string]*list.Element)}
}

// open keeps the answers in a directory, too, and takes over what is there.
func (r *recent) open(dir string) (err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.log, err = openRecentLog(dir, func(a answer) {
		if time.Since(a.at) <= r.maxAge {
			r.keep(&a)
		}
	})
	return err
}

func (r *recent) close() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.log != nil {
		r.log.close()
		r.log = nil
	}
}

func (r *recent) put(jobID, only string, body []byte) {
	r.mu.Lock()
	defer r.mu.Unlock()
	a := &answer{jobID: jobID, only: only, body: body, at: time.Now()}
	if r.log != nil {
		r.log.add(a)
	}
	r.keep(a)
}

// keep holds an answer in memory; r.mu is held.
func (r *recent) keep(a *answer) {
	if old, ok := r.byJob[a.jobID]; ok {
		r.remove(old)
	}
	r.byJob[a.jobID] = r.order.PushBack(a)
	r.bytes += len(a.body)
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

// get returns the answer to a message with a job's id.
func (r *recent) get(jobID, message string, redelivered bool) ([]byte, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	e, ok := r.byJob[jobID]
	if !ok || time.Since(e.Value.(*answer).at) > r.maxAge {
		return nil, false
	}
	a := e.Value.(*answer)
	if a.only != "" && message != "" && a.only != message && !redelivered {
		return nil, false
	}
	return a.body, true
}
