package cli

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"flag"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/crypto/ssh"

	"usm-satellite/drivers/simulator"
	"usm-satellite/jobs"
)

// TestMain lets more tests wait at once than there are cores: waiting is most
// of what they do.
func TestMain(m *testing.M) {
	flag.Parse()
	if err := flag.Set("test.parallel", "8"); err != nil {
		panic(err)
	}
	goleak.VerifyTestMain(m)
}

// hostile is a TCP peer that does what it is told with each connection.
func hostile(t *testing.T, behave func(ctx context.Context, conn net.Conn)) *device {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				stop := context.AfterFunc(ctx, func() { conn.Close() })
				defer stop()
				defer conn.Close()
				behave(ctx, conn)
			})
		}
	})
	t.Cleanup(func() { l.Close(); cancel(); wg.Wait() })
	d := newDevice(t)
	d.port = l.Addr().(*net.TCPAddr).Port
	return d
}

func silent(_ context.Context, conn net.Conn) { io.Copy(io.Discard, conn) }

func endless(s string) func(context.Context, net.Conn) {
	return func(_ context.Context, conn net.Conn) {
		go io.Copy(io.Discard, conn)
		block := []byte(strings.Repeat(s, 1+8192/len(s)))
		for {
			if _, err := conn.Write(block); err != nil {
				return
			}
		}
	}
}

func drip(s string) func(context.Context, net.Conn) {
	return func(ctx context.Context, conn net.Conn) {
		go io.Copy(io.Discard, conn)
		for i := 0; ; i++ {
			if _, err := conn.Write([]byte{s[i%len(s)]}); err != nil {
				return
			}
			select {
			case <-ctx.Done():
				return
			case <-time.After(20 * time.Millisecond):
			}
		}
	}
}

func hangUp(s string) func(context.Context, net.Conn) {
	return func(_ context.Context, conn net.Conn) { io.WriteString(conn, s) }
}

// jobsOf are the jobs that each hostile peer gets.
func hostileJobs() map[string]map[string]any {
	return map[string]map[string]any{
		"cli.run by telnet":    {"transport": "telnet", "platform": "cisco_ios", "commands": []string{"show version"}},
		"cli.run by ssh":       {"platform": "cisco_ios", "commands": []string{"show version"}},
		"config.backup by ssh": {"platform": "huawei_vrp"},
		"cli.configure by ssh": {"platform": "juniper_junos", "commands": []string{"set system host-name x"}},
		"ssh.exec":             {"command": "id"},
	}
}

// TestHostilePeersEndWithinTheLimit has the peers that are no profile of the
// simulator: those are met in its own tests.
func TestHostilePeersEndWithinTheLimit(t *testing.T) {
	t.Parallel()
	peers := map[string]func(context.Context, net.Conn){
		"drip of letters":   drip("abc def\r\n"),
		"drip of a banner":  drip("SSH-1.99-still coming "),
		"endless lines":     endless("no end of lines\r\n"),
		"endless prompts":   endless("sw1#\r\n"),
		"endless options":   endless("\xff\xfb\x01\xff\xfc\x01"),
		"hang up at once":   hangUp(""),
		"hang up in login":  hangUp("\r\nUsername: "),
		"hang up in banner": hangUp("SSH-2.0-x\r\n\x00\x00"),
	}
	for peerName, behave := range peers {
		t.Run(peerName, func(t *testing.T) {
			t.Parallel()
			d := hostile(t, behave)
			for name, params := range hostileJobs() {
				action, _, _ := strings.Cut(name, " ")
				got := d.do(action, params, timeout(700*time.Millisecond))
				if got.fault == nil {
					t.Errorf("%s: no fault", name)
					continue
				}
				switch got.fault.Stage {
				case jobs.StageConnect, jobs.StageLogin:
				default:
					t.Errorf("%s: %v at stage %s, although nothing was sent", name, got.fault, got.fault.Stage)
				}
				if got.fault.Code == jobs.CodeInternal {
					t.Errorf("%s: %v", name, got.fault)
				}
			}
		})
	}
}

