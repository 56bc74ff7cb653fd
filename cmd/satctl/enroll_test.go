package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"usm-satellite/deploy/lab"
)

// core is a place with a hub: what enrolment needs.
type core struct {
	*place

	hubPort int
	web     net.Listener // of the equipment
}

func newCore(t *testing.T) *core {
	t.Helper()
	c := &core{place: newPlace(t), hubPort: lab.Port()}
	keys, err := newKeyPair()
	if err != nil {
		t.Fatal(err)
	}
	maps.Copy(c.env, map[string]string{
		"USM_HUB_PRIVATE_KEY": keys.private.Reveal(), "USM_HUB_PEERS_FILE": c.path("peers.conf"),
		"USM_MANAGEMENT_URL": suite.rabbit.ManagementURL(), "USM_RESULTS_EXCHANGE": "usm_poller.results",
	})
	if c.web, err = (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.web.Close() })
	return c
}

// enroll is satctl enroll with what is the same every time. Users of a broker
// are not in a virtual host: the names must differ between tests.
func (c *core) enroll(t *testing.T, satellite string, more ...string) string {
	t.Helper()
	c.deleteUser(t, satellite)
	return c.must(t, append([]string{"enroll", "--satellite", satellite, "--endpoint", "127.0.0.1:" + strconv.Itoa(c.hubPort)}, more...)...)
}

// deleteUser deletes the satellite's user after the test: the next run of the
// same test may use the same broker.
func (c *core) deleteUser(t *testing.T, satellite string) {
	t.Helper()
	t.Cleanup(func() {
		_ = suite.rabbit.API(context.WithoutCancel(t.Context()), "DELETE", "/users/sat-"+satellite, nil, nil)
	})
}

func (c *core) startHub(t *testing.T) {
	t.Helper()
	c.process(t, "hub", map[string]string{
		"USM_HUB_LISTEN": "127.0.0.1:" + strconv.Itoa(c.hubPort), "USM_HUB_PRIVATE_KEY": c.env["USM_HUB_PRIVATE_KEY"],
		"USM_HUB_BROKER":     "127.0.0.1:" + strconv.Itoa(suite.rabbit.Port),
		"USM_HUB_PEERS_FILE": c.env["USM_HUB_PEERS_FILE"], "USM_STATE_DIR": c.path("hub-state"),
	}, "hub")
	eventually(t, "the hub has its port", func() bool { return udpBound(c.hubPort) })
}

// startSatellite starts one with a file of enrolment, as the site would.
func (c *core) startSatellite(t *testing.T, name, envFile string) *child {
	t.Helper()
	lines, err := readEnvFile(envFile)
	if err != nil {
		t.Fatal(err)
	}
	env := map[string]string{"USM_STATE_DIR": c.path("state"), "USM_ALLOW_TARGETS": "127.0.0.0/8"}
	for _, line := range lines {
		name, value, _ := strings.Cut(line, "=")
		env[name] = strings.ReplaceAll(value, siteDir, c.dir)
	}
	return c.process(t, name, env, "run")
}

func (c *core) connectJob(more ...string) []string {
	_, port, _ := net.SplitHostPort(c.web.Addr().String())
	return append([]string{"submit", "--action", "tcp.connect", "--target", "127.0.0.1", "--port", port, "--json"}, more...)
}

