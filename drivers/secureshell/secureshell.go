// Package secureshell opens SSH connections to equipment for the drivers that
// work over them: host keys checked, credentials tried in order, every step
// under a deadline, old algorithms only where the job allows them.
//
// It runs no commands: that is what its callers do with the Client.
//
//	client, fault := dialer.Dial(ctx, secureshell.Request{Address: "192.0.2.10", Credentials: job.Credentials})
//	defer client.Close()
package secureshell

import (
	"context"
	"errors"
	"io"
	"net"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/crypto/ssh"

	"usm-satellite/jobs"
)

// DefaultPort is SSH's own (RFC 4253, 4.1).
const DefaultPort = 22

// LoginTime bounds the time from the first byte to the end of the login.
const LoginTime = 20 * time.Second

// Options of a Dialer.
type Options struct {
	Network  *jobs.Network
	StateDir string // where known_hosts is kept; empty: host keys last as long as the process
	// Secret finds the credential that a job names by ref; nil: none are known.
	Secret jobs.SecretFunc
}

// Dialer opens connections. Make it with New; it is used from many goroutines.
type Dialer struct {
	network *jobs.Network
	secret  jobs.SecretFunc
	keys    *HostKeys
	cpu     chan struct{} // a token for each handshake that may compute
}

// New returns a Dialer. At most as many of its handshakes compute at once as
// there are cores: a wave of logins must not make all of them too slow to be
// in time.
func New(o Options) *Dialer {
	return &Dialer{
		network: o.Network, secret: o.Secret, keys: OpenHostKeys(o.StateDir),
		cpu: make(chan struct{}, runtime.GOMAXPROCS(0)),
	}
}

// Resolve returns the job with the credentials themselves where it has named
// them by reference.
func (d *Dialer) Resolve(job *jobs.Job) (*jobs.Job, *jobs.Fault) {
	creds, fault := d.secret.Resolve(job)
	if fault != nil {
		return nil, fault
	}
	resolved := *job
	resolved.Credentials = creds
	return &resolved, nil
}

// Request says what to connect to.
type Request struct {
	Address     string // IP address or name
	Port        int    // 0: DefaultPort
	Credentials []jobs.Credential
	UserSuffix  string // put after the user name (RouterOS takes terminal settings there)
	HostKey     string // pinned; see CheckPin. Empty: trust on first use
	Legacy      bool   // also offer what is broken: SHA-1, CBC, 3DES, group 1
}

// Client is an open and logged-in connection.
type Client struct {
	*ssh.Client
	Credential jobs.Credential // which one was taken
	HostKey    string          // fingerprint, "SHA256:..."
	Warnings   []string
	conn       net.Conn
}

// DeadlineGrace is how far behind the end of a job the deadline of its
// connection is: the driver can say more about what came too late.
const DeadlineGrace = 2 * time.Second

// SetDeadline bounds all reads and writes of the connection.
func (c *Client) SetDeadline(t time.Time) error { return c.conn.SetDeadline(t) }

// Bind ends the connection when ctx ends, whatever the library or the peer is
// doing then. stop takes the bond off.
func (c *Client) Bind(ctx context.Context) (stop func() bool, err error) {
	if err := BindDeadline(ctx, c.conn); err != nil {
		return nil, err
	}
	return context.AfterFunc(ctx, func() { _ = c.conn.Close() }), nil
}

// BindDeadline makes the end of ctx the deadline of conn.
func BindDeadline(ctx context.Context, conn interface{ SetDeadline(t time.Time) error }) error {
	end, ok := ctx.Deadline()
	if !ok {
		return conn.SetDeadline(time.Time{})
	}
	return conn.SetDeadline(end.Add(DeadlineGrace))
}

// End closes the connection and waits until the library's goroutines ended.
func (c *Client) End() error {
	err := c.Close()
	_ = c.Wait() // it says how the connection ended, which Close has brought about
	return err
}

// Dial connects and logs in. The error is a *jobs.Fault of StageConnect or
// StageLogin (StagePolicy, StageCredentials): nothing was run.
func (d *Dialer) Dial(ctx context.Context, req Request) (*Client, error) {
	logins := Logins(req.Credentials)
	if len(logins) == 0 {
		return nil, NoLogin()
	}
	if req.Port == 0 {
		req.Port = DefaultPort
	}
	attempt := attempt{dialer: d, req: req, address: net.JoinHostPort(req.Address, strconv.Itoa(req.Port))}
	if err := attempt.prepare(); err != nil {
		return nil, err
	}
	var fault *jobs.Fault
	for _, credential := range logins {
		client, err := attempt.login(ctx, credential)
		if err == nil {
			return client, nil
		}
		if !errors.As(err, &fault) || fault.Code != jobs.CodeAuthFailed {
			return nil, err
		}
	}
	return nil, fault
}

// Lost says that an operation on an open connection failed because there is no
// connection any more, not because the device said no.
func Lost(err error) bool {
	return errors.Is(err, io.EOF) || errors.Is(err, net.ErrClosed) || errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE) ||
		strings.HasSuffix(err.Error(), "in response to channel open: <nil>") // what the library has for it
}

// Logins returns the credentials that can log in to a command line.
func Logins(credentials []jobs.Credential) []jobs.Credential {
	var logins []jobs.Credential
	for _, c := range credentials {
		if c.Login != nil {
			logins = append(logins, c)
		}
	}
	return logins
}

// NoLogin is the fault of a job without a credential that can log in.
func NoLogin() *jobs.Fault {
	return jobs.Faultf(jobs.CodeNoCredentials, jobs.StageCredentials,
		`credentials: the job has none to log in with; give {"login": {"username": …, "password": …}}`)
}