func TestCancelledReturnsSoon(t *testing.T) {
	t.Parallel()
	for name, behave := range map[string]func(context.Context, net.Conn){"silence": silent, "drip": drip("abc\r\n")} {
		for jobName, params := range hostileJobs() {
			t.Run(name+" "+jobName, func(t *testing.T) {
				t.Parallel()
				d := hostile(t, behave)
				ctx, cancel := context.WithCancelCause(t.Context())
				stopped := make(chan time.Time, 1)
				time.AfterFunc(200*time.Millisecond, func() {
					stopped <- time.Now()
					cancel(jobs.ErrCancelled)
				})
				action, _, _ := strings.Cut(jobName, " ")
				got := d.doCtx(ctx, action, params)
				returned := time.Since(<-stopped)
				got.failed(t, jobs.CodeCancelled, got.fault.Stage)
				t.Logf("returned after %v", returned)
				if returned > 10*time.Second {
					t.Errorf("returned %v after it was cancelled", returned)
				}
			})
		}
	}
}

// TestCancelledInACommand cancels a job whose command has been running: what
// became of it is not known, and the steps say so.
func TestCancelledInACommand(t *testing.T) {
	t.Parallel()
	for _, command := range []string{"hang", "flood"} {
		t.Run(command, func(t *testing.T) {
			t.Parallel()
			d := telnetSwitch(t)
			ctx, cancel := context.WithCancelCause(t.Context())
			stopped := make(chan time.Time, 1)
			var wg sync.WaitGroup
			wg.Go(func() {
				for end := time.Now().Add(long); d.file("marks") == "" && time.Now().Before(end); {
					time.Sleep(10 * time.Millisecond)
				}
				time.Sleep(100 * time.Millisecond)
				stopped <- time.Now()
				cancel(jobs.ErrCancelled)
			})
			got := d.doCtx(ctx, "cli.run", telnetParams("mark x", command))
			t.Logf("returned after %v", time.Since(<-stopped))
			wg.Wait()
			got.failed(t, jobs.CodeCancelled, jobs.StageExecute)
			if got.Steps[0].State != stateAcknowledged {
				t.Errorf("got %+v", got.Steps)
			}
		})
	}
}

// sshPeer is an SSH server of our own for what no real one does.
func sshPeer(t *testing.T, config *ssh.ServerConfig, session func(ctx context.Context, ch ssh.Channel)) *device {
	t.Helper()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	signer, err := ssh.NewSignerFromKey(key)
	if err != nil {
		t.Fatal(err)
	}
	config.AddHostKey(signer)
	return hostile(t, func(ctx context.Context, conn net.Conn) {
		server, channels, requests, err := ssh.NewServerConn(conn, config)
		if err != nil {
			return
		}
		defer server.Close()
		go ssh.DiscardRequests(requests)
		for newChannel := range channels {
			ch, reqs, err := newChannel.Accept()
			if err != nil {
				return
			}
			go func() {
				for req := range reqs {
					runs := req.Type == "shell" || req.Type == "exec"
					req.Reply(req.Type == "pty-req" || runs, nil)
					if runs {
						go session(ctx, ch)
					}
				}
			}()
		}
	})
}

func anyPassword() *ssh.ServerConfig {
	return &ssh.ServerConfig{PasswordCallback: func(ssh.ConnMetadata, []byte) (*ssh.Permissions, error) { return &ssh.Permissions{}, nil }}
}

// TestKeyboardInteractive is the login of devices that ask questions; OpenSSH
// needs PAM for it.
func TestKeyboardInteractive(t *testing.T) {
	t.Parallel()
	config := &ssh.ServerConfig{KeyboardInteractiveCallback: func(c ssh.ConnMetadata, ask ssh.KeyboardInteractiveChallenge) (*ssh.Permissions, error) {
		answers, err := ask("", "", []string{"Account: ", "Password: "}, []bool{true, false})
		if err != nil || len(answers) != 2 || answers[0] != "admin" || answers[1] != loginPassword {
			return nil, errors.New("no")
		}
		return &ssh.Permissions{}, nil
	}}
	d := sshPeer(t, config, func(_ context.Context, ch ssh.Channel) {
		io.WriteString(ch, "in\n")
		ch.SendRequest("exit-status", false, []byte{0, 0, 0, 0})
		ch.Close()
	})
	if got := d.do("ssh.exec", map[string]any{"command": "x"}).ok(t); got.Stdout != "in\n" {
		t.Errorf("got %s", got.raw)
	}
	wrong := func(j *jobs.Job) { j.Credentials = []jobs.Credential{loginAs("admin", "no")} }
	d.do("ssh.exec", map[string]any{"command": "x"}, wrong).failed(t, jobs.CodeAuthFailed, jobs.StageLogin)
}

