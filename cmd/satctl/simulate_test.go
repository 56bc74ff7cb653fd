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
