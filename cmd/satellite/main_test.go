package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"usm-satellite/broker"
	"usm-satellite/deploy/lab"
	"usm-satellite/jobs"
	"usm-satellite/tunnel"
)

// The tests of this package run the real binary against a real broker and real
// equipment software.
var (
	rabbit  *lab.Rabbit
	program string // path of the satellite under test
)

const (
	patience = 90 * time.Second // of a busy machine
	canary   = "canary-5ecret"  // in every secret that a test makes up
)

func TestMain(m *testing.M) { os.Exit(runTests(m)) }

func runTests(m *testing.M) int {
	dir, err := os.MkdirTemp("", "satellite-test-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer func() { _ = os.RemoveAll(dir) }()
	program = filepath.Join(dir, "satellite")
	if out, err := exec.Command("go", "build", "-race", "-o", program, ".").CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "go build: %v\n%s", err, out)
		return 1
	}
	rabbit, err = lab.StartRabbit(context.Background(), lab.RabbitConfig{Dir: filepath.Join(dir, "rabbit")})
	if err != nil {
		fmt.Fprintln(os.Stderr, "these tests need RabbitMQ:", err)
		return 1
	}
	defer func() { _ = rabbit.Close() }()
	return m.Run()
}

// site is a virtual host with the queues of satellite 7, and what runs there.
type site struct {
	t     *testing.T
	vhost string
	node  *lab.Rabbit
	state string // state directory of its satellites
}

func newSite(t *testing.T, node *lab.Rabbit) *site {
	t.Helper()
	s := &site{t: t, vhost: t.Name(), node: node, state: t.TempDir()}
	s.must(node.NewVhost(t.Context(), s.vhost))
	s.must(node.DeclareQueue(t.Context(), s.vhost, "usm_poller-sat-7", "quorum"))
	s.must(node.DeclareQueue(t.Context(), s.vhost, "erp.core", "classic"))
	return s
}

func (s *site) must(err error) {
	s.t.Helper()
	if err != nil {
		s.t.Fatal(err)
	}
}

// process is a running satellite or hub.
type process struct {
	cmd  *exec.Cmd
	out  *output
	done chan struct{}
}

// output collects what a process prints.
type output struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (o *output) Write(b []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.Write(b)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.String()
}

// start runs the binary with nothing but these settings in its environment.
func start(t *testing.T, args []string, env map[string]string) *process {
	t.Helper()
	return launch(t, exec.Command(program, args...), env)
}

// launch runs a command that becomes the binary.
func launch(t *testing.T, cmd *exec.Cmd, env map[string]string) *process {
	t.Helper()
	p := &process{cmd: cmd, out: &output{}, done: make(chan struct{})}
	p.cmd.Env = []string{"PATH=/usr/bin:/bin"}
	for k, v := range env {
		p.cmd.Env = append(p.cmd.Env, k+"="+v)
	}
	p.cmd.Stdout, p.cmd.Stderr = p.out, p.out
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(p.done)
		_ = p.cmd.Wait()
	}()
	t.Cleanup(func() {
		p.stop(t)
		out := p.out.String()
		if strings.Contains(out, canary) {
			t.Error("a secret is in the output")
		}
		if strings.Contains(out, "DATA RACE") || strings.Contains(out, "panic:") {
			t.Errorf("the process misbehaved:\n%s", out)
		}
		if t.Failed() {
			t.Logf("output of %v:\n%s", cmd.Args[1:], last(out, 6000))
		}
	})
	return p
}

func last(text string, n int) string {
	if len(text) > n {
		return "…" + text[len(text)-n:]
	}
	return text
}

func (p *process) stop(t *testing.T) {
	t.Helper()
	_ = p.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-p.done:
	case <-time.After(patience):
		t.Error("the process does not end after SIGTERM")
		p.kill()
	}
}

func (p *process) kill() {
	_ = p.cmd.Process.Kill()
	<-p.done
}

// settings are those that the process was started with.
func (p *process) settings() map[string]string {
	env := make(map[string]string)
	for _, line := range p.cmd.Env {
		key, value, _ := strings.Cut(line, "=")
		env[key] = value
	}
	return env
}

// says waits until the process has printed something.
func (p *process) says(t *testing.T, text string) {
	t.Helper()
	wait(t, "the process to say "+text, func() bool { return strings.Contains(p.out.String(), text) })
}

