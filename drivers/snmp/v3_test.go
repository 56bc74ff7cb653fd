package snmp

import (
	"strings"
	"testing"
	"time"

	"github.com/gosnmp/gosnmp"

	"usm-satellite/deploy/lab"
	"usm-satellite/jobs"
)

func user(name, auth, priv string) jobs.SNMPCredential {
	return jobs.SNMPCredential{
		Version: "3", Username: name, AuthProtocol: auth, AuthPassword: jobs.NewSecret(lab.AuthPassword),
		PrivProtocol: priv, PrivPassword: jobs.NewSecret(lab.PrivPassword),
	}
}

// Each thing that may be wrong with a user has a message of its own.
func TestV3FaultsNameTheCause(t *testing.T) {
	t.Parallel()
	s := snmpd(t)
	wrong := jobs.NewSecret("canary-5ecret")
	badAuth, badPriv := user("u_shaaes", "SHA", "AES"), user("u_shaaes", "SHA", "AES")
	badAuth.AuthPassword, badPriv.PrivPassword = wrong, wrong
	badDES := user("u_shades", "SHA", "DES")
	badDES.PrivPassword = wrong
	for name, tt := range map[string]struct {
		cred jobs.SNMPCredential
		want string
	}{
		"unknown user":        {user("nobody", "SHA", "AES"), "usmStatsUnknownUserNames"},
		"unknown plain user":  {user("nobody", "", ""), "usmStatsUnknownUserNames"},
		"wrong password":      {badAuth, "usmStatsWrongDigests"},
		"wrong protocol":      {user("u_s256", "SHA-512", "AES"), "usmStatsWrongDigests"},
		"wrong key":           {badPriv, "privacy password"},
		"wrong key of DES":    {badDES, "privacy password"},
		"more than it allows": {user("u_md5", "MD5", "DES"), "usmStatsUnsupportedSecLevels"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			mine := *s
			mine.t, mine.cred = t, tt.cred
			got := mine.do("snmp.get", map[string]any{"oids": []string{"1.3.6.1.2.1.1.5.0"}}, within(30*time.Second))
			if got.fault == nil || !strings.Contains(got.fault.Message, tt.want) {
				t.Fatalf("got %v, want a word of %s", got.fault, tt.want)
			}
			if strings.Contains(got.fault.Message, wrong.Reveal()) {
				t.Error("the message holds the password")
			}
		})
	}
}

// A clock that is wrong in the middle of a job is set by the device's report.
func TestV3ClockIsSetAgain(t *testing.T) {
	t.Parallel()
	s := snmpd(t)
	d := &driver{
		Options: Options{Network: &jobs.Network{Policy: &jobs.Policy{Targets: loopbackOnly()}}},
		devices: newLRU[string, device](10), keys: newKeyring(),
	}
	job := &jobs.Job{Action: "snmp.get", Target: jobs.Target{Address: "127.0.0.1", Port: s.port}, Timeout: time.Minute}
	err := d.with(t.Context(), job, user("u_aes256", "SHA-256", "AES-256"), 1, func(s *session) error {
		sp, ok := s.SecurityParameters.(*gosnmp.UsmSecurityParameters)
		if !ok {
			t.Fatal("no security parameters")
		}
		for _, boots := range []uint32{0, 50} {
			sp.AuthoritativeEngineBoots += boots
			sp.AuthoritativeEngineTime += 100_000
			if vars, err := s.get([]string{"1.3.6.1.2.1.1.3.0"}); err != nil || len(vars) != 1 {
				t.Errorf("got %v, %v", vars, err)
			}
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}

// An agent that starts anew has another clock, or even another engine: the
// next job meets it as it is.
func TestV3AgentStartsAnew(t *testing.T) {
	t.Parallel()
	first := snmpd(t)
	second := snmpd(t) // another engine behind the same driver
	for _, port := range []int{first.port, second.port, first.port} {
		first.port, first.cred = port, user("u_s384", "SHA-384", "AES")
		first.do("snmp.get", map[string]any{"oids": []string{"1.3.6.1.2.1.1.5.0"}}).ok(t)
	}
}
