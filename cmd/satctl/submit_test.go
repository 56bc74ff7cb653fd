package main

import (
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"testing"

	"usm-satellite/deploy/lab"
)

// withSatellite starts a real satellite at a plain broker on loopback, and a
// real agent for it.
func withSatellite(t *testing.T, p *place) (snmpPort string) {
	t.Helper()
	agent, err := lab.StartSNMPD(t.Context(), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = agent.Close() })
	p.process(t, "satellite", map[string]string{
		"US_AMQP_DSN": p.env["US_AMQP_DSN"], "USM_POLLER_SATELLITE_ID": "7", "USM_DECLARE_QUEUE": "true",
		"USM_STATE_DIR": p.path("state"), "USM_ALLOW_TARGETS": "127.0.0.0/8",
	}, "run")
	eventually(t, "the satellite makes its queue", func() bool {
		return suite.rabbit.API(t.Context(), "GET", "/queues/"+p.vhost+"/usm_poller-sat-7", nil, nil) == nil
	})
	return strconv.Itoa(agent.Port)
}

func TestSubmit(t *testing.T) {
	t.Parallel()
	p := newPlace(t)
	port := withSatellite(t, p)
	closed := strconv.Itoa(lab.Port())
	v3 := p.path("v3.json")
	if err := os.WriteFile(v3, []byte(`{"snmp":{"version":"3","username":"u_s256","auth_protocol":"SHA-256","auth_password":"`+
		lab.AuthPassword+`","priv_protocol":"AES","priv_password":"`+lab.PrivPassword+`"}}`), 0o600); err != nil {
		t.Fatal(err)
	}
	snmp := []string{"submit", "--target", "127.0.0.1", "--port", port, "--community", lab.Community}
	for name, tc := range map[string]struct {
		args []string
		code int
		want string
	}{
		"ping":        {[]string{"submit", "--action", "icmp.ping", "--target", "127.0.0.1", "--params", "count=1"}, exitOK, "1 sent, 1 received, 0 % lost"},
		"get":         {append(snmp, "--action", "snmp.get", "--params", "oids=1.3.6.1.2.1.1.3.0"), exitOK, "1.3.6.1.2.1.1.3.0  TimeTicks"},
		"walk":        {append(snmp, "--action", "snmp.walk", "--params", "root=1.3.6.1.2.1.1"), exitOK, "1.3.6.1.2.1.1.5.0"},
		"table":       {append(snmp, "--action", "snmp.table", "--params", "columns=1.3.6.1.2.1.2.2.1.2"), exitOK, "index  1.3.6.1.2.1.2.2.1.2"},
		"version 3":   {[]string{"submit", "--target", "127.0.0.1", "--port", port, "--credentials-file", v3, "--action", "snmp.get", "--params", "oids=1.3.6.1.2.1.1.1.0"}, exitOK, "OctetString"},
		"refused":     {[]string{"submit", "--action", "tcp.connect", "--target", "127.0.0.1", "--port", closed}, exitJob, "refused: "},
		"denied":      {[]string{"submit", "--action", "tcp.connect", "--target", "192.0.2.1", "--port", "1"}, exitJob, "policy_denied: "},
		"unsupported": {[]string{"submit", "--action", "no.such", "--target", "127.0.0.1"}, exitJob, "unsupported  no.such"},
		"invalid":     {[]string{"submit", "--action", "icmp.ping", "--target", "127.0.0.1", "--params", "cuont=1"}, exitJob, "cuont"},
	} {
		code, out, errs := p.satctl(t, "", tc.args...)
		if code != tc.code || !strings.Contains(out, tc.want) || errs != "" {
			t.Errorf("%s: exit code %d, want %d and %q\n%s%s", name, code, tc.code, tc.want, out, errs)
		}
	}
}

// openPort takes and ends connections.
func openPort(t *testing.T) string {
	t.Helper()
	listener, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() { // ends with the listener
		defer close(done)
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			_ = conn.Close()
		}
	}()
	t.Cleanup(func() {
		_ = listener.Close()
		<-done
	})
	_, port, _ := net.SplitHostPort(listener.Addr().String())
	return port
}

