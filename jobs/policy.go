package jobs

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// Policy says what a satellite may do. The zero value allows every action,
// writes too, on any address that no equipment can have in good faith: not on
// loopback, link-local, multicast or unspecified addresses, and not on those
// of Deny.
type Policy struct {
	Targets  []netip.Prefix // empty: any; a prefix listed here also opens what is closed by default
	Deny     []netip.Prefix // the broker, the hub, the tunnel's own network: stronger than Targets
	Ports    []PortRange    // empty: any
	Actions  []string       // empty: any; "snmp.*" stands for a family
	NoWrites bool
}

// PortRange is an inclusive range of ports.
type PortRange struct{ First, Last uint16 }

// CheckAction says whether jobs with this name and class are allowed.
func (p *Policy) CheckAction(action string, class Class) *Fault {
	if len(p.Actions) > 0 && !slices.ContainsFunc(p.Actions, func(pattern string) bool { return matchAction(pattern, action) }) {
		return denied("USM_ALLOW_ACTIONS", "the action %s", action)
	}
	if class == Write && p.NoWrites {
		return denied("USM_ALLOW_WRITES", "a job of class write (%s)", action)
	}
	return nil
}

func matchAction(pattern, action string) bool {
	if family, ok := strings.CutSuffix(pattern, "*"); ok {
		return strings.HasPrefix(action, family)
	}
	return pattern == action
}

// Check says whether a packet may go to address. The error is a *Fault.
func (p *Policy) Check(address netip.AddrPort) error {
	if err := p.CheckAddr(address.Addr()); err != nil {
		return err
	}
	if len(p.Ports) == 0 {
		return nil
	}
	for _, r := range p.Ports {
		if r.First <= address.Port() && address.Port() <= r.Last {
			return nil
		}
	}
	return denied("USM_ALLOW_PORTS", "port %d", address.Port())
}

// CheckAddr is Check for traffic without ports. The error is a *Fault.
func (p *Policy) CheckAddr(addr netip.Addr) error {
	addr = plainAddr(addr)
	if inAny(p.Deny, addr) {
		return denied("the satellite's own network", "%s", addr)
	}
	switch listed := inAny(p.Targets, addr); {
	case listed:
		return nil
	case len(p.Targets) > 0:
		return denied("USM_ALLOW_TARGETS", "%s", addr)
	}
	if name := neverEquipment(addr); name != "" {
		return denied("USM_ALLOW_TARGETS", "%s (%s; list it there if it is meant)", addr, name)
	}
	return nil
}

func denied(rule, format string, args ...any) *Fault {
	return Faultf(CodePolicyDenied, StagePolicy, "%s is not allowed by %s", fmt.Sprintf(format, args...), rule)
}

func inAny(prefixes []netip.Prefix, addr netip.Addr) bool {
	return slices.ContainsFunc(prefixes, func(p netip.Prefix) bool { return p.Contains(addr) })
}

// plainAddr undoes the ways in which an IPv4 address travels inside an IPv6
// one (mapped, NAT64 of RFC 6052, 6to4 of RFC 3056), so that no form of an
// address passes where another would not. A zone does not change the address.
func plainAddr(addr netip.Addr) netip.Addr {
	addr = addr.Unmap().WithZone("")
	if !addr.Is6() {
		return addr
	}
	b := addr.As16()
	switch {
	case strings.HasPrefix(string(b[:]), "\x00\x64\xff\x9b\x00\x00\x00\x00\x00\x00\x00\x00"):
		return netip.AddrFrom4([4]byte(b[12:16]))
	case b[0] == 0x20 && b[1] == 0x02:
		return netip.AddrFrom4([4]byte(b[2:6]))
	case strings.HasPrefix(string(b[:]), "\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00") && b[12] != 0: // ::a.b.c.d, deprecated by RFC 4291
		return netip.AddrFrom4([4]byte(b[12:16]))
	default:
		return addr
	}
}

func neverEquipment(addr netip.Addr) string {
	switch {
	case addr.IsLoopback():
		return "loopback"
	case addr.IsUnspecified(), addr.Is4() && addr.As4()[0] == 0:
		return "unspecified"
	case addr.IsMulticast():
		return "multicast"
	case addr.IsLinkLocalUnicast():
		return "link-local"
	case addr.Is4() && addr.As4()[0] >= 240:
		return "reserved or broadcast"
	default:
		return ""
	}
}
