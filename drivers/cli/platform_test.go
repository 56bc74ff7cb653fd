package cli

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"usm-satellite/jobs"
)

// These peers are scripts of our own, written after the published manuals of
// each family: no such equipment is at hand. What is tested on real software
// is in telnet_test.go, sshd_test.go and frr_test.go.

// line is what a scripted device does with what is typed.
type line struct {
	typed  string // without the end of the line; "*" takes anything
	key    bool   // a single key: no end of a line is waited for
	before string // comes first, and the echo and the reply 200 ms later
	reply  string
}

// script is a device on one end of a pipe.
type script struct {
	greeting string
	lines    []line
	echo     bool
}

// play runs the script; what does not fit it is told by the error.
func (s script) play(conn net.Conn) error {
	defer conn.Close()
	r := bufio.NewReader(conn)
	if _, err := io.WriteString(conn, s.greeting); err != nil {
		return err
	}
	for _, l := range s.lines {
		got, err := typed(r, l.key)
		if err != nil {
			return fmt.Errorf("waiting for %q: %w", l.typed, err)
		}
		if got != l.typed && l.typed != "*" {
			return fmt.Errorf("typed %q, want %q", got, l.typed)
		}
		if l.before != "" {
			if _, err := io.WriteString(conn, l.before); err != nil {
				return err
			}
			time.Sleep(200 * time.Millisecond) // virtual time
		}
		reply := l.reply
		if s.echo && !l.key {
			reply = got + "\r\n" + reply
		}
		if _, err := io.WriteString(conn, reply); err != nil {
			return err
		}
	}
	_, err := io.Copy(io.Discard, r)
	return err
}

func typed(r *bufio.Reader, key bool) (string, error) {
	if key {
		b, err := r.ReadByte()
		return string(b), err
	}
	var b strings.Builder
	for {
		c, err := r.ReadByte()
		if err != nil || c == '\n' || c == '\r' {
			if next, _ := r.Peek(min(1, r.Buffered())); c == '\r' && len(next) > 0 && next[0] == '\n' {
				r.Discard(1)
			}
			return b.String(), err
		}
		b.WriteByte(c)
	}
}

// converse runs work on a session with a scripted device, in virtual time.
func converse(t *testing.T, platformName string, s script, params string, work func(ctx context.Context, r *runner) *jobs.Fault) *runner {
	t.Helper()
	var r *runner
	synctest.Test(t, func(t *testing.T) {
		known, err := loadPlatforms()
		if err != nil {
			t.Fatal(err)
		}
		ours, theirs := net.Pipe()
		var wg sync.WaitGroup
		wg.Go(func() {
			if err := s.play(theirs); err != nil {
				t.Errorf("the device: %v", err)
			}
		})
		definition, _ := json.Marshal(platformName)
		if strings.HasPrefix(platformName, "{") {
			definition = []byte(platformName)
		}
		if params == "" {
			params = "{}"
		}
		job := &jobs.Job{Action: "cli.run", Params: []byte(strings.Replace(params, "{", `{"platform":`+string(definition)+",", 1))}
		job.Params = []byte(strings.Replace(string(job.Params), ",}", "}", 1))
		p, fault := known.decode(job)
		if fault != nil {
			t.Fatal(fault)
		}
		r = newRunner(job, p)
		r.live = &kept{session: newSession(ours, p.platform, nil)}
		ctx, cancel := context.WithTimeoutCause(t.Context(), 5*time.Minute, jobs.ErrTimeout)
		defer cancel()
		login := &jobs.LoginCredential{Username: "admin", Password: jobs.NewSecret("pw"), EnablePassword: jobs.NewSecret("en")}
		if fault := r.begin(ctx, login); fault != nil {
			t.Errorf("no prompt: %v", fault)
		} else {
			if fault := work(ctx, r); fault != nil {
				t.Errorf("got %v", fault)
			}
			r.session.Close()
		}
		wg.Wait()
	})
	return r
}

