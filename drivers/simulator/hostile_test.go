package simulator_test

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"usm-satellite/drivers"
	"usm-satellite/drivers/simulator"
	"usm-satellite/jobs"
)

// TestMain lets more tests wait at once than there are cores: waiting is most
// of what they do.
func TestMain(m *testing.M) {
	flag.Parse()
	if err := flag.Set("test.parallel", "16"); err != nil {
		panic(err)
	}
	goleak.VerifyTestMain(m)
}

// work is a job that a good device does well.
type work struct {
	name       string // action, and by what
	service    simulator.Service
	credential string
	params     string
	write      bool
}

func works() []work {
	const (
		login = `{"login":{"username":"admin","password":"admin","enable_password":"enable"}}`
		read  = `{"snmp":{"version":"2c","community":"public"}}`
		write = `{"snmp":{"version":"2c","community":"private"}}`
	)
	return []work{
		{"snmp.get", simulator.SNMP, read, `{"oids":["1.3.6.1.2.1.1.1.0"]}`, false},
		{"snmp.walk", simulator.SNMP, read, `{"root":"1.3.6.1.2.1"}`, false},
		{"snmp.table", simulator.SNMP, read, `{"columns":["1.3.6.1.2.1.2.2.1.2"]}`, false},
		{"discover.lldp", simulator.SNMP, read, `{}`, false},
		{"snmp.set", simulator.SNMP, write, `{"varbinds":[{"oid":"1.3.6.1.2.1.1.6.0","type":"OctetString","value":"rack 4"}]}`, true},
		{"cli.run telnet", simulator.Telnet, login, `{"transport":"telnet","platform":"cisco_ios","commands":["show version"]}`, false},
		{"config.backup telnet", simulator.Telnet, login, `{"transport":"telnet","platform":"cisco_ios"}`, false},
		{"cli.configure telnet", simulator.Telnet, login, `{"transport":"telnet","platform":"cisco_ios","commands":["hostname x"]}`, true},
		{"cli.run ssh", simulator.SSH, login, `{"platform":"cisco_ios","commands":["show version"]}`, false},
		{"ssh.exec", simulator.SSH, login, `{"command":"show version"}`, false},
		{"http.request GET", simulator.HTTP, "", `{"scheme":"http","path":"/status"}`, false},
		{"http.request POST", simulator.HTTP, "", `{"scheme":"http","path":"/status","method":"POST","body":"reboot"}`, true},
	}
}

// receipt takes the result of one job.
type receipt struct{ body []byte }

func (r *receipt) Live() bool { return true }
func (r *receipt) Ack()       {}
func (r *receipt) Requeue()   {}
func (r *receipt) Reject()    {}
func (r *receipt) Publish(_ context.Context, m jobs.Message) error {
	if m.Type == jobs.TypeResult {
		r.body = m.Body
	}
	return nil
}

const resultLimit = 100_000 // bytes

func (w *work) run(t *testing.T, d *jobs.Dispatcher, device string, port int, limit time.Duration) (jobs.Result, time.Duration) {
	t.Helper()
	action, _, _ := strings.Cut(w.name, " ")
	class := "read"
	if w.write {
		class = "write"
	}
	r, id := &receipt{}, strings.ReplaceAll(device+"-"+w.name, " ", "-")
	began := time.Now()
	d.Handle(t.Context(), &jobs.Delivery{Receipt: r, ReceivedAt: began, Body: fmt.Appendf(nil,
		`{"schema":1,"job_id":%q,"class":%q,"action":%q,"timeout_ms":%d,"limits":{"max_result_bytes":%d},"target":{"address":"127.0.0.1","port":%d,"device_id":%q},"credentials":[%s],"params":%s}`,
		id, class, action, limit.Milliseconds(), resultLimit, port, id, w.credential, w.params)})
	took := time.Since(began)
	var result jobs.Result
	if err := json.Unmarshal(r.body, &result); err != nil {
		t.Fatalf("%v in %s", err, r.body)
	}
	return result, took
}

const (
	brief = 1500 * time.Millisecond // of jobs that last as long as they may
	long  = time.Minute             // of jobs that end by themselves
	grace = 30 * time.Second        // of a busy machine
)

// meeting is what comes of some jobs at a profile: status and code, and what
// else a busy machine may make of it.
type meeting struct {
	profile string
	limit   time.Duration
	want    []string
	works   []string // the beginnings of their names
}