func TestSubmitLines(t *testing.T) {
	t.Parallel()
	p := newPlace(t)
	withSatellite(t, p)
	port := openPort(t)
	const many = 3000
	var jobs strings.Builder
	for i := range many {
		fmt.Fprintf(&jobs, `{"job_id":"j%d","target":{"address":"127.0.0.1","port":%s,"device_id":"d%d"},"metadata":%d}`+"\n", i, port, i%50, i)
	}
	code, out, errs := p.satctl(t, jobs.String(), "submit", "--action", "tcp.connect", "--json", "--timeout", "60s", "--wait", "120s", "-")
	seen := map[string]bool{}
	for _, answer := range answers(t, out) {
		id := fmt.Sprint(answer["job_id"])
		if seen[id] || id != fmt.Sprint("j", answer["metadata"]) {
			t.Fatalf("answer %v, seen before: %v", answer, seen[id])
		}
		seen[id] = true
	}
	if code != exitOK || len(seen) != many || errs != "" {
		t.Errorf("exit code %d, %d answers of %d, %s", code, len(seen), many, errs)
	}
	lines := `{"job_id":"good"}` + "\n" + `{"job_id":"bad","action":7}` + "\n" + `{"job_id":"never"}`
	code, out, errs = p.satctl(t, lines, "submit", "--action", "tcp.connect", "--target", "127.0.0.1", "--port", port, "--json", "-")
	if got := answers(t, out); code != exitUsage || len(got) != 1 || got[0]["status"] != "ok" || !strings.Contains(errs, "line 2") {
		t.Errorf("exit code %d\n%s%s", code, out, errs)
	}
}

func TestSubmitSaysWhatIsWrongWithTheBroker(t *testing.T) {
	t.Parallel()
	const secret = "canary-5ecret"
	p := newPlace(t)
	job := []string{"submit", "--action", "icmp.ping", "--target", "127.0.0.1", "--community", secret}
	code, _, errs := p.satctl(t, "", append(job, "--satellite", "99")...)
	if code != exitBroker || !strings.Contains(errs, "usm_poller-sat-99") {
		t.Errorf("missing queue: %d %s", code, errs)
	}
	if err := suite.rabbit.DeclareQueue(t.Context(), p.vhost, "usm_poller-sat-8", "classic"); err != nil {
		t.Fatal(err)
	}
	code, out, errs := p.satctl(t, "", append(job, "--satellite", "8", "--wait", "1s", "--json")...)
	if code != exitJob || answers(t, out)[0]["status"] != "no_answer" || strings.Contains(out+errs, secret) {
		t.Errorf("nobody there: %d %s%s", code, out, errs)
	}
	for name, dsn := range map[string]string{
		"login": suite.rabbit.UserDSN("nobody", secret, p.vhost),
		"vhost": suite.rabbit.DSN("nope"),
		"port":  "amqp://u:" + secret + "@127.0.0.1:" + strconv.Itoa(lab.Port()) + "/",
		"name":  "amqp://u:" + secret + "@broker.invalid/",
		"TLS":   strings.Replace(suite.rabbit.TLSDSN("/"), lab.RabbitPassword, secret, 1),
	} {
		p.env["US_AMQP_DSN"] = dsn
		code, out, errs := p.satctl(t, "", job...)
		if code != exitBroker || out != "" || strings.Contains(errs, secret) || errs == "" {
			t.Errorf("%s: %d %s%s", name, code, out, errs)
		}
	}
	p.env["US_AMQP_DSN"] = suite.rabbit.TLSDSN(p.vhost)
	code, _, errs = p.satctl(t, "", append(job, "--satellite", "99", "--ca-file", suite.rabbit.CAFile)...)
	if code != exitBroker || !strings.Contains(errs, "usm_poller-sat-99") {
		t.Errorf("by TLS: %d %s", code, errs)
	}
}
