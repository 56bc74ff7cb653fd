package drivers

import (
	"cmp"
	"context"
	"encoding/json"
	"maps"
	"math"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"usm-satellite/deploy/lab"
	"usm-satellite/jobs"
)

// conformer is a row of the table driver x demand: what an action needs to be
// met with a good device and with bad ones. A family adds its rows in a file
// of its own, conformance_<family>_test.go, and lists them in conformers.
type conformer struct {
	action string
	params string // JSON: a job that a good device does well
	// start starts the good device, and returns its port on 127.0.0.1 (0: the
	// action has no port). It is called once for all rows with the same start.
	start     startFunc
	network   string // of that port: "udp" or "tcp"
	login     string // JSON of the credential; "": the action takes none
	wrong     string // JSON of one that the device refuses
	huge      string // params of a job whose answer is long; "": params
	hugeLimit int    // bytes of a result for huge; 0: 64 KiB
	// anonymous: the action does without a credential where the device does.
	anonymous bool
	dropFrom  int // answers (UDP) or bytes (TCP) of the device after which it falls silent or hangs up
	// not has the demands that cannot be made of this action, with the reason.
	not map[string]string
	// own has demands that are met in another way than those of all actions.
	own map[string]func(t *testing.T, c conformer)
	// elsewhere has demands that a test of the driver's own package meets.
	elsewhere map[string]string

	seen *tally
}

// name tells rows of one action apart.
func (c conformer) name() string {
	if c.start.name == "" {
		return c.action
	}
	return c.action + " at " + c.start.name
}

type startFunc struct {
	name string
	run  func(t *testing.T) (port int)
}

// conformers lists the rows of all families.
func conformers() []conformer {
	return slices.Concat(reachRows(), snmpRows(), consoleRows(), netconfRows(), networkRows(), routerosRows(), discoverRows())
}

// canary is the password of every wrong credential: it must be found nowhere.
const canary = "canary-5ecret-canary"

func secrets() []string {
	return []string{canary, lab.AuthPassword, lab.PrivPassword, lab.ConsolePassword, lab.EnablePassword}
}

// Most that a driver may take to return after its job has ended: by the
// contract, which holds on a quiet machine and is what CONFORMANCE_STRICT asks
// for, and on a busy one.
const (
	contractLimit = 100 * time.Millisecond
	returnLimit   = 5 * time.Second
)

type demand struct {
	name string
	test func(t *testing.T, c conformer, port int)
}

func demands() []demand {
	return []demand{
		{"good device", goodDevice},
		{"refused", refusedDevice},
		{"silent", silentDevice},
		{"slow", slowDevice},
		{"garbled", garbledDevice},
		{"dropped in the middle", droppedDevice},
		{cancelled, cancelledJob},
		{"unknown parameter", unknownParameter},
		{wrongLogin, wrongCredential},
		{"huge answer", hugeAnswer},
	}
}

const (
	cancelled  = "cancelled"
	wrongLogin = "wrong credential"
)

// Every job of the table is looked through for secrets in what came out, and
// for goroutines that were left behind.
func TestConformance(t *testing.T) {
	rows := conformers()
	registry, closeAll := All(Options{Network: loopback(), StateDir: t.TempDir()})
	closeAll()
	for action := range registry {
		if !slices.ContainsFunc(rows, func(c conformer) bool { return c.action == action }) {
			t.Errorf("%s has no row in the conformance table: add one in conformance_<family>_test.go", action)
		}
	}
	slices.SortStableFunc(rows, func(a, b conformer) int { return strings.Compare(a.action, b.action) })
	ports, all, parent := make(map[string]int), &board{}, t
	for _, c := range rows {
		c.seen = &tally{}
		t.Run(c.name(), func(t *testing.T) {
			if _, ok := registry[c.action]; !ok {
				t.Fatalf("is no action of this build")
			}
			c.check(t)
			port, started := ports[c.start.name]
			if !started && c.start.run != nil {
				port = c.start.run(parent)
				ports[c.start.name] = port
			}
			all.begin(c)
			for _, d := range demands() {
				all.note(t.Run(d.name, func(t *testing.T) { c.meet(t, d, port) }), c, d.name)
			}
			all.end(c)
		})
	}
	all.print(os.Stdout)
}

// meet makes a demand of an action, unless there is a reason not to.
func (c conformer) meet(t *testing.T, d demand, port int) {
	t.Helper()
	switch {
	case c.not[d.name] != "":
		t.Logf("not applicable: %s", c.not[d.name])
	case c.elsewhere[d.name] != "":
		t.Logf("met by %s", c.elsewhere[d.name])
	case c.own[d.name] != nil:
		c.own[d.name](t, c)
	default:
		d.test(t, c, port)
	}
}

// attempted is what came of one job.
type attempted struct {
	out   jobs.Output
	data  string // JSON
	fault *jobs.Fault
	took  time.Duration
	ended time.Time
}

