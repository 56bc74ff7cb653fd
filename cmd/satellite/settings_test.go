package main

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"usm-satellite/broker"
	"usm-satellite/deploy/lab"
	"usm-satellite/drivers"
	"usm-satellite/jobs"
	"usm-satellite/tunnel"
)

// with returns settings in which some are changed; "" takes one away.
func with(env map[string]string, changes ...string) map[string]string {
	out := make(map[string]string)
	maps.Copy(out, env)
	for i := 0; i < len(changes); i += 2 {
		out[changes[i]] = changes[i+1]
		if changes[i+1] == "" {
			delete(out, changes[i])
		}
	}
	return out
}

// Each wrong setting ends the program at once with status 2 and one line that
// names the setting and what it must be.
func TestWrongSettings(t *testing.T) {
	t.Parallel()
	dsn := "amqp://u:" + canary + "@127.0.0.1:5672/%2f"
	good := map[string]string{"US_AMQP_DSN": dsn, "USM_POLLER_SATELLITE_ID": "7", "USM_STATE_DIR": t.TempDir()}
	key := tunnel.NewPrivateKey()
	tunnelled := with(good, "USM_WG_PRIVATE_KEY", key.Reveal(), "USM_WG_ADDRESS", "10.77.0.7/32",
		"USM_WG_PEER_PUBLIC_KEY", tunnel.NewPrivateKey().Public().String(), "USM_WG_ENDPOINT", "127.0.0.1:51820")
	file := filepath.Join(t.TempDir(), "wg.conf")
	if err := os.WriteFile(file, []byte("[Interface]\nPrivateKey = "+canary+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name string
		env  map[string]string
		want string
	}{
		{"nothing", nil, "US_AMQP_DSN is not set"},
		{"no scheme", with(good, "US_AMQP_DSN", "u:"+canary+"@h"), "US_AMQP_DSN must begin with amqp://"},
		{"bad port", with(good, "US_AMQP_DSN", dsn+"/x"), "US_AMQP_DSN holds more than one /"},
		{"misspelt", with(good, "US_AMQP_DNS", canary), "did you mean US_AMQP_DSN"},
		{"misspelt, too", with(good, "USM_POLER_SATELLITE_ID", canary), "did you mean USM_POLLER_SATELLITE_ID"},
		{"id", with(good, "USM_POLLER_SATELLITE_ID", "7/"+canary), "USM_POLLER_SATELLITE_ID must be"},
		{"number", with(good, "USM_CONCURRENCY", canary), "USM_CONCURRENCY must be a whole number"},
		{"range", with(good, "USM_CONCURRENCY", "0"), "USM_CONCURRENCY must be 1 to"},
		{"boolean", with(good, "USM_ALLOW_WRITES", canary), "USM_ALLOW_WRITES must be true or false"},
		{"duration", with(good, "USM_DRAIN_TIMEOUT", canary), "USM_DRAIN_TIMEOUT must be a duration"},
		{"level", with(good, "USM_LOG_LEVEL", canary), "USM_LOG_LEVEL must be"},
		{"targets", with(good, "USM_ALLOW_TARGETS", canary), "USM_ALLOW_TARGETS must be networks"},
		{"ports", with(good, "USM_ALLOW_PORTS", canary), "USM_ALLOW_PORTS must be ports"},
		{"public plain", with(good, "US_AMQP_DSN", "amqp://u:"+canary+"@198.51.100.1"), "USM_ALLOW_PLAINTEXT"},
		{"both", with(good, "US_AMQP_DSN_FILE", "/x"), "US_AMQP_DSN and US_AMQP_DSN_FILE are both set"},
		{"no file", with(good, "US_AMQP_DSN", "", "US_AMQP_DSN_FILE", "/nowhere"), "US_AMQP_DSN_FILE: the file cannot be read (no such file)"},
		{"CA", with(good, "US_AMQP_DSN", "amqps://u:"+canary+"@h", "USM_AMQP_CA_FILE", "/nowhere"), "USM_AMQP_CA_FILE"},
		{"no CA", with(good, "US_AMQP_DSN", "amqps://u:"+canary+"@h", "USM_AMQP_CA_FILE", file), "USM_AMQP_CA_FILE: the file holds no certificate"},
		{"half a pair", with(good, "USM_AMQP_CERT_FILE", "/x"), "belong together"},
		{"fallback in clear", with(tunnelled, "USM_FALLBACK_DSN", dsn), "USM_FALLBACK_DSN must begin with amqps://"},
		{"fallback alone", with(good, "USM_FALLBACK_DSN", "amqps://u:"+canary+"@h"), "USM_FALLBACK_DSN is for satellites with a tunnel"},
		{"key", with(tunnelled, "USM_WG_PRIVATE_KEY", canary), "USM_WG_PRIVATE_KEY"},
		{"peer's key", with(tunnelled, "USM_WG_PEER_PUBLIC_KEY", "x"), "USM_WG_PEER_PUBLIC_KEY"},
		{"preshared key", with(tunnelled, "USM_WG_PRESHARED_KEY", canary), "USM_WG_PRESHARED_KEY"},
		{"address", with(tunnelled, "USM_WG_ADDRESS", "ten"), "USM_WG_ADDRESS must be"},
		{"half a tunnel", with(tunnelled, "USM_WG_ENDPOINT", ""), "USM_WG_ENDPOINT is not set"},
		{"endpoint", with(tunnelled, "USM_WG_ENDPOINT", "nowhere"), "is not host:port"},
		{"broker", with(tunnelled, "USM_WG_BROKER", "10.77.0.1"), "USM_WG_BROKER must be host:port"},
		{"mtu", with(tunnelled, "USM_WG_MTU", "100"), "USM_WG_MTU must be"},
		{"quick file", with(good, "USM_WG_CONFIG_FILE", file), "USM_WG_CONFIG_FILE"},
		{"no quick file", with(good, "USM_WG_CONFIG_FILE", "/nowhere"), "USM_WG_CONFIG_FILE: /nowhere cannot be read"},
		{"secrets", with(good, "USM_SECRETS_DIR", "/nowhere"), "USM_SECRETS_DIR"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			out, code := command(t, nil, tt.env)
			if code != exitUsage || !strings.Contains(out, tt.want) {
				t.Errorf("exit status %d, said %q, want %q", code, out, tt.want)
			}
		})
	}
	for name, env := range map[string]map[string]string{
		"USM_HUB_PRIVATE_KEY is not set": {"USM_HUB_BROKER": "h:1", "USM_HUB_PEERS_FILE": file},
		"USM_HUB_BROKER":                 {"USM_HUB_PRIVATE_KEY": key.Reveal(), "USM_HUB_BROKER": "h", "USM_HUB_PEERS_FILE": file},
		"USM_HUB_PEERS_FILE":             {"USM_HUB_PRIVATE_KEY": key.Reveal(), "USM_HUB_BROKER": "h:1", "USM_HUB_PEERS_FILE": "/nowhere"},
		"USM_HUB_LISTEN":                 {"USM_HUB_PRIVATE_KEY": key.Reveal(), "USM_HUB_BROKER": "h:1", "USM_HUB_PEERS_FILE": file, "USM_HUB_LISTEN": "x"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			out, code := command(t, []string{"hub"}, env)
			if code != exitUsage || !strings.Contains(out, name) {
				t.Errorf("exit status %d, said %q", code, out)
			}
		})
	}
}

