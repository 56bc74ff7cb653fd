package jobs

import (
	"context"
	"encoding/json"
	"testing"
	"time"
)

// receipt records how a delivery was settled.
type receipt struct {
	sent     []Message
	acked    bool
	requeued bool
}

func (*receipt) Live() bool { return true }

func (r *receipt) Publish(_ context.Context, m Message) error {
	r.sent = append(r.sent, m)
	return nil
}

func (r *receipt) Ack()     { r.acked = true }
func (r *receipt) Requeue() { r.requeued = true }
func (r *receipt) Reject()  {}

// A write that was run before, perhaps, is never answered as if it had not
// been, whatever speaks against running it now.
func TestLateCopyOfAWrite(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name   string
		before func(*testing.T, *Journal)
		want   Status
	}{
		{"never claimed", func(*testing.T, *Journal) {}, StatusExpired},
		{"claimed, nothing sent", func(t *testing.T, j *Journal) {
			t.Helper()
			die(mustClaim(t, j, "w"))
		}, StatusExpired},
		{"died while sending", func(t *testing.T, j *Journal) {
			t.Helper()
			c := mustClaim(t, j, "w")
			if err := c.Sending(); err != nil {
				t.Fatal(err)
			}
			die(c)
		}, StatusIndeterminate},
		{"ended", func(t *testing.T, j *Journal) {
			t.Helper()
			if _, err := mustClaim(t, j, "w").Finish([]byte(`{"schema":1,"job_id":"w","status":"ok"}`)); err != nil {
				t.Fatal(err)
			}
		}, StatusOK},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			j := openJournal(t, t.TempDir())
			tt.before(t, j)
			d := NewDispatcher(Options{Journal: j})
			r := &receipt{}
			task := newTask(t.Context(), d, &Delivery{Receipt: r, Redelivered: true, ReceivedAt: time.Now()})
			task.job = &Job{ID: "w", Action: "snmp.set", Class: Write}
			task.refuse(Faultf(CodeExpired, StageQueue, "too late"))
			if len(r.sent) != 1 || !r.acked || r.requeued {
				t.Fatalf("sent %d answers, acked %v, given back %v", len(r.sent), r.acked, r.requeued)
			}
			var answer struct{ Status Status }
			if err := json.Unmarshal(r.sent[0].Body, &answer); err != nil || answer.Status != tt.want {
				t.Fatalf("the answer is %q (%v), want %q", answer.Status, err, tt.want)
			}
		})
	}
}
