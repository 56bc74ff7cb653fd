package cli

import (
	"context"
	"errors"
	"io"
	"net"
	"strconv"

	"golang.org/x/crypto/ssh"

	"usm-satellite/drivers/secureshell"
	"usm-satellite/drivers/telnet"
	"usm-satellite/jobs"
)

// The transports.
const (
	transportSSH    = "ssh"
	transportTelnet = "telnet"

	telnetPort = 23
)

// terminalType is the plainest one that devices know: it asks for no colours.
const terminalType = "vt100"

// open gives r a session at the device's prompt: a kept one or a new one.
func (d *Driver) open(ctx context.Context, r *runner) *jobs.Fault {
	r.key = poolKey(r.job, r.p)
	if kept := d.pool.take(ctx, r.key); kept != nil {
		if kept.session.answers(ctx) {
			kept.session.transcript = r.transcript
			r.home = kept.session.prompt
			r.live, r.session, r.learned = kept, kept.session, kept.learned
			return nil
		}
		_ = kept.session.Close()
	}
	logins := secureshell.Logins(r.job.Credentials)
	if r.p.Transport == transportSSH {
		return d.openSSH(ctx, r)
	}
	if len(logins) == 0 {
		logins = []jobs.Credential{{}} // some devices ask for nothing
	}
	var fault *jobs.Fault
	for _, credential := range logins {
		if fault = d.openTelnet(ctx, r, credential.Login); fault == nil || fault.Code != jobs.CodeAuthFailed {
			break
		}
	}
	return fault
}

func (d *Driver) openTelnet(ctx context.Context, r *runner, login *jobs.LoginCredential) *jobs.Fault {
	port := r.job.Target.Port
	if port == 0 {
		port = telnetPort
	}
	conn, err := d.network.DialContext(ctx, "tcp", net.JoinHostPort(r.job.Target.Address, strconv.Itoa(port)))
	if err != nil {
		return jobs.FaultOf(context.WithoutCancel(ctx), err)
	}
	if err := secureshell.BindDeadline(ctx, conn); err != nil {
		_ = conn.Close()
		return jobs.Faultf(jobs.CodeUnreachable, jobs.StageConnect, "the device closed the connection at once")
	}
	shell := telnet.Wrap(conn, telnet.Options{Terminal: terminalType})
	r.live = &kept{session: newSession(shell, r.p.platform, r.transcript), conn: conn}
	return r.begin(ctx, login)
}

func (d *Driver) openSSH(ctx context.Context, r *runner) *jobs.Fault {
	client, err := d.dialSSH(ctx, r.job, sshParams{
		hostKey: r.p.HostKey, legacy: r.p.LegacyCrypto, suffix: r.p.platform.Login.UserSuffix,
	})
	if err != nil {
		return jobs.FaultOf(context.WithoutCancel(ctx), err)
	}
	stop, err := client.Bind(ctx)
	if err != nil {
		_ = client.End()
		return jobs.Faultf(jobs.CodeUnreachable, jobs.StageLogin, "the device closed the connection after the login")
	}
	defer stop()
	shell, err := startShell(client)
	if err != nil {
		_ = client.End()
		return jobs.Faultf(codeOf(ctx, err), jobs.StageLogin, "the device let us in by SSH and gave no command line")
	}
	r.learned = learned{HostKey: client.HostKey}
	r.warnings = append(r.warnings, client.Warnings...)
	r.live = &kept{session: newSession(shell, r.p.platform, r.transcript), conn: client, learned: r.learned}
	return r.begin(ctx, client.Credential.Login)
}

type sshParams struct {
	hostKey, suffix string
	legacy          bool
}

func (d *Driver) dialSSH(ctx context.Context, job *jobs.Job, p sshParams) (*secureshell.Client, error) {
	return d.ssh.Dial(ctx, secureshell.Request{
		Address: job.Target.Address, Port: job.Target.Port, Credentials: job.Credentials,
		HostKey: p.hostKey, Legacy: p.legacy, UserSuffix: p.suffix,
	})
}

// codeOf tells an end of time from an end of the connection.
func codeOf(ctx context.Context, err error) jobs.Code {
	var netErr net.Error
	switch {
	case ctx.Err() != nil, errors.As(err, &netErr) && netErr.Timeout():
		return jobs.CodeTimeout
	case secureshell.Lost(err):
		return jobs.CodeUnreachable
	default:
		return jobs.CodeProtocolError
	}
}

// shell is an interactive SSH session as one stream.
type shell struct {
	io.Reader
	io.Writer
	client *secureshell.Client
}

// Close ends the connection.
func (s *shell) Close() error { return s.client.End() }

func startShell(client *secureshell.Client) (*shell, error) {
	session, err := client.NewSession()
	if err != nil {
		return nil, err
	}
	modes := ssh.TerminalModes{ssh.ECHO: 1, ssh.TTY_OP_ISPEED: 115200, ssh.TTY_OP_OSPEED: 115200}
	if err := session.RequestPty(terminalType, telnet.DefaultHeight, telnet.DefaultWidth, modes); err != nil {
		return nil, err
	}
	in, err := session.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := session.StdoutPipe()
	if err != nil {
		return nil, err
	}
	return &shell{Reader: out, Writer: in, client: client}, session.Shell()
}

// leave ends the work on a session: kept for the next job where it stands at
// the prompt at which it was found, closed otherwise.
func (d *Driver) leave(r *runner, good bool) {
	s := r.session
	s.transcript = nil
	if good && !r.closed && s.prompt == r.home {
		d.pool.put(r.key, r.live)
		return
	}
	s.Close()
}
