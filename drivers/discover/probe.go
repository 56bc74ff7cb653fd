package discover

import (
	"context"
	"encoding/json"
	"errors"
	"net"
	"net/netip"
	"strconv"
	"time"

	"usm-satellite/drivers/snmp"
	"usm-satellite/jobs"
)

// How long one probe of one address may take, unless Options say otherwise: a
// scan counts on most addresses being silent. SNMP gets longer, because each
// request has retries.
const (
	usualWait  = time.Second
	snmpFactor = 3
)

// host is an address that answered.
type host struct {
	Address   string            `json:"address"`
	ICMPRTTMS *float64          `json:"icmp_rtt_ms,omitempty"`
	TCP       map[string]string `json:"tcp,omitempty"` // port: open, closed, filtered, denied
	SNMP      *system           `json:"snmp,omitempty"`
}

// system is the group of RFC 3418 by which equipment is told apart.
type system struct {
	SysName     string `json:"sys_name"`
	SysDescr    string `json:"sys_descr"`
	SysObjectID string `json:"sys_object_id"`
}

const (
	sysDescr    = "1.3.6.1.2.1.1.1.0"
	sysObjectID = "1.3.6.1.2.1.1.2.0"
	sysName     = "1.3.6.1.2.1.1.5.0"
)

// ask makes all probes of one address, one after the other.
func (s *scan) ask(ctx context.Context, addr netip.Addr) outcome {
	o := outcome{host: host{Address: addr.String()}}
	probes := make([]func(context.Context, netip.Addr, *outcome), 0, 2+len(s.p.ports))
	if s.p.icmp {
		probes = append(probes, s.ping)
	}
	for _, port := range s.p.ports {
		probes = append(probes, func(ctx context.Context, addr netip.Addr, o *outcome) { s.dial(ctx, addr, port, o) })
	}
	if s.p.snmp {
		probes = append(probes, s.system)
	}
	for _, probe := range probes {
		if o.err != nil {
			break
		}
		if !s.pace.wait(ctx) {
			if !o.answered { // it was not asked everything: it does not count
				o.err = s.stopped()
			}
			break
		}
		probe(ctx, addr, &o)
	}
	if ctx.Err() != nil && !o.answered && o.err == nil {
		o.err = s.stopped()
	}
	return o
}

func (s *scan) stopped() error {
	return jobs.Faultf(jobs.CodeTimeout, jobs.StageExecute, "the job ended before all addresses of %s were asked", s.p.prefix)
}

func (s *scan) ping(ctx context.Context, addr netip.Addr, o *outcome) {
	ctx, cancel := context.WithTimeout(ctx, s.Wait)
	defer cancel()
	rtt, ok, err := s.Pinger.Ping(ctx, addr)
	var fault *jobs.Fault
	if errors.As(err, &fault) && fault.Code == jobs.CodeInternal {
		o.err = err // the satellite cannot ping at all
	}
	if ok {
		ms := float64(rtt.Microseconds()) / 1000
		o.host.ICMPRTTMS, o.answered = &ms, true
	}
}

func (s *scan) dial(ctx context.Context, addr netip.Addr, port uint16, o *outcome) {
	ctx, cancel := context.WithTimeout(ctx, s.Wait)
	defer cancel()
	text := strconv.Itoa(int(port))
	conn, err := s.Network.DialContext(ctx, "tcp", net.JoinHostPort(addr.String(), text))
	state := "filtered"
	var fault *jobs.Fault
	switch {
	case err == nil:
		state, o.answered = "open", true
		_ = conn.Close()
	case !errors.As(err, &fault):
	case fault.Code == jobs.CodeRefused:
		state, o.answered = "closed", true
	case fault.Code == jobs.CodePolicyDenied:
		state = "denied"
	case fault.Code == jobs.CodeBusy:
		o.err = err // no file descriptor is left
	}
	if o.host.TCP == nil {
		o.host.TCP = make(map[string]string, len(s.p.ports))
	}
	o.host.TCP[text] = state
}

func (s *scan) system(ctx context.Context, addr netip.Addr, o *outcome) {
	ctx, cancel := context.WithTimeoutCause(ctx, snmpFactor*s.Wait, jobs.ErrTimeout)
	defer cancel()
	oids, err := json.Marshal(map[string][]string{"oids": {sysDescr, sysObjectID, sysName}})
	if err != nil {
		o.err = err
		return
	}
	out, err := s.SNMP.Run(ctx, &jobs.Job{
		ID: s.job.ID, Action: "snmp.get", Target: jobs.Target{Address: addr.String()}, Params: oids,
		Credentials: s.job.Credentials, Timeout: snmpFactor * s.Wait, Class: jobs.Read,
	})
	var fault *jobs.Fault
	if errors.As(err, &fault) && hopeless(fault) {
		o.err = err
		return
	}
	list, ok := out.Data.(interface{ List() []snmp.Varbind })
	if err != nil || !ok {
		return
	}
	o.host.SNMP, o.answered = &system{}, true
	for _, v := range list.List() {
		text, _ := v.Value.(string)
		switch v.OID {
		case sysDescr:
			o.host.SNMP.SysDescr = text
		case sysObjectID:
			o.host.SNMP.SysObjectID = text
		case sysName:
			o.host.SNMP.SysName = text
		}
	}
}

// hopeless says that no other address would fare better: the credential is
// wrong in itself, the policy closes the port, or no socket is left.
func hopeless(f *jobs.Fault) bool {
	return f.Stage == jobs.StageCredentials || f.Stage == jobs.StageQueue || f.Stage == jobs.StagePolicy || f.Code == jobs.CodeBusy
}
