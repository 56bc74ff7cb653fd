package jobs

import "sync/atomic"

// Counts of a Dispatcher since it was made, for health, heartbeat and metrics.
type Counts struct {
	received, published, spooled, requeued, rejected, dropped, fromStore, abandoned, panics atomic.Uint64
	byStatus                                                                                [16]atomic.Uint64
}

// Snapshot is a copy of the counts.
type Snapshot struct {
	Received  uint64            `json:"received"`
	Published uint64            `json:"published"`
	Spooled   uint64            `json:"spooled"`
	Requeued  uint64            `json:"requeued"`
	Rejected  uint64            `json:"rejected"`
	Dropped   uint64            `json:"dropped"` // left to whom the broker gives them next
	FromStore uint64            `json:"from_store"`
	Abandoned uint64            `json:"abandoned"`
	Panics    uint64            `json:"panics"`
	Results   map[Status]uint64 `json:"results"`
}

func (c *Counts) result(status Status) {
	for i, s := range Statuses() {
		if s == status {
			c.byStatus[i].Add(1)
		}
	}
}

// Counts returns what the dispatcher has counted so far.
func (d *Dispatcher) Counts() Snapshot {
	c := &d.counts
	s := Snapshot{
		Received: c.received.Load(), Published: c.published.Load(), Spooled: c.spooled.Load(),
		Requeued: c.requeued.Load(), Rejected: c.rejected.Load(), Dropped: c.dropped.Load(),
		FromStore: c.fromStore.Load(), Abandoned: c.abandoned.Load(), Panics: c.panics.Load(),
		Results: make(map[Status]uint64),
	}
	for i, status := range Statuses() {
		s.Results[status] = c.byStatus[i].Load()
	}
	return s
}
