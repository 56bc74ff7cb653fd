package main

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"usm-satellite/broker"
	"usm-satellite/jobs"
)

// A memory alarm of the broker: results are kept, nothing hangs, nothing is
// lost.
func TestMemoryAlarm(t *testing.T) {
	s := newSite(t, rabbit)
	p := s.satellite()
	core := s.core(broker.CoreOptions{})
	const n = 40
	for i := range n {
		id := fmt.Sprintf("m-%d", i)
		body := job(id, "icmp.ping", `"target":{"address":"127.0.0.1","device_id":"`+id+`"},"params":{"count":60,"interval_ms":100}`)
		s.must(core.Submit(t.Context(), broker.CoreMessage{Queue: "usm_poller-sat-7", ID: id, ReplyTo: "erp.core", Body: body}))
	}
	s.must(core.Settled(t.Context()))
	s.must(rabbit.Ctl(t.Context(), "set_vm_memory_high_watermark", "absolute", "1MB"))
	healed := false
	heal := func() {
		if !healed {
			healed = true
			s.must(rabbit.Ctl(t.Context(), "set_vm_memory_high_watermark", "absolute", "1GB"))
		}
	}
	defer heal()
	wait(t, "the satellite to keep results", func() bool {
		return strings.Contains(p.out.String(), "asks publishers to wait") || spooled(t, s) > 0
	})
	heal()
	results := s.collect(s.core(broker.CoreOptions{AnswerQueue: "erp.core"}), n)
	for id, r := range results {
		if r.Status != jobs.StatusOK {
			t.Errorf("%s: %s, %v", id, r.Status, r.Error)
		}
	}
}

func spooled(t *testing.T, s *site) int {
	t.Helper()
	out, code := command(t, []string{"status", "--json"}, s.env())
	if code != 0 {
		return 0
	}
	var n int
	if _, after, ok := strings.Cut(out, `"spooled":`); ok {
		_, _ = fmt.Sscanf(after, "%d", &n)
	}
	return n
}

// The user of a satellite is deleted under it: it says so, and nothing that it
// knows is lost.
func TestUserDeleted(t *testing.T) {
	s := newSite(t, rabbit)
	user := map[string]string{"password": canary, "tags": ""}
	rights := map[string]string{"configure": "^$", "write": ".*", "read": ".*"}
	make := func() {
		s.must(rabbit.API(t.Context(), http.MethodPut, "/users/sat-7", user, nil))
		s.must(rabbit.API(t.Context(), http.MethodPut, "/permissions/"+s.vhost+"/sat-7", rights, nil))
	}
	make()
	p := s.satellite("US_AMQP_DSN", rabbit.UserDSN("sat-7", canary, s.vhost))
	core := s.core(broker.CoreOptions{})
	body := job("u", "icmp.ping", `"target":{"address":"127.0.0.1"},"params":{"count":30,"interval_ms":100}`)
	s.must(core.Submit(t.Context(), broker.CoreMessage{Queue: "usm_poller-sat-7", ID: "u", Body: body}))
	time.Sleep(time.Second)
	s.must(rabbit.API(t.Context(), http.MethodDelete, "/users/sat-7", nil, nil))
	p.says(t, "refused the login")
	make()
	if r := s.collect(core, 1)["u"]; r.Status != jobs.StatusOK {
		t.Errorf("got %s, %v", r.Status, r.Error)
	}
}
