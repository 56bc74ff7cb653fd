package main

import (
	"bytes"
	"context"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"

	"usm-satellite/drivers/simulator"
)

// screen is where a command that goes on writes to.
type screen struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (s *screen) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text.Write(p)
}

func (s *screen) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text.String()
}

func TestSimulateRunsUntilItIsEnded(t *testing.T) {
	t.Parallel()
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	out, ended := &screen{}, make(chan int, 1)
	go func() {
		ended <- run(ctx, []string{"simulate", "--profile", "ups", "--fault", "snmp=hang"}, system{Stdout: out, Stderr: out})
	}()
	eventually(t, "the ports are printed", func() bool { return strings.Contains(out.String(), "Ctrl-C") })
	for _, want := range []string{`snmp +127\.0\.0\.1:[1-9]\d+ .*fault: hang`, `ssh +127\.0\.0\.1:[1-9]\d+ `, `telnet +127\.0\.0\.1:[1-9]\d+ `, `http +127\.0\.0\.1:[1-9]\d+ `} {
		if !regexp.MustCompile(want).MatchString(out.String()) {
			t.Errorf("%s is missing in\n%s", want, out.String())
		}
	}
	stop()
	if code := <-ended; code != exitOK {
		t.Errorf("got %d: %s", code, out.String())
	}
}

func TestSimulateManyDevices(t *testing.T) {
	t.Parallel()
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	out, ended := &screen{}, make(chan int, 1)
	go func() {
		ended <- run(ctx, []string{"simulate", "--devices", "300", "--listen", "127.88.0.1"}, system{Stdout: out, Stderr: out})
	}()
	eventually(t, "the ports are printed", func() bool { return strings.Contains(out.String(), "Ctrl-C") })
	port := regexp.MustCompile(`http +127\.88\.0\.1:(\d+)`).FindStringSubmatch(out.String())
	if port == nil || !strings.Contains(out.String(), "300 devices, up to the address 127.88.1.44.") {
		t.Fatal(out.String())
	}
	for _, address := range []string{"127.88.0.1", "127.88.0.255", "127.88.1.44"} {
		conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", net.JoinHostPort(address, port[1]))
		if err != nil {
			t.Error(err)
			continue
		}
		_ = conn.Close()
	}
	stop()
	if code := <-ended; code != exitOK {
		t.Errorf("got %d: %s", code, out.String())
	}
}

func TestSimulateTellsWhatIsWrong(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "bad.txt")
	if err := os.WriteFile(file, []byte("title: x\n[snmp]\n1.3.6.1|99|x\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		args []string
		code int
		want string
	}{
		{[]string{"--list"}, exitOK, "switch48 "},
		{[]string{"--help"}, exitOK, "satctl simulate --list"},
		{[]string{"--print", "ups"}, exitOK, "1.3.6.1.2.1.33.1.1.2.0|4|UPS 3000"},
		{[]string{"--print", "nope"}, exitUsage, "the profiles are"},
		{[]string{"more"}, exitUsage, `"more"`},
		{[]string{"--profile", "nope"}, exitUsage, "the profiles are"},
		{[]string{"--profile", "./nope.txt"}, exitUsage, "--list"},
		{[]string{"--profile", file}, exitUsage, "line 3: the type 99"},
		{[]string{"--fault", "snmp"}, exitUsage, "SERVICE=FAULT"},
		{[]string{"--fault", "snmp=bomb"}, exitUsage, "it can do refuse"},
		{[]string{"--port", "smtp=25"}, exitUsage, "snmp=1161"},
		{[]string{"--listen", "here"}, exitUsage, "127.0.0.1"},
		{[]string{"--devices", "0"}, exitUsage, "1 to 65536"},
		{[]string{"--devices", "2", "--listen", "192.0.2.1"}, exitJob, "choose another address"},
		{[]string{"--listen", "192.0.2.1"}, exitJob, "choose another address"},
	} {
		var out bytes.Buffer
		code := run(t.Context(), append([]string{"simulate"}, c.args...), system{Stdout: &out, Stderr: &out})
		if code != c.code || !strings.Contains(out.String(), c.want) {
			t.Errorf("%v: got %d, %s", c.args, code, out.String())
		}
	}
}

// TestSimulateAsTheHandbookSays runs the profile of deploy/README.md, and asks
// it for what it says.
func TestSimulateAsTheHandbookSays(t *testing.T) {
	t.Parallel()
	handbook, err := os.ReadFile("../../deploy/README.md")
	if err != nil {
		t.Fatal(err)
	}
	block := regexp.MustCompile("(?s)\n```profile\n(.*?)```\n").FindSubmatch(handbook)
	if block == nil {
		t.Fatal("deploy/README.md has no profile")
	}
	for _, service := range simulator.Services() {
		for _, fault := range simulator.Faults(service) {
			if !bytes.Contains(handbook, []byte("\n| `"+string(fault)+"` | ")) {
				t.Errorf("deploy/README.md does not say what the fault %s is", fault)
			}
		}
	}
	file := filepath.Join(t.TempDir(), "olt-east.txt")
	if err := os.WriteFile(file, block[1], 0o600); err != nil {
		t.Fatal(err)
	}
	p := newPlace(t)
	_ = withSatellite(t, p)
	ctx, stop := context.WithCancel(t.Context())
	out, ended := &screen{}, make(chan int, 1)
	go func() { ended <- run(ctx, []string{"simulate", "--profile", file}, system{Stdout: out, Stderr: out}) }()
	defer func() {
		stop()
		<-ended
	}()
	eventually(t, "the ports are printed", func() bool { return strings.Contains(out.String(), "Ctrl-C") })
	login := p.path("login.json")
	if err := os.WriteFile(login, []byte(`{"login":{"username":"admin","password":"example-password"}}`), 0o600); err != nil {
		t.Fatal(err)
	}
	console := []string{"--credentials-file", login, "--class", "read", "--action", "cli.run"}
	for _, c := range []struct {
		service, want string
		args          []string
	}{
		{"snmp", "-2890", []string{"--community", "example-read", "--action", "snmp.walk", "--params", "root=1.3.6.1.4.1.99999.2.1.1.2"}},
		{"snmp", "olt-east", []string{"--community", "example-read", "--action", "snmp.get", "--params", `{"oids":["1.3.6.1.2.1.1.5.0"]}`}},
		{"telnet", "onu 0/1:103", append(console, "--params", `{"transport":"telnet","platform":"cisco_ios","commands":["show alarms"]}`)},
		{"ssh", "onu 0/1:64 online", append(console, "--params", `{"platform":"cisco_ios","commands":["show onu all"]}`)},
		{"http", "cut at a limit", []string{"--action", "http.request", "--params", `{"scheme":"http","path":"/health","max_bytes":1000}`}},
	} {
		port := regexp.MustCompile(c.service + ` +127\.0\.0\.1:(\d+)`).FindStringSubmatch(out.String())
		if port == nil {
			t.Fatalf("no port of %s in\n%s", c.service, out.String())
		}
		code, got, errs := p.satctl(t, "", append([]string{"submit", "--target", "127.0.0.1", "--port", port[1]}, c.args...)...)
		if code != exitOK || !strings.Contains(got, c.want) {
			t.Errorf("%s: exit code %d, want %q in\n%s%s", c.service, code, c.want, got, errs)
		}
	}
}