func meetings() []meeting {
	var (
		refused    = []string{"failed refused"}
		silent     = []string{"timeout timeout"}
		nonsense   = []string{"failed protocol_error"}
		unreadable = []string{"failed protocol_error", "failed unreachable"}
		tooMuch    = []string{"failed protocol_error", "failed prompt_not_found"} // in so many bytes, or in so much time
		gone       = []string{"failed unreachable"}
		perhaps    = []string{"indeterminate interrupted_write"}
		unsure     = []string{"indeterminate interrupted_write", "timeout timeout"} // the second where it was not even sent
		some       = []string{"partial timeout", "timeout timeout"}
		good       = []string{"ok"}
		cut        = []string{"partial"}
	)
	const get, post = "http.request GET", "http.request POST"
	return []meeting{
		{"hostile-refuse", long, refused, []string{"snmp", "discover", "cli", "config", "ssh", "http"}},

		{"hostile-hang", brief, silent, []string{"snmp", "discover", "cli", "config", "ssh", get}},
		{"hostile-hang", brief, unsure, []string{post}},

		{"hostile-drip", brief, silent, []string{"snmp", "discover", "cli", "config", "ssh", get}},
		{"hostile-drip", brief, unsure, []string{post}},
		{"hostile-drip", 5 * time.Second, silent, []string{"snmp.walk"}}, // the answers come, and too late
		{"hostile-drip", long, good, []string{"snmp.get", "snmp.table"}}, // slow, and no more than that

		{"hostile-garble", long, nonsense, []string{"snmp", "discover", "cli.run ssh", "ssh", get}},
		{"hostile-garble", long, unreadable, []string{"cli.run telnet", "cli.configure", "config"}},
		{"hostile-garble", long, perhaps, []string{post}},

		{"hostile-flood", long, nonsense, []string{"snmp", "discover", "cli.run ssh", "ssh", get}},
		{"hostile-flood", long, tooMuch, []string{"cli.run telnet"}},
		{"hostile-flood", long, perhaps, []string{post}},

		{"hostile-drop", long, good, []string{"snmp.get", "snmp.set"}},
		{"hostile-drop", 5 * time.Second, some, []string{"snmp.walk", "discover"}},
		{"hostile-drop", long, gone, []string{"cli", "config", "ssh"}},
		{"hostile-drop", long, nonsense, []string{get}},
		{"hostile-drop", long, perhaps, []string{post}},

		{"hostile-endless", long, good, []string{"snmp.get", "snmp.set", get, post}},
		{"hostile-endless", long, cut, []string{"snmp.walk", "snmp.table"}},
		{"hostile-endless", long, []string{"partial", "partial timeout"}, []string{"discover"}}, // reads more than the others
		{"hostile-endless", 3 * time.Second, silent, []string{"cli.run", "config", "ssh"}},

		{"hostile-bomb", long, good, []string{get, post}},
	}
}

// TestHostileProfilesEndWithinTheLimit meets each profile with each driver, as
// a satellite would.
func TestHostileProfilesEndWithinTheLimit(t *testing.T) {
	t.Parallel()
	d := satellite(t)
	// What a driver has learned of a device, and an open session, must not
	// shorten the next meeting: one device for each limit.
	devices, seen := make(map[string]map[simulator.Service]int), make(map[string]bool)
	for _, m := range meetings() {
		device := m.profile + m.limit.String()
		if devices[device] == nil {
			devices[device] = start(t, m.profile)
		}
		for _, w := range works() {
			if !slices.ContainsFunc(m.works, func(name string) bool { return strings.HasPrefix(w.name, name) }) {
				continue
			}
			seen[m.profile] = true
			t.Run(m.profile+" "+w.name+" "+m.limit.String(), func(t *testing.T) {
				t.Parallel()
				result, took := w.run(t, d, device, devices[device][w.service], m.limit)
				got := string(result.Status)
				if result.Error != nil {
					got += " " + string(result.Error.Code)
				}
				t.Logf("%s after %s, %d bytes", got, took.Round(time.Millisecond), len(result.Data))
				if !slices.Contains(m.want, got) {
					t.Errorf("got %s, want one of %q: %v", got, m.want, result.Error)
				}
				if took > m.limit+grace {
					t.Errorf("took %s, where %s are allowed", took, m.limit)
				}
				if len(result.Data) > resultLimit {
					t.Errorf("%d bytes came, where %d are allowed", len(result.Data), resultLimit)
				}
			})
		}
	}
	for _, name := range simulator.List() {
		if strings.HasPrefix(name, "hostile-") && !seen[name] {
			t.Errorf("nobody meets %s", name)
		}
	}
}

// satellite is the inside of one.
func satellite(t *testing.T) *jobs.Dispatcher {
	t.Helper()
	network := &jobs.Network{Policy: &jobs.Policy{Targets: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}}}
	registry, closeAll := drivers.All(drivers.Options{Network: network, StateDir: t.TempDir()})
	t.Cleanup(closeAll)
	journal, err := jobs.OpenJournal(jobs.JournalOptions{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	return jobs.NewDispatcher(jobs.Options{Registry: registry, Policy: network.Policy, Journal: journal})
}
