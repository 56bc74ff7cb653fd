package snmp

import (
	"strings"
	"testing"
	"time"

	"usm-satellite/deploy/lab"
	"usm-satellite/jobs"
)

func TestCredentialsByReference(t *testing.T) {
	t.Parallel()
	s := snmpd(t)
	network := &jobs.Network{Policy: &jobs.Policy{Targets: loopbackOnly()}}
	s.registry = Actions(Options{Network: network, Secret: func(ref string) (jobs.Credential, *jobs.Fault) {
		if ref != "switches" {
			return jobs.Credential{}, jobs.Faultf(jobs.CodeNoCredentials, jobs.StageCredentials, "no secret %q", ref)
		}
		return jobs.Credential{SNMP: &jobs.SNMPCredential{Version: "2c", Community: jobs.NewSecret(lab.Community)}}, nil
	}})
	get := map[string]any{"oids": []string{"1.3.6.1.2.1.1.5.0"}}
	by := func(refs ...string) func(*jobs.Job) {
		return func(job *jobs.Job) {
			job.Credentials = nil
			for _, ref := range refs {
				job.Credentials = append(job.Credentials, jobs.Credential{Ref: ref})
			}
		}
	}
	s.do("snmp.get", get, by("switches")).ok(t)
	s.do("snmp.get", get, by("others")).failed(t, jobs.CodeNoCredentials, jobs.StageCredentials)
}

// What the policy does not allow is not asked, by any action.
func TestPolicyIsAsked(t *testing.T) {
	t.Parallel()
	s := newSite(t, 161)
	s.address = "192.0.2.1"
	for action, params := range map[string]map[string]any{
		"snmp.get":  {"oids": []string{tree}},
		"snmp.walk": {"root": tree},
		"snmp.set":  {"varbinds": []map[string]any{{"oid": tree, "type": "Integer", "value": 1}}},
	} {
		got := s.do(action, params, within(20*time.Second)).failed(t, jobs.CodePolicyDenied, jobs.StagePolicy)
		if !strings.Contains(got.fault.Message, "192.0.2.1") {
			t.Errorf("%s: got %v", action, got.fault)
		}
	}
}
