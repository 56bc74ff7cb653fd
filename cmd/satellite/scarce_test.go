package main

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"usm-satellite/broker"
	"usm-satellite/jobs"
)

// shell starts a satellite by a line for the shell.
func (s *site) shell(line string, more ...string) *process {
	s.t.Helper()
	p := launch(s.t, exec.Command("/bin/sh", "-c", line), s.env(more...))
	p.says(s.t, "taking jobs")
	return p
}

// With too few descriptors, jobs fail with a clear word, the satellite stays,
// and works again when the rush is over.
func TestFewDescriptors(t *testing.T) {
	s, agent := newSite(t, rabbit), snmpd(t)
	s.shell("ulimit -n 64; exec " + program)
	core := s.core(broker.CoreOptions{})
	bodies := make(map[string][]byte)
	for i := range 400 {
		id := fmt.Sprintf("f-%d", i)
		bodies[id] = job(id, "snmp.walk", fmt.Sprintf(`"target":{"address":"127.0.0.1","port":%d,"device_id":"%s"},`, agent.Port, id)+
			community("public")+`,"params":{"root":"1.3.6.1.2.1.1"}`)
	}
	count := make(map[string]int)
	for id, r := range s.ask(core, bodies) {
		what := string(r.Status)
		if r.Error != nil {
			what += " " + string(r.Error.Code)
			if r.Error.Code == jobs.CodeInternal {
				t.Errorf("%s: %v", id, r.Error)
			}
		}
		count[what]++
	}
	t.Log(count)
	if count["ok"] == 0 {
		t.Error("not one job was ok")
	}
	allOK(t, s.ask(core, kinds("after-", agent.Port)), "amqp")
}

// Many large answers at a time in little memory: all of them whole, and the
// process within bounds. It is built as users have it: the race detector takes
// several times the memory.
func TestLittleMemory(t *testing.T) {
	s, agent := newSite(t, rabbit), snmpd(t)
	plain := filepath.Join(t.TempDir(), "satellite")
	build := exec.Command("go", "build", "-o", plain, ".")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	p := s.shell("exec "+plain, "GOMEMLIMIT", "64MiB", "USM_CONCURRENCY", "64")
	bodies := make(map[string][]byte)
	for i := range 120 {
		id := fmt.Sprintf("m-%d", i)
		bodies[id] = job(id, "snmp.walk", fmt.Sprintf(`"target":{"address":"127.0.0.1","port":%d,"device_id":"%s"},"timeout_ms":60000,`, agent.Port, id)+
			community("public")+`,"params":{"root":"1.3.6.1.2.1"}`)
	}
	size := 0
	for id, r := range s.ask(s.core(broker.CoreOptions{}), bodies) {
		if r.Status != jobs.StatusOK {
			t.Errorf("%s: %s %v", id, r.Status, r.Error)
		}
		size += len(r.Data)
	}
	text, err := os.ReadFile("/proc/" + strconv.Itoa(p.cmd.Process.Pid) + "/status")
	s.must(err)
	_, after, _ := strings.Cut(string(text), "VmHWM:")
	var peak int
	_, _ = fmt.Sscan(after, &peak)
	t.Logf("%d answers of %d KiB each; peak %d MiB resident", len(bodies), size/len(bodies)>>10, peak>>10)
	if peak>>10 > 160 { // 64 MiB is where Go begins to save; without a budget for results it was above 370
		t.Errorf("peak of %d MiB", peak>>10)
	}
}

// The broker takes a job back that runs for longer than its consumer_timeout,
// and closes the channel. The job goes on, its copy waits for it, both have the
// one answer, and a write is run once.
func TestConsumerTimeout(t *testing.T) {
	s := newSite(t, rabbit)
	evaluate := func(expression string) { s.must(rabbit.Ctl(t.Context(), "eval", expression)) }
	t.Cleanup(func() { // the node is the other tests', too
		_ = rabbit.Ctl(context.Background(), "eval", "application:set_env(rabbit, consumer_timeout, 1800000), application:set_env(rabbit, channel_tick_interval, 60000).")
	})
	evaluate("application:set_env(rabbit, consumer_timeout, 2000), application:set_env(rabbit, channel_tick_interval, 500).")
	agent := snmpd(t)
	port, requests := slowly(t, agent.Port, 8*time.Second)
	p := s.satellite()
	set := job("slow", "snmp.set", fmt.Sprintf(`"target":{"address":"127.0.0.1","port":%d},"timeout_ms":30000,`, port)+
		community("private")+`,"params":{"varbinds":[{"oid":"1.3.6.1.2.1.1.6.0","type":"OctetString","value":"here"}]}`)
	answers := s.ask(s.core(broker.CoreOptions{}), map[string][]byte{"slow": set})
	if r := answers["slow"]; r.Status != jobs.StatusOK {
		t.Errorf("the slow write: %s %v", r.Status, r.Error)
	}
	if n := requests.Load(); n != 2 { // one that asks whether it is there, and the write
		t.Errorf("%d requests reached the device, want 2", n)
	}
	p.says(t, "longer than its consumer_timeout allows")
	allOK(t, s.ask(s.core(broker.CoreOptions{}), kinds("after-", agent.Port)), "amqp")
}

// slowly passes datagrams to and from an agent: the first request at once, each
// later one after a delay, as a device does that writes to flash. It counts
// the requests.
func slowly(t *testing.T, agent int, delay time.Duration) (port int, requests *atomic.Int64) {
	t.Helper()
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	to, err := net.Dial("udp", net.JoinHostPort("127.0.0.1", strconv.Itoa(agent)))
	if err != nil {
		t.Fatal(err)
	}
	requests = new(atomic.Int64)
	done := make(chan struct{})
	go func() { // ends with its connections
		defer close(done)
		buffer := make([]byte, 64<<10)
		for {
			n, from, err := conn.ReadFrom(buffer)
			if err != nil {
				return
			}
			if requests.Add(1) > 1 {
				<-time.After(delay)
			}
			if _, err := to.Write(buffer[:n]); err != nil {
				return
			}
			if n, err = to.Read(buffer); err != nil {
				return
			}
			_, _ = conn.WriteTo(buffer[:n], from)
		}
	}()
	t.Cleanup(func() {
		_, _ = conn.Close(), to.Close()
		<-done
	})
	return conn.LocalAddr().(*net.UDPAddr).Port, requests
}