func TestDroppedAfterTheLogin(t *testing.T) {
	t.Parallel()
	config := anyPassword()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	signer, err := ssh.NewSignerFromKey(key)
	if err != nil {
		t.Fatal(err)
	}
	config.AddHostKey(signer)
	d := hostile(t, func(_ context.Context, conn net.Conn) {
		server, channels, requests, err := ssh.NewServerConn(conn, config)
		if err != nil {
			return
		}
		go ssh.DiscardRequests(requests)
		<-channels
		server.Close()
		for range channels {
			t.Error("a second session was asked for")
		}
	})
	d.do("ssh.exec", map[string]any{"command": "x"}).failed(t, jobs.CodeUnreachable, jobs.StageLogin)
	d.do("cli.run", overSSH("x")).failed(t, jobs.CodeUnreachable, jobs.StageLogin)
}

func TestExecWithoutExitStatus(t *testing.T) {
	t.Parallel()
	d := sshPeer(t, anyPassword(), func(_ context.Context, ch ssh.Channel) {
		io.WriteString(ch, "version 1\n")
		ch.Close()
	})
	got := d.do("ssh.exec", map[string]any{"command": "x"}).ok(t)
	if got.Stdout != "version 1\n" || got.ExitCode != nil || len(got.Warnings) == 0 {
		t.Errorf("got %s, warnings %q", got.raw, got.Warnings)
	}
}

func TestEndlessOutputOfACommand(t *testing.T) {
	t.Parallel()
	p, err := simulator.Load("hostile-endless")
	if err != nil {
		t.Fatal(err)
	}
	ports, stop, err := p.Start(context.Background(), simulator.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = stop() })
	d := newDevice(t)
	d.port = ports[simulator.SSH]
	admin := func(j *jobs.Job) { j.Credentials = []jobs.Credential{loginAs("admin", "admin")} }
	params := map[string]any{"platform": map[string]any{"prompt": `^\w+>$`}, "commands": []string{"show all"}}
	small := func(j *jobs.Job) { j.Limits.MaxResultBytes, j.Timeout = 1<<20, 5*time.Second }
	got := d.do("cli.run", params, small, admin)
	if got.fault == nil || got.fault.Stage != jobs.StageExecute || got.fault.Code != jobs.CodeTimeout && got.fault.Code != jobs.CodeResultTooLarge {
		t.Fatalf("got %v", got.fault)
	}
	if !got.Truncated || len(got.raw) > 1<<20 || got.Steps[0].State != stateSent {
		t.Errorf("truncated %t, %d bytes, state %s", got.Truncated, len(got.raw), got.Steps[0].State)
	}
	got = d.do("ssh.exec", map[string]any{"command": "x"}, small, admin)
	if got.fault == nil || got.fault.Stage != jobs.StageExecute {
		t.Errorf("got %v", got.fault)
	}
}

func TestPagerThatDoesNotMove(t *testing.T) {
	t.Parallel()
	d := hostile(t, func(_ context.Context, conn net.Conn) {
		io.WriteString(conn, "sw1#")
		buf := make([]byte, 256)
		for {
			if _, err := conn.Read(buf); err != nil {
				return
			}
			io.WriteString(conn, "\r--More--")
		}
	})
	params := map[string]any{
		"transport": "telnet", "commands": []string{"show all"},
		"platform": map[string]any{"prompt": `^\w+#$`, "pager": "--More--"},
	}
	d.do("cli.run", params).failed(t, jobs.CodePromptNotFound, jobs.StageExecute)
}

func TestStreamedOutput(t *testing.T) {
	t.Parallel()
	d := telnetSwitch(t)
	var parts []part
	ctx := jobs.WithEmit(t.Context(), func(p any) error {
		parts = append(parts, p.(part))
		return nil
	})
	stream := func(j *jobs.Job) { j.Stream, j.Limits.MaxResultBytes = true, 1<<20 }
	got := d.doCtx(ctx, "cli.run", telnetParams("show big 40000"), stream).ok(t)
	all := ""
	for _, p := range parts {
		all += p.Output
	}
	all += got.Steps[0].Output
	if len(parts) < 5 || strings.Count(all, "\n") != 39999 || got.Truncated {
		t.Errorf("got %d parts, %d lines, truncated %t", len(parts), strings.Count(all, "\n")+1, got.Truncated)
	}
}
