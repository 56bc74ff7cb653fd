package web

import (
	"crypto/tls"
	"net"
	"net/http"
	"net/url"
	"strconv"

	"golang.org/x/net/http/httpguts"

	"usm-satellite/jobs"
)

const maxRedirects = 10

type params struct {
	Method          string            `json:"method"` // GET without one
	URL             string            `json:"url"`    // whole; or path and scheme on the target
	Path            string            `json:"path"`
	Scheme          string            `json:"scheme"` // http or https (default)
	Headers         map[string]string `json:"headers"`
	Body            string            `json:"body"`
	MaxBytes        int               `json:"max_bytes"`
	FollowRedirects int               `json:"follow_redirects"`
	Digest          bool              `json:"digest"` // never send the password itself
	TLSServerName   string            `json:"tls_server_name"`
	TLSCA           string            `json:"tls_ca"`  // PEM
	TLSMin          string            `json:"tls_min"` // 1.0 to 1.3, default 1.2
}

func tlsVersions() map[string]uint16 {
	return map[string]uint16{"1.0": tls.VersionTLS10, "1.1": tls.VersionTLS11, "1.2": tls.VersionTLS12, "1.3": tls.VersionTLS13}
}

func check(job *jobs.Job) *jobs.Fault {
	_, _, fault := decode(job)
	return fault
}

// decode returns the parameters and the URL to ask.
func decode(job *jobs.Job) (*params, string, *jobs.Fault) {
	p := &params{}
	if fault := jobs.DecodeParams(job, p); fault != nil {
		return nil, "", fault
	}
	if p.Method == "" {
		p.Method = http.MethodGet
	}
	if fault := p.check(); fault != nil {
		return nil, "", fault
	}
	if p.URL == "" {
		return p, p.onTarget(job.Target), checkTarget(job.Target)
	}
	u, err := url.Parse(p.URL)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.User != nil || p.Path != "" || p.Scheme != "" {
		return nil, "", jobs.Invalid("params.url", "must be an http or https URL without a user in it, and without path and scheme beside it")
	}
	p.Scheme = u.Scheme
	return p, u.String(), nil
}

func checkTarget(target jobs.Target) *jobs.Fault {
	if target.Address == "" {
		return jobs.Invalid("target.address", "is missing; http.request needs it or params.url")
	}
	return nil
}

func (p *params) onTarget(target jobs.Target) string {
	if p.Scheme == "" {
		p.Scheme = "https"
	}
	port := target.Port
	if port == 0 {
		port = map[string]int{"http": 80, "https": 443}[p.Scheme]
	}
	path := p.Path
	if path == "" {
		path = "/"
	}
	return p.Scheme + "://" + net.JoinHostPort(target.Address, strconv.Itoa(port)) + path
}

func (p *params) check() *jobs.Fault {
	_, knownTLS := tlsVersions()[p.TLSMin]
	switch {
	case !httpguts.ValidHeaderFieldName(p.Method) || p.Method == http.MethodConnect:
		return jobs.Invalid("params.method", "must be an HTTP method in capitals, and not CONNECT")
	case p.Scheme != "" && p.Scheme != "http" && p.Scheme != "https":
		return jobs.Invalid("params.scheme", "must be http or https")
	case p.Path != "" && p.Path[0] != '/':
		return jobs.Invalid("params.path", "must begin with /")
	case p.FollowRedirects < 0 || p.FollowRedirects > maxRedirects:
		return jobs.Invalid("params.follow_redirects", "must be 0 to %d", maxRedirects)
	case p.MaxBytes < 0:
		return jobs.Invalid("params.max_bytes", "must not be negative")
	case p.TLSMin != "" && !knownTLS:
		return jobs.Invalid("params.tls_min", "must be 1.0, 1.1, 1.2 or 1.3")
	}
	for name, value := range p.Headers {
		if !httpguts.ValidHeaderFieldName(name) || !httpguts.ValidHeaderFieldValue(value) || ours(name) {
			return jobs.Invalid("params.headers", "holds a name or a value that cannot be sent (Content-Length, Transfer-Encoding and Connection are ours)")
		}
	}
	return nil
}

func ours(name string) bool {
	switch http.CanonicalHeaderKey(name) {
	case "Content-Length", "Transfer-Encoding", "Connection", "Upgrade", "Trailer":
		return true
	default:
		return false
	}
}

func (d driver) logins(job *jobs.Job) ([]jobs.HTTPCredential, *jobs.Fault) {
	all, fault := d.Secret.Resolve(job)
	if fault != nil {
		return nil, fault
	}
	var found []jobs.HTTPCredential
	for _, c := range all {
		if c.HTTP != nil {
			found = append(found, *c.HTTP)
		}
	}
	return found, nil
}
