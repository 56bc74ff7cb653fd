package main

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"usm-satellite/broker"
	"usm-satellite/deploy/lab"
	"usm-satellite/jobs"
)

func snmpd(t *testing.T, addresses ...string) *lab.SNMPD {
	t.Helper()
	agent, err := lab.StartSNMPD(t.Context(), t.TempDir(), addresses...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = agent.Close() })
	return agent
}

func target(port int) string {
	return fmt.Sprintf(`"target":{"address":"127.0.0.1","port":%d}`, port)
}

func community(name string) string {
	return `"credentials":[{"snmp":{"version":"2c","community":"` + name + `"}}]`
}

// kinds is a job of each basic kind, by its id.
func kinds(prefix string, agent int) map[string][]byte {
	sysName := `"params":{"oids":["1.3.6.1.2.1.1.5.0"]}`
	return map[string][]byte{
		prefix + "ping":    job(prefix+"ping", "icmp.ping", `"target":{"address":"127.0.0.1"},"params":{"count":1}`),
		prefix + "connect": job(prefix+"connect", "tcp.connect", target(rabbit.Port)),
		prefix + "get":     job(prefix+"get", "snmp.get", target(agent)+","+community(lab.Community)+","+sysName),
		prefix + "walk":    job(prefix+"walk", "snmp.walk", target(agent)+","+community(lab.Community)+`,"params":{"root":"1.3.6.1.2.1.1"}`),
		prefix + "table":   job(prefix+"table", "snmp.table", target(agent)+","+community(lab.Community)+`,"params":{"columns":["1.3.6.1.2.1.2.2.1.2"]}`),
		prefix + "set": job(prefix+"set", "snmp.set", target(agent)+","+community(lab.WriteCommunity)+
			`,"params":{"varbinds":[{"oid":"1.3.6.1.2.1.1.6.0","type":"OctetString","value":"`+prefix+`"}]}`),
	}
}

func allOK(t *testing.T, results map[string]jobs.Result, transport string) {
	t.Helper()
	for id, r := range results {
		if r.Status != jobs.StatusOK || r.Transport != transport {
			t.Errorf("%s: %s by %s, %v", id, r.Status, r.Transport, r.Error)
		}
	}
}

// The published compose file gives two variables and a number of replicas.
func TestPublishedSettings(t *testing.T) {
	s, agent := newSite(t, rabbit), snmpd(t)
	for range 5 {
		s.satellite()
	}
	core := s.core(broker.CoreOptions{})
	allOK(t, s.ask(core, kinds("a-", agent.Port)), "amqp")
	bodies := make(map[string][]byte)
	for i := range 100 {
		id := fmt.Sprintf("b-%d", i)
		bodies[id] = job(id, "icmp.ping", `"target":{"address":"127.0.0.1","device_id":"`+id+`"},"params":{"count":2,"interval_ms":50}`)
	}
	replicas := make(map[string]int)
	for id, r := range s.ask(core, bodies) {
		replicas[r.Replica]++
		if r.Status != jobs.StatusOK {
			t.Errorf("%s: %v", id, r.Error)
		}
	}
	if len(replicas) < 2 {
		t.Errorf("only %v of 5 replicas worked", replicas)
	}
}

func TestThroughTheTunnel(t *testing.T) {
	s, agent := newSite(t, rabbit), snmpd(t)
	_, _, settings := s.hub()
	p := s.satellite(settings...)
	core := s.core(broker.CoreOptions{})
	allOK(t, s.ask(core, kinds("a-", agent.Port)), "wireguard+amqp")
	out, code := command(t, []string{"health"}, s.env())
	if code != 0 || !strings.Contains(out, "wireguard+amqp") {
		t.Errorf("health says %q, %d", out, code)
	}
	if out, code := command(t, []string{"status"}, s.env()); code != 0 || !strings.Contains(out, "handshake") {
		t.Errorf("status says %q, %d", out, code)
	}
	p.stop(t)
	if _, code := command(t, []string{"health"}, s.env()); code == 0 {
		t.Error("health is content without a satellite")
	}
}

