package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"usm-satellite/deploy/lab"
)

// patience is for what happens soon, on a busy machine.
const patience = 90 * time.Second

// suite is what all tests share: the two binaries and a broker; each test has
// a virtual host of its own.
var suite struct {
	satctl, satellite string
	rabbit            *lab.Rabbit
}

func TestMain(m *testing.M) {
	if lab.Fuzzing() {
		os.Exit(m.Run())
	}
	code, err := prepared(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, "the tests of satctl need the binaries and RabbitMQ:", err)
		code = 1
	}
	os.Exit(code)
}

func prepared(m *testing.M) (int, error) {
	dir, err := os.MkdirTemp("", "satctl-test-")
	if err != nil {
		return 0, err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	build := exec.Command("go", "build", "-o", dir+string(filepath.Separator), "usm-satellite/cmd/satctl", "usm-satellite/cmd/satellite")
	if out, err := build.CombinedOutput(); err != nil {
		return 0, fmt.Errorf("go build: %w: %s", err, out)
	}
	suite.satctl, suite.satellite = filepath.Join(dir, "satctl"), filepath.Join(dir, "satellite")
	suite.rabbit, err = lab.StartRabbit(context.Background(), lab.RabbitConfig{Dir: filepath.Join(dir, "rabbit")})
	if err != nil {
		return 0, err
	}
	defer func() { _ = suite.rabbit.Close() }()
	return m.Run(), nil
}

// place is where one test works: a folder, a virtual host, and the environment
// of somebody at the core.
type place struct {
	dir, vhost string
	env        map[string]string
}

func newPlace(t *testing.T) *place {
	t.Helper()
	p := &place{dir: t.TempDir(), vhost: t.Name() + "-" + newID()} // its own in each run of the test
	if err := suite.rabbit.NewVhost(t.Context(), p.vhost); err != nil {
		t.Fatal(err)
	}
	p.env = map[string]string{"US_AMQP_DSN": suite.rabbit.DSN(p.vhost), "USM_POLLER_SATELLITE_ID": "7"}
	return p
}

func (p *place) path(name string) string { return filepath.Join(p.dir, name) }

func environment(env map[string]string) []string {
	list := make([]string, 0, len(env))
	for name, value := range env {
		list = append(list, name+"="+value)
	}
	return list
}

// satctl runs the real binary.
func (p *place) satctl(t *testing.T, stdin string, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, suite.satctl, args...)
	var out, errs bytes.Buffer
	cmd.Dir, cmd.Env, cmd.Stdin, cmd.Stdout, cmd.Stderr = p.dir, environment(p.env), strings.NewReader(stdin), &out, &errs
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return cmd.ProcessState.ExitCode(), out.String(), errs.String()
}

// must runs satctl and demands that it ends well.
func (p *place) must(t *testing.T, args ...string) string {
	t.Helper()
	code, out, errs := p.satctl(t, "", args...)
	if code != exitOK {
		t.Fatalf("satctl %s: exit code %d\n%s%s", strings.Join(args, " "), code, out, errs)
	}
	return out
}

// process starts a command of the satellite's binary; the test ends it.
func (p *place) process(t *testing.T, name string, env map[string]string, args ...string) *child {
	t.Helper()
	cmd := exec.Command(suite.satellite, args...)
	cmd.Env = environment(env)
	process, err := startChild(cmd, p.path(name+".log"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		process.stop(patience)
		if t.Failed() {
			t.Logf("the end of %s:\n%s", name, process.tail())
		}
	})
	return process
}

// eventually waits for a condition.
func eventually(t *testing.T, what string, ready func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !ready(); {
		if time.Now().After(end) {
			t.Fatalf("not within %s: %s", patience, what)
		}
		if err := pause(t.Context(), 50*time.Millisecond); err != nil {
			t.Fatal(err)
		}
	}
}

// answers reads JSON lines.
func answers(t *testing.T, out string) []map[string]any {
	t.Helper()
	var all []map[string]any
	for line := range strings.Lines(out) {
		var answer map[string]any
		if err := json.Unmarshal([]byte(line), &answer); err != nil {
			t.Fatalf("%v in %q", err, line)
		}
		all = append(all, answer)
	}
	return all
}
