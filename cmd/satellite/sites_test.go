package main

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"usm-satellite/broker"
	"usm-satellite/deploy/lab"
	"usm-satellite/jobs"
	"usm-satellite/tunnel"
)

// Five processes on as many hosts with one key: each of them says so.
func TestFiveWithOneKey(t *testing.T) {
	s := newSite(t, rabbit)
	_, _, settings := s.hub()
	began := time.Now()
	var rivals []*process
	for range 5 { // a state directory of its own each, as on another host: no lock is in the way
		rivals = append(rivals, start(t, nil, s.env(append(settings, "USM_STATE_DIR", t.TempDir())...)))
	}
	var took []time.Duration
	said := make(map[*process]bool)
	wait(t, "each of the rivals to name the fight", func() bool {
		for _, p := range rivals {
			if !said[p] && strings.Contains(p.out.String(), "another process is using this WireGuard key") {
				said[p] = true
				took = append(took, time.Since(began).Round(10*time.Millisecond))
			}
		}
		return len(said) == len(rivals)
	})
	t.Logf("the five said it after %v", took)
	for _, p := range rivals {
		p.kill() // they cannot end well
	}
}

// Two sites behind one hub have the same private network, with a device at the
// same address. Jobs reach the device of their own site.
func TestSitesWithTheSameAddresses(t *testing.T) {
	w := newWard(t)
	w.must(rabbit.DeclareQueue(t.Context(), w.vhost, "usm_poller-sat-8", "quorum"))
	const device = "192.168.1.1"
	for i, id := range []string{"7", "8"} {
		ns, host, _ := namespaceOf(t, string(rune('f'+i)), os.Getpid()+i)
		sh(t, "ip", "-n", ns, "address", "add", device+"/24", "dev", "lo")
		listenInside(t, ns, net.JoinHostPort(device, "808"+id))
		env := with(w.behind(w.port)(i), "USM_WG_ENDPOINT", net.JoinHostPort(host, strconv.Itoa(w.port)),
			"USM_POLLER_SATELLITE_ID", id, "USM_ALLOW_TARGETS", "192.168.1.0/24", "USM_STATE_DIR", t.TempDir())
		w.inside(ns, env).says(t, "taking jobs")
	}
	core := w.core(broker.CoreOptions{})
	for _, id := range []string{"7", "8"} {
		for _, port := range []string{"8087", "8088"} {
			body := job(id+"-"+port, "tcp.connect", `"target":{"address":"`+device+`","port":`+port+`}`)
			w.must(core.Submit(t.Context(), broker.CoreMessage{Queue: "usm_poller-sat-" + id, ID: id + "-" + port, Body: body}))
		}
	}
	for id, r := range w.collect(core, 4) {
		own := id == "7-8087" || id == "8-8088"
		if r.Transport != "wireguard+amqp" || (r.Status == jobs.StatusOK) != own {
			t.Errorf("%s: %s by %s, %v", id, r.Status, r.Transport, r.Error)
		}
	}
}

// inside starts a satellite in a namespace.
func (s *site) inside(ns string, env map[string]string) *process {
	s.t.Helper()
	return launch(s.t, exec.Command("ip", "netns", "exec", ns, program), env)
}

// listenInside takes TCP connections in a namespace; it returns the address.
func listenInside(t *testing.T, ns, address string) string {
	t.Helper()
	var ln net.Listener
	within(t, ns, func() (err error) {
		ln, err = net.Listen("tcp", address)
		return err
	})
	serve(t, ln, func(net.Conn) {})
	return ln.Addr().String()
}

// The way to the hub may be of either family, and so may be what is inside;
// where the hub has addresses of both, the one that answers is found.
func TestFamilies(t *testing.T) {
	s, dir := newSite(t, rabbit), t.TempDir()
	hubKey, key, port := tunnel.NewPrivateKey(), tunnel.NewPrivateKey(), lab.Port()
	s.must(os.WriteFile(filepath.Join(dir, "peers"), fmt.Appendf(nil, "[Peer]\nPublicKey = %s\nAllowedIPs = 10.77.0.7/32, fd77::7/128\n", key.Public()), 0o600))
	start(t, []string{"hub"}, map[string]string{
		"USM_HUB_PRIVATE_KEY": hubKey.Reveal(), "USM_HUB_LISTEN": ":" + strconv.Itoa(port), "USM_HUB_ADDRESS": "10.77.0.1,fd77::1", "USM_STATE_DIR": dir,
		"USM_HUB_BROKER": loopback(rabbit.Port), "USM_HUB_PEERS_FILE": filepath.Join(dir, "peers"),
	}).says(t, "hub is up")
	deaf := strconv.Itoa(lab.Port()) // nobody listens there
	core := s.core(broker.CoreOptions{})
	for i, tt := range []struct{ name, endpoint, address, inner string }{
		{"IPv6 outside", fmt.Sprintf("[::1]:%d", port), "10.77.0.7/32", "10.77.0.1:5672"},
		{"IPv6 inside", loopback(port), "fd77::7/128", "[fd77::1]:5672"},
		{"IPv6 only", fmt.Sprintf("[::1]:%d", port), "fd77::7/128", "[fd77::1]:5672"},
		{"both, IPv4 answers", "[::1]:" + deaf + "," + loopback(port), "10.77.0.7/32,fd77::7/128", "10.77.0.1:5672"},
		{"both, IPv6 answers", "127.0.0.1:" + deaf + fmt.Sprintf(",[::1]:%d", port), "10.77.0.7/32,fd77::7/128", "[fd77::1]:5672"},
	} {
		p := s.satellite("USM_WG_PRIVATE_KEY", key.Reveal(), "USM_WG_PEER_PUBLIC_KEY", hubKey.Public().String(),
			"USM_WG_ADDRESS", tt.address, "USM_WG_ENDPOINT", tt.endpoint, "USM_WG_BROKER", tt.inner, "USM_STATE_DIR", t.TempDir())
		id := fmt.Sprintf("family-%d", i)
		r := s.ask(core, map[string][]byte{id: job(id, "tcp.connect", target(rabbit.Port))})[id]
		if r.Status != jobs.StatusOK || r.Transport != "wireguard+amqp" {
			t.Errorf("%s: %s by %s, %v", tt.name, r.Status, r.Transport, r.Error)
		}
		p.stop(t)
	}
}