func TestPlatformsOnScriptedDevices(t *testing.T) {
	tests := []struct {
		name, platform string
		device         script
		commands       []string
		output         string // of the first command
		refused        bool   // the last one
	}{
		{
			name: "Huawei with a pager that erases by cursor", platform: "huawei_vrp",
			device: script{greeting: "\r\nLogin authentication\r\n\r\n\r\nUsername:", echo: true, lines: []line{
				{typed: "admin", reply: "Password:"},
				{typed: "pw", reply: "Info: The max number of VTY users is 5.\r\n<HUAWEI>"},
				{typed: "screen-length 0 temporary", reply: "Info: The configuration takes effect on the current user terminal interface only.\r\n<HUAWEI>"},
				{typed: "display version", reply: "Huawei Versatile Routing Platform\r\n  ---- More ----"},
				{typed: " ", key: true, reply: "\x1b[42D                                          \x1b[42DVRP (R) software\r\n<HUAWEI>"},
				{typed: "display nonsense", reply: "             ^\r\nError: Unrecognized command found at '^' position.\r\n<HUAWEI>"},
			}},
			commands: []string{"display version", "display nonsense"}, refused: true,
			output: "Huawei Versatile Routing Platform\nVRP (R) software",
		},
		{
			name: "Juniper with a banner line before its prompt", platform: "juniper_junos",
			device: script{greeting: "\r\nmx1 (ttyp0)\r\n\r\nlogin: ", echo: true, lines: []line{
				{typed: "admin", reply: "Password:"},
				{typed: "pw", reply: "\r\n--- JUNOS 20.4R3 built\r\nadmin@mx1> "},
				{typed: "set cli screen-length 0", reply: "Screen length set to 0\r\n\r\nadmin@mx1> "},
				{typed: "set cli screen-width 0", reply: "Screen width set to 0\r\n\r\nadmin@mx1> "},
				{typed: "set cli complete-on-space off", reply: "Disabling complete-on-space\r\n\r\nadmin@mx1> "},
				{typed: "show version", reply: "Hostname: mx1\r\n---(more)---"},
				{typed: " ", key: true, reply: "\r\x1b[KModel: mx204\r\n\r\n{master}\r\nadmin@mx1> "},
				{typed: "show nonsense", reply: "              ^\r\nunknown command.\r\nadmin@mx1> "},
			}},
			commands: []string{"show version", "show nonsense"}, refused: true,
			output: "Hostname: mx1\nModel: mx204\n\n{master}",
		},
		{
			name: "MikroTik that draws its line anew", platform: "mikrotik_routeros",
			device: script{greeting: "\r\nLogin: ", lines: []line{
				{typed: "admin+ct511w1000h", reply: "admin\r\nPassword: "},
				{typed: "pw", reply: "\r\n\r\n  MikroTik RouterOS 6.49.10 (c) 1999-2023\r\n\r\n\r\r[admin@MikroTik] > "},
				{typed: "/system identity print", reply: "\r[admin@MikroTik] > /system identity print\r\n  name: MikroTik\r\n\r\n\r\r[admin@MikroTik] > "},
				{typed: "/nonsense", reply: "\r[admin@MikroTik] > /nonsense\r\nbad command name nonsense (line 1 column 2)\r\n\r\r[admin@MikroTik] > "},
			}},
			commands: []string{"/system identity print", "/nonsense"}, refused: true,
			output: "  name: MikroTik\n",
		},
		{
			name: "Eltex with its own pager", platform: "eltex_mes",
			device: script{greeting: "\r\nUser Name:", echo: true, lines: []line{
				{typed: "admin", reply: "Password:"},
				{typed: "pw", reply: "\r\n\r\nmes-1>"},
				{typed: "enable", reply: "Password:"},
				{typed: "en", reply: "\r\nmes-1#"},
				{typed: "terminal datadump", reply: "mes-1#"},
				{typed: "show interfaces status", reply: "gi1/0/1  Up\r\nMore: <space>,  Quit: q or CTRL+Z, One line: <return> "},
				{typed: " ", key: true, reply: "\r                                                        \rgi1/0/2  Down\r\nmes-1#"},
				{typed: "show nonsense", reply: "% Unrecognized command\r\nmes-1#"},
			}},
			commands: []string{"show interfaces status", "show nonsense"}, refused: true,
			output: "gi1/0/1  Up\ngi1/0/2  Down",
		},
		{
			name: "D-Link", platform: "dlink",
			device: script{greeting: "\r\n                    DES-3200-28 Fast Ethernet Switch\r\n                             Command Line Interface\r\n\r\nUserName:", echo: true, lines: []line{
				{typed: "admin", reply: "PassWord:"},
				{typed: "pw", reply: "\r\n\r\nDES-3200-28:admin#"},
				{typed: "disable clipaging", reply: "Command: disable clipaging\r\n\r\nSuccess.\r\n\r\nDES-3200-28:admin#"},
				{typed: "show switch", reply: "Command: show switch\r\n\r\nDevice Type : DES-3200-28\r\n\x1b[7mCTRL+C\x1b[0m \x1b[7mESC\x1b[0m \x1b[7mq\x1b[0m Quit \x1b[7mSPACE\x1b[0m \x1b[7mn\x1b[0m Next Page \x1b[7mENTER\x1b[0m Next Entry \x1b[7ma\x1b[0m All "},
				{typed: "a", key: true, reply: "\r\x1b[KMAC : 00-00-5E-00-53-01\r\n\r\nDES-3200-28:admin#"},
				{typed: "nonsense", reply: "Command: nonsense\r\n\r\nAvailable commands:\r\n..      ?     cable_diag\r\n\r\nDES-3200-28:admin#"},
			}},
			commands: []string{"show switch", "nonsense"}, refused: true,
			output: "Command: show switch\n\nDevice Type : DES-3200-28\nMAC : 00-00-5E-00-53-01\n",
		},
		{
			name: "ZTE OLT", platform: "zte_olt",
			device: script{greeting: "************\r\nWelcome to ZXAN product C320\r\n************\r\n\r\nUsername:", echo: true, lines: []line{
				{typed: "admin", reply: "Password:"},
				{typed: "pw", reply: "\r\nZXAN#"},
				{typed: "terminal length 0", reply: "ZXAN#"},
				{typed: "show gpon onu state", reply: "OnuIndex   Admin State\r\n1/2/1:1    enable\r\n --More--"},
				{typed: " ", key: true, reply: "\r         \r1/2/1:2    enable\r\nZXAN#"},
				{typed: "show nonsense", reply: "           ^\r\n%Error 20201: Invalid input detected at '^' marker.\r\nZXAN#"},
			}},
			commands: []string{"show gpon onu state", "show nonsense"}, refused: true,
			output: "OnuIndex   Admin State\n1/2/1:1    enable\n1/2/1:2    enable",
		},
		{
			name: "BDCOM", platform: "bdcom",
			device: script{greeting: "\r\nWelcome to BDCOM P3310B EPON OLT\r\n\r\nUser Access Verification\r\n\r\nUsername: ", echo: true, lines: []line{
				{typed: "admin", reply: "Password: "},
				{typed: "pw", reply: "\r\nWelcome to BDCOM P3310B EPON OLT\r\nepon1>"},
				{typed: "enable", reply: "Password: "},
				{typed: "en", reply: "epon1#"},
				{typed: "terminal length 0", reply: "epon1#"},
				{typed: "terminal width 0", reply: "epon1#"},
				{typed: "config", reply: "epon1_config#"},
				{typed: "interface epon0/1", reply: "epon1_config_epon0/1#"},
				{typed: "nonsense", reply: "Unknown command\r\nepon1_config_epon0/1#"},
			}},
			commands: []string{"config", "interface epon0/1", "nonsense"}, refused: true,
			output: "",
		},
		{
			name: "a key to press first, no echo, no login", platform: "cisco_ios",
			device: script{greeting: "\r\nPress RETURN to get started.\r\n\r\nPress RETURN to get started", lines: []line{
				{typed: "", reply: "\r\nsw1#"},
				{typed: "terminal length 0", reply: "\r\nsw1#"},
				{typed: "terminal width 511", reply: "\r\nsw1#"},
				{typed: "show clock", reply: "10:00:00 UTC\r\nsw1#"},
			}},
			commands: []string{"show clock"}, output: "10:00:00 UTC",
		},
		{
			name: "Last login is no question", platform: "linux",
			device: script{greeting: "host login: ", echo: true, lines: []line{
				{typed: "admin", reply: "Password: "},
				{typed: "pw", reply: "Last login: Mon Jan  1 on tty1\r\nadmin@host:~$ "},
				{typed: "export PAGER=cat SYSTEMD_PAGER=cat GIT_PAGER=cat", reply: "admin@host:~$ "},
				{typed: "cd /tmp", reply: "admin@host:/tmp$ "},
			}},
			commands: []string{"cd /tmp"}, output: "",
		},
		{
			name: "a log line between the prompt and the command", platform: "cisco_ios",
			device: script{greeting: "sw1#", echo: true, lines: []line{
				{typed: "terminal length 0", reply: "sw1#"},
				{typed: "terminal width 511", reply: "sw1#"},
				{typed: "show clock", before: "\r\n%LINK-3-UPDOWN: Interface Gi0/1, changed state to up\r\nsw1#", reply: "10:00:00 UTC\r\nsw1#"},
			}},
			commands: []string{"show clock"}, output: "%LINK-3-UPDOWN: Interface Gi0/1, changed state to up\n10:00:00 UTC",
		},
		{
			name: "a platform of the job's own", platform: `{"prompt": "^cmd> $", "pager": "press a key", "login": {"username": "who\\? $", "password": "word\\? $"}, "error_patterns": "^no such"}`,
			device: script{greeting: "who? ", echo: true, lines: []line{
				{typed: "admin", reply: "word? "},
				{typed: "pw", reply: "cmd> "},
				{typed: "list", reply: "one\r\npress a key"},
				{typed: " ", key: true, reply: "\r           \rtwo\r\ncmd> "},
				{typed: "bad", reply: "no such command\r\ncmd> "},
			}},
			commands: []string{"list", "bad"}, refused: true, output: "one\ntwo",
		},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			commands := own(test.commands)
			r := converse(t, test.platform, test.device, "", func(ctx context.Context, r *runner) *jobs.Fault {
				fault := r.all(ctx, commands)
				if test.refused && (fault == nil || fault.Code != jobs.CodeCommandError) {
					t.Errorf("the refusal is not seen: %v", fault)
					return nil
				}
				if test.refused {
					return nil
				}
				return fault
			})
			if len(r.steps) == 0 {
				t.Fatal("no steps")
			}
			if got := r.steps[0].Output; got != test.output {
				t.Errorf("got %q, want %q", got, test.output)
			}
			for i, step := range r.steps {
				if want := test.refused && i == len(r.steps)-1; (step.Error != "") != want {
					t.Errorf("step %q has the error %q", step.Command, step.Error)
				}
			}
		})
	}
}

