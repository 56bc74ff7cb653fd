package cli

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"usm-satellite/deploy/lab"
	"usm-satellite/jobs"
)

func write(t *testing.T, path, content string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

func keygen(t *testing.T, path string, args ...string) {
	t.Helper()
	if err := lab.Keygen(t.Context(), path, args...); err != nil {
		t.Fatal(err)
	}
}

func fingerprint(t *testing.T, path string) string {
	t.Helper()
	out, err := exec.Command("ssh-keygen", "-l", "-f", path).Output()
	if err != nil {
		t.Fatal(err)
	}
	return strings.Fields(string(out))[1]
}

// sshd starts OpenSSH.
func (d *device) sshd(c lab.SSHDConfig) {
	d.t.Helper()
	d.console(lab.StartSSHD(d.t.Context(), d.dir, c))
}

func overSSH(commands ...string) map[string]any {
	return map[string]any{"platform": "cisco_ios", "commands": commands}
}

func TestSSHSwitch(t *testing.T) {
	t.Parallel()
	d := newDevice(t)
	d.sshd(lab.SSHDConfig{Force: d.switchScript()})
	got := d.do("cli.run", overSSH("show version")).ok(t)
	if want := "Cisco-like Software, Version 1.0\nuptime is 3 weeks"; got.Steps[0].Output != want {
		t.Errorf("got %q", got.Steps[0].Output)
	}
	if len(got.Warnings) != 1 || !strings.Contains(got.Warnings[0], fingerprint(t, d.dir+"/host_ed25519")) {
		t.Errorf("the first connection does not tell the host key: %q", got.Warnings)
	}
	if got := d.do("cli.run", overSSH("show version")).ok(t); len(got.Warnings) > 0 {
		t.Errorf("the second connection warns: %q", got.Warnings)
	}
	backup := map[string]any{"platform": "cisco_ios"}
	first, second := d.do("config.backup", backup).ok(t), d.do("config.backup", backup).ok(t)
	if first.SHA256 != second.SHA256 {
		t.Error("two backups differ")
	}
	d.do("cli.configure", overSSH("hostname by-ssh")).ok(t)
	if d.file("hostname") != "by-ssh\n" {
		t.Errorf("the switch has hostname %q", d.file("hostname"))
	}
}

func TestSSHLegacyOnlyWhereAllowed(t *testing.T) {
	t.Parallel()
	d := newDevice(t)
	d.sshd(lab.SSHDConfig{Force: d.switchScript(), Legacy: true})
	got := d.do("cli.run", overSSH("show version")).failed(t, jobs.CodeProtocolError, jobs.StageConnect)
	if !strings.Contains(got.fault.Message, "legacy_crypto") || !strings.Contains(got.fault.Message, "group1") {
		t.Errorf("the message has no remedy: %v", got.fault)
	}
	params := overSSH("show version")
	params["legacy_crypto"] = true
	got = d.do("cli.run", params).ok(t)
	all := strings.Join(got.Warnings, "\n")
	for _, want := range []string{"diffie-hellman-group1-sha1", "ssh-rsa", "3des-cbc"} {
		if !strings.Contains(all, want) {
			t.Errorf("%s is not named in %q", want, got.Warnings)
		}
	}
}

func TestSSHHostKeys(t *testing.T) {
	t.Parallel()
	d := newDevice(t)
	c := lab.SSHDConfig{Keys: []string{"ed25519", "ecdsa", "rsa"}}
	d.sshd(c)
	exec := func(pin string) *answer {
		params := map[string]any{"command": "echo run >> " + d.dir + "/marks"}
		if pin != "" {
			params["host_key"] = pin
		}
		return d.do("ssh.exec", params)
	}
	for _, kind := range c.Keys {
		public, err := os.ReadFile(d.dir + "/host_" + kind + ".pub")
		if err != nil {
			t.Fatal(err)
		}
		exec(fingerprint(t, d.dir+"/host_"+kind)).ok(t)
		exec(string(public)).ok(t)
	}
	if n := strings.Count(d.file("marks"), "run"); n != 6 {
		t.Fatalf("%d runs with six right pins", n)
	}
	keygen(t, d.dir+"/other", "-t", "ed25519", "-N", "")
	exec(fingerprint(t, d.dir+"/other")).failed(t, jobs.CodeHostKeyChanged, jobs.StageConnect)
	exec("SHA256:nonsense").failed(t, jobs.CodeInvalidJob, jobs.StageQueue)
	if n := strings.Count(d.file("marks"), "run"); n != 6 {
		t.Errorf("a command ran on a device with another key than the pinned one")
	}
	// Trust on first use, kept over a start of the satellite.
	exec("").ok(t)
	d.use(0)
	exec("").ok(t)
	known := filepath.Join(d.state, "known_hosts")
	line, err := os.ReadFile(known)
	if err != nil || strings.Count(string(line), "\n") != 1 {
		t.Fatalf("known_hosts has %q, %v", line, err)
	}
	other, err := os.ReadFile(d.dir + "/other.pub")
	if err != nil {
		t.Fatal(err)
	}
	write(t, known, fmt.Sprintf("[127.0.0.1]:%d %s", d.port, other))
	exec("").failed(t, jobs.CodeHostKeyChanged, jobs.StageConnect)
	if n := strings.Count(d.file("marks"), "run"); n != 8 {
		t.Errorf("%d runs, want 8: a changed key must keep all from being sent", n)
	}
}

func TestSSHLogins(t *testing.T) {
	t.Parallel()
	d := newDevice(t)
	keygen(t, d.dir+"/plain", "-t", "ed25519", "-N", "")
	keygen(t, d.dir+"/locked", "-t", "rsa", "-N", "key-passphrase")
	for _, name := range []string{"plain", "locked"} {
		public, _ := os.ReadFile(d.dir + "/" + name + ".pub")
		f, err := os.OpenFile(d.dir+"/authorized", os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
		if err != nil {
			t.Fatal(err)
		}
		f.Write(public)
		f.Close()
	}
	d.sshd(lab.SSHDConfig{})
	key := func(name, passphrase string) jobs.Credential {
		pem, err := os.ReadFile(d.dir + "/" + name)
		if err != nil {
			t.Fatal(err)
		}
		return jobs.Credential{Login: &jobs.LoginCredential{
			Username: "root", PrivateKey: jobs.NewSecret(string(pem)), Passphrase: jobs.NewSecret(passphrase),
		}}
	}
	tests := []struct {
		name        string
		credentials []jobs.Credential
		code        jobs.Code
	}{
		{"password", []jobs.Credential{loginAs("admin", loginPassword)}, ""},
		{"key", []jobs.Credential{key("plain", "")}, ""},
		{"locked key", []jobs.Credential{key("locked", "key-passphrase")}, ""},
		{"locked key, wrong passphrase", []jobs.Credential{key("locked", "wrong")}, jobs.CodeAuthFailed},
		{"wrong password", []jobs.Credential{loginAs("admin", "wrong")}, jobs.CodeAuthFailed},
		{"the third", []jobs.Credential{loginAs("admin", "wrong"), loginAs("nobody", "wrong"), loginAs("admin", loginPassword)}, ""},
		{"none", nil, jobs.CodeNoCredentials},
		{"by an unknown name", []jobs.Credential{{Ref: "x"}}, jobs.CodeNoCredentials},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			got := d.do("ssh.exec", map[string]any{"command": "id -u"}, func(j *jobs.Job) { j.Credentials = test.credentials })
			if test.code == "" {
				if got.ok(t); got.Stdout != "0\n" {
					t.Errorf("got %q", got.Stdout)
				}
				return
			}
			if got.fault == nil || got.fault.Code != test.code || got.fault.Stage == jobs.StageExecute {
				t.Errorf("got %v, want %s", got.fault, test.code)
			}
		})
	}
}

