package drivers

import (
	"context"
	"encoding/json"
	"net"
	"net/netip"
	"strconv"
	"testing"
	"time"

	"usm-satellite/deploy/lab"
	"usm-satellite/jobs"
)

// loopback is a network whose policy allows the lab.
func loopback() *jobs.Network {
	return &jobs.Network{Policy: &jobs.Policy{Targets: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("::1/128")}}}
}

func run(t *testing.T, registry jobs.Registry, body string) (map[string]any, *jobs.Fault) {
	t.Helper()
	job, fault := jobs.Decode([]byte(body))
	if fault != nil {
		t.Fatal(fault)
	}
	action, fault := registry.Judge(job)
	if fault != nil {
		return nil, fault
	}
	out, err := action.Driver.Run(t.Context(), job)
	if err != nil {
		fault = jobs.FaultOf(t.Context(), err)
	}
	text, err := json.Marshal(out.Data)
	if err != nil {
		t.Fatal(err)
	}
	var data map[string]any
	_ = json.Unmarshal(text, &data)
	return data, fault
}

func TestPing(t *testing.T) {
	t.Parallel()
	registry, closeAll := All(Options{Network: loopback()})
	defer closeAll()
	for _, address := range []string{"127.0.0.1", "::1", "localhost"} {
		data, fault := run(t, registry, `{"schema":1,"job_id":"a","action":"icmp.ping","target":{"address":"`+address+`"},"params":{"count":2,"interval_ms":20}}`)
		if fault != nil || data["received"] != 2.0 || data["loss_pct"] != 0.0 {
			t.Errorf("%s: got %v, %v", address, data, fault)
		}
	}
}

func TestPingIsCancelled(t *testing.T) {
	t.Parallel()
	registry, closeAll := All(Options{Network: loopback()})
	defer closeAll()
	job, fault := jobs.Decode([]byte(`{"schema":1,"job_id":"a","action":"icmp.ping","target":{"address":"127.0.0.1"},"params":{"count":1000,"interval_ms":60000}}`))
	if fault != nil {
		t.Fatal(fault)
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	var cancelled time.Time
	timer := time.AfterFunc(200*time.Millisecond, func() {
		cancelled = time.Now()
		cancel(jobs.ErrCancelled)
	})
	defer timer.Stop()
	out, err := registry["icmp.ping"].Driver.Run(ctx, job)
	ended := time.Since(cancelled)
	if fault := jobs.FaultOf(ctx, err); fault.Code != jobs.CodeCancelled || !out.Partial {
		t.Errorf("got %v", fault)
	}
	if ended > returnLimit {
		t.Errorf("returned %s after the job was cancelled", ended)
	}
}

func TestConnect(t *testing.T) {
	t.Parallel()
	registry, closeAll := All(Options{Network: loopback()})
	defer closeAll()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	port := strconv.Itoa(ln.Addr().(*net.TCPAddr).Port)
	body := `{"schema":1,"job_id":"a","action":"tcp.connect","target":{"address":"127.0.0.1","port":` + port + `}}`
	if data, fault := run(t, registry, body); fault != nil {
		t.Errorf("got %v, %v", data, fault)
	}
	_ = ln.Close()
	if _, fault := run(t, registry, body); fault == nil || fault.Code != jobs.CodeRefused {
		t.Errorf("got %v, want refused", fault)
	}
}

func TestSNMPOfEveryVersion(t *testing.T) {
	t.Parallel()
	agent, err := lab.StartSNMPD(t.Context(), t.TempDir(), "127.0.0.1", "::1")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = agent.Close() })
	registry, closeAll := All(Options{Network: loopback()})
	t.Cleanup(closeAll)
	creds := map[string]string{
		"v1":  `{"snmp":{"version":"1","community":"` + lab.WriteCommunity + `"}}`,
		"v2c": `{"snmp":{"version":"2c","community":"` + lab.WriteCommunity + `"}}`,
	}
	for _, u := range lab.Users() {
		creds[u.Name] = `{"snmp":{"version":"3","username":"` + u.Name + `","auth_protocol":"` + u.Auth + `","auth_password":"` + lab.AuthPassword +
			`","priv_protocol":"` + u.Priv + `","priv_password":"` + lab.PrivPassword + `"}}`
	}
	for name, cred := range creds {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ask := func(action, address, params string) map[string]any {
				data, fault := run(t, registry, `{"schema":1,"job_id":"a","action":"`+action+`","target":{"address":"`+address+`","port":`+
					strconv.Itoa(agent.Port)+`},"credentials":[`+cred+`],"params":`+params+`}`)
				if fault != nil {
					t.Fatalf("%s: %v", action, fault)
				}
				return data
			}
			ask("snmp.get", "::1", `{"oids":["1.3.6.1.2.1.1.5.0"]}`)
			location := name + " " + time.Now().String()
			ask("snmp.set", "127.0.0.1", `{"varbinds":[{"oid":"1.3.6.1.2.1.1.4.0","type":"OctetString","value":"`+location+`"}]}`)
			if got := ask("snmp.walk", "127.0.0.1", `{"root":"1.3.6.1.2.1.1"}`); len(got["varbinds"].([]any)) < 7 {
				t.Errorf("the system group has %d objects", len(got["varbinds"].([]any)))
			}
			rows := ask("snmp.table", "127.0.0.1", `{"columns":["1.3.6.1.2.1.2.2.1.2","1.3.6.1.2.1.2.2.1.5"]}`)["rows"].([]any)
			if len(rows) == 0 || len(rows[0].(map[string]any)["values"].(map[string]any)) != 2 {
				t.Errorf("the table of interfaces is %v", rows)
			}
		})
	}
}

