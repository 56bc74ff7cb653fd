// Package web asks the web interfaces of equipment: http.request, HTTP/1.1
// over TCP or TLS, with basic, bearer and digest login.
//
// Whatever a device sends is bounded: the header at 64 KiB, the body, also
// when it unpacks to more, at max_bytes. Every connection, that of a redirect
// too, is asked of the policy.
package web

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"net/http"
	"net/http/httptrace"
	"strings"
	"sync/atomic"
	"time"
	"unicode/utf8"

	"usm-satellite/jobs"
)

const maxHeader = 64 << 10 // octets

// Options say how devices are reached.
type Options struct {
	Network *jobs.Network
	// Secret finds the credential that a job names by ref; nil: none are known.
	Secret jobs.SecretFunc
}

type driver struct{ Options }

// Actions returns http.request.
func Actions(o Options) jobs.Registry {
	return jobs.Registry{"http.request": {
		Class: jobs.Write, ClassOf: classOf, Asks: true, Check: check, Driver: driver{o},
	}}
}

// classOf is Read for the safe methods (RFC 9110, 9.2.1).
func classOf(job *jobs.Job) jobs.Class {
	p, _, fault := decode(job)
	if fault == nil && (p.Method == http.MethodGet || p.Method == http.MethodHead || p.Method == http.MethodOptions) {
		return jobs.Read
	}
	return jobs.Write
}

type timing struct {
	ConnectMS   float64 `json:"connect_ms"` // with the TLS handshake
	FirstByteMS float64 `json:"first_byte_ms"`
	TotalMS     float64 `json:"total_ms"`
}

type data struct {
	StatusCode int                 `json:"status_code"`
	Headers    map[string][]string `json:"headers"`
	Body       *string             `json:"body,omitempty"`
	BodyBase64 string              `json:"body_base64,omitempty"` // where the body is not text
	Timing     timing              `json:"timing"`
}

// call is one job on its way.
type call struct {
	driver
	job      *jobs.Job
	p        *params
	url      string
	began    time.Time
	sent     atomic.Bool  // a connection was there: the request may have left
	ready    atomic.Int64 // µs after began
	answered atomic.Int64
}

// Run sends the request with each credential in turn until one is taken.
func (d driver) Run(ctx context.Context, job *jobs.Job) (jobs.Output, error) {
	p, address, fault := decode(job)
	if fault != nil {
		return jobs.Output{}, fault
	}
	logins, fault := d.logins(job)
	if fault != nil {
		return jobs.Output{}, fault
	}
	c := &call{driver: d, job: job, p: p, url: address, began: time.Now()}
	client, fault := c.client()
	if fault != nil {
		return jobs.Output{}, fault
	}
	defer client.CloseIdleConnections()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	for i := 0; ; i++ {
		login := jobs.HTTPCredential{}
		if i < len(logins) {
			login = logins[i]
		}
		res, err := c.exchange(ctx, client, login)
		if err != nil {
			return jobs.Output{}, err
		}
		if res.StatusCode == http.StatusUnauthorized && i+1 < len(logins) {
			_ = res.Body.Close()
			continue
		}
		out, err := c.read(ctx, res)
		_ = res.Body.Close()
		if err == nil && res.StatusCode == http.StatusUnauthorized && len(logins) > 0 {
			err = jobs.Faultf(jobs.CodeAuthFailed, jobs.StageLogin, "the device refused the credentials (status 401)")
		}
		return out, err
	}
}

// exchange sends the request, and once more where the device wants a digest.
func (c *call) exchange(ctx context.Context, client *http.Client, login jobs.HTTPCredential) (*http.Response, error) {
	authorization := ""
	switch {
	case !login.Bearer.IsZero():
		authorization = "Bearer " + login.Bearer.Reveal()
	case login.Username != "":
		authorization = "Basic " + base64.StdEncoding.EncodeToString([]byte(login.Username+":"+login.Password.Reveal()))
		if c.p.Digest {
			authorization = ""
		}
	}
	res, err := c.send(ctx, client, authorization)
	if err != nil || res.StatusCode != http.StatusUnauthorized || login.Username == "" {
		return res, err
	}
	answer, ok := digest(res.Header.Values("WWW-Authenticate"), c.p.Method, res.Request.URL.RequestURI(), login)
	if !ok {
		return res, nil
	}
	_ = res.Body.Close()
	return c.send(ctx, client, answer)
}

func (c *call) send(ctx context.Context, client *http.Client, authorization string) (*http.Response, error) {
	trace := &httptrace.ClientTrace{
		GotConn: func(httptrace.GotConnInfo) {
			c.ready.Store(time.Since(c.began).Microseconds())
			c.sent.Store(true)
		},
		GotFirstResponseByte: func() { c.answered.Store(time.Since(c.began).Microseconds()) },
	}
	req, err := http.NewRequestWithContext(httptrace.WithClientTrace(ctx, trace), c.p.Method, c.url, strings.NewReader(c.p.Body))
	if err != nil {
		return nil, jobs.Invalid("params.url", "cannot be requested")
	}
	for name, value := range c.p.Headers {
		req.Header.Set(name, value)
	}
	if host := req.Header.Get("Host"); host != "" {
		req.Host = host
	}
	if authorization != "" {
		req.Header.Set("Authorization", authorization)
	}
	res, err := client.Do(req)
	if err != nil {
		return nil, c.fault(ctx, err)
	}
	return res, nil
}

