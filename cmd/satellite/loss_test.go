package main

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"usm-satellite/broker"
	"usm-satellite/deploy/lab"
	"usm-satellite/jobs"
)

// 5,000 mixed jobs through the tunnel, while the broker is killed twice and the
// hub once: each is answered, and no device is written to twice.
func TestNothingIsLost(t *testing.T) {
	const n = 5000
	node, err := lab.StartRabbit(t.Context(), lab.RabbitConfig{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = node.Close() })
	s, agent := newSite(t, node), snmpd(t)
	// The journal is older than the jobs, as at a site that has been at work.
	// A new one would have to take a write that was lost on its way here, and
	// comes again, for one that another satellite may have run.
	_, err = jobs.OpenJournal(jobs.JournalOptions{Dir: filepath.Join(s.state, "journal")})
	s.must(err)
	publisher := s.core(broker.CoreOptions{})
	for i := range n {
		id := fmt.Sprintf("n-%d", i)
		s.must(publisher.Submit(t.Context(), broker.CoreMessage{Queue: "usm_poller-sat-7", ID: id, ReplyTo: "erp.core", Body: mixed(i, id, agent.Port)}))
	}
	s.must(publisher.Settled(t.Context()))

	hub, _, settings := s.hub()
	p := s.satellite(append(settings, "USM_CONCURRENCY", "64")...)
	for range 2 {
		time.Sleep(2 * time.Second)
		node.Kill()
		time.Sleep(time.Second)
		s.must(node.Start(t.Context()))
		takes := strings.Count(p.out.String(), "taking jobs")
		wait(t, "the satellite to come back", func() bool { return strings.Count(p.out.String(), "taking jobs") >= takes && health(t, s) })
	}
	hub.kill()
	time.Sleep(time.Second)
	start(t, []string{"hub"}, hub.settings())

	results := s.collect(s.core(broker.CoreOptions{AnswerQueue: "erp.core"}), n)
	stored := 0
	for id, r := range results {
		if r.FromStore {
			stored++
		}
		if r.Status != jobs.StatusOK {
			t.Errorf("%s: %s, %v", id, r.Status, r.Error)
		}
	}
	t.Logf("%d jobs answered, %d of them from the store after a loss of the connection; %d connections",
		len(results), stored, strings.Count(p.out.String(), "taking jobs"))
	if claims, _ := filepath.Glob(filepath.Join(s.state, "journal", "*.claim")); len(claims) > 0 {
		t.Errorf("%d claims are left", len(claims))
	}
}

func health(t *testing.T, s *site) bool {
	t.Helper()
	out, code := command(t, []string{"health"}, s.env())
	return code == 0 && strings.Contains(out, "connected over")
}

// mixed is the i-th job of a mixed load: half of them pings that take a while.
func mixed(i int, id string, agent int) []byte {
	device := fmt.Sprintf(`"target":{"address":"127.0.0.1","port":%d,"device_id":"d%d"}`, agent, i%200)
	switch i % 4 {
	case 0:
		return job(id, "snmp.get", device+","+community(lab.Community)+`,"params":{"oids":["1.3.6.1.2.1.1.5.0"]}`)
	case 1:
		return job(id, "snmp.set", device+","+community(lab.WriteCommunity)+
			`,"params":{"varbinds":[{"oid":"1.3.6.1.2.1.1.6.0","type":"OctetString","value":"`+id+`"}]}`)
	default:
		return job(id, "icmp.ping", device+`,"params":{"count":2,"interval_ms":150}`)
	}
}
