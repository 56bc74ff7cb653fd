// Package dns asks name servers: dns.query (RFC 1035, EDNS0 of RFC 6891).
//
// What a server says is data, a refusal or NXDOMAIN too: the rcode is in the
// result. A fault is only what kept an answer from coming.
package dns

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/miekg/dns"

	"usm-satellite/jobs"
)

const (
	defaultPort = 53
	udpSize     = 1232 // octets, fits every path (DNS flag day 2020)
	tries       = 3
	firstWait   = 2 * time.Second // for a UDP answer; doubled at each try
)

type params struct {
	Name   string `json:"name"`
	Type   string `json:"type"`   // A without one
	Server string `json:"server"` // address or name; default: the target, else the system's first
}

type answer struct {
	Name  string `json:"name"`
	Type  string `json:"type"`
	TTL   uint32 `json:"ttl"` // seconds
	Value string `json:"value"`
}

type data struct {
	Server        string   `json:"server"`
	Transport     string   `json:"transport"` // udp or tcp
	RCode         string   `json:"rcode"`     // NOERROR, NXDOMAIN...
	Authoritative bool     `json:"authoritative"`
	QueryMS       float64  `json:"query_ms"`
	Answers       []answer `json:"answers"`
}

type driver struct{ network *jobs.Network }

// Actions returns dns.query.
func Actions(network *jobs.Network) jobs.Registry {
	return jobs.Registry{"dns.query": {Class: jobs.Read, Check: check, Driver: driver{network}}}
}

func check(job *jobs.Job) *jobs.Fault {
	_, fault := question(job)
	return fault
}

func question(job *jobs.Job) (*dns.Msg, *jobs.Fault) {
	p := params{}
	if fault := jobs.DecodeParams(job, &p); fault != nil {
		return nil, fault
	}
	if p.Type == "" {
		p.Type = "A"
	}
	kind, ok := dns.StringToType[strings.ToUpper(p.Type)]
	if !ok || kind == dns.TypeAXFR || kind == dns.TypeIXFR || kind == dns.TypeOPT || kind == dns.TypeNone {
		return nil, jobs.Invalid("params.type", "must be the type of a record, as A, AAAA, PTR or TXT")
	}
	name := p.Name
	if addr, err := netip.ParseAddr(name); err == nil && kind == dns.TypePTR {
		if name, err = dns.ReverseAddr(addr.WithZone("").String()); err != nil {
			return nil, jobs.Invalid("params.name", "is no address that has a reverse name")
		}
	}
	if _, ok := dns.IsDomainName(name); !ok || name == "" {
		return nil, jobs.Invalid("params.name", "must be a domain name")
	}
	m := new(dns.Msg).SetQuestion(dns.Fqdn(name), kind)
	return m.SetEdns0(udpSize, false), nil
}

// Run asks by UDP, and by TCP what UDP cut off.
func (d driver) Run(ctx context.Context, job *jobs.Job) (jobs.Output, error) {
	m, fault := question(job)
	if fault != nil {
		return jobs.Output{}, fault
	}
	address, fault := server(job)
	if fault != nil {
		return jobs.Output{}, fault
	}
	began := time.Now()
	reply, transport := (*dns.Msg)(nil), "udp"
	reply, err := d.ask(ctx, transport, address, m)
	if err == nil && reply.Truncated {
		transport = "tcp"
		reply, err = d.ask(ctx, transport, address, m)
	}
	if err != nil {
		return jobs.Output{}, err
	}
	if len(reply.Question) != 1 || !strings.EqualFold(reply.Question[0].Name, m.Question[0].Name) || reply.Question[0].Qtype != m.Question[0].Qtype || !reply.Response {
		return jobs.Output{}, jobs.Faultf(jobs.CodeProtocolError, jobs.StageParse, "the server answered another question than the one asked")
	}
	found := data{
		Server: address, Transport: transport, RCode: rcode(reply.Rcode), Authoritative: reply.Authoritative,
		QueryMS: float64(time.Since(began).Microseconds()) / 1000,
	}
	truncated := false
	found.Answers, truncated = answers(reply.Answer, job.Limits.ResultBytes())
	return jobs.Output{Data: found, Truncated: truncated}, nil
}

func server(job *jobs.Job) (string, *jobs.Fault) {
	p := params{}
	_ = jobs.DecodeParams(job, &p) // checked before
	port := job.Target.Port
	if port == 0 {
		port = defaultPort
	}
	host := p.Server
	if host == "" {
		host = job.Target.Address
	}
	if host == "" {
		config, err := dns.ClientConfigFromFile("/etc/resolv.conf")
		if err != nil || len(config.Servers) == 0 {
			return "", jobs.Invalid("params.server", "is missing, and this system names no server of its own in /etc/resolv.conf")
		}
		host = config.Servers[0]
	}
	return net.JoinHostPort(host, strconv.Itoa(port)), nil
}

func (d driver) ask(ctx context.Context, transport, address string, m *dns.Msg) (*dns.Msg, error) {
	conn, err := d.network.DialContext(ctx, transport, address)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer stop()
	co := &dns.Conn{Conn: conn, UDPSize: udpSize}
	wait := firstWait
	for try := 1; ; try++ {
		client := dns.Client{Net: transport, Timeout: wait, UDPSize: udpSize}
		reply, _, err := client.ExchangeWithConnContext(ctx, m, co)
		if err == nil {
			return reply, nil
		}
		var netErr net.Error
		lost := errors.As(err, &netErr) && netErr.Timeout()
		if ctx.Err() != nil || !lost || transport == "tcp" || try == tries {
			return nil, askFault(ctx, err, lost)
		}
		wait *= 2
	}
}

func askFault(ctx context.Context, err error, lost bool) *jobs.Fault {
	var opErr *net.OpError
	switch {
	case ctx.Err() != nil || lost:
		return jobs.Faultf(jobs.CodeTimeout, jobs.StageExecute, "the name server did not answer")
	case errors.As(err, &opErr):
		return jobs.DialFault(ctx, err)
	default:
		return jobs.Faultf(jobs.CodeProtocolError, jobs.StageParse, "the answer of the name server cannot be read")
	}
}

func answers(records []dns.RR, limit int) ([]answer, bool) {
	found := make([]answer, 0, len(records))
	for _, rr := range records {
		header := rr.Header()
		a := answer{header.Name, dns.TypeToString[header.Rrtype], header.Ttl, strings.TrimPrefix(rr.String(), header.String())}
		if a.Type == "" {
			a.Type = "TYPE" + strconv.Itoa(int(header.Rrtype)) // RFC 3597, 5
		}
		if limit -= len(a.Name) + len(a.Value) + 64; limit < 0 {
			return found, true
		}
		found = append(found, a)
	}
	return found, false
}

func rcode(code int) string {
	if name, ok := dns.RcodeToString[code]; ok {
		return name
	}
	return "RCODE" + strconv.Itoa(code)
}
