package cli

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"usm-satellite/deploy/lab"
	"usm-satellite/jobs"
)

func telnetParams(commands ...string) map[string]any {
	return map[string]any{"transport": "telnet", "platform": "cisco_ios", "commands": commands}
}

func TestTelnetRun(t *testing.T) {
	t.Parallel()
	d := telnetSwitch(t)
	got := d.do("cli.run", telnetParams("show version", "show inventory")).ok(t)
	if len(got.Steps) != 2 || got.Prompt != "core-sw1#" {
		t.Fatalf("got %s", got.raw)
	}
	if want := "Cisco-like Software, Version 1.0\nuptime is 3 weeks"; got.Steps[0].Output != want {
		t.Errorf("got output %q, want %q", got.Steps[0].Output, want)
	}
	for i := range got.Steps {
		if got.Steps[i].State != stateAcknowledged || got.Steps[i].Error != "" {
			t.Errorf("step %d is %+v", i+1, got.Steps[i])
		}
	}
	var want []string
	for i := range 100 {
		want = append(want, fmt.Sprintf("line %d", i+1))
	}
	if got.Steps[1].Output != strings.Join(want, "\n") {
		t.Errorf("got inventory %q", got.Steps[1].Output)
	}
}

func TestTelnetPagerIsAnswered(t *testing.T) {
	t.Parallel()
	d := telnetSwitch(t)
	params := telnetParams("show inventory")
	params["platform"] = map[string]any{"extends": "cisco_ios", "disable_paging": []string{}}
	got := d.do("cli.run", params).ok(t)
	lines := strings.Split(got.Steps[0].Output, "\n")
	if len(lines) != 100 {
		t.Fatalf("got %d lines: %q", len(lines), got.Steps[0].Output)
	}
	for i, line := range lines {
		if line != fmt.Sprintf("line %d", i+1) {
			t.Errorf("line %d is %q", i+1, line)
		}
	}
}

func TestTelnetConfigure(t *testing.T) {
	t.Parallel()
	d := telnetSwitch(t)
	params := telnetParams("hostname access-7", "interface GigabitEthernet0/1", "description uplink")
	params["save"] = true
	got := d.do("cli.configure", params).ok(t)
	var phases []string
	for _, step := range got.Steps {
		phases = append(phases, step.Phase+":"+step.Command)
	}
	want := "enter:configure terminal,configure:hostname access-7,configure:interface GigabitEthernet0/1,configure:description uplink," +
		"leave:end,save:copy running-config startup-config"
	if strings.Join(phases, ",") != want {
		t.Errorf("got steps %q", phases)
	}
	if got.Prompt != "access-7#" {
		t.Errorf("left at %q", got.Prompt)
	}
	if d.file("hostname") != "access-7\n" || d.file("saved") != "saved\n" || !strings.Contains(d.file("lines"), "description uplink") {
		t.Errorf("the switch has hostname %q, saved %q, lines %q", d.file("hostname"), d.file("saved"), d.file("lines"))
	}
}

func TestTelnetConfigureStopsAtARefusal(t *testing.T) {
	t.Parallel()
	d := telnetSwitch(t)
	got := d.do("cli.configure", telnetParams("vlan 10", "bad line", "vlan 11")).failed(t, jobs.CodeCommandError, jobs.StageExecute)
	var states []string
	for _, step := range got.Steps {
		states = append(states, step.Command+"="+step.State)
	}
	want := "configure terminal=acknowledged,vlan 10=acknowledged,bad line=acknowledged,vlan 11=not_sent,end=acknowledged"
	if strings.Join(states, ",") != want {
		t.Errorf("got %q", states)
	}
	if !strings.Contains(got.Steps[2].Error, "Invalid input") || !strings.Contains(got.fault.Message, "Invalid input") {
		t.Errorf("the refusal is not told: %+v, %v", got.Steps[2], got.fault)
	}
	if lines := d.file("lines"); lines != "vlan 10\n" {
		t.Errorf("the switch has %q", lines)
	}
	if got.Prompt != "core-sw1#" {
		t.Errorf("the configuration mode was not left: %q", got.Prompt)
	}
}

func TestTelnetBackupIsStable(t *testing.T) {
	t.Parallel()
	d := telnetSwitch(t)
	params := map[string]any{"transport": "telnet", "platform": "cisco_ios"}
	first := d.do("config.backup", params).ok(t)
	params["platform"] = map[string]any{"extends": "cisco_ios", "disable_paging": []string{}} // with a pager
	second := d.do("config.backup", params).ok(t)
	if first.SHA256 != second.SHA256 || len(first.SHA256) != 64 || first.Config != second.Config {
		t.Errorf("two backups of one configuration differ: %s and %s", first.SHA256, second.SHA256)
	}
	if !strings.HasPrefix(first.Config, "!\n!\nhostname core-sw1\n") || !strings.HasSuffix(first.Config, "!\nend\n") {
		t.Errorf("got configuration %q", first.Config)
	}
	d.do("cli.configure", telnetParams("vlan 12")).ok(t)
	if third := d.do("config.backup", params).ok(t); third.SHA256 == first.SHA256 {
		t.Error("a change does not change the hash")
	}
}