func TestSNMPFaultsNameTheCause(t *testing.T) {
	t.Parallel()
	agent, err := lab.StartSNMPD(t.Context(), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = agent.Close() })
	registry, closeAll := All(Options{Network: loopback()})
	t.Cleanup(closeAll)
	v3 := func(user, auth, authPassword, priv, privPassword string) string {
		return `{"snmp":{"version":"3","username":"` + user + `","auth_protocol":"` + auth + `","auth_password":"` + authPassword +
			`","priv_protocol":"` + priv + `","priv_password":"` + privPassword + `"}}`
	}
	for _, tt := range []struct {
		name, cred string
		port       int
		want       jobs.Code
	}{
		{"wrong community", `{"snmp":{"version":"2c","community":"canary-5ecret"}}`, agent.Port, jobs.CodeTimeout},
		{"nobody listens", `{"snmp":{"version":"2c","community":"public"}}`, lab.Port(), jobs.CodeRefused},
		{"unknown user", v3("nobody", "SHA", lab.AuthPassword, "AES", lab.PrivPassword), agent.Port, jobs.CodeAuthFailed},
		{"wrong password", v3("u_shaaes", "SHA", "canary-5ecret", "AES", lab.PrivPassword), agent.Port, jobs.CodeAuthFailed},
		{"wrong level", v3("u_shaaes", "", "", "", ""), agent.Port, jobs.CodeAuthFailed},
		{"no credential", ``, agent.Port, jobs.CodeNoCredentials},
		{"wrong version", `{"snmp":{"version":"9"}}`, agent.Port, jobs.CodeInvalidJob},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			_, fault := run(t, registry, `{"schema":1,"job_id":"a","action":"snmp.get","target":{"address":"127.0.0.1","port":`+strconv.Itoa(tt.port)+
				`},"timeout_ms":10000,"credentials":[`+tt.cred+`],"params":{"oids":["1.3.6.1.2.1.1.5.0"]}}`)
			if fault == nil || fault.Code != tt.want {
				t.Fatalf("got %v, want %s", fault, tt.want)
			}
			t.Log(fault.Message)
		})
	}
}
