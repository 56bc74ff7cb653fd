// Package drivers runs jobs on equipment: one action of the wire contract
// each, in packages named after what they talk to. All is the list of them.
//
// Drivers reach devices through a jobs.Network only, which asks the policy
// about every address; they know nothing of brokers and tunnels.
package drivers

import (
	"log/slog"
	"maps"

	"usm-satellite/drivers/icmp"
	"usm-satellite/drivers/snmp"
	"usm-satellite/drivers/tcp"
	"usm-satellite/jobs"
)

// Options say how devices are reached, and what is kept where.
type Options struct {
	Network  *jobs.Network
	StateDir string // for learned host keys; "": they last as long as the process
	Logger   *slog.Logger
	// Secret finds the credential that a job names by ref; nil: none are known.
	Secret func(ref string) (jobs.Credential, *jobs.Fault)
}

// All returns every action of this build, and what ends the things that
// drivers keep between jobs.
func All(o Options) (registry jobs.Registry, closeAll func()) {
	pinger := icmp.New(o.Network)
	registry = make(jobs.Registry)
	for _, family := range []jobs.Registry{
		pinger.Actions(),
		tcp.Actions(o.Network),
		snmp.Actions(snmp.Options{Network: o.Network, Secret: o.Secret}),
	} {
		maps.Copy(registry, family)
	}
	return registry, pinger.Close
}