func TestConfigureWithCandidates(t *testing.T) {
	junos := func(lines ...line) script {
		paging := []line{
			{typed: "set cli screen-length 0", reply: "admin@mx1> "},
			{typed: "set cli screen-width 0", reply: "admin@mx1> "},
			{typed: "set cli complete-on-space off", reply: "admin@mx1> "},
			{typed: "configure private", reply: "Entering configuration mode\r\n\r\n[edit]\r\nadmin@mx1# "},
		}
		return script{greeting: "admin@mx1> ", echo: true, lines: append(paging, lines...)}
	}
	run := func(name string, device script, refused bool, want string) {
		t.Run(name, func(t *testing.T) {
			r := converse(t, "juniper_junos", device, `{"commands":["set system host-name x"]}`, func(ctx context.Context, r *runner) *jobs.Fault {
				fault := r.change(ctx)
				if refused == (fault != nil && fault.Code == jobs.CodeCommandError) {
					return nil
				}
				return fault
			})
			var phases []string
			for _, step := range r.steps {
				phases = append(phases, step.Phase+":"+step.Command+":"+step.State)
			}
			if got := strings.Join(phases, ","); got != want {
				t.Errorf("got %s, want %s", got, want)
			}
		})
	}
	run("good", junos(
		line{typed: "set system host-name x", reply: "\r\n[edit]\r\nadmin@mx1# "},
		line{typed: "commit", reply: "commit complete\r\n\r\n[edit]\r\nadmin@mx1# "},
		line{typed: "exit", reply: "Exiting configuration mode\r\n\r\nadmin@mx1> "},
	), false, "enter:configure private:acknowledged,configure:set system host-name x:acknowledged,commit:commit:acknowledged,leave:exit:acknowledged")
	run("refused at the commit", junos(
		line{typed: "set system host-name x", reply: "\r\n[edit]\r\nadmin@mx1# "},
		line{typed: "commit", reply: "error: configuration check-out failed\r\n\r\n[edit]\r\nadmin@mx1# "},
		line{typed: "rollback 0", reply: "load complete\r\n\r\n[edit]\r\nadmin@mx1# "},
		line{typed: "exit", reply: "Exiting configuration mode\r\n\r\nadmin@mx1> "},
	), true, "enter:configure private:acknowledged,configure:set system host-name x:acknowledged,commit:commit:acknowledged,"+
		"abort:rollback 0:acknowledged,abort:exit:acknowledged")
}

