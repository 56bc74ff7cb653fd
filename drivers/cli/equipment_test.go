package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"usm-satellite/deploy/lab"
	"usm-satellite/drivers/secureshell"
	"usm-satellite/jobs"
)

// long is how long a condition may take on a slow and busy machine.
const long = 60 * time.Second

const (
	loginPassword  = lab.ConsolePassword
	enablePassword = lab.EnablePassword
)

// device is one to run jobs on.
type device struct {
	t       *testing.T
	dir     string // of the switch script
	port    int
	actions jobs.Registry
	state   string
	noLeaks bool // no result may hold the tests' secrets
}

func newDevice(t *testing.T) *device {
	t.Helper()
	d := &device{t: t, dir: t.TempDir(), state: t.TempDir(), noLeaks: true}
	d.use(0)
	return d
}

func loopback() *jobs.Network {
	return &jobs.Network{Policy: &jobs.Policy{Targets: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}}}
}

// use takes a new driver, as after a start of the satellite.
func (d *device) use(idle time.Duration) {
	driver := New(Options{
		Network: loopback(), Idle: idle,
		SSH: secureshell.New(secureshell.Options{Network: loopback(), StateDir: d.state}),
	})
	d.t.Cleanup(driver.Close)
	d.actions = driver.Actions()
}

// switchScript puts the switch into d.dir.
func (d *device) switchScript() string {
	d.t.Helper()
	path, err := lab.WriteSwitch(d.dir)
	if err != nil {
		d.t.Fatal(err)
	}
	return path
}

// console takes what a start function of the lab has started.
func (d *device) console(c *lab.Console, err error) {
	d.t.Helper()
	if err != nil {
		d.t.Fatal(err)
	}
	d.t.Cleanup(func() { c.Close() })
	d.port = c.Port
}

func (d *device) file(name string) string {
	b, _ := os.ReadFile(filepath.Join(d.dir, name))
	return string(b)
}

// telnetSwitch is the script under busybox telnetd.
func telnetSwitch(t *testing.T) *device {
	t.Helper()
	d := newDevice(t)
	d.console(lab.StartTelnetSwitch(t.Context(), d.dir))
	return d
}

// answer is a result as a core would read it.
type answer struct {
	jobs.Output
	Steps      []Step `json:"steps"`
	Prompt     string `json:"prompt"`
	Transcript string `json:"transcript"`
	Config     string `json:"config"`
	SHA256     string `json:"sha256"`
	Stdout     string `json:"stdout"`
	Stderr     string `json:"stderr"`
	ExitCode   *int   `json:"exit_code"`
	fault      *jobs.Fault
	raw        string
}

// do runs a job as the dispatcher would.
func (d *device) do(action string, params map[string]any, change ...func(*jobs.Job)) *answer {
	d.t.Helper()
	return d.doCtx(d.t.Context(), action, params, change...)
}

func (d *device) doCtx(ctx context.Context, action string, params map[string]any, change ...func(*jobs.Job)) *answer {
	d.t.Helper()
	raw, err := json.Marshal(params)
	if err != nil {
		d.t.Fatal(err)
	}
	job := &jobs.Job{
		ID: "t", Action: action, Params: raw, Timeout: long,
		Target: jobs.Target{Address: "127.0.0.1", Port: d.port},
		Credentials: []jobs.Credential{{Login: &jobs.LoginCredential{
			Username: "admin", Password: jobs.NewSecret(loginPassword), EnablePassword: jobs.NewSecret(enablePassword),
		}}},
	}
	for _, c := range change {
		c(job)
	}
	got := &answer{}
	a, fault := d.actions.Judge(job)
	if fault != nil {
		got.fault = fault
		return got
	}
	ctx, cancel := context.WithTimeoutCause(ctx, job.Timeout, jobs.ErrTimeout)
	defer cancel()
	out, err := a.Driver.Run(ctx, job)
	if err != nil {
		got.fault = jobs.FaultOf(ctx, err)
		var named *jobs.Fault
		if !errors.As(err, &named) {
			d.t.Errorf("an error that is no fault: %v", err)
		}
	}
	got.Output = out
	data, err := json.Marshal(out.Data)
	if err != nil {
		d.t.Fatal(err)
	}
	got.raw = string(data)
	if out.Data != nil {
		if err := json.Unmarshal(data, got); err != nil {
			d.t.Fatal(err)
		}
	}
	if d.noLeaks {
		d.noSecrets(got)
	}
	return got
}

// noSecrets looks for the credentials in all that the job gave.
func (d *device) noSecrets(got *answer) {
	d.t.Helper()
	all := got.raw + strings.Join(got.Warnings, " ")
	if got.fault != nil {
		all += got.fault.Error()
	}
	for _, secret := range []string{loginPassword, enablePassword} {
		if strings.Contains(all, secret) {
			d.t.Errorf("a secret is in the result: %s", all)
		}
	}
}

// ok demands that there was no fault.
func (a *answer) ok(t *testing.T) *answer {
	t.Helper()
	if a.fault != nil {
		t.Fatalf("failed with %v (stage %s); data %s", a.fault, a.fault.Stage, clip(a.raw, 2000))
	}
	return a
}

// failed demands a fault of a code and a stage.
func (a *answer) failed(t *testing.T, code jobs.Code, stage jobs.Stage) *answer {
	t.Helper()
	if a.fault == nil || a.fault.Code != code || a.fault.Stage != stage {
		got := "no fault"
		if a.fault != nil {
			got = fmt.Sprintf("%v (stage %s)", a.fault, a.fault.Stage)
		}
		t.Fatalf("got %s, want %s at stage %s; data %s", got, code, stage, clip(a.raw, 2000))
	}
	return a
}

func timeout(limit time.Duration) func(*jobs.Job) {
	return func(j *jobs.Job) { j.Timeout = limit }
}

func loginAs(user, password string) jobs.Credential {
	return jobs.Credential{Login: &jobs.LoginCredential{Username: user, Password: jobs.NewSecret(password)}}
}