func (c *call) client() (*http.Client, *jobs.Fault) {
	config := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: c.p.TLSServerName}
	if c.p.TLSMin != "" {
		config.MinVersion = tlsVersions()[c.p.TLSMin] // old equipment: the job has to say so
	}
	if c.p.TLSCA != "" {
		config.RootCAs = x509.NewCertPool()
		if !config.RootCAs.AppendCertsFromPEM([]byte(c.p.TLSCA)) {
			return nil, jobs.Invalid("params.tls_ca", "holds no certificate in PEM")
		}
	}
	transport := &http.Transport{
		DialContext: c.Network.DialContext, TLSClientConfig: config, DisableKeepAlives: true,
		DisableCompression: true, MaxResponseHeaderBytes: maxHeader,
	}
	return &http.Client{Transport: transport, CheckRedirect: c.redirect}, nil
}

// redirect goes on as often as the job allows, never from TLS to plain text,
// and leaves the login behind where the host changes.
func (c *call) redirect(req *http.Request, via []*http.Request) error {
	if len(via) > c.p.FollowRedirects || via[0].URL.Scheme == "https" && req.URL.Scheme != "https" {
		return http.ErrUseLastResponse
	}
	if req.URL.Host != via[0].URL.Host {
		req.Header.Del("Authorization")
		req.Header.Del("Cookie")
	}
	return nil
}

func (c *call) fault(ctx context.Context, err error) *jobs.Fault {
	stage := jobs.StageConnect
	if c.sent.Load() {
		stage = jobs.StageExecute
	}
	var fault *jobs.Fault
	var unknown x509.UnknownAuthorityError
	var invalid x509.CertificateInvalidError
	var hostname x509.HostnameError
	switch {
	case errors.As(err, &fault):
		return &jobs.Fault{Code: fault.Code, Message: fault.Message, Stage: laterStage(fault.Stage, stage), Retryable: fault.Retryable}
	case ctx.Err() != nil:
		return jobs.Faultf(jobs.CodeTimeout, stage, "no answer within the job's time limit")
	case errors.As(err, &unknown):
		return jobs.Faultf(jobs.CodeProtocolError, stage, "the device's certificate is of an unknown authority; give its own in params.tls_ca")
	case errors.As(err, &hostname):
		return jobs.Faultf(jobs.CodeProtocolError, stage, "the device's certificate is for another name; give that in params.tls_server_name")
	case errors.As(err, &invalid):
		return jobs.Faultf(jobs.CodeProtocolError, stage, "the device's certificate is not valid (expired, not yet valid, or not for servers)")
	default:
		return jobs.Faultf(jobs.CodeProtocolError, stage, "the device hung up, or what it says is not HTTP as expected (scheme %s)", c.p.Scheme)
	}
}

// laterStage keeps a write that left on an earlier request from counting as
// never sent when a redirect's connection fails.
func laterStage(fault, reached jobs.Stage) jobs.Stage {
	if reached == jobs.StageExecute && fault == jobs.StageConnect {
		return reached
	}
	return fault
}

func (c *call) read(ctx context.Context, res *http.Response) (jobs.Output, error) {
	found := data{StatusCode: res.StatusCode, Headers: res.Header}
	limit := c.job.Limits.ResultBytes()
	if c.p.MaxBytes > 0 {
		limit = min(limit, c.p.MaxBytes)
	}
	body, err := unpack(ctx, res, int64(limit)+1)
	truncated := found.keep(body, limit, c.job.Limits.ResultBytes())
	found.Timing = timing{ms(c.ready.Load()), ms(c.answered.Load()), ms(time.Since(c.began).Microseconds())}
	out := jobs.Output{Data: found, Truncated: truncated}
	if err != nil && !truncated {
		out.Partial = true
		if ctx.Err() != nil {
			return out, jobs.Faultf(jobs.CodeTimeout, jobs.StageParse, "the body did not end within the job's time limit")
		}
		return out, jobs.Faultf(jobs.CodeProtocolError, jobs.StageParse, "the body broke off, or is not packed as its header says")
	}
	return out, nil
}

// keep puts at most limit octets of a body into the result, which has room for
// so many bytes of JSON, and says whether some had to be left out.
func (d *data) keep(body []byte, limit, room int) (truncated bool) {
	const frame = 512 // of the result, without headers and body
	for name, values := range d.Headers {
		room -= jobs.JSONSize(name) + len(`"":[],`)
		for _, value := range values {
			room -= jobs.JSONSize(value) + len(`"",`)
		}
	}
	room = max(room-frame, 0)
	kept := cut(body, limit)
	if !isText(kept) {
		kept = body[:min(len(body), limit, room/4*3)]
		d.BodyBase64 = base64.StdEncoding.EncodeToString(kept)
		return len(kept) < len(body)
	}
	kept = cut(kept, fits(kept, room))
	text := string(kept)
	d.Body = &text
	return len(kept) < len(body)
}

// fits says how many octets of a text take no more than room in JSON, short by
// a few characters at most.
func fits(text []byte, room int) int {
	at := 0
	for step := 4 << 10; step > 0; {
		end := min(at+step, len(text))
		size := jobs.JSONSize(string(text[at:end]))
		switch {
		case size > room:
			step /= 2
		case end == len(text):
			return end
		default:
			at, room = end, room-size
		}
	}
	return at
}

// cut shortens text, between two characters of UTF-8.
func cut(text []byte, limit int) []byte {
	if len(text) <= limit {
		return text
	}
	text = text[:limit]
	for n := 0; n < utf8.UTFMax && !utf8.Valid(text) && len(text) > 0; n++ {
		text = text[:len(text)-1]
	}
	return text
}

func ms(us int64) float64 { return float64(us) / 1000 }

func isText(body []byte) bool {
	if !utf8.Valid(body) {
		return false
	}
	for _, b := range body {
		if b < ' ' && b != '\t' && b != '\r' && b != '\n' {
			return false
		}
	}
	return true
}
