//go:build hostile

package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"text/tabwriter"
	"time"

	"usm-satellite/drivers/simulator"
	"usm-satellite/jobs"
)

// What is measured: so many jobs of each kind at once, each with so much time,
// and the resident memory that a satellite may have at most.
const (
	hostileJobs  = 20
	hostileLimit = 5 * time.Second
	hostileGrace = 60 * time.Second // of a busy machine
	hostileRSS   = 256 << 20
)

// hostileWork is a kind of job: the service it asks, and its fields.
type hostileWork struct{ name, service, fields string }

func hostileWorks() []hostileWork {
	const (
		login     = `"credentials":[{"login":{"username":"admin","password":"admin","enable_password":"enable"}}]`
		community = `"credentials":[{"snmp":{"version":"2c","community":"public"}}]`
	)
	return []hostileWork{
		{"snmp.get", "snmp", `"action":"snmp.get","params":{"oids":["1.3.6.1.2.1.1.1.0"]},` + community},
		{"snmp.walk", "snmp", `"action":"snmp.walk","params":{"root":"1.3.6.1.2.1"},` + community},
		{"snmp.table", "snmp", `"action":"snmp.table","params":{"columns":["1.3.6.1.2.1.2.2.1.2"]},` + community},
		{"cli.run", "telnet", `"action":"cli.run","class":"read","params":{"transport":"telnet","platform":"cisco_ios","commands":["show version"]},` + login},
		{"config.backup", "telnet", `"action":"config.backup","params":{"transport":"telnet","platform":"cisco_ios"},` + login},
		{"cli.run", "ssh", `"action":"cli.run","class":"read","params":{"platform":"cisco_ios","commands":["show version"]},` + login},
		{"ssh.exec", "ssh", `"action":"ssh.exec","class":"read","params":{"command":"show version"},` + login},
		{"http.request", "http", `"action":"http.request","params":{"scheme":"http","path":"/status"}`},
	}
}

// TestHostile measures what each hostile profile costs a real satellite.
func TestHostile(t *testing.T) {
	var report bytes.Buffer
	table := tabwriter.NewWriter(&report, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "PROFILE\tBY\tACTION\tENDED AS\tSLOWEST\tALL AFTER\tANSWERS\tPEAK RSS\tGROWTH")
	for _, profile := range simulator.List() {
		if strings.HasPrefix(profile, "hostile-") {
			t.Run(profile, func(t *testing.T) { meetHostile(t, profile, table) })
		}
	}
	_ = table.Flush()
	fmt.Printf("%d jobs at once of each kind, %s each\n%s", hostileJobs, hostileLimit, report.String())
}

func meetHostile(t *testing.T, profile string, table *tabwriter.Writer) {
	p := newPlace(t)
	device, err := startChild(exec.Command(suite.satctl, "simulate", "--profile", profile), p.path("device.log"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { device.stop(patience) })
	eventually(t, "the device shows its ports", func() bool { return strings.Contains(device.tail(), "Ctrl-C") })
	s := p.process(t, "satellite", map[string]string{
		"US_AMQP_DSN": p.env["US_AMQP_DSN"], "USM_POLLER_SATELLITE_ID": "7", "USM_DECLARE_QUEUE": "true",
		"USM_STATE_DIR": p.path("state"), "USM_ALLOW_TARGETS": "127.0.0.0/8",
		"GOMEMLIMIT": strconv.Itoa(hostileRSS * 8 / 10), // as it sets it itself in a container of that size
	}, "run")
	eventually(t, "the satellite makes its queue", func() bool {
		return suite.rabbit.API(t.Context(), "GET", "/queues/"+url.PathEscape(p.vhost)+"/usm_poller-sat-7", nil, nil) == nil
	})
	for _, w := range hostileWorks() {
		port := regexp.MustCompile(w.service + ` +127\.0\.0\.1:(\d+)`).FindStringSubmatch(device.tail())
		if port == nil {
			t.Fatalf("no port of %s in\n%s", w.service, device.tail())
		}
		measureHostile(t, p, s, w, port[1], func(columns ...any) {
			fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\t%s\t%.1f MiB\t%.1f MiB\t%+.1f MiB\n", slices.Concat([]any{strings.TrimPrefix(profile, "hostile-"), w.service, w.name}, columns)...)
		})
	}
	log, err := os.ReadFile(p.path("satellite.log"))
	if err != nil {
		t.Fatal(err)
	}
	for line := range bytes.Lines(log) {
		if !json.Valid(line) {
			t.Errorf("in the log, not of ours: %.200q", line)
		}
	}
}

// measureHostile sends the jobs of one kind, all at once, and looks at the
// answers and at the memory of the satellite.
func measureHostile(t *testing.T, p *place, s *child, w hostileWork, port string, row func(columns ...any)) {
	t.Helper()
	var lines strings.Builder
	for i := range hostileJobs {
		fmt.Fprintf(&lines, `{"target":{"address":"127.0.0.1","port":%s,"device_id":"%s-%d"},"timeout_ms":%d,%s}`+"\n", port, w.service, i, hostileLimit.Milliseconds(), w.fields)
	}
	if err := os.WriteFile(fmt.Sprintf("/proc/%d/clear_refs", s.pid()), []byte("5"), 0); err != nil { // proc(5): a new peak
		t.Fatal(err)
	}
	before := memoryOf(t, s, "VmRSS")
	began := time.Now()
	_, out, errs := p.satctl(t, lines.String(), "submit", "--json", "-")
	took := time.Since(began)
	if errs != "" {
		t.Error(errs)
	}
	ended, slowest, count := map[string]int{}, time.Duration(0), 0
	for line := range strings.Lines(out) {
		var result jobs.Result
		if err := json.Unmarshal([]byte(line), &result); err != nil {
			t.Fatalf("%v in %.200q", err, line)
		}
		how := string(result.Status)
		if result.Error != nil {
			how += " " + string(result.Error.Code)
		}
		ended[how]++
		count++
		slowest = max(slowest, time.Duration(result.RunMS)*time.Millisecond)
		if result.Status == "no_answer" || result.Error != nil && result.Error.Code == jobs.CodeInternal {
			t.Errorf("%s: %s: %v", w.name, how, result.Error)
		}
	}
	peak := memoryOf(t, s, "VmHWM")
	words := make([]string, 0, len(ended))
	for how, n := range ended {
		words = append(words, fmt.Sprintf("%d %s", n, how))
	}
	slices.Sort(words)
	const mib = 1 << 20
	row(strings.Join(words, ", "), slowest, took.Round(time.Millisecond), float64(len(out))/mib, float64(peak)/mib, float64(peak-before)/mib)
	if count != hostileJobs || slowest > hostileLimit+hostileGrace {
		t.Errorf("%s: %d of %d jobs ended, the slowest after %s", w.name, count, hostileJobs, slowest)
	}
	if peak > hostileRSS {
		t.Errorf("%s: the satellite took %d MiB, %d are allowed", w.name, peak/mib, hostileRSS/mib)
	}
}

// memoryOf reads a field of /proc/PID/status, in bytes.
func memoryOf(t *testing.T, c *child, field string) int {
	t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", c.pid()))
	if err != nil {
		t.Fatalf("the satellite has ended: %v", err)
	}
	for line := range strings.Lines(string(status)) {
		if words := strings.Fields(line); len(words) == 3 && words[0] == field+":" {
			if n, err := strconv.Atoi(words[1]); err == nil {
				return n << 10
			}
		}
	}
	t.Fatalf("no %s in\n%s", field, status)
	return 0
}
