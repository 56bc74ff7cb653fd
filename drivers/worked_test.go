package drivers

import (
	"context"
	"encoding/json"
	"net/netip"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"

	"usm-satellite/deploy/lab"
	"usm-satellite/jobs"
)

const handbook = "../deploy/README.md"

// workedExample is a job of the handbook, and the words for its answer.
type workedExample struct {
	action string
	job    string   // as it stands there
	fields []string // what its data has, as the first sentence after it says
}

// staging is the real device for an example.
type staging struct {
	// at is the address and port in the example ("192.0.2.10", or with a port
	// "192.0.2.10:22"); start is the server that stands in for it.
	at    string
	start startFunc
	swap  []string // more placeholders, each followed by what it stands for; PORT is the server's
	space bool     // met without a stand-in, in the network of threeSpaces
	shows string   // what the answer must hold, beside the fields
	proof string   // action of the example whose answer must hold it instead: that of a write proves little
}

// stagings has the real device for every example. Addresses, ports and
// credentials are all that it changes.
func stagings() map[string]staging {
	server := func(action string, telnet bool) startFunc {
		return conformers()[slices.IndexFunc(conformers(), func(c conformer) bool {
			return c.action == action && strings.Contains(c.params, "telnet") == telnet
		})].start
	}
	router := startFunc{"FRR", func(t *testing.T) int {
		c, err := lab.StartFRR(t.Context(), t.TempDir())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		return c.Port
	}}
	device, shell, agent := server("cli.run", false), server("ssh.exec", false), server("snmp.get", false)
	user := []string{
		"monitor", "u_s256", "example-auth-password", lab.AuthPassword, "example-priv-password", lab.PrivPassword,
	}
	password := []string{"example-password", lab.ConsolePassword}
	both := []string{"example-password", lab.ConsolePassword, "example-enable", lab.EnablePassword}
	return map[string]staging{
		"icmp.ping":     {space: true, shows: `"received":3`},
		"traceroute":    {space: true, shows: `"reached":true`},
		"arp.lookup":    {space: true, shows: "02:00:00:00:00:42"},
		"tcp.connect":   {at: "192.0.2.10:22", start: shell},
		"discover.scan": {start: shell, swap: []string{"192.0.2.0/28", "127.0.0.1/32", "tcp:22", "tcp:PORT"}, shows: `"PORT":"open"`},
		"discover.lldp": {at: "192.0.2.10", start: server("discover.lldp", false), shows: `"address":"` + lab.LLDPPeerIPv4 + `"`},
		"dns.query":     {at: "192.0.2.53", start: server("dns.query", false), shows: "192.0.2.1"},
		"http.request":  {at: "192.0.2.10", start: server("http.request", false), shows: "the page of sw1"},
		"snmp.get":      {at: "192.0.2.10", start: agent, swap: []string{"example-read", lab.Community}, shows: "TimeTicks"},
		"snmp.walk":     {at: "192.0.2.10", start: agent, swap: user, shows: "1.3.6.1.2.1.1.3.0"},
		"snmp.table":    {at: "192.0.2.10", start: agent, shows: "1.3.6.1.2.1.2.2.1.8"},
		"snmp.set":      {at: "192.0.2.10", start: agent, swap: []string{"example-write", lab.WriteCommunity}, shows: "mast 4", proof: "snmp.walk"},
		"ssh.exec":      {at: "192.0.2.10", start: shell, swap: password, shows: "Linux"},
		"cli.run":       {at: "192.0.2.20", start: router, swap: both, shows: "hostname core-rt1"},
		"cli.configure": {at: "192.0.2.10", start: device, swap: both, shows: `GigabitEthernet0/1\ndescription uplink`, proof: "config.backup"},
		"config.backup": {at: "192.0.2.10", start: device, shows: "interface GigabitEthernet0/48"},
		"netconf.rpc":   {at: "192.0.2.30", start: server("netconf.rpc", false), swap: password, shows: "acknowledged"},
		"routeros.call": {at: "192.0.2.31", start: server("routeros.call", false), shows: "ether1"},
	}
}

// secretFiles are those that the examples refer to.
func secretFiles(ref string) (jobs.Credential, *jobs.Fault) {
	login := &jobs.LoginCredential{
		Username: lab.ConsoleUser, Password: jobs.NewSecret(lab.ConsolePassword), EnablePassword: jobs.NewSecret(lab.EnablePassword),
	}
	switch ref {
	case "switches", "mikrotik":
		return jobs.Credential{Login: login}, nil
	case "switches-snmp":
		return jobs.Credential{SNMP: &jobs.SNMPCredential{Version: "2c", Community: jobs.NewSecret(lab.Community)}}, nil
	default:
		return jobs.Credential{}, jobs.Faultf(jobs.CodeNoCredentials, jobs.StageCredentials, "credentials: there is no secret %q", ref)
	}
}

// workedExamples reads the handbook: a job in a fenced block, then a paragraph
// that begins with "Answer:" and names fields of the data in its first
// sentence.
func workedExamples(t *testing.T) []workedExample {
	t.Helper()
	text, err := os.ReadFile(handbook)
	if err != nil {
		t.Fatal(err)
	}
	whole := string(text)
	block := regexp.MustCompile("(?s)### ([a-z.]+)\n\n```json job\n(.*?)\n```\n\nAnswer: (.*?)(?:[.;][ \n])")
	word := regexp.MustCompile("`([a-z0-9_]+)`")
	var all []workedExample
	for _, m := range block.FindAllStringSubmatch(whole, -1) {
		e := workedExample{action: m[1], job: m[2]}
		for _, f := range word.FindAllStringSubmatch(m[3], -1) {
			e.fields = append(e.fields, f[1])
		}
		all = append(all, e)
	}
	if blocks := strings.Count(whole, "```json job\n"); blocks != len(all) {
		t.Errorf("%s has %d jobs, %d of them under a heading with their action and with an answer after them", handbook, blocks, len(all))
	}
	return all
}

