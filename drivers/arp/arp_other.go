//go:build !linux

package arp

import (
	"net/netip"

	"usm-satellite/jobs"
)

func onLink(netip.Addr, string) (*Entry, *jobs.Fault) {
	return nil, jobs.Faultf(jobs.CodeUnsupportedAction, jobs.StageConnect, "arp.lookup reads the neighbour table of Linux; this satellite runs on another system")
}

func inTable(netip.Addr, string) (*Entry, bool, *jobs.Fault) { return nil, false, nil }