// TestFromEnrolmentToRevocation is the life of a satellite, by the commands of
// the README, with real processes.
func TestFromEnrolmentToRevocation(t *testing.T) {
	t.Parallel()
	c := newCore(t)
	begin := time.Now()
	c.enroll(t, "71")
	c.startHub(t)
	c.startSatellite(t, "satellite", c.path("satellite-71.env"))
	out := c.must(t, c.connectJob("--satellite", "71", "--wait", patience.String())...)
	if got := answers(t, out)[0]; got["transport"] != "wireguard+amqp" || got["satellite_id"] != "71" {
		t.Errorf("answer %v", got)
	}
	t.Logf("from nothing to the first answer: %v", time.Since(begin).Round(time.Millisecond))
	if took := time.Since(begin); took > time.Minute {
		t.Errorf("enrolment took %v", took)
	}
	info, err := os.Stat(c.path("satellite-71.env"))
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the site's file: %v, %v", info, err)
	}
	code, _, errs := c.satctl(t, "", "enroll", "--satellite", "71", "--endpoint", "h:1", "--out", "again.env")
	if code != exitUsage || !strings.Contains(errs, "satctl revoke") {
		t.Errorf("enrolled twice: %d %s", code, errs)
	}
	c.must(t, "revoke", "--satellite", "71")
	code, out, _ = c.satctl(t, "", c.connectJob("--satellite", "71", "--wait", "3s")...)
	if code != exitJob || !strings.Contains(out, "no_answer") {
		t.Errorf("a revoked satellite answered: %d %s", code, out)
	}
	if code, _, errs := c.satctl(t, "", "revoke", "--satellite", "71"); code != exitJob || !strings.Contains(errs, "there is no satellite 71") {
		t.Errorf("revoked twice: %d %s", code, errs)
	}
}

// TestEnrolmentWithoutTheManagementAPI has the site make its key, and the
// broker import a file.
func TestEnrolmentWithoutTheManagementAPI(t *testing.T) {
	t.Parallel()
	c := newCore(t)
	delete(c.env, "USM_MANAGEMENT_URL")
	public := strings.TrimSpace(c.must(t, "keygen", "wg.key"))
	out := c.enroll(t, "72", "--public-key", public, "--definitions", "sat-72.json", "--results-queue", "")
	if !strings.Contains(out, "rabbitmqctl import_definitions sat-72.json") || !strings.Contains(out, "wg.key") {
		t.Errorf("what is next is not said:\n%s", out)
	}
	var definitions map[string]any
	file, err := os.ReadFile(c.path("sat-72.json"))
	if err != nil || json.Unmarshal(file, &definitions) != nil {
		t.Fatalf("definitions: %v", err)
	}
	if err := suite.rabbit.API(t.Context(), "POST", "/definitions", definitions, nil); err != nil {
		t.Fatal(err)
	}
	c.startHub(t)
	c.startSatellite(t, "satellite", c.path("satellite-72.env"))
	c.must(t, c.connectJob("--satellite", "72", "--wait", patience.String())...)
	// The broker user is still there: it is the hub that does not let it through.
	c.must(t, "revoke", "--satellite", "72")
	eventually(t, "the hub has cut the satellite off", func() bool {
		code, _, _ := c.satctl(t, "", c.connectJob("--satellite", "72", "--wait", "2s")...)
		return code == exitJob
	})
}

// TestReplicasShareTheWork gives two processes of one site a key each.
func TestReplicasShareTheWork(t *testing.T) {
	t.Parallel()
	c := newCore(t)
	c.enroll(t, "73", "--replicas", "2")
	c.startHub(t)
	first := c.startSatellite(t, "satellite-1", c.path("satellite-73.env"))
	second := c.startSatellite(t, "satellite-2", c.path("satellite-73.env"))
	var lines strings.Builder
	for i := range 200 {
		fmt.Fprintf(&lines, `{"target":{"address":"127.0.0.1","port":%d,"device_id":"d%d"}}`+"\n", c.web.Addr().(*net.TCPAddr).Port, i) //nolint:forcetypeassert // a TCP listener
	}
	replicas := map[string]bool{}
	eventually(t, "both processes answer", func() bool {
		code, out, errs := c.satctl(t, lines.String(), "submit", "--satellite", "73", "--action", "tcp.connect", "--json", "--wait", patience.String(), "-")
		if code != exitOK {
			t.Fatalf("exit code %d\n%.2000s\n%s", code, out, errs)
		}
		for _, answer := range answers(t, out) {
			replicas[fmt.Sprint(answer["replica"])] = true
		}
		return len(replicas) == 2
	})
	if first.ended() || second.ended() {
		t.Error("a process has ended")
	}
}

