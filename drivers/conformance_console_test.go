package drivers

import (
	"testing"

	"usm-satellite/deploy/lab"
)

func login(password string) string {
	return `{"login":{"username":"` + lab.ConsoleUser + `","password":"` + password + `","enable_password":"` + lab.EnablePassword + `"}}`
}

func consoleRows() []conformer {
	sshd := func(t *testing.T, c lab.SSHDConfig, dir string) int {
		t.Helper()
		s, err := lab.StartSSHD(t.Context(), dir, c)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { s.Close() })
		return s.Port
	}
	device := startFunc{"switch behind sshd", func(t *testing.T) int {
		dir := t.TempDir()
		script, err := lab.WriteSwitch(dir)
		if err != nil {
			t.Fatal(err)
		}
		return sshd(t, lab.SSHDConfig{Force: script}, dir)
	}}
	byTelnet := startFunc{"switch behind telnetd", func(t *testing.T) int {
		c, err := lab.StartTelnetSwitch(t.Context(), t.TempDir())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		return c.Port
	}}
	server := startFunc{"sshd", func(t *testing.T) int { return sshd(t, lab.SSHDConfig{}, t.TempDir()) }}
	const big = `"show big 60000"`
	row := func(start startFunc, action, params, huge string) conformer {
		return conformer{
			action: action, params: params, huge: huge, start: start, network: "tcp", login: login(lab.ConsolePassword), wrong: login(canary),
			dropFrom: 2000, // somewhere in the login
		}
	}
	telnet := row(byTelnet, "cli.run", `{"transport":"telnet","platform":"cisco_ios","commands":["show version"]}`,
		`{"transport":"telnet","platform":"cisco_ios","commands":[`+big+`]}`)
	telnet.dropFrom = 60 // behind the first question
	configure := row(device, "cli.configure", `{"platform":"cisco_ios","commands":["hostname conformance"]}`, `{"platform":"cisco_ios","commands":[`+big+`]}`)
	backup := row(device, "config.backup", `{"platform":"cisco_ios"}`, `{"platform":"cisco_ios"}`)
	backup.hugeLimit = 1 << 10 // a configuration is given whole or not at all
	return []conformer{
		telnet,
		row(device, "cli.run", `{"platform":"cisco_ios","commands":["show version"]}`, `{"platform":"cisco_ios","commands":[`+big+`]}`),
		configure, backup,
		row(server, "ssh.exec", `{"command":"echo conformance"}`, `{"command":"head -c 3000000 /dev/zero | tr '\\0' x"}`),
	}
}
