package arp

import (
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"usm-satellite/jobs"
)

// onLink checks that addr is on a network of the satellite's own. An address
// of the satellite itself is returned as an entry.
func onLink(addr netip.Addr, device string) (*Entry, *jobs.Fault) {
	if device != "" {
		if _, err := netlink.LinkByName(device); err != nil {
			return nil, jobs.Invalid("params.interface", "%q is no interface of this satellite", device)
		}
	}
	routes, err := netlink.RouteGet(net.IP(addr.AsSlice()))
	if err != nil || len(routes) == 0 {
		return nil, jobs.Faultf(jobs.CodeUnreachable, jobs.StageConnect, "there is no route to %s", addr)
	}
	route := routes[0]
	if route.Type == unix.RTN_LOCAL {
		return own(addr), nil
	}
	if len(route.Gw) > 0 || route.Via != nil {
		return nil, jobs.Faultf(jobs.CodeUnsupportedAction, jobs.StageConnect,
			"%s is behind a router (%s), and hardware addresses are known only on networks that the satellite is on; "+
				"a satellite in a bridged container is on the container's network alone: run it with network_mode host or on a macvlan", addr, route.Gw)
	}
	return nil, nil
}

func own(addr netip.Addr) *Entry {
	entry := &Entry{Address: addr.String(), State: "local"}
	links, err := net.Interfaces()
	if err != nil {
		return entry
	}
	for _, link := range links {
		addrs, err := link.Addrs()
		if err != nil {
			continue
		}
		for _, a := range addrs {
			if prefix, err := netip.ParsePrefix(a.String()); err == nil && prefix.Addr() == addr {
				entry.Interface, entry.MAC = link.Name, link.HardwareAddr.String()
			}
		}
	}
	return entry
}

// inTable returns the resolved entry of addr; pending says that the kernel may
// still be asking.
func inTable(addr netip.Addr, device string) (entry *Entry, pending bool, fault *jobs.Fault) {
	family := unix.AF_INET
	if addr.Is6() {
		family = unix.AF_INET6
	}
	rows, err := netlink.NeighList(0, family)
	if err != nil {
		return nil, false, jobs.Faultf(jobs.CodeUnsupportedAction, jobs.StageExecute, "the kernel does not show its neighbour table here")
	}
	pending = true
	for _, row := range rows {
		ip, _ := netip.AddrFromSlice(row.IP)
		if ip.Unmap() != addr {
			continue
		}
		link, err := net.InterfaceByIndex(row.LinkIndex)
		if err != nil || device != "" && link.Name != device {
			continue
		}
		switch {
		case row.State&netlink.NUD_FAILED != 0:
			pending = false
		case len(row.HardwareAddr) > 0 && row.State&netlink.NUD_INCOMPLETE == 0:
			return &Entry{Address: addr.String(), MAC: row.HardwareAddr.String(), Interface: link.Name, State: stateName(row.State)}, false, nil
		}
	}
	return nil, pending, nil
}

func stateName(state int) string {
	switch state {
	case netlink.NUD_REACHABLE:
		return "reachable"
	case netlink.NUD_STALE:
		return "stale"
	case netlink.NUD_DELAY:
		return "delay"
	case netlink.NUD_PROBE:
		return "probe"
	case netlink.NUD_PERMANENT:
		return "permanent"
	case netlink.NUD_NOARP:
		return "noarp"
	default:
		return "unknown"
	}
}