// TestAFailedEnrolmentLeavesNothing has the broker refuse.
func TestAFailedEnrolmentLeavesNothing(t *testing.T) {
	t.Parallel()
	c := newCore(t)
	c.env["USM_MANAGEMENT_URL"] = "http://lab:canary-5ecret@" + strings.TrimPrefix(suite.rabbit.ManagementURL(), "http://")
	code, out, errs := c.satctl(t, "", "enroll", "--satellite", "74", "--endpoint", "h:1", "--replicas", "3", "--format", "compose")
	if code != exitBroker || !strings.Contains(errs, "refused the login") || strings.Contains(out+errs, "canary") {
		t.Errorf("exit code %d\n%s%s", code, out, errs)
	}
	left, err := os.ReadDir(c.dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, entry := range left {
		if entry.Name() != "peers.conf.lock" {
			t.Errorf("left behind: %s", entry.Name())
		}
	}
}

// TestEnrolmentWithoutATunnel has five processes at the broker's AMQPS port.
func TestEnrolmentWithoutATunnel(t *testing.T) {
	t.Parallel()
	c := newCore(t)
	delete(c.env, "USM_HUB_PEERS_FILE")
	delete(c.env, "USM_HUB_PRIVATE_KEY")
	c.deleteUser(t, "77")
	c.must(t, "enroll", "--satellite", "77", "--direct", "localhost:"+strconv.Itoa(suite.rabbit.TLSPort), "--replicas", "5")
	content, err := os.ReadFile(c.path("satellite-77.env"))
	if err != nil || strings.Contains(string(content), "USM_WG_") {
		t.Errorf("the site's file: %v\n%s", err, content)
	}
	file, err := os.OpenFile(c.path("satellite-77.env"), os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	_, err = file.WriteString("USM_AMQP_CA_FILE=" + suite.rabbit.CAFile + "\n")
	if err := errors.Join(err, file.Close()); err != nil {
		t.Fatal(err)
	}
	c.startSatellite(t, "satellite", c.path("satellite-77.env"))
	out := c.must(t, c.connectJob("--satellite", "77", "--wait", patience.String())...)
	if got := answers(t, out)[0]; got["transport"] != "amqps" {
		t.Errorf("answer %v", got)
	}
}

// TestPeersForOtherServers writes the server's half to a file.
func TestPeersForOtherServers(t *testing.T) {
	t.Parallel()
	c := newCore(t)
	delete(c.env, "USM_HUB_PEERS_FILE")
	c.enroll(t, "75", "--address", "10.77.3.9", "--peer-format", "routeros", "--peer-out", "p.rsc", "--format", "compose")
	c.enroll(t, "76", "--address", "10.77.3.10", "--peer-out", "p.conf", "--tls-name", "broker.example.net", "--fallback", "broker.example.net:5671")
	for name, wants := range map[string][]string{
		"p.rsc":             {"/interface/wireguard/peers/add interface=wireguard1 public-key=", "allowed-address=10.77.3.9/32", `comment="sat-75"`},
		"p.conf":            {"[Peer]\n# Name = sat-76\n", "AllowedIPs = 10.77.3.10/32\n"},
		"satellite-75.yaml": {"image: usm-satellite:latest", `USM_WG_ADDRESS: "10.77.3.9/32"`},
		"satellite-76.env":  {"@broker.example.net/", "USM_WG_BROKER=10.77.0.1:5672\n", "USM_FALLBACK_DSN=amqps://sat-76:"},
	} {
		content, err := os.ReadFile(c.path(name))
		if err != nil {
			t.Fatal(err)
		}
		for _, want := range wants {
			if !strings.Contains(string(content), want) {
				t.Errorf("%s lacks %q:\n%s", name, want, content)
			}
		}
	}
}