// TLS inside the tunnel checks the DSN's name, wherever the tunnel leads.
func TestTLSInsideTheTunnel(t *testing.T) {
	s, agent := newSite(t, rabbit), snmpd(t)
	_, _, settings := s.hubTo(rabbit.Port)
	settings = append(settings, "US_AMQP_DSN", s.node.TLSDSN(s.vhost), "USM_AMQP_CA_FILE", rabbit.CAFile)
	start(t, nil, s.env(settings...)).says(t, "does not speak TLS")
	_, _, settings = s.hubTo(rabbit.TLSPort)
	settings = append(settings, "US_AMQP_DSN", s.node.TLSDSN(s.vhost), "USM_AMQP_CA_FILE", rabbit.CAFile)
	s.satellite(settings...)
	allOK(t, s.ask(s.core(broker.CoreOptions{}), kinds("a-", agent.Port)), "wireguard+amqps")
}

func TestAMQPS(t *testing.T) {
	s, agent := newSite(t, rabbit), snmpd(t)
	s.satellite("US_AMQP_DSN", s.node.TLSDSN(s.vhost), "USM_AMQP_CA_FILE", rabbit.CAFile)
	allOK(t, s.ask(s.core(broker.CoreOptions{}), kinds("a-", agent.Port)), "amqps")
}

// Where UDP does not pass, the fallback carries the jobs, and the tunnel takes
// over when it can.
func TestFallbackAndBack(t *testing.T) {
	s, agent := newSite(t, rabbit), snmpd(t)
	hub, _, settings := s.hub()
	env := hub.cmd.Env
	hub.kill()
	p := s.satellite(append(settings, "USM_FALLBACK_DSN", s.node.TLSDSN(s.vhost), "USM_AMQP_CA_FILE", rabbit.CAFile)...)
	core := s.core(broker.CoreOptions{})
	allOK(t, s.ask(core, kinds("a-", agent.Port)), "amqps")

	again := make(map[string]string)
	for _, line := range env {
		key, value, _ := strings.Cut(line, "=")
		again[key] = value
	}
	start(t, []string{"hub"}, again).says(t, "hub is up")
	p.says(t, "stable again")
	wait(t, "the tunnel to be taken", func() bool { return strings.Count(p.out.String(), "taking jobs") > 1 })
	allOK(t, s.ask(core, kinds("b-", agent.Port)), "wireguard+amqp")
}

func TestBadJobsAreAnswered(t *testing.T) {
	s, agent := newSite(t, rabbit), snmpd(t)
	s.satellite("USM_ALLOW_WRITES", "false")
	core := s.core(broker.CoreOptions{})
	cases := map[string]struct {
		body   string
		status jobs.Status
		says   string
	}{
		"not-json":      {`{"schema":1,`, jobs.StatusInvalid, "not JSON"},
		"no-id":         {`{"schema":1,"action":"icmp.ping"}`, jobs.StatusInvalid, "job_id is missing"},
		"no-action":     {`{"schema":1,"job_id":"no-action"}`, jobs.StatusInvalid, "action is missing"},
		"schema":        {`{"schema":2,"job_id":"schema","action":"icmp.ping"}`, jobs.StatusUnsupported, "schema 2"},
		"action":        {`{"schema":1,"job_id":"action","action":"coffee.make"}`, jobs.StatusUnsupported, "coffee.make"},
		"parameter":     {string(job("parameter", "icmp.ping", `"target":{"address":"127.0.0.1"},"params":{"speed":1}`)), jobs.StatusInvalid, "params.speed"},
		"timeout":       {string(job("timeout", "icmp.ping", `"target":{"address":"127.0.0.1"},"timeout_ms":-5`)), jobs.StatusInvalid, "timeout_ms"},
		"address":       {string(job("address", "icmp.ping", `"target":{"address":"not an address"}`)), jobs.StatusInvalid, "target.address"},
		"name":          {string(job("name", "icmp.ping", `"target":{"address":"nowhere.invalid"}`)), jobs.StatusFailed, "does not resolve"},
		"late":          {string(job("late", "icmp.ping", `"target":{"address":"127.0.0.1"},"deadline":"2020-01-01T00:00:00Z"`)), jobs.StatusExpired, "deadline"},
		"policy":        {string(job("policy", "icmp.ping", `"target":{"address":"192.0.2.1"}`)), jobs.StatusDenied, "USM_ALLOW_TARGETS"},
		"write":         {string(kinds("", agent.Port)["set"]), jobs.StatusDenied, "USM_ALLOW_WRITES"},
		"closed":        {string(job("closed", "tcp.connect", target(lab.Port()))), jobs.StatusFailed, "refused"},
		"community":     {string(job("community", "snmp.get", target(agent.Port)+","+community(canary)+`,"timeout_ms":3000,"params":{"oids":["1.3.6.1.2.1.1.5.0"]}`)), jobs.StatusTimeout, "community is wrong"},
		"no-credential": {string(job("no-credential", "snmp.get", target(agent.Port)+`,"params":{"oids":["1.3.6.1.2.1.1.5.0"]}`)), jobs.StatusFailed, "credentials"},
		"v3-password": {string(job("v3-password", "snmp.get", target(agent.Port)+`,"credentials":[{"snmp":{"version":"3","username":"u_shaaes","auth_protocol":"SHA",
			"auth_password":"`+canary+`","priv_protocol":"AES","priv_password":"`+canary+`"}}],"params":{"oids":["1.3.6.1.2.1.1.5.0"]}`)), jobs.StatusFailed, "SNMPv3 user"},
	}
	bodies := make(map[string][]byte)
	for id, c := range cases {
		bodies[id] = []byte(c.body)
	}
	for id, r := range s.ask(core, bodies) {
		want := cases[id]
		if r.Status != want.status || r.Error == nil || !strings.Contains(r.Error.Message, want.says) {
			t.Errorf("%s: got %s, %v, want %s, %q", id, r.Status, r.Error, want.status, want.says)
		}
	}
	allOK(t, s.ask(core, map[string][]byte{"after": kinds("", agent.Port)["ping"]}), "amqp")
}