func TestCommandLine(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"run", "check", "health", "status", "hub", "peers"} {
		if out, code := command(t, []string{name, "--help"}, nil); code != exitOK || !strings.Contains(out, "satellite "+name) && name != "run" {
			t.Errorf("%s --help: %d, %q", name, code, out)
		}
		if out, code := command(t, []string{name, "--colour"}, nil); code != exitUsage || !strings.Contains(out, "--colour") {
			t.Errorf("%s --colour: %d, %q", name, code, out)
		}
	}
	if out, code := command(t, []string{"version"}, nil); code != exitOK || !strings.HasPrefix(out, "satellite ") {
		t.Errorf("version: %d, %q", code, out)
	}
	if _, code := command(t, []string{"fly"}, nil); code != exitUsage {
		t.Errorf("an unknown command: %d", code)
	}
}

// The ERP's bundle hands its whole .env over: its names are none of ours.
func TestOtherNamesAreLeftAlone(t *testing.T) {
	t.Parallel()
	warnings, err := checkNames(map[string]string{"US_MYSQL_PASSWORD": canary, "US_TZ": "x", "USM_SOMETHING_NEW": canary, "HOME": "/"}, []string{"US_AMQP_DSN", "USM_LOG_LEVEL"})
	if err != nil || len(warnings) != 1 || !strings.Contains(warnings[0], "USM_SOMETHING_NEW") {
		t.Errorf("got %v, %v", warnings, err)
	}
}

// table is the README's table of settings, as the code has it.
func table() string {
	var b strings.Builder
	b.WriteString("| setting | meaning |\n|---|---|\n")
	for _, s := range []any{settings{}, hubSettings{}} {
		all, secrets := names(s)
		for _, name := range all {
			if strings.Contains(b.String(), "`"+name+"`") {
				continue
			}
			file := ""
			for _, secret := range secrets {
				if secret == name {
					file = " (or `_FILE`)"
				}
			}
			fmt.Fprintf(&b, "| `%s`%s | %s |\n", name, file, help(s, name))
		}
	}
	return b.String()
}

