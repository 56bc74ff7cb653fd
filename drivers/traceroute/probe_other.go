//go:build !linux

package traceroute

import (
	"context"
	"net/netip"

	"usm-satellite/jobs"
)

func (d driver) probe(context.Context, netip.AddrPort, int) (reply, error) {
	return reply{}, jobs.Faultf(jobs.CodeUnsupportedAction, jobs.StageConnect, "traceroute needs the error queue of Linux sockets; this satellite runs on another system")
}