func TestSSHExec(t *testing.T) {
	t.Parallel()
	d := newDevice(t)
	d.sshd(lab.SSHDConfig{})
	got := d.do("ssh.exec", map[string]any{"command": "echo out; echo err >&2; exit 3"}).ok(t)
	if got.Stdout != "out\n" || got.Stderr != "err\n" || got.ExitCode == nil || *got.ExitCode != 3 {
		t.Errorf("got %s", got.raw)
	}
	got = d.do("ssh.exec", map[string]any{"command": "cat", "stdin": "from the job"}).ok(t)
	if got.Stdout != "from the job" {
		t.Errorf("got %s", got.raw)
	}
	got = d.do("ssh.exec", map[string]any{"command": "tty"}).ok(t)
	if !strings.Contains(got.Stdout, "not a tty") {
		t.Errorf("there is a terminal: %s", got.raw)
	}
	small := func(j *jobs.Job) { j.Limits.MaxResultBytes = 10000 }
	got = d.do("ssh.exec", map[string]any{"command": "yes | head -c 1000000"}, small).ok(t)
	if !got.Truncated || len(got.raw) > 12000 {
		t.Errorf("got %d bytes, truncated %t", len(got.raw), got.Truncated)
	}
	d.do("ssh.exec", map[string]any{"command": "sleep 300"}, timeout(4*time.Second)).failed(t, jobs.CodeTimeout, jobs.StageExecute)
	d.do("ssh.exec", map[string]any{"command": "echo begun; kill -9 $PPID"}).failed(t, jobs.CodeUnreachable, jobs.StageExecute)
	d.do("ssh.exec", map[string]any{"command": "id", "pty": true}).failed(t, jobs.CodeInvalidJob, jobs.StageQueue)
}

