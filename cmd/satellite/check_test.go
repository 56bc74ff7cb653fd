package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"usm-satellite/deploy/lab"
	"usm-satellite/tunnel"
	"usm-satellite/tunnel/impair"
)

// The doctor is content with a satellite that works.
func TestCheckOfAGoodSite(t *testing.T) {
	s := newSite(t, rabbit)
	_, _, settings := s.hub()
	out, code := command(t, []string{"check"}, s.env(settings...))
	if code != exitOK || strings.Contains(out, "failed") {
		t.Errorf("check says %d:\n%s", code, out)
	}
	defer func() { // beside the service it opens no second tunnel with its key
		s.satellite(settings...)
		if out, code := command(t, []string{"check"}, s.env(settings...)); code != exitOK || !strings.Contains(out, "running service") {
			t.Errorf("check beside the service says %d:\n%s", code, out)
		}
		if out, code := command(t, nil, s.env(settings...)); code != exitUsage || !strings.Contains(out, "another process of this host is using this WireGuard key") {
			t.Errorf("a second process says %d:\n%s", code, out)
		}
	}()
	if out, code := command(t, []string{"check", "--json"}, s.env(settings...)); code != exitOK || !strings.HasPrefix(out, `[{"step":"settings"`) {
		t.Errorf("check --json says %d: %s", code, out)
	}
}

// fault is a misconfiguration, and what the doctor must say of it.
type fault struct {
	name   string
	good   func(bed int) map[string]string // the site as it should be
	change []string                        // what is wrong with it
	in     string                          // namespace that the doctor runs in; "": this one
	step   string                          // that must fail, the first of all
	want   []string                        // words of its message
}

// verdict is what the doctor said, on paper and in JSON.
type verdict struct {
	fault

	out  [2]string
	code [2]int
}

// Each planted fault fails the step that it belongs to, is told apart from the
// others where the protocols allow it, and is said in the same words to people
// and to programs.
func TestCheckNamesTheFault(t *testing.T) {
	w := newWard(t)
	silences := w.silences()
	faults := append(silences, append(w.wrongInside(), w.refusals()...)...)
	verdicts := make([]verdict, len(faults))
	var all sync.WaitGroup
	beds := make(chan struct{}, 4) // of those that work; the others only wait
	for i, f := range faults {
		verdicts[i].fault = f
		for j, args := range [][]string{{"check"}, {"check", "--json"}} {
			env := with(f.good(2*i+j), f.change...)
			all.Go(func() {
				if i >= len(silences) {
					beds <- struct{}{}
					defer func() { <-beds }()
				}
				verdicts[i].out[j], verdicts[i].code[j] = checkIn(t.Context(), f.in, args, env)
			})
		}
	}
	all.Wait()
	var table strings.Builder
	for _, v := range verdicts {
		f := v.judge(t)
		_, _ = fmt.Fprintf(&table, "%-28s → %-10s → %s\n", v.name, f.Step, f.Message)
	}
	t.Logf("what the doctor says of %d planted faults:\n%s", len(verdicts), &table)
}

// checkIn runs the doctor; it fails no test, for it runs beside others.
func checkIn(ctx context.Context, ns string, args []string, env map[string]string) (out string, code int) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	line := append([]string{program}, args...)
	if ns != "" {
		line = append([]string{"ip", "netns", "exec", ns}, line...)
	}
	cmd := exec.CommandContext(ctx, line[0], line[1:]...)
	cmd.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin"}
	for k, v := range env {
		cmd.Env = append(cmd.Env, k+"="+v)
	}
	text, err := cmd.CombinedOutput()
	if cmd.ProcessState == nil {
		return err.Error(), -1
	}
	return string(text), cmd.ProcessState.ExitCode()
}

// judge returns the first step that failed.
func (v *verdict) judge(t *testing.T) finding {
	t.Helper()
	if v.code != [2]int{exitFailed, exitFailed} {
		t.Errorf("%s: exit status %v", v.name, v.code)
	}
	if strings.Contains(v.out[0]+v.out[1], canary) {
		t.Errorf("%s: a secret is in the output", v.name)
	}
	var findings []finding
	if err := json.Unmarshal([]byte(v.out[1]), &findings); err != nil {
		t.Errorf("%s: %v: %s", v.name, err, v.out[1])
		return finding{}
	}
	if lines := strings.Count(v.out[0], "\n"); lines != len(findings) {
		t.Errorf("%s: %d lines and %d findings in JSON:\n%s", v.name, lines, len(findings), v.out[0])
	}
	for _, f := range findings {
		if f.Result != "failed" {
			continue
		}
		if f.Step != v.step {
			t.Errorf("%s: the step %q failed, want %q:\n%s", v.name, f.Step, v.step, v.out[0])
		}
		for _, words := range v.want {
			if !strings.Contains(f.Message, words) {
				t.Errorf("%s: %q is not said: %s", v.name, words, f.Message)
			}
		}
		if !strings.Contains(v.out[0], "failed   "+f.Step) {
			t.Errorf("%s: people are told something else:\n%s", v.name, v.out[0])
		}
		return f
	}
	t.Errorf("%s: no step failed:\n%s", v.name, v.out[0])
	return finding{Step: "none"}
}

