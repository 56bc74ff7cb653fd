package jobs

import (
	"encoding/json"
	"testing"
	"time"
)

// A write whose process died, and whose message expired before anybody else
// could get it, is answered by what is known of it: once.
func TestWill(t *testing.T) {
	tests := map[string]struct {
		before func(*testing.T, *Claim)
		want   Status // "": nothing is to be said
	}{
		"died before the first byte": {die0, StatusExpired},
		"died while it sent": {func(t *testing.T, c *Claim) {
			if err := c.Sending(); err != nil {
				t.Fatal(err)
			}
			die(c)
		}, StatusIndeterminate},
		"died before its result was sent": {func(t *testing.T, c *Claim) {
			if _, err := c.Finish([]byte(`{"schema":1,"job_id":"w","status":"ok"}`)); err != nil {
				t.Fatal(err)
			}
			die(c)
		}, StatusOK},
		"its result was sent": {func(t *testing.T, c *Claim) {
			if _, err := c.Finish([]byte(`{"schema":1,"job_id":"w","status":"ok"}`)); err != nil {
				t.Fatal(err)
			}
			c.Answered()
		}, ""},
		"given back": {func(t *testing.T, c *Claim) {
			if err := c.Release(); err != nil {
				t.Fatal(err)
			}
		}, ""},
		"lives": {func(*testing.T, *Claim) {}, ""},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			j, err := OpenJournal(JournalOptions{Dir: t.TempDir()})
			if err != nil {
				t.Fatal(err)
			}
			outbox := NewMemorySpool()
			d := NewDispatcher(Options{Journal: j, Outbox: outbox})
			task := newTask(t.Context(), d, &Delivery{ReplyTo: "results", CorrelationID: "c", ReceivedAt: time.Now(), TTL: time.Hour})
			task.job = &Job{ID: "w", Action: "snmp.set", Class: Write, Metadata: json.RawMessage(`{"task":7}`)}
			will := task.will()
			c, err := j.Claim("key of w", "w", will)
			if err != nil {
				t.Fatal(err)
			}
			tt.before(t, c)
			if orphans, err := j.Orphans(time.Now()); err != nil || len(orphans) != 0 {
				t.Fatalf("before the message expires: %d orphans, %v", len(orphans), err)
			}
			d.answerOrphansOf(time.Now().Add(2 * time.Hour))
			m, found := outbox.Find("w")
			if found != (tt.want != "") {
				t.Fatalf("answered: %t", found)
			}
			if !found {
				return
			}
			var r Result
			if err := json.Unmarshal(m.Body, &r); err != nil || r.Status != tt.want || m.ReplyTo != "results" || m.CorrelationID != "c" || !m.Write {
				t.Errorf("answered %s to %q as %q (%v), want %s", r.Status, m.ReplyTo, m.CorrelationID, err, tt.want)
			}
			if tt.want != StatusOK && string(r.Metadata) != `{"task":7}` {
				t.Errorf("metadata %s", r.Metadata)
			}
			if n := d.answerOrphansOf(time.Now().Add(3 * time.Hour)); n != 0 {
				t.Errorf("answered %d times more", n)
			}
			if _, err := j.Claim("key of w", "w", will); err == nil {
				t.Error("the write may be run after that")
			}
		})
	}
}

func die0(_ *testing.T, c *Claim) { die(c) }
