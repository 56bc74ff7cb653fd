package drivers

import (
	"testing"

	"usm-satellite/deploy/lab"
)

func discoverRows() []conformer {
	const kernel = "loopback is the satellite's own address: the kernel answers itself; silent and garbled agents are met by TestScanPassesBadAgentsBy"
	device := startFunc{"snmpd with lldpd", func(t *testing.T) int {
		d, err := lab.StartLLDP(t.Context(), t.TempDir())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := d.Close(); err != nil {
				t.Error(err)
			}
		})
		return d.Port
	}}
	lldp := snmpRow("discover.lldp", `{}`, "")
	lldp.start = device
	return []conformer{lldp, {
		action: "discover.scan", params: `{"network":"127.0.0.1/32","probes":["icmp","tcp:1"]}`,
		not: map[string]string{
			"refused": "a refusal is a finding", "silent": kernel, "slow": kernel, "garbled": kernel, "dropped in the middle": kernel,
			"cancelled": "tested by TestScanIsCancelled", "huge answer": "tested by TestScanKeepsTheLimits",
		},
	}}
}