func TestAnErrorIsSeenAtTheEndsOnly(t *testing.T) {
	listing := func(at int) string {
		var b strings.Builder
		for i := range 200 {
			if i == at {
				b.WriteString("% Invalid input detected\r\n")
			}
			fmt.Fprintf(&b, "line %d\r\n", i)
		}
		return b.String() + "sw1#"
	}
	for at, want := range map[int]bool{0: true, 5: true, 100: false, 195: true} {
		device := script{greeting: "sw1#", echo: true, lines: []line{
			{typed: "terminal length 0", reply: "sw1#"},
			{typed: "terminal width 511", reply: "sw1#"},
			{typed: "show all", reply: listing(at)},
		}}
		r := converse(t, "cisco_ios", device, "", func(ctx context.Context, r *runner) *jobs.Fault {
			r.all(ctx, own([]string{"show all"}))
			return nil
		})
		if got := r.steps[0].Error != ""; got != want {
			t.Errorf("an error at line %d of 200: seen %t", at, got)
		}
	}
}

func TestTimeoutsInVirtualTime(t *testing.T) {
	device := script{greeting: "sw1#", echo: true, lines: []line{
		{typed: "terminal length 0", reply: "sw1#"},
		{typed: "terminal width 511", reply: "sw1#"},
		{typed: "show tech", reply: "collecting, please wait "},
	}}
	converse(t, "cisco_ios", device, `{"command_timeout_ms":120000}`, func(ctx context.Context, r *runner) *jobs.Fault {
		start := time.Now()
		fault := r.all(ctx, own([]string{"show tech", "never sent"}))
		if took := time.Since(start); took != 2*time.Minute {
			t.Errorf("took %v", took)
		}
		if fault == nil || fault.Code != jobs.CodePromptNotFound || !strings.Contains(fault.Message, "please wait") {
			t.Errorf("got %v", fault)
		}
		if r.steps[0].State != stateSent || r.steps[1].State != stateNotSent {
			t.Errorf("got %+v", r.steps)
		}
		return nil
	})
}

