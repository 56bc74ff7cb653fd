package broker

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"strings"
	"syscall"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
)

// step is where on the way to a consuming session something went wrong.
type step string

const (
	stepDial    step = "connect"
	stepTLS     step = "TLS"
	stepOpen    step = "login"
	stepQueue   step = "queue"
	stepResults step = "results"
	stepServe   step = "session"
)

// stepError is a failure with the step at which it came.
type stepError struct {
	step step
	err  error
}

func (e *stepError) Error() string { return string(e.step) + ": " + e.err.Error() }
func (e *stepError) Unwrap() error { return e.err }

// Problem is what keeps a session from working, in words for an operator: what
// is wrong and the one thing to do. It holds no secret.
type Problem struct {
	Step      string // connect, TLS, login, queue, results, session
	Message   string
	Permanent bool // trying again at once will not help
	cause     error
}

func (p *Problem) Error() string { return p.Message }

// Unwrap returns what lies behind the problem; its text may quote anything.
func (p *Problem) Unwrap() error { return p.cause }

// explain turns a failure on the way to (or on) a route into a Problem.
func (s *Session) explain(err error, r Route) *Problem {
	var known *Problem
	if errors.As(err, &known) {
		return known
	}
	p := &Problem{Step: string(stepServe), cause: err}
	var at *stepError
	if errors.As(err, &at) {
		p.Step = string(at.step)
	}
	setting := "US_AMQP_DSN"
	if len(s.Routes) > 1 && r.Name == s.Routes[len(s.Routes)-1].Name {
		setting = "USM_FALLBACK_DSN"
	}
	switch step(p.Step) {
	case stepDial:
		p.Message = explainDial(err, r, setting)
	case stepTLS:
		p.Message = explainTLS(err, r)
		p.Permanent = true
	case stepOpen:
		p.Message, p.Permanent = explainOpen(err, r, setting)
	case stepQueue:
		p.Message, p.Permanent = s.explainQueue(err)
	case stepResults:
		p.Message, p.Permanent = s.explainResults(err)
	default:
		p.Message = explainLoss(err)
	}
	return p
}

func explainDial(err error, r Route, setting string) string {
	var dnsErr *net.DNSError
	switch {
	case errors.As(err, &dnsErr):
		return fmt.Sprintf("the broker's name %q does not resolve; correct the host in %s or the DNS of this machine", r.DSN.Host, setting)
	case errors.Is(err, syscall.ECONNREFUSED), strings.Contains(err.Error(), "refused"):
		return fmt.Sprintf("%s refused the connection (%s): is the broker running, and is this its port? See %s", r.DSN.Address(), r.Name, setting)
	case errors.Is(err, context.DeadlineExceeded), isTimeout(err):
		return fmt.Sprintf("%s did not answer within %s (%s); is it reachable from here? See %s", r.DSN.Address(), dialTimeout, r.Name, setting)
	default:
		return fmt.Sprintf("%s cannot be reached (%s); see %s", r.DSN.Address(), r.Name, setting)
	}
}

func isTimeout(err error) bool {
	var netErr net.Error
	return errors.As(err, &netErr) && netErr.Timeout()
}

func explainTLS(err error, r Route) string {
	var name x509.HostnameError
	var authority x509.UnknownAuthorityError
	var invalid x509.CertificateInvalidError
	var record tls.RecordHeaderError
	switch {
	case errors.As(err, &name):
		return fmt.Sprintf("the broker's certificate is not for %q: use the name that it is for in the DSN (USM_WG_BROKER keeps the address apart)", r.DSN.Host)
	case errors.As(err, &authority):
		return "the broker's certificate is from an authority that is not known here: put its CA certificate into a file and name it in USM_AMQP_CA_FILE"
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired && invalid.Cert != nil && time.Now().Before(invalid.Cert.NotBefore):
		return fmt.Sprintf("the broker's certificate is valid from %s on, and this machine's clock says %s: set the clock (NTP), or else the certificate is too new",
			invalid.Cert.NotBefore.UTC().Format(time.RFC3339), time.Now().UTC().Format(time.RFC3339))
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
		return "the broker's certificate has expired or is not valid yet: renew it, and check the clock of this machine"
	case errors.As(err, &record):
		return "the broker does not speak TLS on this port: is it the AMQPS port (5671)?"
	case strings.Contains(err.Error(), "certificate required"):
		return "the broker wants a client certificate: set USM_AMQP_CERT_FILE and USM_AMQP_KEY_FILE"
	default:
		return "the TLS handshake with the broker failed: it must speak TLS 1.2 or later, with a certificate for " + r.DSN.Host
	}
}