func TestSSHLinuxShell(t *testing.T) {
	t.Parallel()
	d := newDevice(t)
	d.sshd(lab.SSHDConfig{})
	params := map[string]any{"platform": "linux", "commands": []string{"echo hello", "printf no-newline", "cd /", "pwd", "nosuchcommand", "echo after"}}
	got := d.do("cli.run", params).failed(t, jobs.CodeCommandError, jobs.StageExecute)
	var outputs []string
	for _, step := range got.Steps {
		outputs = append(outputs, step.Output)
	}
	if want := []string{"hello", "no-newline", "", "/"}; strings.Join(outputs[:4], "|") != strings.Join(want, "|") {
		t.Errorf("got %q, want %q", outputs, want)
	}
	if got.Steps[4].Error == "" || got.Steps[5].State != stateNotSent {
		t.Errorf("got %s", got.raw)
	}
	params["stop_on_error"] = false
	got = d.do("cli.run", params).failed(t, jobs.CodeCommandError, jobs.StageExecute)
	if got.Steps[5].Output != "after" {
		t.Errorf("got %s", got.raw)
	}
}

func TestDropbear(t *testing.T) {
	t.Parallel()
	d := newDevice(t)
	d.console(lab.StartDropbear(t.Context(), d.dir))
	got := d.do("ssh.exec", map[string]any{"command": "echo out; exit 4"}).ok(t)
	if got.Stdout != "out\n" || *got.ExitCode != 4 {
		t.Errorf("got %s", got.raw)
	}
	got = d.do("cli.run", map[string]any{"platform": "linux", "commands": []string{"echo hello"}}).ok(t)
	if got.Steps[0].Output != "hello" {
		t.Errorf("got %s", got.raw)
	}
	wrong := func(j *jobs.Job) { j.Credentials = []jobs.Credential{loginAs("admin", "wrong")} }
	d.do("ssh.exec", map[string]any{"command": "id"}, wrong).failed(t, jobs.CodeAuthFailed, jobs.StageLogin)
}

func TestSessionsAreKeptForTheNextJob(t *testing.T) {
	t.Parallel()
	for _, transport := range []string{"ssh", "telnet"} {
		t.Run(transport, func(t *testing.T) {
			d := newDevice(t)
			if transport == "ssh" {
				d.sshd(lab.SSHDConfig{Force: d.switchScript()})
			} else {
				d = telnetSwitch(t)
			}
			d.use(long)
			params := map[string]any{"platform": "cisco_ios", "transport": transport, "transcript": true, "commands": []string{"show version"}}
			first, second := d.do("cli.run", params).ok(t), d.do("cli.run", params).ok(t)
			if !strings.Contains(first.Transcript, "terminal length 0") || strings.Contains(second.Transcript, "terminal length 0") {
				t.Errorf("the session was not kept: %q, then %q", first.Transcript, second.Transcript)
			}
			if first.Steps[0].Output != second.Steps[0].Output {
				t.Errorf("a kept session gives %q, a new one %q", second.Steps[0].Output, first.Steps[0].Output)
			}
			other := func(j *jobs.Job) { j.Credentials = []jobs.Credential{loginAs("admin", "wrong")} }
			d.do("cli.run", params, other).failed(t, jobs.CodeAuthFailed, jobs.StageLogin)
		})
	}
}
