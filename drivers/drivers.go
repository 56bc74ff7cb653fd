// Package drivers runs jobs on equipment: one action of the wire contract
// each, in packages named after what they talk to. All is the list of them.
//
// Drivers reach devices through a jobs.Network only, which asks the policy
// about every address; they know nothing of brokers and tunnels.
package drivers

import (
	"log/slog"
	"maps"
	"time"

	"usm-satellite/drivers/arp"
	"usm-satellite/drivers/cli"
	"usm-satellite/drivers/discover"
	"usm-satellite/drivers/dns"
	"usm-satellite/drivers/icmp"
	"usm-satellite/drivers/netconf"
	"usm-satellite/drivers/routeros"
	"usm-satellite/drivers/secureshell"
	"usm-satellite/drivers/snmp"
	"usm-satellite/drivers/tcp"
	"usm-satellite/drivers/traceroute"
	"usm-satellite/drivers/web"
	"usm-satellite/jobs"
)

// Options say how devices are reached, and what is kept where.
type Options struct {
	Network  *jobs.Network
	StateDir string // for learned host keys; "": they last as long as the process
	Logger   *slog.Logger
	// Secret finds the credential that a job names by ref; nil: none are known.
	Secret jobs.SecretFunc
}

// sessionIdle is how long a device's command line is kept for its next job.
const sessionIdle = 20 * time.Second

// All returns every action of this build, and what ends the things that
// drivers keep between jobs.
func All(o Options) (registry jobs.Registry, closeAll func()) {
	pinger := icmp.New(o.Network)
	ssh := secureshell.New(secureshell.Options{Network: o.Network, StateDir: o.StateDir, Secret: o.Secret})
	console := cli.New(cli.Options{Network: o.Network, SSH: ssh, Idle: sessionIdle})
	walker := snmp.Actions(snmp.Options{Network: o.Network, Secret: o.Secret})
	registry = make(jobs.Registry)
	for _, family := range []jobs.Registry{
		pinger.Actions(),
		tcp.Actions(o.Network),
		walker,
		console.Actions(),
		netconf.New(ssh).Actions(),
		arp.Actions(o.Network),
		dns.Actions(o.Network),
		traceroute.Actions(o.Network),
		web.Actions(web.Options{Network: o.Network, Secret: o.Secret}),
		routeros.Actions(routeros.Options{Network: o.Network, Secret: o.Secret}),
		discover.Actions(discover.Options{Network: o.Network, Pinger: pinger, SNMP: walker["snmp.get"].Driver, Walk: walker["snmp.walk"].Driver}),
	} {
		maps.Copy(registry, family)
	}
	return registry, func() {
		console.Close()
		pinger.Close()
	}
}
