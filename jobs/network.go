package jobs

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// Network is the equipment's side of the world for drivers: it resolves and
// dials, and lets nothing past the policy. The policy is asked about the
// resolved address, in the dialer, right before the socket connects: a name
// that resolves differently the second time gains nothing.
type Network struct {
	Policy   *Policy
	Resolver *net.Resolver // nil: the system's
}

// Resolve returns the address of a target that the policy allows. A name with
// several addresses gives the first allowed one.
func (n *Network) Resolve(ctx context.Context, host string) (netip.Addr, error) {
	addrs, err := n.lookup(ctx, host)
	if err != nil {
		return netip.Addr{}, err
	}
	var denied error
	for _, addr := range addrs {
		if err := n.Policy.CheckAddr(addr); err != nil {
			denied = err
			continue
		}
		return addr, nil
	}
	return netip.Addr{}, denied
}

func (n *Network) lookup(ctx context.Context, host string) ([]netip.Addr, error) {
	if addr, err := netip.ParseAddr(host); err == nil {
		return []netip.Addr{addr.Unmap()}, nil
	}
	if looksNumeric(host) {
		return nil, Invalid("target.address", "%q is neither an IP address nor a name", host)
	}
	resolver := n.Resolver
	if resolver == nil {
		resolver = net.DefaultResolver
	}
	addrs, err := resolver.LookupNetIP(ctx, "ip", host)
	if err != nil {
		return nil, Faultf(CodeUnreachable, StageConnect, "the name %q does not resolve", host)
	}
	for i := range addrs {
		addrs[i] = addrs[i].Unmap()
	}
	return addrs, nil
}

// looksNumeric finds the odd forms of an address (octal, hexadecimal, one
// number, fewer than four parts) that some resolvers would read as one.
func looksNumeric(host string) bool {
	last := host[strings.LastIndexByte(strings.TrimSuffix(host, "."), '.')+1:]
	last = strings.TrimSuffix(last, ".")
	if last == "" || strings.ContainsAny(host, ":/%@ \\") {
		return true
	}
	_, err := strconv.ParseUint(last, 0, 64)
	return err == nil || strings.Trim(last, "0123456789") == ""
}

// DialContext connects to a host:port for a driver. Its errors are Faults of
// StageConnect or StagePolicy.
func (n *Network) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return nil, Invalid("target.address", "cannot be dialled as %q", address)
	}
	addr, err := n.Resolve(ctx, host)
	if err != nil {
		return nil, err
	}
	dialer := net.Dialer{Control: n.Control, KeepAlive: 15 * time.Second}
	conn, err := dialer.DialContext(ctx, network, net.JoinHostPort(addr.String(), port))
	if err != nil {
		return nil, DialFault(ctx, err)
	}
	return conn, nil
}

// Control is the net.Dialer hook that asks the policy about the address that
// a socket is about to connect to.
func (n *Network) Control(_, address string, _ syscall.RawConn) error {
	addrPort, err := netip.ParseAddrPort(address)
	if err != nil {
		return Faultf(CodePolicyDenied, StagePolicy, "an address that cannot be read is not dialled")
	}
	return n.Policy.Check(addrPort)
}

// DialFault names what kept a connection from opening.
func DialFault(ctx context.Context, err error) *Fault {
	var fault *Fault
	var netErr net.Error
	switch {
	case errors.As(err, &fault):
		return fault
	case ctx.Err() != nil:
		return Faultf(CodeTimeout, StageConnect, "no connection within the job's time limit")
	case errors.Is(err, syscall.ECONNREFUSED):
		return Faultf(CodeRefused, StageConnect, "the device refused the connection: nothing listens on that port")
	case errors.Is(err, syscall.EHOSTUNREACH), errors.Is(err, syscall.ENETUNREACH):
		return Faultf(CodeUnreachable, StageConnect, "there is no route to the device")
	case errors.Is(err, syscall.EMFILE), errors.Is(err, syscall.ENFILE):
		return Faultf(CodeBusy, StageConnect, "the satellite has no file descriptor left; raise its limit (ulimit -n)")
	case errors.As(err, &netErr) && netErr.Timeout():
		return Faultf(CodeTimeout, StageConnect, "the device did not answer the connection attempt")
	default:
		return Faultf(CodeUnreachable, StageConnect, "the connection could not be opened")
	}
}
