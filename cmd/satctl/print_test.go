package main

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"

	"usm-satellite/jobs"
)

func printed(t *testing.T, action, data string, asJSON bool) string {
	t.Helper()
	var out bytes.Buffer
	p := newPrinter(&out, asJSON)
	body := `{"schema":1,"job_id":"a","action":"` + action + `","satellite_id":"7","transport":"wireguard+amqp","status":"ok","run_ms":12,"data":` + data + `}`
	var result jobs.Result
	if err := json.Unmarshal([]byte(body), &result); err != nil {
		t.Fatal(err)
	}
	p.Result(request{action: action, target: "192.0.2.1"}, &result, []byte(body))
	if err := p.Flush(); err != nil {
		t.Fatal(err)
	}
	return out.String()
}

func TestEachActionPrintsInItsForm(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct{ action, data, want string }{
		"ping": {
			"icmp.ping", `{"sent":3,"received":2,"loss_pct":33.333333,"rtt_ms":{"min":0.1,"avg":0.25,"max":0.4}}`,
			"3 sent, 2 received, 33.33 % lost; round trip 0.25 ms, 0.1 to 0.4\n",
		},
		"connect": {"tcp.connect", `{"connect_ms":1.5}`, "connected in 1.5 ms\n"},
		"varbinds": {
			"snmp.get",
			`{"varbinds":[{"oid":"1.3.6.1","type":"OctetString","value":"core","hex":"636f7265"},{"oid":"1.3.6.1.2","type":"OctetString","hex":"00ff"},{"oid":"1.3","type":"Counter64","value":"18446744073709551615"}]}`,
			"  1.3.6.1    OctetString  core\n  1.3.6.1.2  OctetString  0x00ff\n  1.3        Counter64    18446744073709551615\n",
		},
		"table in the order of the tree": {
			"snmp.table",
			`{"rows":[{"index":"1","values":{"1.10":{"oid":"1.10.1","type":"Integer","value":7},"1.9":{"oid":"1.9.1","type":"OctetString","value":"lo"}}},{"index":"2","values":{}}]}`,
			"  index  1.9  1.10\n  1      lo   7\n  2           \n",
		},
		"steps":    {"cli.run", `{"steps":[{"command":"show x","output":"a\r\nb\r\n"}]}`, "  > show x\n    a\n    b\n"},
		"exec":     {"ssh.exec", `{"stdout":"a\nb\n","stderr":"","exit_code":2}`, "  a\n  b\n  exit code 2\n"},
		"config":   {"config.backup", `{"config":"hostname x\n","sha256":"abc"}`, "hostname x\n  sha256 abc\n"},
		"unshaped": {"icmp.ping", `["odd"]`, "[\n    \"odd\"\n  ]\n"},
		"unknown":  {"new.action", `{"a":1}`, "{\n    \"a\": 1\n  }\n"},
	} {
		got := printed(t, tc.action, tc.data, false)
		head := "ok  " + tc.action + " 192.0.2.1  12 ms  by wireguard+amqp  satellite 7\n"
		if !strings.HasPrefix(got, head) || !strings.HasSuffix(got, tc.want) {
			t.Errorf("%s: got\n%s", name, got)
		}
	}
}

// TestDevicesCannotDriveTheTerminal plants control characters wherever a
// device or a stranger can put text.
func TestDevicesCannotDriveTheTerminal(t *testing.T) {
	t.Parallel()
	const esc = `\u001b[2J\u009b\u202e`
	for action, data := range map[string]string{
		"snmp.get":      `{"varbinds":[{"oid":"` + esc + `","type":"` + esc + `","value":"` + esc + `"}]}`,
		"snmp.table":    `{"rows":[{"index":"` + esc + `","values":{"` + esc + `":"` + esc + `"}}]}`,
		"cli.run":       `{"steps":[{"command":"` + esc + `","output":"` + esc + `\n` + esc + `"}]}`,
		"ssh.exec":      `{"stdout":"` + esc + `","stderr":"` + esc + `","exit_code":0}`,
		"config.backup": `{"config":"` + esc + `","sha256":"` + esc + `"}`,
		"other":         `{"` + esc + `":"` + esc + `"}`,
	} {
		if got := printed(t, action, data, false); strings.ContainsAny(got, "\x1b\u009b\u202e") {
			t.Errorf("%s: got %q", action, got)
		}
	}
}

func TestJSONIsOneLineAsReceived(t *testing.T) {
	t.Parallel()
	got := printed(t, "new.action", "{\n \"n\": 18446744073709551615 }", true)
	if strings.Count(got, "\n") != 1 || !strings.Contains(got, `"data":{"n":18446744073709551615}`) {
		t.Errorf("got %s", got)
	}
}