// attempt runs a job with drivers of its own, which are closed after it.
func attempt(t *testing.T, ctx context.Context, c conformer, change map[string]any) attempted { //nolint:revive // t comes first in tests
	t.Helper()
	before := goleak.IgnoreCurrent()
	network := loopback()
	network.Policy.Targets = append(network.Policy.Targets, netip.MustParsePrefix("192.0.2.0/24")) // see ways
	registry, closeAll := All(Options{Network: network, StateDir: t.TempDir()})
	r := runOne(t, ctx, registry, c, change)
	closeAll()
	c.seen.jobs++
	const ours = "usm-satellite/drivers.(*relay)."
	var leaks error
	for until := time.Now().Add(30 * time.Second); time.Now().Before(until); {
		leaks = goleak.Find(before, goleak.IgnoreAnyFunction(ours+"packets"), goleak.IgnoreAnyFunction(ours+"answers"),
			goleak.IgnoreAnyFunction(ours+"connections"), goleak.IgnoreAnyFunction(ours+"copy"))
		if leaks == nil {
			break
		}
	}
	if leaks != nil {
		c.seen.leaks++
		t.Errorf("goroutines are left behind: %v", leaks)
	}
	all, err := json.Marshal(map[string]any{"data": r.out.Data, "learned": r.out.Learned, "warnings": r.out.Warnings, "fault": r.fault})
	if err != nil {
		t.Fatal(err)
	}
	for _, secret := range secrets() {
		if strings.Contains(string(all), secret) {
			c.seen.secrets++
			t.Errorf("the secret %q is in what came out: %.500s", secret, all)
		}
	}
	if r.fault != nil {
		t.Logf("%.1f s: %s at %s: %s", r.took.Seconds(), r.fault.Code, r.fault.Stage, r.fault.Message)
		if r.fault.Code == jobs.CodeInternal {
			t.Errorf("the cause is not named: %v", r.fault)
		}
	}
	return r
}

func runOne(t *testing.T, ctx context.Context, registry jobs.Registry, c conformer, change map[string]any) attempted { //nolint:revive // t comes first in tests
	t.Helper()
	body := map[string]any{
		"schema": 1, "job_id": "conformance", "action": c.action, "timeout_ms": 60000, "class": "read",
		"target": map[string]any{"address": "127.0.0.1"}, "params": json.RawMessage(c.params),
	}
	if c.login != "" {
		body["credentials"] = []json.RawMessage{json.RawMessage(c.login)}
	}
	if registry[c.action].Class == jobs.Write && !registry[c.action].Asks {
		body["class"] = "write"
	}
	maps.Copy(body, change)
	text, err := json.Marshal(body)
	if err != nil {
		t.Fatal(err)
	}
	job, fault := jobs.Decode(text)
	if fault != nil {
		t.Fatal(fault)
	}
	action, fault := registry.Judge(job)
	if fault != nil {
		return attempted{fault: fault}
	}
	ctx, cancel := context.WithTimeoutCause(ctx, job.Timeout, jobs.ErrTimeout)
	defer cancel()
	began := time.Now()
	out, err := action.Driver.Run(ctx, job)
	r := attempted{out: out, took: time.Since(began), ended: time.Now()}
	if err != nil {
		r.fault = jobs.FaultOf(ctx, err)
	}
	encoded, err := json.Marshal(out.Data)
	if err != nil {
		t.Fatal(err)
	}
	r.data = string(encoded)
	return r
}

func at(port int) map[string]any {
	if port == 0 {
		return map[string]any{}
	}
	return map[string]any{"target": map[string]any{"address": "127.0.0.1", "port": port}}
}

func with(change map[string]any, name string, value any) map[string]any {
	change[name] = value
	return change
}

func goodDevice(t *testing.T, c conformer, port int) {
	r := attempt(t, t.Context(), c, at(port))
	if r.fault != nil || len(r.data) < 10 || r.out.Partial || r.out.Truncated {
		t.Errorf("got %v, %s", r.fault, r.data)
	}
}

func refusedDevice(t *testing.T, c conformer, _ int) {
	r := attempt(t, t.Context(), c, at(lab.Port()))
	if r.fault == nil || r.fault.Code != jobs.CodeRefused && r.fault.Code != jobs.CodeUnreachable {
		t.Errorf("got %v", r.fault)
	}
}

func silentDevice(t *testing.T, c conformer, port int) {
	path := newRelay(t, c.network, port, relayFault{silent: true})
	r := attempt(t, t.Context(), c, with(at(path.port), "timeout_ms", 1000))
	path.close()
	if r.fault == nil || r.fault.Code != jobs.CodeTimeout {
		t.Errorf("got %v", r.fault)
	}
	if r.took > 30*time.Second {
		t.Errorf("a job of 1 s took %s", r.took)
	}
}

func slowDevice(t *testing.T, c conformer, port int) {
	path := newRelay(t, c.network, port, relayFault{delay: 150 * time.Millisecond})
	r := attempt(t, t.Context(), c, at(path.port))
	path.close()
	if r.fault != nil || len(r.data) < 10 {
		t.Errorf("got %v, %s", r.fault, r.data)
	}
}

