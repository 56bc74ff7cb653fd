package cli

import (
	"os/exec"
	"strconv"
	"strings"
	"testing"

	"usm-satellite/deploy/lab"
	"usm-satellite/jobs"
)

// frr starts FRR's bgpd, which touches nothing of the machine: its Telnet line
// is a router's real command line.
func frr(t *testing.T) *device {
	t.Helper()
	d := newDevice(t)
	d.console(lab.StartFRR(t.Context(), d.dir))
	return d
}

// hidden takes the passwords that FRR shows out of the check for secrets: they
// are its configuration.
func hidden(config string) string {
	return strings.NewReplacer(loginPassword, "x", enablePassword, "x").Replace(config)
}

func TestFRRByTelnet(t *testing.T) {
	t.Parallel()
	d := frr(t)
	params := map[string]any{"transport": "telnet", "platform": "frr"}
	with := func(commands ...string) map[string]any {
		params["commands"] = commands
		return params
	}
	got := d.do("cli.run", with("show version", "show memory")).ok(t)
	if !strings.HasPrefix(got.Steps[0].Output, "FRRouting 8") || got.Prompt != "core-rt1#" {
		t.Errorf("got %s", got.raw)
	}
	got = d.do("cli.run", with("show nonsense")).failed(t, jobs.CodeCommandError, jobs.StageExecute)
	if !strings.Contains(got.fault.Message, "Unknown command") {
		t.Errorf("got %v", got.fault)
	}
	d.do("cli.configure", with("router bgp 65001", "neighbor 192.0.2.1 remote-as 65002", "neighbor 192.0.2.1 description uplink")).ok(t)
	got = d.do("cli.run", with("show running-config | include neighbor 192.0.2.1")).ok(t)
	if !strings.Contains(got.Steps[0].Output, "neighbor 192.0.2.1 description uplink") {
		t.Errorf("the change is not there: %s", got.raw)
	}
	d.do("cli.configure", with("router bgp 65001", "neighbor 192.0.2.1 remote-as nonsense")).failed(t, jobs.CodeCommandError, jobs.StageExecute)
}

// TestFRRPagesAndBacksUp reads a configuration of several screens with the
// router's pager on and with it off: the two are the same, and so is their
// hash. That the pager was on is seen from what happens without an answer.
func TestFRRPagesAndBacksUp(t *testing.T) {
	t.Parallel()
	d := frr(t)
	d.noLeaks = false
	commands := []string{"router bgp 65001"}
	for i := range 60 {
		commands = append(commands, "neighbor 192.0.2."+strconv.Itoa(i+1)+" remote-as 65002")
	}
	params := map[string]any{"transport": "telnet", "platform": "frr", "commands": commands}
	d.do("cli.configure", params).ok(t)
	delete(params, "commands")
	first := d.do("config.backup", params).ok(t)
	params["platform"] = map[string]any{"extends": "frr", "disable_paging": []string{"terminal length 20"}}
	second := d.do("config.backup", params).ok(t)
	if first.SHA256 != second.SHA256 || strings.Count(first.Config, "remote-as") != 60 {
		t.Errorf("the backups differ:\n%s\n%s", hidden(first.Config), hidden(second.Config))
	}
	params["platform"] = map[string]any{"extends": "frr", "disable_paging": []string{"terminal length 20"}, "pager": []string{}}
	params["command_timeout_ms"] = 5000
	stuck := d.do("config.backup", params).failed(t, jobs.CodePromptNotFound, jobs.StageExecute)
	if !strings.Contains(stuck.fault.Message, "More") {
		t.Errorf("got %v", stuck.fault)
	}
}

func TestVtyshByLegacySSH(t *testing.T) {
	t.Parallel()
	router := frr(t)
	d := newDevice(t)
	const vtysh = "/usr/bin/vtysh"
	d.sshd(lab.SSHDConfig{Force: vtysh + " --vty_socket " + router.dir, Legacy: true})
	d.noLeaks = false
	params := map[string]any{"platform": "frr_vtysh", "legacy_crypto": true, "commands": []string{"router bgp 65001", "neighbor 192.0.2.9 remote-as 65009"}}
	d.do("cli.configure", params).ok(t)
	out, err := exec.Command(vtysh, "--vty_socket", router.dir, "-c", "show running-config").Output()
	if err != nil || !strings.Contains(string(out), "neighbor 192.0.2.9 remote-as 65009") {
		t.Errorf("vtysh shows %s, %v", hidden(string(out)), err)
	}
	delete(params, "commands")
	first, second := d.do("config.backup", params).ok(t), d.do("config.backup", params).ok(t)
	if first.SHA256 != second.SHA256 || !strings.Contains(first.Config, "router bgp 65001") {
		t.Errorf("got %s", hidden(first.Config))
	}
}
