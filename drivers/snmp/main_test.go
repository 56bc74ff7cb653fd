package snmp

import (
	"context"
	"encoding/json"
	"net/netip"
	"testing"
	"time"

	"go.uber.org/goleak"

	"usm-satellite/deploy/lab"
	"usm-satellite/jobs"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// site is the driver as a satellite has it, with one device to talk to.
type site struct {
	t        *testing.T
	registry jobs.Registry
	address  string
	port     int
	cred     jobs.SNMPCredential
}

func loopbackOnly() []netip.Prefix {
	return []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("::1/128")}
}

func newSite(t *testing.T, port int) *site {
	t.Helper()
	network := &jobs.Network{Policy: &jobs.Policy{Targets: loopbackOnly()}}
	return &site{
		t: t, registry: Actions(Options{Network: network}), address: "127.0.0.1", port: port,
		cred: jobs.SNMPCredential{Version: "2c", Community: jobs.NewSecret(lab.Community)},
	}
}

func snmpd(t *testing.T) *site {
	t.Helper()
	agent, err := lab.StartSNMPD(t.Context(), t.TempDir(), "127.0.0.1")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { agent.Close() })
	s := newSite(t, agent.Port)
	s.cred.Community = jobs.NewSecret(lab.WriteCommunity)
	return s
}

// result is an output as a core would read it.
type result struct {
	Varbinds []Varbind `json:"varbinds"`
	Rows     []Row     `json:"rows"`
	LastOID  string    `json:"last_oid"`
	jobs.Output
	fault *jobs.Fault
}

// do runs a job as the dispatcher would.
func (s *site) do(action string, params any, change ...func(*jobs.Job)) *result {
	s.t.Helper()
	return s.doCtx(s.t.Context(), action, params, change...)
}

func (s *site) doCtx(ctx context.Context, action string, params any, change ...func(*jobs.Job)) *result {
	s.t.Helper()
	raw, err := json.Marshal(params)
	if err != nil {
		s.t.Fatal(err)
	}
	job := &jobs.Job{
		ID: "t", Action: action, Params: raw, Timeout: time.Minute,
		Target: jobs.Target{Address: s.address, Port: s.port}, Credentials: []jobs.Credential{{SNMP: &s.cred}},
	}
	for _, c := range change {
		c(job)
	}
	a, fault := s.registry.Judge(job)
	if fault != nil {
		return &result{fault: fault}
	}
	ctx, cancel := context.WithTimeoutCause(ctx, job.Timeout, jobs.ErrTimeout)
	defer cancel()
	out, err := a.Driver.Run(ctx, job)
	got := &result{}
	if out.Data != nil {
		text, err := json.Marshal(out.Data)
		if err != nil {
			s.t.Fatal(err)
		}
		if err := json.Unmarshal(text, got); err != nil {
			s.t.Fatal(err)
		}
	}
	got.Output = out
	if err != nil {
		got.fault = jobs.FaultOf(ctx, err)
	}
	return got
}

func (r *result) ok(t *testing.T) *result {
	t.Helper()
	if r.fault != nil {
		t.Fatalf("got %v at %s", r.fault, r.fault.Stage)
	}
	return r
}

func (r *result) failed(t *testing.T, code jobs.Code, stage jobs.Stage) *result {
	t.Helper()
	if r.fault == nil || r.fault.Code != code || r.fault.Stage != stage {
		t.Fatalf("got %+v, want %s at %s", r.fault, code, stage)
	}
	return r
}

func within(limit time.Duration) func(*jobs.Job) {
	return func(job *jobs.Job) { job.Timeout = limit }
}