func garbledDevice(t *testing.T, c conformer, port int) {
	path := newRelay(t, c.network, port, relayFault{garble: true})
	r := attempt(t, t.Context(), c, with(at(path.port), "timeout_ms", 3000))
	path.close()
	if r.fault == nil {
		t.Errorf("garbage was taken for %s", r.data)
	}
	if r.took > 30*time.Second {
		t.Errorf("a job of 3 s took %s", r.took)
	}
}

func droppedDevice(t *testing.T, c conformer, port int) {
	path := newRelay(t, c.network, port, relayFault{drop: true, after: c.dropFrom})
	r := attempt(t, t.Context(), c, with(at(path.port), "timeout_ms", 3000))
	path.close()
	if r.fault == nil {
		t.Errorf("half an answer was taken for %s", r.data)
	}
	if r.took > 30*time.Second {
		t.Errorf("a job of 3 s took %s", r.took)
	}
}

func cancelledJob(t *testing.T, c conformer, port int) {
	cancelDuring(t, c, func() (map[string]any, <-chan struct{}) {
		path := newRelay(t, c.network, port, relayFault{silent: true})
		return at(path.port), path.spoken
	})
	if c.dropFrom > 0 { // and in the middle of what the device says
		cancelDuring(t, c, func() (map[string]any, <-chan struct{}) {
			path := newRelay(t, c.network, port, relayFault{stall: true, after: c.dropFrom})
			return at(path.port), path.stalled
		})
	}
}

// cancelDuring cancels a job that would wait for ever, when it is under way.
// begin says what it is to wait for, and when that has begun. A machine that is
// busy may be late: the best of a few tries is the driver's own time.
func cancelDuring(t *testing.T, c conformer, begin func() (change map[string]any, underWay <-chan struct{})) {
	t.Helper()
	limit := returnLimit
	if _, strict := os.LookupEnv("CONFORMANCE_STRICT"); strict {
		limit = contractLimit
	}
	best := time.Duration(math.MaxInt64)
	for range 5 {
		change, underWay := begin()
		best = min(best, cancelOnce(t, c, change, underWay))
		if best <= contractLimit || t.Failed() {
			break
		}
	}
	t.Logf("returned %s after", best.Round(100*time.Microsecond))
	c.seen.cancelled = max(c.seen.cancelled, best)
	if best > limit {
		t.Errorf("returned %s after the job was cancelled", best)
	}
}

func cancelOnce(t *testing.T, c conformer, change map[string]any, underWay <-chan struct{}) time.Duration {
	t.Helper()
	ctx, cancel := context.WithCancelCause(t.Context())
	defer cancel(nil)
	at := make(chan time.Time, 1)
	go func() {
		select {
		case <-underWay:
		case <-time.After(30 * time.Second):
		}
		at <- time.Now()
		cancel(jobs.ErrCancelled)
	}()
	r := attempt(t, ctx, c, change)
	if r.fault == nil || r.fault.Code != jobs.CodeCancelled {
		t.Errorf("got %v", r.fault)
	}
	return r.ended.Sub(<-at)
}

func unknownParameter(t *testing.T, c conformer, port int) {
	r := attempt(t, t.Context(), c, with(at(port), "params", json.RawMessage(`{"no_such_parameter":1}`)))
	if r.fault == nil || r.fault.Code != jobs.CodeInvalidJob || !strings.Contains(r.fault.Message, "no_such_parameter") {
		t.Errorf("got %v", r.fault)
	}
}

func wrongCredential(t *testing.T, c conformer, port int) {
	r := attempt(t, t.Context(), c, with(at(port), "credentials", []json.RawMessage{json.RawMessage(c.wrong)}))
	if r.fault == nil || r.fault.Code != jobs.CodeAuthFailed {
		t.Errorf("got %v", r.fault)
	}
	if c.anonymous {
		return
	}
	r = attempt(t, t.Context(), c, with(at(port), "credentials", []json.RawMessage{}))
	if r.fault == nil || r.fault.Code != jobs.CodeNoCredentials {
		t.Errorf("without a credential: got %v", r.fault)
	}
}

func hugeAnswer(t *testing.T, c conformer, port int) {
	limit := cmp.Or(c.hugeLimit, 64<<10)
	change := at(port)
	if c.huge != "" {
		change["params"] = json.RawMessage(c.huge)
	}
	change["limits"] = map[string]any{"max_result_bytes": limit}
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	r := attempt(t, t.Context(), c, change)
	runtime.ReadMemStats(&after)
	if r.fault != nil && r.fault.Code != jobs.CodeResultTooLarge {
		t.Errorf("got %v", r.fault)
	}
	if len(r.data) > 2*limit {
		t.Errorf("the result has %d bytes, the job allows %d", len(r.data), limit)
	}
	if r.fault == nil && c.huge != "" && !r.out.Truncated {
		t.Errorf("%d bytes of a long answer came, and nothing says that it was cut", len(r.data))
	}
	if used := after.TotalAlloc - before.TotalAlloc; used > 256<<20 {
		t.Errorf("%d MiB were allocated for it", used>>20)
	}
}
