package ledger

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"time"
)

// The invariants. Secret (I8) is checked on the outputs, by FindSecrets.
const (
	OneResult    = "I1 every job has exactly one result"
	WriteOnce    = "I2 no write reaches its device twice"
	TrueOK       = "I3 the answer to a write is true"
	OwnAnswer    = "I4 an answer is the device's to this job"
	InTime       = "I5 nothing starts after its deadline"
	AllowedOnly  = "I6 nothing reaches a target that is not allowed"
	Bounded      = "I7 memory and descriptors are bounded"
	Secret       = "I8 no secret in any output"
	UnknownCause = "I1 an unknown outcome has a fault in its window"
)

// Limits are what a check allows.
type Limits struct {
	StartSlack time.Duration // from the look at the deadline to the device's record
	FaultReach time.Duration // for how long after its end a fault explains an unknown outcome
	DropReach  time.Duration // for how long after a job expired its satellite may die over it
	Resident   int64         // bytes of one process; 0: not checked
	Files      int           // descriptors of one process; 0: not checked
}

// Violation is a broken promise.
type Violation struct{ Invariant, Job, Text string }

func (v Violation) String() string { return fmt.Sprintf("%s: %s: %s", v.Invariant, v.Job, v.Text) }

// Report is what a ledger comes to.
type Report struct {
	Jobs, Writes, Runs int            // Runs: writes that reached the device
	Statuses           map[string]int // of the first results
	Duplicates         int            // further results that say the same
	Restated           int            // reads that were run again and came out otherwise (late, for one)
	Expired            int            // jobs that the broker dropped, untouched
	Dropped            int            // jobs that the broker dropped when it got them back from a dead satellite
	Faults             map[string]int
	Violations         []Violation
}

// history is all that is known of a job.
type history struct {
	Published

	runs    []Device
	results []Result
}

type check struct {
	Limits

	ledger *Ledger
	report Report
}

// Check judges a ledger of a system at rest: its queues empty, nothing kept.
func (l *Ledger) Check(limits Limits) Report {
	c := check{Limits: limits, ledger: l, report: Report{Statuses: map[string]int{}, Faults: map[string]int{}}}
	for _, h := range c.histories() {
		c.job(h)
	}
	for _, f := range l.Faults {
		c.fault(f)
	}
	return c.report
}

func (c *check) broken(invariant, job, format string, args ...any) {
	c.report.Violations = append(c.report.Violations, Violation{invariant, job, fmt.Sprintf(format, args...)})
}

// histories puts the logs together by job, and finds what belongs to none.
func (c *check) histories() []*history {
	jobs, nonces := make(map[string]*history), make(map[string]*history)
	for _, p := range c.ledger.Published {
		if jobs[p.Job] != nil {
			continue // published again by the core
		}
		h := &history{Published: p}
		jobs[p.Job], nonces[p.Nonce] = h, h
	}
	for _, d := range c.ledger.Device {
		if d.Forbidden {
			c.broken(AllowedOnly, d.Nonce, "a device outside the policy was asked")
		}
		if d.Probe && !d.Write {
			continue
		}
		h := nonces[d.Nonce]
		if h == nil || h.Write != d.Write {
			c.broken(OwnAnswer, d.Nonce, "the device was asked for what no job asks")
			continue
		}
		h.runs = append(h.runs, d)
	}
	for _, r := range c.ledger.Results {
		h := jobs[r.Job]
		if h == nil {
			c.broken(OwnAnswer, r.Job, "a result of a job that was never published")
			continue
		}
		h.results = append(h.results, r)
	}
	return slices.SortedFunc(maps.Values(jobs), func(a, b *history) int { return cmp.Compare(a.Job, b.Job) })
}

func (c *check) job(h *history) {
	c.report.Jobs++
	if h.Write {
		c.report.Writes++
		c.report.Runs += min(1, len(h.runs))
		if len(h.runs) > 1 {
			c.broken(WriteOnce, h.Job, "it reached the device %d times", len(h.runs))
		}
	}
	if h.Refused && len(h.runs) > 0 {
		c.broken(AllowedOnly, h.Job, "its target is not allowed, and was asked")
	}
	for _, run := range h.runs {
		if !h.Deadline.IsZero() && run.At.After(h.Deadline.Add(c.StartSlack)) {
			c.broken(InTime, h.Job, "it reached the device %s after its deadline", run.At.Sub(h.Deadline))
		}
	}
	if len(h.results) == 0 {
		c.withoutResult(h)
		return
	}
	c.report.Statuses[h.results[0].Status]++
	c.same(h)
	for _, r := range h.results {
		c.answer(h, r)
	}
}

// withoutResult: a job may expire in the queue, also when it is put back there
// by the death of who ran it. The broker then drops it, and no satellite is
// ever told: a core that sets an expiration needs a time limit of its own. But
// a write that has reached its device is answered all the same.
func (c *check) withoutResult(h *history) {
	switch {
	case h.Expires.IsZero():
		c.broken(OneResult, h.Job, "it has no result; it reached the device %d times", len(h.runs))
	case len(h.runs) == 0:
		c.report.Expired++
	case !h.Write && c.explained(h.runs[0].At, h.Expires.Add(c.DropReach)):
		c.report.Dropped++
	default:
		c.broken(OneResult, h.Job, "it reached the device and has no result, and no fault explains that")
	}
}

// same compares further results with the first. That of a write never changes.
// A read may be run again, and be late then; what it found may not change.
func (c *check) same(h *history) {
	first := h.results[0]
	for _, r := range h.results[1:] {
		switch {
		case r.Status == first.Status && r.Nonce == first.Nonce:
			c.report.Duplicates++
		case !h.Write:
			c.report.Restated++
		default:
			c.broken(OneResult, h.Job, "its results conflict: %s %q, then %s %q", first.Status, first.Nonce, r.Status, r.Nonce)
		}
	}
}

func (c *check) answer(h *history, r Result) {
	ran := len(h.runs) > 0
	switch {
	case r.Status == "ok" && r.Nonce != h.Nonce:
		c.broken(OwnAnswer, h.Job, "its result has %q, the device said %q", r.Nonce, h.Nonce)
	case r.Status == "ok" && !ran:
		c.broken(TrueOK, h.Job, "it is ok, and never reached the device")
	case h.Write && r.Status == "indeterminate":
		c.unknown(h, r)
	case h.Write && r.Status != "ok" && ran:
		c.broken(TrueOK, h.Job, "it is %s, and reached the device", r.Status)
	}
}

// unknown asks for the reason of an unknown outcome: without that rule, a
// satellite that never knows anything would pass.
func (c *check) unknown(h *history, r Result) {
	since := h.At
	if len(h.runs) > 0 {
		since = h.runs[0].At
	}
	if !c.explained(since, r.At) {
		c.broken(UnknownCause, h.Job, "its outcome is unknown, and no fault explains that")
	}
}

// explained says whether a fault overlaps a window.
func (c *check) explained(since, until time.Time) bool {
	return slices.ContainsFunc(c.ledger.Faults, func(f Fault) bool {
		return f.Kind != Sample && !f.At.After(until) && !f.Until.Add(c.FaultReach).Before(since)
	})
}

func (c *check) fault(f Fault) {
	if f.Kind != Sample {
		c.report.Faults[f.Kind]++
		return
	}
	if c.Resident > 0 && f.Resident > c.Resident {
		c.broken(Bounded, "satellite", "%d bytes of memory; the limit is %d", f.Resident, c.Resident)
	}
	if c.Files > 0 && f.Files > c.Files {
		c.broken(Bounded, "satellite", "%d open files; the limit is %d", f.Files, c.Files)
	}
}
