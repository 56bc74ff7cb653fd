package drivers

import (
	"testing"

	"usm-satellite/deploy/lab"
)

func snmpRow(action, params, huge string) conformer {
	agent := startFunc{"snmpd", func(t *testing.T) int {
		s, err := lab.StartSNMPD(t.Context(), t.TempDir())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { s.Close() })
		return s.Port
	}}
	user := func(password string) string {
		return `{"snmp":{"version":"3","username":"u_shaaes","auth_protocol":"SHA","auth_password":"` + password + `","priv_protocol":"AES","priv_password":"` + lab.PrivPassword + `"}}`
	}
	return conformer{
		action: action, params: params, huge: huge, start: agent, network: "udp",
		login: user(lab.AuthPassword), wrong: user(canary), dropFrom: 1, // the engine is told, nothing else
	}
}

func snmpRows() []conformer {
	get := snmpRow("snmp.get", `{"oids":["1.3.6.1.2.1.1.1.0","1.3.6.1.2.1.1.3.0"]}`, "")
	set := snmpRow("snmp.set", `{"varbinds":[{"oid":"1.3.6.1.2.1.1.6.0","type":"OctetString","value":"rack 4"}]}`, "")
	get.not = map[string]string{"huge answer": "at most 64 KiB come for each request, of 40 objects that the job has named"}
	set.not = get.not
	return []conformer{
		get, set,
		snmpRow("snmp.walk", `{"root":"1.3.6.1.2.1.1"}`, `{"root":"1.3.6.1"}`),
		snmpRow("snmp.table", `{"columns":["1.3.6.1.2.1.2.2.1.2"]}`, `{"columns":["1.3.6.1.2.1","1.3.6.1.6"]}`),
	}
}