// A device that does not speak must not hold up those that do.
func TestDeadDevicesHoldNobodyUp(t *testing.T) {
	s, agent := newSite(t, rabbit), snmpd(t)
	silent := lab.Port() // a UDP socket that takes everything and says nothing
	sink := silence(t, silent)
	defer sink()
	measure := func(prefix string, dead bool) (living, waited []time.Duration) {
		bodies := make(map[string][]byte)
		for i := range 2000 {
			device, port := i%1000, agent.Port
			if dead && device%20 == 0 {
				port = silent
			}
			id := fmt.Sprintf("%s-%d", prefix, i)
			bodies[id] = job(id, "snmp.get", fmt.Sprintf(`"target":{"address":"127.0.0.1","port":%d,"device_id":"%s-%d"},"timeout_ms":3000,%s,"params":{"oids":["1.3.6.1.2.1.1.5.0"]}`,
				port, prefix, device, community(lab.Community)))
		}
		for id, r := range s.ask(s.core(broker.CoreOptions{}), bodies) {
			i, _ := strconv.Atoi(strings.TrimPrefix(id, prefix+"-"))
			took := r.FinishedAt.Sub(r.ReceivedAt.Time)
			if dead && i%1000%20 == 0 {
				if r.Status != jobs.StatusTimeout {
					t.Errorf("%s: %s, want a timeout", id, r.Status)
				}
				waited = append(waited, took)
				continue
			}
			if r.Status != jobs.StatusOK {
				t.Errorf("%s: %s, %v", id, r.Status, r.Error)
			}
			living = append(living, took)
		}
		slices.Sort(living)
		slices.Sort(waited)
		return living, waited
	}
	s.satellite()
	alone, _ := measure("alone", false)
	beside, dead := measure("beside", true)
	p95 := func(d []time.Duration) time.Duration { return d[len(d)*95/100] }
	t.Logf("p95 of living devices: alone %s, beside 5 %% dead ones %s (%.2f times); dead ones p95 %s",
		p95(alone), p95(beside), float64(p95(beside))/float64(p95(alone)), p95(dead))
	if p95(beside) > p95(dead)/2 {
		t.Errorf("living devices wait %s, nearly as long as dead ones", p95(beside))
	}
}

// A copy of a job gets the first answer, and the device is not asked again.
func TestCopiesGetTheFirstAnswer(t *testing.T) {
	s, agent := newSite(t, rabbit), snmpd(t)
	s.satellite()
	core := s.core(broker.CoreOptions{})
	first := s.ask(core, kinds("a-", agent.Port))
	second := s.ask(core, kinds("a-", agent.Port))
	for id, r := range second {
		if !r.FromStore || !r.FinishedAt.Equal(first[id].FinishedAt.Time) {
			t.Errorf("%s was run again: %+v", id, r)
		}
	}
}

