package discover

import (
	"net/netip"
	"strconv"
	"strings"

	"usm-satellite/jobs"
)

// Limits on the parameters.
const (
	maxBits     = 16 // 65536 addresses
	maxProbes   = 16
	defaultRate = 500
	maxRate     = 5000
)

// params are those of discover.scan.
type params struct {
	Network string   `json:"network"` // CIDR
	Probes  []string `json:"probes"`
	Rate    int      `json:"rate"` // probes per second

	prefix netip.Prefix
	icmp   bool
	snmp   bool
	ports  []uint16
}

func check(job *jobs.Job) *jobs.Fault {
	_, fault := decode(job)
	return fault
}

func decode(job *jobs.Job) (*params, *jobs.Fault) {
	p := &params{Probes: []string{"icmp"}, Rate: defaultRate}
	if fault := jobs.DecodeParams(job, p); fault != nil {
		return nil, fault
	}
	prefix, err := netip.ParsePrefix(p.Network)
	if err != nil || prefix.Addr().Is4In6() {
		return nil, jobs.Invalid("params.network", "must be a network as 192.0.2.0/24 or 2001:db8::/120")
	}
	if prefix.Addr().BitLen()-prefix.Bits() > maxBits {
		return nil, jobs.Invalid("params.network", "must have at most %d addresses; split it into several jobs", 1<<maxBits)
	}
	if p.Rate < 1 || p.Rate > maxRate {
		return nil, jobs.Invalid("params.rate", "must be 1 to %d probes per second", maxRate)
	}
	p.prefix = prefix.Masked()
	if fault := p.readProbes(); fault != nil {
		return nil, fault
	}
	if p.snmp && len(job.Credentials) == 0 {
		return nil, jobs.Faultf(jobs.CodeNoCredentials, jobs.StageCredentials, "credentials: the probe snmp needs one of kind snmp")
	}
	return p, nil
}

func (p *params) readProbes() *jobs.Fault {
	if len(p.Probes) == 0 || len(p.Probes) > maxProbes {
		return jobs.Invalid("params.probes", "must be 1 to %d probes", maxProbes)
	}
	seen := make(map[string]bool, len(p.Probes))
	for _, probe := range p.Probes {
		if seen[probe] {
			return jobs.Invalid("params.probes", "has a probe twice")
		}
		seen[probe] = true
		text, isTCP := strings.CutPrefix(probe, "tcp:")
		port, err := strconv.ParseUint(text, 10, 16)
		switch {
		case probe == "icmp":
			p.icmp = true
		case probe == "snmp":
			p.snmp = true
		case isTCP && err == nil && port > 0 && text[0] != '0':
			p.ports = append(p.ports, uint16(port))
		default:
			return jobs.Invalid("params.probes", `must each be "icmp", "snmp" or "tcp:" with a port, as "tcp:22"`)
		}
	}
	return nil
}

// addresses yields those of the network. A network of IPv4 with hosts in it
// (shorter than /31, RFC 3021) has two that no host may have: its own and the
// broadcast address, which every host would answer.
func (p *params) addresses(yield func(netip.Addr) bool) {
	first := p.prefix.Addr()
	inner := first.Is4() && p.prefix.Bits() < 31
	for addr := first; addr.IsValid() && p.prefix.Contains(addr); addr = addr.Next() {
		next := addr.Next()
		edge := addr == first || !next.IsValid() || !p.prefix.Contains(next)
		if inner && edge {
			continue
		}
		if !yield(addr) {
			return
		}
	}
}