func wait(t *testing.T, what string, ready func() bool) {
	t.Helper()
	deadline := time.Now().Add(patience)
	for !ready() {
		if time.Now().After(deadline) {
			t.Fatalf("waited %s for %s", patience, what)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// env is the least that a satellite of the site needs.
func (s *site) env(more ...string) map[string]string {
	env := map[string]string{
		"US_AMQP_DSN": s.node.DSN(s.vhost), "USM_POLLER_SATELLITE_ID": "7",
		"USM_STATE_DIR": s.state, "USM_ALLOW_TARGETS": "127.0.0.0/8,::1",
	}
	for i := 0; i < len(more); i += 2 {
		env[more[i]] = more[i+1]
	}
	return env
}

// satellite starts one and waits until it takes jobs.
func (s *site) satellite(more ...string) *process {
	s.t.Helper()
	p := start(s.t, nil, s.env(more...))
	p.says(s.t, "taking jobs")
	return p
}

// core opens the core's side.
func (s *site) core(o broker.CoreOptions) *broker.Core {
	s.t.Helper()
	var err error
	o.DSN, err = broker.ParseDSN(s.node.DSN(s.vhost))
	s.must(err)
	var core *broker.Core
	wait(s.t, "the broker to let the core in", func() bool {
		core, err = broker.OpenCore(s.t.Context(), o)
		return err == nil
	})
	s.t.Cleanup(func() { _ = core.Close() })
	return core
}

// job builds a body; fields are further JSON members.
func job(id, action, fields string) []byte {
	if fields != "" {
		fields = "," + fields
	}
	return fmt.Appendf(nil, `{"schema":1,"job_id":%q,"action":%q%s}`, id, action, fields)
}

// ask sends bodies by their ids and returns the answers.
func (s *site) ask(core *broker.Core, bodies map[string][]byte) map[string]jobs.Result {
	s.t.Helper()
	for id, body := range bodies {
		s.must(core.Submit(s.t.Context(), broker.CoreMessage{Queue: "usm_poller-sat-7", ID: id, Body: body}))
	}
	return s.collect(core, len(bodies))
}

// collect waits for the answers to n messages, by their correlation ids. Two
// answers to one message must say the same.
func (s *site) collect(core *broker.Core, n int) map[string]jobs.Result {
	s.t.Helper()
	got := make(map[string]jobs.Result)
	idle := time.NewTimer(patience)
	defer idle.Stop()
	for len(got) < n {
		select {
		case a, ok := <-core.Answers():
			if !ok {
				s.t.Fatalf("the core's connection ended after %d of %d answers: %v", len(got), n, core.Err())
			}
			if a.Err != nil {
				s.t.Fatalf("message %s: %v", a.ID, a.Err)
			}
			idle.Reset(patience)
			s.add(got, a)
		case <-idle.C:
			s.t.Fatalf("%d of %d answers, and none for %s", len(got), n, patience)
		}
	}
	return got
}

func (s *site) add(got map[string]jobs.Result, a broker.CoreAnswer) {
	s.t.Helper()
	var r jobs.Result
	if err := json.Unmarshal(a.Body, &r); err != nil {
		s.t.Fatalf("%v: %s", err, a.Body)
	}
	if bytes.Contains(a.Body, []byte(canary)) {
		s.t.Errorf("a secret is in a result: %s", a.Body)
	}
	old, seen := got[a.ID]
	if seen && (old.Status != r.Status || old.Attempts == r.Attempts && !old.FinishedAt.Equal(r.FinishedAt.Time)) {
		s.t.Errorf("job %s was answered twice, and differently: %s and %s", a.ID, old.Status, r.Status)
	}
	got[a.ID] = r
}

// answered sends one job and waits for its answer, which must have come by
// this transport.
func (s *site) answered(core *broker.Core, id, transport string) {
	s.t.Helper()
	began := time.Now()
	body := job(id, "icmp.ping", `"target":{"address":"127.0.0.1"},"params":{"count":1}`)
	s.must(core.Submit(s.t.Context(), broker.CoreMessage{Queue: "usm_poller-sat-7", ID: id, Body: body}))
	for {
		got := s.collect(core, 1)
		if r, ok := got[id]; ok {
			allOK(s.t, got, transport)
			s.t.Logf("%s: answered after %s, attempt %d, from store: %t", id, time.Since(began).Round(time.Millisecond), r.Attempts, r.FromStore)
			return
		} // else the answer to an earlier job again, whose acknowledgement was lost
	}
}

// hub starts a hub in front of the site's broker; settings connect a satellite.
func (s *site) hub() (p *process, port int, settings []string) {
	s.t.Helper()
	return s.hubTo(s.node.Port)
}

func (s *site) hubTo(broker int) (p *process, port int, settings []string) {
	s.t.Helper()
	dir := s.t.TempDir()
	hubKey, key, psk := tunnel.NewPrivateKey(), tunnel.NewPrivateKey(), tunnel.NewPresharedKey()
	peers := fmt.Sprintf("[Peer]\n# Name = sat-7\nPublicKey = %s\nPresharedKey = %s\nAllowedIPs = 10.77.0.7/32\n", key.Public(), psk.Reveal())
	s.must(os.WriteFile(filepath.Join(dir, "peers"), []byte(peers), 0o600))
	port = lab.Port()
	p = s.startHub(dir, hubKey, port, broker)
	return p, port, []string{
		"USM_WG_PRIVATE_KEY", key.Reveal(), "USM_WG_ADDRESS", "10.77.0.7/32", "USM_WG_PEER_PUBLIC_KEY", hubKey.Public().String(),
		"USM_WG_PRESHARED_KEY", psk.Reveal(), "USM_WG_ENDPOINT", "127.0.0.1:" + strconv.Itoa(port), "USM_WG_BROKER", "10.77.0.1:5672",
	}
}

func (s *site) startHub(dir string, key tunnel.PrivateKey, port, broker int) *process {
	s.t.Helper()
	p := start(s.t, []string{"hub"}, map[string]string{
		"USM_HUB_PRIVATE_KEY": key.Reveal(), "USM_HUB_LISTEN": ":" + strconv.Itoa(port), "USM_STATE_DIR": dir,
		"USM_HUB_BROKER": "127.0.0.1:" + strconv.Itoa(broker), "USM_HUB_PEERS_FILE": filepath.Join(dir, "peers"),
	})
	p.says(s.t, "hub is up")
	return p
}

// command runs the binary to its end.
func command(t *testing.T, args []string, env map[string]string) (output string, code int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Env = []string{"PATH=/usr/bin:/bin"}
	for k, v := range env {
		cmd.Env = append(cmd.Env, k+"="+v)
	}
	out, err := cmd.CombinedOutput()
	if ctx.Err() != nil {
		t.Fatalf("%v does not end; it said: %s", args, out)
	}
	if strings.Contains(string(out), canary) {
		t.Errorf("a secret is in the output of %v: %s", args, out)
	}
	if cmd.ProcessState == nil {
		t.Fatal(err)
	}
	return string(out), cmd.ProcessState.ExitCode()
}
