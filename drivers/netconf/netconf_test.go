package netconf

import (
	"context"
	"encoding/json"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"usm-satellite/deploy/lab"
	"usm-satellite/drivers/secureshell"
	"usm-satellite/jobs"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// server is NETCONF of Debian's, and the driver that talks to it.
type server struct {
	t      *testing.T
	port   int
	action jobs.Action
}

func newServer(t *testing.T) *server {
	t.Helper()
	n, err := lab.StartNETCONF(t.Context(), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { n.Close() })
	network := &jobs.Network{Policy: &jobs.Policy{Targets: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}}}
	dialer := secureshell.New(secureshell.Options{Network: network, StateDir: t.TempDir()})
	return &server{t: t, port: n.Port, action: New(dialer).Actions()["netconf.rpc"]}
}

func (s *server) call(change func(*jobs.Job), rpc ...string) (data, *jobs.Fault) {
	s.t.Helper()
	params, err := json.Marshal(map[string]any{"rpc": rpc})
	if err != nil {
		s.t.Fatal(err)
	}
	job := &jobs.Job{
		ID: "t", Action: "netconf.rpc", Params: params, Timeout: time.Minute,
		Target: jobs.Target{Address: "127.0.0.1", Port: s.port},
		Credentials: []jobs.Credential{{Login: &jobs.LoginCredential{
			Username: lab.ConsoleUser, Password: jobs.NewSecret(lab.ConsolePassword),
		}}},
	}
	if change != nil {
		change(job)
	}
	if _, fault := (jobs.Registry{"netconf.rpc": s.action}).Judge(job); fault != nil {
		return data{}, fault
	}
	ctx, cancel := context.WithTimeoutCause(s.t.Context(), job.Timeout, jobs.ErrTimeout)
	defer cancel()
	out, err := s.action.Driver.Run(ctx, job)
	got, _ := out.Data.(data)
	if err != nil {
		return got, jobs.FaultOf(ctx, err)
	}
	return got, nil
}

func TestNetconfd(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	got, fault := s.call(nil, `<get-config><source><running/></source></get-config>`)
	if fault != nil {
		t.Fatal(fault)
	}
	if got.Version != "1.1" || got.SessionID == "" || !slices.Contains(got.Capabilities, base11) {
		t.Errorf("got version %s, session %s, %d capabilities", got.Version, got.SessionID, len(got.Capabilities))
	}
	if !strings.Contains(got.Replies[0].XML, "<data") || got.Replies[0].State != stateAcknowledged {
		t.Errorf("got %+v", got.Replies)
	}
	edit := `<edit-config><target><candidate/></target><config><helloworld xmlns="http://helloworld.com/ns/helloworld"><message>hello from a job</message></helloworld></config></edit-config>`
	got, fault = s.call(nil, `<lock><target><candidate/></target></lock>`, edit, `<commit/>`,
		`<unlock><target><candidate/></target></unlock>`, `<get-config><source><running/></source></get-config>`)
	if fault != nil {
		t.Fatalf("got %v after %+v", fault, got.Replies)
	}
	if len(got.Replies) != 5 || !strings.Contains(got.Replies[4].XML, "hello from a job") {
		t.Errorf("the change is not there: %+v", got.Replies)
	}
}

func TestNetconfdRefuses(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	got, fault := s.call(nil, `<get-config><source><nowhere/></source></get-config>`, `<get/>`)
	if fault == nil || fault.Code != jobs.CodeCommandError || fault.Stage != jobs.StageExecute {
		t.Fatalf("got %v", fault)
	}
	if len(got.Replies[0].Errors) == 0 || got.Replies[1].State != stateNotSent {
		t.Errorf("got %+v", got.Replies)
	}
	small := func(j *jobs.Job) { j.Limits.MaxResultBytes = 1000 }
	if _, fault := s.call(small, `<get/>`); fault == nil || fault.Code != jobs.CodeResultTooLarge {
		t.Errorf("a large reply: got %v", fault)
	}
	wrong := func(j *jobs.Job) { j.Credentials[0].Login.Password = jobs.NewSecret("no") }
	if _, fault := s.call(wrong, `<get/>`); fault == nil || fault.Code != jobs.CodeAuthFailed {
		t.Errorf("a wrong password: got %v", fault)
	}
}

func TestClassFollowsTheOperations(t *testing.T) {
	t.Parallel()
	action := New(nil).Actions()["netconf.rpc"]
	for rpc, want := range map[string]jobs.Class{
		`"<get/>"`: jobs.Read, `["<get-config/>","<get-schema/>"]`: jobs.Read, `"<get-data/>"`: jobs.Read,
		`["<get/>","<edit-config/>"]`: jobs.Write, `"<commit/>"`: jobs.Write, `"<getaway/>"`: jobs.Write,
		`"<x:edit-config xmlns:x='get'/>"`: jobs.Write,
	} {
		job := &jobs.Job{Action: "netconf.rpc", Params: []byte(`{"rpc":` + rpc + `}`), Target: jobs.Target{Address: "192.0.2.1"}}
		if _, fault := (jobs.Registry{"netconf.rpc": action}).Judge(job); fault != nil || job.Class != want {
			t.Errorf("%s is %s, %v; want %s", rpc, job.Class, fault, want)
		}
	}
}
