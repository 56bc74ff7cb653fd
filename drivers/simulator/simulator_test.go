package simulator_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"usm-satellite/drivers"
	"usm-satellite/drivers/simulator"
	"usm-satellite/jobs"
)

func start(t *testing.T, name string) map[simulator.Service]int {
	t.Helper()
	p, err := simulator.Load(name)
	if err != nil {
		t.Fatal(err)
	}
	ports, stop, err := p.Start(context.Background(), simulator.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := stop(); err != nil {
			t.Error(err)
		}
	})
	return ports
}

func do(t *testing.T, action string, port int, credential, params string) (string, *jobs.Fault) {
	t.Helper()
	network := &jobs.Network{Policy: &jobs.Policy{Targets: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}}}
	registry, closeAll := drivers.All(drivers.Options{Network: network, StateDir: t.TempDir()})
	defer closeAll()
	job, fault := jobs.Decode(fmt.Appendf(nil, `{"schema":1,"job_id":"a","action":%q,"timeout_ms":30000,"target":{"address":"127.0.0.1","port":%d},"credentials":[%s],"params":%s}`, action, port, credential, params))
	if fault != nil {
		t.Fatal(fault)
	}
	run, fault := registry.Judge(job)
	if fault != nil {
		t.Fatal(fault)
	}
	ctx, cancel := context.WithTimeoutCause(t.Context(), job.Timeout, jobs.ErrTimeout)
	defer cancel()
	out, err := run.Driver.Run(ctx, job)
	if err != nil {
		return "", jobs.FaultOf(ctx, err)
	}
	text, err := json.Marshal(out.Data)
	if err != nil {
		t.Fatal(err)
	}
	return string(text), nil
}

func TestServicesAnswerTheDrivers(t *testing.T) {
	ports := start(t, "switch48")
	const login = `{"login":{"username":"admin","password":"admin","enable_password":"enable"}}`
	for _, c := range []struct {
		action           string
		service          simulator.Service
		credential, body string
		want             string
	}{
		{"snmp.walk", simulator.SNMP, `{"snmp":{"version":"2c","community":"public"}}`, `{"root":"1.3.6.1.2.1.31.1.1.1.6"}`, "18446744073709551615"},
		{"cli.run", simulator.Telnet, login, `{"transport":"telnet","platform":"cisco_ios","commands":["show version"]}`, "software 1.0"},
		{"cli.run", simulator.SSH, login, `{"platform":"cisco_ios","commands":["show version"]}`, "software 1.0"},
		{"http.request", simulator.HTTP, "", `{"scheme":"http","path":"/status"}`, "ports"},
	} {
		got, fault := do(t, c.action, ports[c.service], c.credential, c.body)
		if fault != nil || !strings.Contains(got, c.want) {
			t.Errorf("%s by %s: got %.300s, %v", c.action, c.service, got, fault)
		}
	}
}
