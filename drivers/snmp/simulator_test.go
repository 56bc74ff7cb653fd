package snmp

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"usm-satellite/drivers/simulator"
	"usm-satellite/jobs"
)

// TestSimulatorAgreesWithNetSNMP is for people who try a core out on simulated
// devices: net-snmp and we read the same there.
func TestSimulatorAgreesWithNetSNMP(t *testing.T) {
	t.Parallel()
	for _, name := range simulator.List() {
		if strings.HasPrefix(name, "hostile-") {
			continue
		}
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p, err := simulator.Load(name)
			if err != nil {
				t.Fatal(err)
			}
			s := newSite(t, simulated(t, p))
			s.cred.Community = jobs.NewSecret("public")
			want := netSNMP(t, s.port, "public", "1.3.6.1")
			got := s.do("snmp.walk", map[string]any{"root": "1.3.6.1"}).ok(t)
			if all := fmt.Sprintf("%d values,", len(got.Varbinds)); len(got.Varbinds) != len(want) || !strings.HasPrefix(p.Access(simulator.SNMP), all) {
				t.Errorf("got %d objects, net-snmp has %d, the profile %s", len(got.Varbinds), len(want), p.Access(simulator.SNMP))
			}
			for _, v := range got.Varbinds {
				if words(v) != want[v.OID] {
					t.Errorf("%s: got %q, net-snmp has %q", v.OID, words(v), want[v.OID])
				}
			}
			t.Logf("%d values agree", len(want))
		})
	}
}

// simulated runs a device until the test ends, and returns its port of SNMP.
func simulated(t *testing.T, p *simulator.Profile) int {
	t.Helper()
	ports, stop, err := p.Start(context.Background(), simulator.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = stop() })
	return ports[simulator.SNMP]
}