func explainOpen(err error, r Route, setting string) (message string, permanent bool) {
	var amqpErr *amqp.Error
	switch {
	case errors.Is(err, amqp.ErrVhost), errors.As(err, &amqpErr) && amqpErr.Code == amqp.NotAllowed:
		return fmt.Sprintf("the broker let the user in, but not into the virtual host %q: it does not exist, or the user has no permission there; the path of %s names it (%%2f is /)", r.DSN.VHost, setting), true
	case errors.Is(err, amqp.ErrCredentials), errors.As(err, &amqpErr) && amqpErr.Code == amqp.AccessRefused:
		return fmt.Sprintf("the broker refused the login of user %q: user or password in %s is wrong", r.DSN.Username, setting), true
	case isTimeout(err), errors.Is(err, context.DeadlineExceeded):
		return fmt.Sprintf("%s took the connection but does not answer as an AMQP broker does; is it the broker's AMQP port? See %s", r.DSN.Address(), setting), false
	case strings.HasPrefix(r.Name, "wireguard+"):
		return fmt.Sprintf("the connection through the tunnel ended before the login was done: the hub reaches no broker (its USM_HUB_BROKER, and its log), or what it reaches is no AMQP port, or one with TLS where %s says amqp", setting), false
	default:
		return fmt.Sprintf("the connection ended before the login was done (%s); is %s an AMQP port, with TLS only where the DSN says amqps?", r.Name, r.DSN.Address()), false
	}
}

func (s *Session) explainQueue(err error) (message string, permanent bool) {
	var amqpErr *amqp.Error
	switch {
	case errors.As(err, &amqpErr) && amqpErr.Code == amqp.NotFound:
		return fmt.Sprintf("the queue %q does not exist: the core makes it when the satellite is set up there; is USM_POLLER_SATELLITE_ID right?", s.Queue), true
	case errors.As(err, &amqpErr) && amqpErr.Code == amqp.AccessRefused:
		return fmt.Sprintf("the user may not read the queue %q: give it the read permission for it", s.Queue), true
	case errors.As(err, &amqpErr) && amqpErr.Code == amqp.ResourceLocked:
		return fmt.Sprintf("the queue %q is exclusive to another connection", s.Queue), true
	default:
		return fmt.Sprintf("the queue %q cannot be consumed; the connection is made anew", s.Queue), false
	}
}

func (s *Session) explainResults(err error) (message string, permanent bool) {
	var amqpErr *amqp.Error
	if errors.As(err, &amqpErr) && amqpErr.Code == amqp.NotFound {
		return fmt.Sprintf("the results exchange %q does not exist: make it at the broker, or correct USM_RESULTS_EXCHANGE", s.ResultsExchange), true
	}
	return "the results exchange cannot be used; the connection is made anew", false
}

func explainLoss(err error) string {
	var amqpErr *amqp.Error
	switch {
	case errors.As(err, &amqpErr) && amqpErr.Code == amqp.AccessRefused:
		return "the broker refused a publish: the user may not write where results go; give it the permission, or set USM_RESULTS_EXCHANGE"
	case errors.As(err, &amqpErr) && amqpErr.Code == amqp.NotFound:
		return "the broker does not know the exchange for results; see USM_RESULTS_EXCHANGE"
	case errors.As(err, &amqpErr) && amqpErr.Code == amqp.PreconditionFailed:
		return "the broker closed the channel (a job was in hand for longer than its consumer_timeout allows); the connection is made anew"
	case errors.As(err, &amqpErr) && amqpErr.Code == amqp.ConnectionForced:
		return "the broker closed the connection (it is stopping, or an operator did it)"
	case errors.Is(err, errWayDead):
		return "the far end of the tunnel does not answer any more: UDP may be blocked, or the hub is down"
	case errors.Is(err, errSilent):
		return "the broker was silent for too long; the connection is made anew"
	case errors.Is(err, errCancelled):
		return "the broker ended the subscription: the queue was deleted, or its node is gone"
	default:
		return "the connection to the broker was lost"
	}
}

var errCancelled = errors.New("consumer cancelled by the broker")
