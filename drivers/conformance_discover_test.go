package drivers

import (
	"testing"

	"usm-satellite/deploy/lab"
)

func discoverRows() []conformer {
	const bad = "TestScanPassesBadAgentsBy"
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
	lldp.elsewhere = map[string]string{"huge answer": "TestLLDPOfRecordedDevices"}
	return []conformer{lldp, {
		action: "discover.scan", params: `{"network":"127.0.0.1/32","probes":["icmp","tcp:1"]}`,
		not: map[string]string{
			"refused": finding, "slow": answersItself, "dropped in the middle": "an address that answers one probe of several is a finding",
			wrongLogin: "a device that refuses the credential has not answered",
		},
		elsewhere: map[string]string{
			"silent": bad, "garbled": bad, cancelled: "TestScanIsCancelled", "huge answer": "TestScanKeepsTheLimits",
		},
	}}
}
