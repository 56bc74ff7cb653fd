package drivers

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"usm-satellite/jobs"
)

// script runs commands of iproute2, one a line.
func script(t *testing.T, lines string) {
	t.Helper()
	for line := range strings.Lines(lines) {
		words := strings.Fields(line)
		if len(words) == 0 {
			continue
		}
		if out, err := exec.CommandContext(context.WithoutCancel(t.Context()), words[0], words[1:]...).CombinedOutput(); err != nil {
			t.Fatalf("%s: %v: %s", line, err, out)
		}
	}
}

// threeSpaces lays a site out: the satellite, a router, and behind it a device.
func threeSpaces(t *testing.T) (satellite string) {
	t.Helper()
	id := fmt.Sprintf("n%d", os.Getpid()%100000)
	s, r, d := id+"s", id+"r", id+"d"
	t.Cleanup(func() {
		for _, space := range []string{s, r, d} {
			_ = exec.CommandContext(context.WithoutCancel(t.Context()), "ip", "netns", "del", space).Run()
		}
	})
	script(t, strings.NewReplacer("SS", s, "RR", r, "DD", d).Replace(`
		ip netns add SS
		ip netns add RR
		ip netns add DD
		ip -n SS link set lo up
		ip -n RR link set lo up
		ip -n DD link set lo up
		ip -n SS link add lan type veth peer name lan netns RR
		ip -n RR link add far type veth peer name far netns DD
		ip -n SS addr add 192.0.2.1/28 dev lan
		ip -n SS addr add 2001:db8:1::1/64 dev lan nodad
		ip -n RR addr add 192.0.2.2/28 dev lan
		ip -n RR addr add 2001:db8:1::2/64 dev lan nodad
		ip -n RR addr add 192.0.2.17/28 dev far
		ip -n RR addr add 2001:db8:2::1/64 dev far nodad
		ip -n DD addr add 192.0.2.18/28 dev far
		ip -n DD addr add 2001:db8:2::2/64 dev far nodad
		ip -n RR link set lan address 02:00:00:00:00:42
		ip -n SS link set lan up
		ip -n RR link set lan up
		ip -n RR link set far up
		ip -n DD link set far up
		ip -n SS route add default via 192.0.2.2
		ip -n SS -6 route add default via 2001:db8:1::2
		ip -n DD route add default via 192.0.2.17
		ip -n DD -6 route add default via 2001:db8:2::1
		ip netns exec RR sysctl -qw net.ipv4.ip_forward=1
		ip netns exec RR sysctl -qw net.ipv6.conf.all.forwarding=1
	`))
	return s
}

// enter puts the goroutine of the test into a network namespace. Its thread is
// never given back.
func enter(t *testing.T, space string) {
	t.Helper()
	runtime.LockOSThread()
	f, err := os.Open("/run/netns/" + space)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := unix.Setns(int(f.Fd()), unix.CLONE_NEWNET); err != nil {
		t.Fatal(err)
	}
}

func TestNeighboursAndWays(t *testing.T) {
	space := threeSpaces(t)
	open := &jobs.Network{Policy: &jobs.Policy{Targets: []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24"), netip.MustParsePrefix("2001:db8::/32")}}}
	registry, closeAll := All(Options{Network: open})
	defer closeAll()
	ask := func(action, address, params string) (string, *jobs.Fault) {
		data, fault := run(t, registry, fmt.Sprintf(`{"schema":1,"job_id":"a","action":%q,"target":{"address":%q},"params":%s}`, action, address, params))
		return fmt.Sprint(data), fault
	}
	t.Run("in the namespace", func(t *testing.T) {
		enter(t, space)
		for _, address := range []string{"192.0.2.2", "2001:db8:1::2"} {
			if data, fault := ask("arp.lookup", address, `{"interface":"lan"}`); fault != nil || !strings.Contains(data, "mac:02:00:00:00:00:42") {
				t.Errorf("arp.lookup %s: got %s, %v", address, data, fault)
			}
		}
		began := time.Now()
		if data, fault := ask("arp.lookup", "192.0.2.9", `{}`); fault == nil || fault.Code != jobs.CodeUnreachable {
			t.Errorf("a neighbour that is not there: got %s, %v after %s", data, fault, time.Since(began))
		}
		if _, fault := ask("arp.lookup", "192.0.2.18", `{}`); fault == nil || fault.Code != jobs.CodeUnsupportedAction || !strings.Contains(fault.Message, "192.0.2.2") {
			t.Errorf("behind a router: got %v", fault)
		}
		if _, fault := ask("arp.lookup", "192.0.2.2", `{"interface":"nope"}`); fault == nil || fault.Code != jobs.CodeInvalidJob {
			t.Errorf("no such interface: got %v", fault)
		}
		for target, router := range map[string]string{"192.0.2.18": "192.0.2.2", "2001:db8:2::2": "2001:db8:1::2"} {
			data, fault := ask("traceroute", target, `{"probes":2}`)
			if fault != nil || !strings.Contains(data, "reached:true") || strings.Count(data, "address:"+router+" ") != 2 || strings.Count(data, "ttl:") != 2 {
				t.Errorf("traceroute %s: got %s, %v", target, data, fault)
			}
		}
		if data, fault := ask("traceroute", "2001:db8:2::2", `{"max_hops":1}`); fault != nil || strings.Contains(data, "reached:true") {
			t.Errorf("one hop: got %s, %v", data, fault)
		}
	})
}