// stage puts the real device's address, port and credentials in the place of
// the placeholders. One that is not there is an error: the table would no
// longer be that of the handbook.
func stage(t *testing.T, job string, s staging, port int) string {
	t.Helper()
	swap := slices.Clone(s.swap)
	if s.at != "" {
		address, old, found := strings.Cut(s.at, ":")
		from := `"address": "` + address + `"`
		if found {
			from += `, "port": ` + old
		}
		swap = append(swap, from, `"address": "127.0.0.1", "port": PORT`)
	}
	for pair := range slices.Chunk(swap, 2) {
		if strings.Count(job, pair[0]) != 1 {
			t.Fatalf("the placeholder %s is not there once in\n%s", pair[0], job)
		}
		job = strings.ReplaceAll(job, pair[0], strings.ReplaceAll(pair[1], "PORT", strconv.Itoa(port)))
	}
	return job
}

// TestWorkedExamples runs every example of the handbook.
func TestWorkedExamples(t *testing.T) {
	examples := workedExamples(t)
	open := &jobs.Network{Policy: &jobs.Policy{Targets: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("192.0.2.0/24")}}}
	registry, closeAll := All(Options{Network: open, StateDir: t.TempDir(), Secret: secretFiles})
	defer closeAll()
	for action := range registry {
		if !slices.ContainsFunc(examples, func(e workedExample) bool { return e.action == action }) {
			t.Errorf("%s has no example of %s under \"One example of each action\"", handbook, action)
		}
	}
	schema, err := jsonschema.NewCompiler().Compile("../jobs/schema/job.schema.json")
	if err != nil {
		t.Fatal(err)
	}
	space := threeSpaces(t)
	ports, parent := make(map[string]int), t
	for _, e := range examples {
		t.Run(e.action, func(t *testing.T) {
			s, ok := stagings()[e.action]
			if !ok {
				t.Fatal("stagings has no real device for it")
			}
			asItStands(t, registry, schema, e)
			port, started := ports[s.start.name]
			if !started && s.start.run != nil {
				port = s.start.run(parent)
				ports[s.start.name] = port
			}
			if s.space {
				enter(t, space)
			}
			answer := workExample(t, registry, stage(t, e.job, s, port))
			e.holds(t, answer)
			if i := slices.IndexFunc(examples, func(p workedExample) bool { return p.action == s.proof }); i >= 0 {
				answer = workExample(t, registry, stage(t, examples[i].job, stagings()[s.proof], port))
			} else if s.proof != "" {
				t.Fatalf("there is no example of %s to prove it with", s.proof)
			}
			if shows := strings.ReplaceAll(s.shows, "PORT", strconv.Itoa(port)); !strings.Contains(answer, shows) {
				t.Errorf("%s is not in the answer: %s", shows, answer)
			}
		})
	}
}

// asItStands judges an example before anything is swapped in it.
func asItStands(t *testing.T, registry jobs.Registry, schema *jsonschema.Schema, e workedExample) {
	t.Helper()
	doc, err := jsonschema.UnmarshalJSON(strings.NewReader(e.job))
	if err == nil {
		err = schema.Validate(doc)
	}
	if err != nil {
		t.Errorf("it is not what job.schema.json says: %v", err)
	}
	job, fault := jobs.Decode([]byte(e.job))
	if fault == nil {
		_, fault = registry.Judge(job)
	}
	if fault != nil {
		t.Fatalf("the satellite refuses it: %v", fault)
	}
	if job.Action != e.action {
		t.Errorf("the job under the heading %s is %s", e.action, job.Action)
	}
}

// workExample runs a job, and returns all that it sent, as JSON.
func workExample(t *testing.T, registry jobs.Registry, body string) string {
	t.Helper()
	job, fault := jobs.Decode([]byte(body))
	if fault != nil {
		t.Fatal(fault)
	}
	action, fault := registry.Judge(job)
	if fault != nil {
		t.Fatal(fault)
	}
	ctx, cancel := context.WithTimeoutCause(t.Context(), job.Timeout, jobs.ErrTimeout)
	defer cancel()
	var sent []any
	out, err := action.Driver.Run(jobs.WithEmit(ctx, func(part any) error {
		sent = append(sent, part)
		return nil
	}), job)
	if err != nil {
		t.Fatal(jobs.FaultOf(ctx, err))
	}
	text, err := json.Marshal(append(sent, out.Data))
	if err != nil {
		t.Fatal(err)
	}
	if out.Partial || out.Truncated {
		t.Errorf("the answer is not whole: %s", text)
	}
	return string(text)
}

// holds holds an answer against the words for it.
func (e workedExample) holds(t *testing.T, answer string) {
	t.Helper()
	if len(e.fields) == 0 {
		t.Error("the words for its answer name no field")
	}
	for _, field := range e.fields {
		if !strings.Contains(answer, `"`+field+`":`) {
			t.Errorf("the handbook says that the answer has %s: %s", field, answer)
		}
	}
}
