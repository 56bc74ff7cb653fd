package jobs

import (
	"errors"
	"sync"
)

// MemorySpool keeps results in memory, for a satellite without a directory
// that it can write to: they survive a restart of the broker, not of the
// satellite (the broker then gives their jobs out again).
type MemorySpool struct {
	mu    sync.Mutex
	bytes int
	order []string // job ids, oldest first
	byJob map[string]Message
	taken map[string]bool
}

var _ Outbox = (*MemorySpool)(nil)

const memorySpoolBytes = 64 << 20

var errMemoryFull = errors.New("too many results wait in memory")

// NewMemorySpool returns an empty one.
func NewMemorySpool() *MemorySpool {
	return &MemorySpool{byJob: make(map[string]Message), taken: make(map[string]bool)}
}

// Put takes charge of a result, unless there are too many.
func (s *MemorySpool) Put(m Message) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := s.byJob[m.JobID]; ok {
		return nil
	}
	if s.bytes+len(m.Body) > memorySpoolBytes {
		return errMemoryFull
	}
	s.bytes += len(m.Body)
	s.order = append(s.order, m.JobID)
	s.byJob[m.JobID] = m
	return nil
}

// Find returns the waiting result of a job.
func (s *MemorySpool) Find(jobID string) (Message, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	m, ok := s.byJob[jobID]
	return m, ok
}

// Oldest returns the ids of up to n jobs whose results wait, oldest first.
func (s *MemorySpool) Oldest(n int) []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var ids []string
	for _, id := range s.order {
		if _, ok := s.byJob[id]; ok && len(ids) < n {
			ids = append(ids, id)
		}
	}
	return ids
}

// Take returns a waiting result for sending; done(true) removes it.
func (s *MemorySpool) Take(id string) (m Message, done func(sent bool), err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	m, ok := s.byJob[id]
	if !ok || s.taken[id] {
		return Message{}, nil, ErrTaken
	}
	s.taken[id] = true
	return m, func(sent bool) { s.settle(id, sent) }, nil
}

func (s *MemorySpool) settle(id string, sent bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.taken, id)
	if !sent {
		return
	}
	s.bytes -= len(s.byJob[id].Body)
	delete(s.byJob, id)
	for len(s.order) > 0 {
		if _, waits := s.byJob[s.order[0]]; waits {
			return
		}
		s.order = s.order[1:]
	}
}

// Len returns how many results wait.
func (s *MemorySpool) Len() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.byJob)
}