// A write is not run again by a satellite that was killed while it ran it.
func TestKilledWriteIsIndeterminate(t *testing.T) {
	s := newSite(t, rabbit)
	port := lab.Port()
	end := silence(t, port)
	defer end()
	p := s.satellite()
	core := s.core(broker.CoreOptions{})
	body := job("w", "snmp.set", target(port)+","+community("x")+`,"timeout_ms":60000,"params":{"varbinds":[{"oid":"1.3.6.1.2.1.1.6.0","type":"OctetString","value":"x"}]}`)
	s.must(core.Submit(t.Context(), broker.CoreMessage{Queue: "usm_poller-sat-7", ID: "w", Body: body}))
	wait(t, "the claim", func() bool {
		claims, _ := filepath.Glob(filepath.Join(s.state, "journal", "*.claim"))
		if len(claims) != 1 {
			return false
		}
		text, _ := os.ReadFile(claims[0])
		return strings.Contains(string(text), "sending")
	})
	p.kill()
	s.satellite()
	if r := s.collect(core, 1)["w"]; r.Status != jobs.StatusIndeterminate || r.Error.Code != jobs.CodeInterruptedWrite {
		t.Errorf("got %+v", r)
	}
}

// SIGTERM: what runs may end, what waits goes back, nothing is lost.
func TestDrain(t *testing.T) {
	s := newSite(t, rabbit)
	p := s.satellite("USM_CONCURRENCY", "8")
	core := s.core(broker.CoreOptions{})
	for i := range 40 {
		id := fmt.Sprintf("d-%d", i)
		body := job(id, "icmp.ping", `"target":{"address":"127.0.0.1","device_id":"`+id+`"},"params":{"count":5,"interval_ms":100}`)
		s.must(core.Submit(t.Context(), broker.CoreMessage{Queue: "usm_poller-sat-7", ID: id, Body: body}))
	}
	time.Sleep(700 * time.Millisecond)
	p.stop(t)
	if code := p.cmd.ProcessState.ExitCode(); code != 0 {
		t.Errorf("exit status %d", code)
	}
	s.satellite()
	results := s.collect(core, 40)
	replicas := slices.Collect(maps.Values(results))
	byReplica := make(map[string]int)
	for _, r := range replicas {
		byReplica[r.Replica]++
		if r.Status != jobs.StatusOK {
			t.Errorf("%s: %s %v", r.JobID, r.Status, r.Error)
		}
	}
	if len(byReplica) != 2 {
		t.Errorf("one of the two did everything: %v", byReplica)
	}
}

func TestResultsExchange(t *testing.T) {
	s, agent := newSite(t, rabbit), snmpd(t)
	s.must(rabbit.DeclareExchange(t.Context(), s.vhost, "usm_poller.results"))
	core := s.core(broker.CoreOptions{ResultsExchange: "usm_poller.results"})
	s.satellite("USM_RESULTS_EXCHANGE", "usm_poller.results")
	allOK(t, s.ask(core, kinds("a-", agent.Port)), "amqp")
}

func TestMetadataComesBack(t *testing.T) {
	s := newSite(t, rabbit)
	s.satellite()
	r := s.ask(s.core(broker.CoreOptions{}), map[string][]byte{
		"m": job("m", "icmp.ping", `"target":{"address":"127.0.0.1"},"params":{"count":1},"metadata":{"ticket":[17,"ü"]}`),
	})["m"]
	var got any
	if err := json.Unmarshal(r.Metadata, &got); err != nil || fmt.Sprint(got) != "map[ticket:[17 ü]]" {
		t.Errorf("got %s", r.Metadata)
	}
}

// AMQPS goes through a proxy where there is one; the proxy never sees more
// than TLS.
func TestThroughProxies(t *testing.T) {
	s, agent := newSite(t, rabbit), snmpd(t)
	for _, kind := range []string{"http", "socks5"} {
		address, used := proxyServer(t, kind)
		dsn := strings.Replace(s.node.TLSDSN(s.vhost), "localhost", lab.OtherName, 1)
		p := s.satellite("US_AMQP_DSN", dsn, "USM_AMQP_CA_FILE", rabbit.CAFile,
			"ALL_PROXY", kind+"://user:"+canary+"@"+address, "NO_PROXY", "elsewhere.invalid", "USM_STATE_DIR", t.TempDir())
		allOK(t, s.ask(s.core(broker.CoreOptions{}), kinds(kind+"-", agent.Port)), "amqps")
		if used.Load() == 0 {
			t.Errorf("the %s proxy was not used", kind)
		}
		p.stop(t)
	}
}