func TestTelnetLoginRefused(t *testing.T) {
	t.Parallel()
	d := telnetSwitch(t)
	wrong := func(j *jobs.Job) { j.Credentials = []jobs.Credential{loginAs("admin", "no")} }
	d.do("cli.run", telnetParams("show version"), wrong).failed(t, jobs.CodeAuthFailed, jobs.StageLogin)
	second := func(j *jobs.Job) {
		j.Credentials = []jobs.Credential{loginAs("admin", "no"), loginAs("admin", loginPassword)}
	}
	d.do("cli.run", telnetParams("show version"), second).ok(t)
	none := func(j *jobs.Job) { j.Credentials = nil }
	d.do("cli.run", telnetParams("show version"), none).failed(t, jobs.CodeNoCredentials, jobs.StageCredentials)
	badEnable := func(j *jobs.Job) { j.Credentials[0].Login.EnablePassword = jobs.NewSecret("wrong-enable") }
	d.do("cli.run", telnetParams("show version"), badEnable).failed(t, jobs.CodeAuthFailed, jobs.StageLogin)
}

func TestTelnetQuestions(t *testing.T) {
	t.Parallel()
	d := telnetSwitch(t)
	save := "copy running-config startup-config"
	got := d.do("cli.run", telnetParams(save)).failed(t, jobs.CodePromptNotFound, jobs.StageExecute)
	if got.Steps[0].State != stateSent || d.file("saved") != "" {
		t.Errorf("an unanswered question: %s, saved %q", got.raw, d.file("saved"))
	}
	params := telnetParams()
	params["commands"] = []any{map[string]any{
		"command": save, "answers": []any{map[string]any{"pattern": `filename \[.*\]\?`, "answer": "startup-config"}},
	}}
	got = d.do("cli.run", params).ok(t)
	if !strings.Contains(got.Steps[0].Output, "[OK]") || d.file("saved") == "" {
		t.Errorf("got %s", got.raw)
	}
	params = telnetParams()
	params["confirm"], params["commands"] = true, []any{map[string]any{"command": "reload", "may_close": true}}
	got = d.do("cli.run", params).ok(t)
	if got.Steps[0].State != stateAcknowledged {
		t.Errorf("got %s", got.raw)
	}
}

func TestTelnetInterruptedWriteSaysHowFar(t *testing.T) {
	t.Parallel()
	d := telnetSwitch(t)
	tests := []struct {
		command string
		code    jobs.Code
	}{
		{"drop", jobs.CodeUnreachable},
		{"hang", jobs.CodeTimeout},
		{"half", jobs.CodePromptNotFound},
	}
	for _, test := range tests {
		t.Run(test.command, func(t *testing.T) {
			params := telnetParams("mark before-"+test.command, test.command, "mark after-"+test.command)
			params["command_timeout_ms"] = 6000
			got := d.do("cli.run", params).failed(t, test.code, jobs.StageExecute)
			var states []string
			for _, step := range got.Steps {
				states = append(states, step.State)
			}
			if strings.Join(states, ",") != "acknowledged,sent,not_sent" {
				t.Errorf("got states %q", states)
			}
			if !strings.Contains(got.fault.Message, "step 2 of 3") {
				t.Errorf("the message does not name the step: %v", got.fault)
			}
			if marks := d.file("marks"); !strings.Contains(marks, "before-"+test.command) || strings.Contains(marks, "after-") {
				t.Errorf("the switch has run %q", marks)
			}
		})
	}
}

func TestTelnetJobTimeout(t *testing.T) {
	t.Parallel()
	d := telnetSwitch(t)
	got := d.do("cli.run", telnetParams("hang"), timeout(8*time.Second)).failed(t, jobs.CodeTimeout, jobs.StageExecute)
	if !strings.Contains(got.fault.Message, "step 1 of 1") {
		t.Errorf("got %v", got.fault)
	}
}

func TestTelnetLongOutputIsCut(t *testing.T) {
	t.Parallel()
	d := telnetSwitch(t)
	small := func(j *jobs.Job) { j.Limits.MaxResultBytes = 64 << 10 }
	got := d.do("cli.run", telnetParams("show big 20000", "show version"), small).ok(t)
	if !got.Truncated || !got.Steps[0].Truncated || len(got.raw) > 64<<10 {
		t.Errorf("got %d bytes, truncated %t", len(got.raw), got.Truncated)
	}
	got = d.do("cli.run", telnetParams("show big 20000")).ok(t)
	if n := strings.Count(got.Steps[0].Output, "\n"); got.Truncated || n != 19999 {
		t.Errorf("got %d lines, truncated %t", n+1, got.Truncated)
	}
}

func TestTelnetTranscript(t *testing.T) {
	t.Parallel()
	d := telnetSwitch(t)
	params := telnetParams("show version")
	params["transcript"] = true
	got := d.do("cli.run", params).ok(t)
	for _, want := range []string{"User Access Verification", "Username: ", "***", "uptime is 3 weeks"} {
		if !strings.Contains(got.Transcript, want) {
			t.Errorf("the transcript has no %q: %s", want, got.Transcript)
		}
	}
}

func TestInetutilsTelnetd(t *testing.T) {
	t.Parallel()
	d := newDevice(t)
	d.console(lab.StartInetTelnet(t.Context(), d.dir))
	got := d.do("cli.run", telnetParams("show version", "show inventory")).ok(t)
	if got.Steps[0].Output != "Cisco-like Software, Version 1.0\nuptime is 3 weeks" || !strings.HasSuffix(got.Steps[1].Output, "\nline 100") {
		t.Errorf("got %s", got.raw)
	}
	d.do("config.backup", map[string]any{"transport": "telnet", "platform": "cisco_ios"}).ok(t)
}
