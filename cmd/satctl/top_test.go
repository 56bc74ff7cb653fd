package main

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"usm-satellite/broker"
)

func TestFleetJudgesByHeartbeats(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 1, 31, 12, 0, 0, 0, time.UTC)
	f := fleet{}
	say := func(kind, id, more string, at time.Time) {
		f.note(broker.CoreNews{Kind: kind, Body: []byte(`{"satellite_id":"` + id + `","replica":"a"` + more + `}`)}, at)
	}
	say("heartbeat", "1", `,"healthy":true,"transport":"wireguard+amqp","in_hand":3,"concurrency":1000,"jobs":{"results":{"ok":5,"failed":2}}`, now)
	if err := f.verdict(now); err != nil {
		t.Errorf("a healthy one: %v", err)
	}
	say("heartbeat", "2", `,"healthy":true`, now.Add(-time.Minute))
	say("goodbye", "3", `,"healthy":true`, now)
	say("heartbeat", "4", `,"healthy":false,"warnings":["\u001b[2Jodd"]`, now)
	f.note(broker.CoreNews{Kind: "heartbeat", Body: []byte("not JSON")}, now)
	err := f.verdict(now)
	if err == nil || err.Error() != "not ok: satellite 2, 3, 4" {
		t.Errorf("got %v", err)
	}
	var out bytes.Buffer
	f.print(&out, now)
	for _, want := range []string{
		"1          a        ok           wireguard+amqp  0s  3/1000   7         2", "silent 1m0s", "stopped", "not healthy", `warning: \x1b[2Jodd`, "4 seen",
	} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("%q is missing in\n%s", want, out.String())
		}
	}
	say("heartbeat", "1", "", now.Add(goneAfter+time.Second))
	if len(f) != 1 {
		t.Errorf("%d are remembered for ever", len(f))
	}
}

// TestTop listens to a real satellite.
func TestTop(t *testing.T) {
	t.Parallel()
	p := newPlace(t)
	if code, _, errs := p.satctl(t, "", "top", "--once"); code != exitBroker || !strings.Contains(errs, "satctl enroll") {
		t.Errorf("without the exchange: %d %s", code, errs)
	}
	if err := suite.rabbit.DeclareExchange(t.Context(), p.vhost, "usm_poller.status"); err != nil {
		t.Fatal(err)
	}
	if code, _, errs := p.satctl(t, "", "top", "--once", "--for", "1s"); code != exitJob || !strings.Contains(errs, "no satellite") {
		t.Errorf("without a satellite: %d %s", code, errs)
	}
	withSatellite(t, p)
	eventually(t, "the satellite is seen", func() bool {
		code, out, _ := p.satctl(t, "", "top", "--once")
		return code == exitOK && strings.Contains(out, "1 seen") && strings.Contains(out, "ok")
	})
}