func TestClean(t *testing.T) {
	tests := []struct{ in, want string }{
		{"plain", "plain"},
		{"a\bb", "b"},
		{"abc\rx", "xbc"},
		{"\x1b[1;31mred\x1b[0m", "red"},
		{"\x1b]0;title\x07text", "text"},
		{"\x1b]0;title\x1b\\text", "text"},
		{"\x1b(Btext\x1b[?2004h", "text"},
		{" --More-- \b\b\b\b\b\b\b\b\b\b          \b\b\b\b\b\b\b\b\b\bnext", "next"},
		{"---- More ----\x1b[42D                  \x1b[42Dnext", "next"},
		{"garbage\r\x1b[Knext", "next"},
		{"abcdef\x1b[3D\x1b[P", "abcef"},
		{"a\x1b[3Cb", "a   b"},
		{"trailing  ", "trailing  "},
		{"tab\tkept", "tab\tkept"},
		{"cut\x1b[", "cut"},
		{"cut\x1b", "cut"},
		{"nul\x00bell\x07", "nulbell"},
		{"привет\x1b[0m", "привет"},
	}
	for _, test := range tests {
		var c cleaner
		if got := string(c.clean([]byte(test.in))); got != test.want {
			t.Errorf("%q: got %q, want %q", test.in, got, test.want)
		}
	}
}

func TestText(t *testing.T) {
	for in, want := range map[string]string{"ascii": "ascii", "\xe4\xf6": "äö", "привет": "привет", "ü\xfc": "üü"} {
		if got := text([]byte(in)); got != want {
			t.Errorf("%q: got %q, want %q", in, got, want)
		}
	}
}

