package jobs

import (
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// Will is what is to be said of a write whose process dies when the broker,
// in whose queue the job has expired meanwhile, drops it in place of giving it
// out again: nobody else would ever answer.
type Will struct {
	Expires time.Time `json:"expires"` // of the job's message
	Message Message   `json:"message"` // with a result that says "indeterminate"
}

// willGrace is for a copy that was given out again in the last moment.
const willGrace = 2 * time.Second

// Orphan is a write whose process died and whose message has expired. It is a
// claim with a will, for nothing but Finish.
type Orphan struct {
	*Claim

	Recorded []byte // the result, where there is one
	Sent     bool   // a byte of the change may have left
}

// Orphans returns the writes that nobody will answer. Each of them is to be
// finished and answered, or left with Leave.
func (j *Journal) Orphans(now time.Time) ([]*Orphan, error) {
	dir, err := os.Open(j.Dir)
	if err != nil {
		return nil, err
	}
	defer func() { _ = dir.Close() }()
	names, err := dir.Readdirnames(-1)
	if err != nil {
		return nil, err
	}
	var orphans []*Orphan
	for _, name := range names {
		if !strings.HasSuffix(name, ".claim") {
			continue
		}
		key, will := j.readWill(name)
		if will == nil || now.Before(will.Expires.Add(willGrace)) || nameOf(key)+".claim" != name {
			continue
		}
		if o := j.orphan(key); o != nil {
			orphans = append(orphans, o)
		}
	}
	return orphans, nil
}

func (j *Journal) readWill(name string) (key string, will *Will) {
	f, err := os.Open(filepath.Join(j.Dir, name))
	if err != nil {
		return "", nil
	}
	defer func() { _ = f.Close() }()
	var head claimHead
	if json.NewDecoder(io.LimitReader(f, maxClaim)).Decode(&head) != nil {
		return "", nil
	}
	return head.Key, head.Will
}

// orphan takes a claim whose holder is dead; nil: it lives, or has ended, or
// has answered what it could not record.
func (j *Journal) orphan(key string) *Orphan {
	claim, err := j.inherit(key)
	if claim == nil {
		return nil
	}
	o := &Orphan{Claim: claim, Sent: isInterrupted(err)}
	if claim.will == nil {
		o.Leave()
		return nil
	}
	if o.Recorded, err = j.result(key); err != nil {
		o.Recorded, o.Sent = nil, true
	}
	return o
}

// Leave leaves the write to be found again.
func (o *Orphan) Leave() { _ = o.file.Close() }

// AnswerOrphans answers the writes that nobody else will, and says how many
// those were: by their result, where one was recorded, and else as what is
// known of them.
func (d *Dispatcher) AnswerOrphans() (answered int) { return d.answerOrphansOf(time.Now()) }

func (d *Dispatcher) answerOrphansOf(now time.Time) (answered int) {
	if d.Journal == nil || d.Outbox == nil {
		return 0
	}
	orphans, err := d.Journal.Orphans(now)
	if err != nil {
		d.Logger.Warn("the journal cannot be searched for writes that nobody answered", "cause", err.Error())
		return 0
	}
	for _, o := range orphans {
		if err := d.answerOrphan(o); err != nil {
			o.Leave()
			d.Logger.Warn("a write that nobody answered cannot be answered now", "job_id", o.will.Message.JobID, "cause", err.Error())
			continue
		}
		answered++
	}
	if answered > 0 {
		d.Logger.Warn("writes were answered that a dead process had left, and whose messages had expired", "count", answered)
		d.Kick()
	}
	return answered
}

func (d *Dispatcher) answerOrphan(o *Orphan) error {
	m := o.will.Message
	if m.Body = fromStore(o.Recorded); o.Recorded == nil {
		body := o.will.Message.Body
		if !o.Sent {
			body = neverSent(body)
		}
		var err error
		if m.Body, err = o.Finish(body); err != nil {
			return err
		}
		d.counts.result(StatusIndeterminate)
	}
	if err := d.Outbox.Put(m); err != nil {
		return err
	}
	d.counts.spooled.Add(1)
	o.Answered()
	return nil
}

// neverSent makes "expired" of a will: its process died before the first byte.
func neverSent(body []byte) []byte {
	var r Result
	if json.Unmarshal(body, &r) != nil {
		return body
	}
	r.Status = StatusExpired
	r.Error = Faultf(CodeExpired, StageQueue, "the satellite died before it began this write, and the message's time to live ended; nothing was sent")
	return r.encode()
}

// maxWill bounds what a claim holds for the case of death.
const maxWill = 48 << 10

// will is what is to be said of the task's write if this process dies and the
// broker drops the job; nil: the broker will give it out again.
func (t *task) will() *Will {
	if t.expires.IsZero() {
		return nil
	}
	r := t.fail(interruptedFault(&InterruptedError{Sent: true, At: time.Now()}))
	body := r.encode()
	if len(body) > maxWill {
		r.Metadata = nil
		body = r.encode()
	}
	return &Will{Expires: t.expires.Round(0).UTC(), Message: t.message(body, true)}
}