// ward is a good site, of which each fault spoils one thing.
type ward struct {
	*site

	keys   []tunnel.PrivateKey // one for each bed: two doctors with one key would fight
	hub    tunnel.PublicKey
	port   int // UDP, of the hub to the broker's plain port
	tls    int // UDP, of the hub to the broker's TLS port
	orphan int // UDP, of a hub without a broker
}

func newWard(t *testing.T) *ward {
	t.Helper()
	w := &ward{site: newSite(t, rabbit), port: lab.Port(), tls: lab.Port(), orphan: lab.Port()}
	hubKey, dir := tunnel.NewPrivateKey(), t.TempDir()
	w.hub = hubKey.Public()
	var peers strings.Builder
	for i := range 64 {
		w.keys = append(w.keys, tunnel.NewPrivateKey())
		_, _ = fmt.Fprintf(&peers, "[Peer]\nPublicKey = %s\nAllowedIPs = 10.77.1.%d/32\n", w.keys[i].Public(), i+1)
	}
	w.must(os.WriteFile(filepath.Join(dir, "peers"), []byte(peers.String()), 0o600))
	for port, broker := range map[int]int{w.port: rabbit.Port, w.tls: rabbit.TLSPort, w.orphan: lab.Port()} {
		w.startHub(dir, hubKey, port, broker)
	}
	for user, rights := range map[string]map[string]string{
		"mute": {"configure": "", "write": "", "read": ".*"},
		"deaf": {"configure": "", "write": ".*", "read": ""},
	} {
		w.must(rabbit.API(t.Context(), http.MethodPut, "/users/"+user, map[string]string{"password": canary, "tags": ""}, nil))
		w.must(rabbit.API(t.Context(), http.MethodPut, "/permissions/"+w.vhost+"/"+user, rights, nil))
	}
	return w
}

func (w *ward) behind(port int, more ...string) func(bed int) map[string]string {
	return func(bed int) map[string]string {
		return with(w.env(more...), "USM_WG_PRIVATE_KEY", w.keys[bed].Reveal(), "USM_WG_ADDRESS", fmt.Sprintf("10.77.1.%d/32", bed+1),
			"USM_WG_PEER_PUBLIC_KEY", w.hub.String(), "USM_WG_ENDPOINT", loopback(port), "USM_WG_BROKER", "10.77.0.1:5672")
	}
}

func loopback(port int) string { return "127.0.0.1:" + strconv.Itoa(port) }

// silences are what WireGuard itself says nothing about.
func (w *ward) silences() []fault {
	path, err := impair.Listen(1, loopback(w.port))
	w.must(err)
	w.t.Cleanup(func() { _ = path.Close() })
	path.Set(impair.Rules{BlackHole: true})
	walled := walledNamespace(w.t)
	good, both := w.behind(w.port), []string{"UDP is blocked", "the keys do not fit", "USM_FALLBACK_DSN"}
	return []fault{
		{"wrong key of its own", good, []string{"USM_WG_PRIVATE_KEY", tunnel.NewPrivateKey().Reveal()}, "", "tunnel", both},
		{"wrong key of the hub", good, []string{"USM_WG_PEER_PUBLIC_KEY", tunnel.NewPrivateKey().Public().String()}, "", "tunnel", both},
		{"wrong preshared key", good, []string{"USM_WG_PRESHARED_KEY", tunnel.NewPresharedKey().Reveal()}, "", "tunnel", both},
		{"UDP blocked on the way", good, []string{"USM_WG_ENDPOINT", path.Addr()}, "", "tunnel", both},
		{"UDP blocked by this machine", good, nil, walled, "udp", []string{"this machine's own firewall"}},
		{"no route to the hub", good, []string{"USM_WG_ENDPOINT", "198.51.100.1:51820"}, walled, "udp", []string{"no route"}},
		{"dead hub", good, []string{"USM_WG_ENDPOINT", loopback(lab.Port())}, "", "udp", []string{"refuses UDP", "the hub is down"}},
		{"unknown name of the hub", good, []string{"USM_WG_ENDPOINT", "nowhere.invalid:51820"}, "", "endpoint", []string{"does not resolve"}},
	}
}

// walledNamespace has a firewall that lets no UDP out.
func walledNamespace(t *testing.T) string {
	t.Helper()
	ns := fmt.Sprintf("satw%d", os.Getpid())
	sh(t, "ip", "netns", "add", ns)
	t.Cleanup(func() { _ = exec.Command("ip", "netns", "delete", ns).Run() })
	sh(t, "ip", "-n", ns, "link", "set", "lo", "up")
	for _, line := range []string{"add table inet wall", "add chain inet wall out { type filter hook output priority 0; }", "add rule inet wall out ip daddr 127.0.0.0/8 meta l4proto udp drop"} {
		nft(t, ns, line)
	}
	return ns
}

