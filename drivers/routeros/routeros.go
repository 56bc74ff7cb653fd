// Package routeros calls commands of MikroTik equipment by the RouterOS API:
// routeros.call. The protocol is the one that MikroTik publishes in the manual
// of RouterOS ("API"), with the login of RouterOS 6.43 and later: sentences of
// length-prefixed words over TCP (port 8728) or TLS (port 8729).
//
// It has been written from that text and tested with a peer written from the
// same text, not with a RouterOS: none can be had where the tests run.
package routeros

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"strconv"

	"usm-satellite/jobs"
)

// The ports of the services api and api-ssl.
const (
	DefaultPort    = 8728
	DefaultPortTLS = 8729
)

// Options say how devices are reached.
type Options struct {
	Network *jobs.Network
	// Secret finds the credential that a job names by ref; nil: none are known.
	Secret jobs.SecretFunc
}

type driver struct{ Options }

// Actions returns routeros.call.
func Actions(o Options) jobs.Registry {
	return jobs.Registry{"routeros.call": {Class: jobs.Write, ClassOf: classOf, Target: true, Check: check, Driver: driver{o}}}
}

type data struct {
	Replies []reply `json:"replies"`
}

// reply is a sentence of the device.
type reply struct {
	Sentence   int               `json:"sentence"` // that it answers, from 1
	Type       string            `json:"type"`     // !re, !done, !trap, !empty, !fatal
	Attributes map[string]string `json:"attributes"`
}

// Run logs in with each credential in turn until one is not refused, and makes
// the calls on that connection.
func (d driver) Run(ctx context.Context, job *jobs.Job) (jobs.Output, error) {
	p, fault := decode(job)
	if fault != nil {
		return jobs.Output{}, fault
	}
	logins, fault := d.logins(job)
	if fault != nil {
		return jobs.Output{}, fault
	}
	var err error
	for _, login := range logins {
		var out jobs.Output
		if out, err = d.with(ctx, job, p, login); !refused(err) || ctx.Err() != nil {
			return out, err
		}
	}
	return jobs.Output{}, err
}

func refused(err error) bool {
	var fault *jobs.Fault
	return errors.As(err, &fault) && fault.Code == jobs.CodeAuthFailed
}

func (d driver) logins(job *jobs.Job) ([]jobs.LoginCredential, *jobs.Fault) {
	all, fault := d.Secret.Resolve(job)
	if fault != nil {
		return nil, fault
	}
	var logins []jobs.LoginCredential
	for _, c := range all {
		if c.Login != nil {
			logins = append(logins, *c.Login)
		}
	}
	if len(logins) == 0 {
		return nil, jobs.Faultf(jobs.CodeNoCredentials, jobs.StageCredentials, "credentials: %s needs one of kind login", job.Action)
	}
	return logins, nil
}

func (d driver) with(ctx context.Context, job *jobs.Job, p *params, login jobs.LoginCredential) (jobs.Output, error) {
	if len(login.Username) > maxCallBytes || len(login.Password.Reveal()) > maxCallBytes {
		return jobs.Output{}, jobs.Invalid("credentials.login", "must not be longer than %d bytes", maxCallBytes)
	}
	conn, err := d.dial(ctx, job, p)
	if err != nil {
		return jobs.Output{}, err
	}
	// Reading and writing do not look at ctx; closing ends both.
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer func() {
		stop()
		_ = conn.Close()
	}()
	s := newSession(ctx, conn, job.Limits.ResultBytes(), job.Limits.MaxRows)
	if err := s.login(login); err != nil {
		return jobs.Output{}, err
	}
	err = s.callAll(p.Sentences)
	return jobs.Output{Data: data{s.replies}, Truncated: s.truncated, Partial: err != nil && len(s.replies) > 0}, err
}

func (d driver) dial(ctx context.Context, job *jobs.Job, p *params) (net.Conn, error) {
	port := job.Target.Port
	switch {
	case port != 0:
	case p.TLS:
		port = DefaultPortTLS
	default:
		port = DefaultPort
	}
	conn, err := d.Network.DialContext(ctx, "tcp", net.JoinHostPort(job.Target.Address, strconv.Itoa(port)))
	if err != nil || !p.TLS {
		return conn, err
	}
	config, fault := p.config(job.Target.Address)
	if fault != nil {
		_ = conn.Close()
		return nil, fault
	}
	secured := tls.Client(conn, config)
	if err := secured.HandshakeContext(ctx); err != nil {
		_ = conn.Close()
		return nil, tlsFault(ctx, err)
	}
	return secured, nil
}

// config is how TLS is spoken to a device at address.
func (p *params) config(address string) (*tls.Config, *jobs.Fault) {
	config := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: address}
	if p.TLSServerName != "" {
		config.ServerName = p.TLSServerName
	}
	if p.TLSCA != "" {
		config.RootCAs = x509.NewCertPool()
		if !config.RootCAs.AppendCertsFromPEM([]byte(p.TLSCA)) {
			return nil, jobs.Invalid("params.tls_ca", "holds no certificate in PEM")
		}
	}
	return config, nil
}

func tlsFault(ctx context.Context, err error) *jobs.Fault {
	var authority x509.UnknownAuthorityError
	var name x509.HostnameError
	switch {
	case ctx.Err() != nil:
		return jobs.Faultf(jobs.CodeTimeout, jobs.StageConnect, "no TLS handshake within the job's time limit")
	case errors.As(err, &authority):
		return jobs.Faultf(jobs.CodeProtocolError, jobs.StageConnect, "the device's certificate is of an unknown authority; give its own in params.tls_ca")
	case errors.As(err, &name):
		return jobs.Faultf(jobs.CodeProtocolError, jobs.StageConnect, "the device's certificate is for another name; give that in params.tls_server_name")
	default:
		return jobs.Faultf(jobs.CodeProtocolError, jobs.StageConnect, "the TLS handshake failed: api-ssl needs a certificate on the device (anonymous ciphers are not spoken)")
	}
}