func TestInlinePlatformsAreChecked(t *testing.T) {
	known, err := loadPlatforms()
	if err != nil {
		t.Fatal(err)
	}
	for definition, want := range map[string]string{
		`"cisco_ios"`: "", `{"extends":"huawei_vrp","pager":"x+"}`: "",
		`"nonsense"`: "params.platform", `null`: "params.platform", `7`: "params.platform",
		`{}`: "params.platform.prompt", `{"prompt":"("}`: "params.platform.prompt", `{"prompt":".*"}`: "params.platform.prompt",
		`{"prompt":"#$","unknown":1}`: "params.platform", `{"prompt":"#$","pager":"x*"}`: "params.platform.pager",
		`{"prompt":"#$","pager":[{"answer":"x"}]}`: "params.platform.pager", `{"extends":"nonsense"}`: "params.platform.extends",
		`{"prompt":"#$","disable_paging":["a\nb"]}`:      "params.platform.disable_paging",
		`{"prompt":"` + strings.Repeat("x", 2000) + `"}`: "params.platform.prompt",
	} {
		_, fault := known.parse([]byte(definition))
		if want == "" && fault != nil || want != "" && (fault == nil || !strings.HasPrefix(fault.Message, want)) {
			t.Errorf("%s: got %v, want one of %s", definition, fault, want)
		}
	}
	before := len(known["cisco_ios"].DisablePaging)
	if _, fault := known.parse([]byte(`{"extends":"cisco_ios","disable_paging":["x"]}`)); fault != nil || len(known["cisco_ios"].DisablePaging) != before || known["cisco_ios"].DisablePaging[0] == "x" {
		t.Errorf("a job's platform changes the known one: %v", fault)
	}
}

func TestParameters(t *testing.T) {
	actions := New(Options{}).Actions()
	for body, want := range map[string]string{
		`cli.run {"platform":"linux"}`:                                                            "params.commands",
		`cli.run {"platform":"linux","commands":["a\nb"]}`:                                        "params.commands",
		`cli.run {"platform":"linux","commands":["a"],"transport":"rsh"}`:                         "params.transport",
		`cli.run {"platform":"linux","commands":["a"],"nonsense":1}`:                              "params.nonsense",
		`cli.run {"platform":"linux","commands":["a"],"host_key":"MD5:00"}`:                       "params.host_key",
		`cli.run {"platform":"linux","commands":["a"],"transport":"telnet","legacy_crypto":true}`: "params.host_key",
		`cli.run {"platform":"linux","commands":["a"],"save":true}`:                               "params.save",
		`cli.run {"platform":"linux","commands":[{"command":"a","answers":[{"pattern":"("}]}]}`:   "params.commands",
		`cli.run {"platform":"linux","commands":["a"],"command_timeout_ms":-1}`:                   "params.command_timeout_ms",
		`cli.configure {"platform":"cisco_ios"}`:                                                  "params.commands",
		`cli.configure {"platform":{"prompt":"#$"},"commands":["a"]}`:                             "params.platform.configure",
		`cli.configure {"platform":"linux","commands":["a"],"save":true}`:                         "params.save",
		`config.backup {"platform":"linux"}`:                                                      "params.platform.backup",
		`config.backup {"platform":"cisco_ios","commands":["a"]}`:                                 "params.commands",
		`ssh.exec {}`:                         "params.command",
		`ssh.exec {"command":"a","pty":true}`: "params.pty",
	} {
		name, params, _ := strings.Cut(body, " ")
		job := &jobs.Job{Action: name, Params: []byte(params), Target: jobs.Target{Address: "192.0.2.1"}}
		if _, fault := actions.Judge(job); fault == nil || fault.Code != jobs.CodeInvalidJob || !strings.HasPrefix(fault.Message, want) {
			t.Errorf("%s: got %v, want one of %s", body, fault, want)
		}
	}
	for name, want := range map[string]jobs.Class{"cli.run": jobs.Read, "ssh.exec": jobs.Read, "cli.configure": jobs.Write, "config.backup": jobs.Read} {
		job := &jobs.Job{Action: name, Class: jobs.Read, Params: []byte(`{"platform":"cisco_ios","commands":["a"]}`), Target: jobs.Target{Address: "192.0.2.1"}}
		switch name {
		case "ssh.exec":
			job.Params = []byte(`{"command":"a"}`)
		case "config.backup":
			job.Params = []byte(`{"platform":"cisco_ios"}`)
		}
		if _, fault := actions.Judge(job); fault != nil || job.Class != want {
			t.Errorf("%s asked to be a read is %s, %v; want %s", name, job.Class, fault, want)
		}
	}
}