func TestReadmeHasTheSettings(t *testing.T) {
	t.Parallel()
	const path, begin, end = "../../README.md", "<!-- settings -->\n", "<!-- end of settings -->"
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	before, rest, ok := strings.Cut(string(text), begin)
	old, after, okEnd := strings.Cut(rest, end)
	if !ok || !okEnd {
		t.Fatalf("README.md has no %q and %q", begin, end)
	}
	if old == table() {
		return
	}
	if os.Getenv("UPDATE_README") == "" {
		t.Fatal("the table of settings in README.md is not what the code has; run UPDATE_README=1 go test -run TestReadmeHas ./cmd/satellite")
	}
	if err := os.WriteFile(path, []byte(before+begin+table()+end+after), 0o644); err != nil {
		t.Fatal(err)
	}
}

// What the broker refuses is named, the satellite goes on trying, and works
// once it is mended.
func TestBrokerRefuses(t *testing.T) {
	s := newSite(t, rabbit)
	for _, tt := range []struct {
		name, dsn, id, want string
	}{
		{"password", rabbit.UserDSN(lab.RabbitUser, canary, s.vhost), "7", "refused the login of user"},
		{"vhost", rabbit.DSN("nowhere"), "7", "virtual host"},
		{"port", fmt.Sprintf("amqp://u:%s@127.0.0.1:%d/", canary, lab.Port()), "7", "refused the connection"},
		{"name", "amqp://u:" + canary + "@nowhere.invalid/", "7", "does not resolve"},
		{"TLS", strings.Replace(rabbit.TLSDSN(s.vhost), strconv.Itoa(rabbit.TLSPort), strconv.Itoa(rabbit.Port), 1), "7", "does not speak TLS"},
		{"authority", rabbit.TLSDSN(s.vhost), "7", "USM_AMQP_CA_FILE"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			env := s.env("US_AMQP_DSN", tt.dsn, "USM_POLLER_SATELLITE_ID", tt.id, "USM_STATE_DIR", t.TempDir())
			p := start(t, nil, env)
			p.says(t, tt.want)
			out, code := command(t, []string{"check"}, env)
			if code != exitFailed || !strings.Contains(out, tt.want) {
				t.Errorf("check says %q, %d", out, code)
			}
			p.stop(t)
			if code := p.cmd.ProcessState.ExitCode(); code != 0 {
				t.Errorf("exit status %d after SIGTERM", code)
			}
		})
	}
	p := start(t, nil, s.env("USM_POLLER_SATELLITE_ID", "8"))
	p.says(t, `usm_poller-sat-8\" does not exist`)
	s.must(rabbit.DeclareQueue(t.Context(), s.vhost, "usm_poller-sat-8", "classic"))
	p.says(t, "taking jobs")
}

func TestOwnQueueOnDemand(t *testing.T) {
	s := newSite(t, rabbit)
	s.satellite("USM_POLLER_SATELLITE_ID", "9", "USM_DECLARE_QUEUE", "true")
}

// A satellite whose queue is deleted under it says so, and takes the new one.
func TestQueueDeleted(t *testing.T) {
	s, agent := newSite(t, rabbit), snmpd(t)
	p := s.satellite()
	s.must(rabbit.DeleteQueue(t.Context(), s.vhost, "usm_poller-sat-7"))
	p.says(t, "no session with the broker")
	s.must(rabbit.DeclareQueue(t.Context(), s.vhost, "usm_poller-sat-7", "quorum"))
	wait(t, "the satellite to come back", func() bool { return strings.Count(p.out.String(), "taking jobs") > 1 })
	allOK(t, s.ask(s.core(broker.CoreOptions{}), kinds("a-", agent.Port)), "amqp")
}

// Without a directory that it can write to, a satellite reads and refuses to
// write.
func TestNoStateDirectory(t *testing.T) {
	s, agent := newSite(t, rabbit), snmpd(t)
	p := s.satellite("USM_STATE_DIR", "/proc/nowhere")
	if !strings.Contains(p.out.String(), "no state directory") {
		t.Error("it does not say so")
	}
	for id, r := range s.ask(s.core(broker.CoreOptions{}), kinds("a-", agent.Port)) {
		if want := id != "a-set"; (r.Status == "ok") != want {
			t.Errorf("%s: %s, %v", id, r.Status, r.Error)
		}
	}
}

func TestReadmeHasTheActions(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	registry, closeAll := drivers.All(drivers.Options{Network: &jobs.Network{Policy: &jobs.Policy{}}})
	defer closeAll()
	for name := range registry {
		if !strings.Contains(string(text), "`"+name+"`") {
			t.Errorf("README.md does not say what %s does", name)
		}
	}
}