// wrongInside are faults behind a handshake.
func (w *ward) wrongInside() []fault {
	good := w.behind(w.port)
	return []fault{
		{"wrong inner address", good, []string{"USM_WG_ADDRESS", "10.77.9.9/32"}, "", "tunnel", []string{"the tunnel is up", "USM_WG_ADDRESS"}},
		{"wrong address of the broker", good, []string{"USM_WG_BROKER", "10.77.0.2:5672"}, "", "tunnel", []string{"the tunnel is up", "USM_WG_BROKER", "address inside"}},
		{"refused port", good, []string{"USM_WG_BROKER", "10.77.0.1:5999"}, "", "tunnel", []string{"the tunnel is up", "port inside refuses", "USM_WG_BROKER"}},
		{"no broker behind the hub", w.behind(w.orphan), nil, "", "login", []string{"the hub reaches no broker", "USM_HUB_BROKER"}},
		{
			"TLS name mismatch", w.behind(w.tls, "US_AMQP_DSN", strings.Replace(rabbit.TLSDSN(w.vhost), "localhost", "other.lab.invalid", 1), "USM_AMQP_CA_FILE", rabbit.CAFile),
			nil, "", "tls",
			[]string{"certificate is not for \"other.lab.invalid\""},
		},
		{"TLS from nobody known", w.behind(w.tls, "US_AMQP_DSN", rabbit.TLSDSN(w.vhost)), nil, "", "tls", []string{"USM_AMQP_CA_FILE"}},
	}
}

// refusals are the broker's, and the clock's.
func (w *ward) refusals() []fault {
	good := w.behind(w.port)
	as := func(user, password, vhost string) []string {
		return []string{"US_AMQP_DSN", rabbit.UserDSN(user, password, vhost)}
	}
	address, authority := tomorrowsServer(w.t)
	tooNew := func(int) map[string]string {
		return w.env("US_AMQP_DSN", "amqps://u:"+canary+"@"+address, "USM_AMQP_CA_FILE", authority)
	}
	return []fault{
		{"refused login", good, as(lab.RabbitUser, canary, w.vhost), "", "login", []string{"refused the login of user \"" + lab.RabbitUser + "\""}},
		{"wrong virtual host", good, as(lab.RabbitUser, lab.RabbitPassword, "nowhere"), "", "login", []string{"virtual host \"nowhere\""}},
		{"missing queue", good, []string{"USM_POLLER_SATELLITE_ID", "70"}, "", "queue", []string{"\"usm_poller-sat-70\" does not exist"}},
		{"missing right to read", good, as("deaf", canary, w.vhost), "", "read right", []string{"read permission"}},
		{"missing right to publish", good, as("mute", canary, w.vhost), "", "publish", []string{"write permission"}},
		{"clock behind a handshake", w.setBack(good), nil, "", "clock", []string{"before the last handshake", "set the clock"}},
		{"clock behind a certificate", tooNew, nil, "", "tls", []string{"this machine's clock says", "set the clock"}},
	}
}

// setBack is a site whose clock was an hour ahead when it last shook hands.
func (w *ward) setBack(good func(int) map[string]string) func(bed int) map[string]string {
	return func(bed int) map[string]string {
		env := with(good(bed), "USM_STATE_DIR", w.t.TempDir())
		before := tunnel.Config{
			PrivateKey: w.keys[bed], Addresses: []netip.Prefix{netip.MustParsePrefix(env["USM_WG_ADDRESS"])}, StateDir: env["USM_STATE_DIR"],
			Peer: tunnel.Peer{PublicKey: w.hub, Endpoints: []string{env["USM_WG_ENDPOINT"]}, AllowedIPs: []netip.Prefix{netip.MustParsePrefix("10.77.0.1/32")}},
		}
		tun, err := tunnel.Open(w.t.Context(), before, slog.New(slog.DiscardHandler))
		w.must(err)
		defer func() { _ = tun.Close() }()
		ctx, cancel := context.WithTimeout(w.t.Context(), patience)
		defer cancel()
		w.must(tun.Ready(ctx, env["USM_WG_BROKER"]))
		var kept []string
		wait(w.t, "the handshake to be kept", func() bool {
			kept, _ = filepath.Glob(filepath.Join(env["USM_STATE_DIR"], "*.handshake"))
			return len(kept) == 1
		})
		w.must(os.WriteFile(kept[0], []byte(time.Now().Add(time.Hour).Format(time.RFC3339Nano)), 0o600))
		return env
	}
}

// tomorrowsServer speaks TLS with a certificate that is not valid yet: as a
// good one looks to a clock that is a day behind.
func tomorrowsServer(t *testing.T) (address, authority string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), DNSNames: []string{"localhost"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(24 * time.Hour), NotAfter: time.Now().Add(48 * time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	authority = filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(authority, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
	ln, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}})
	if err != nil {
		t.Fatal(err)
	}
	serve(t, ln, func(conn net.Conn) {
		_ = conn.SetDeadline(time.Now().Add(patience))
		_, _ = io.Copy(io.Discard, conn) // the client ends it
	})
	_, port, _ := net.SplitHostPort(ln.Addr().String())
	return "localhost:" + port, authority
}
