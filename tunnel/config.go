package tunnel

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"time"
)

const (
	// SafeMTU is the size of the largest inner packet, in bytes, until larger
	// ones have passed: with WireGuard's 60 to 80 bytes around it, it fits
	// PPPoE, LTE and a tunnel within a tunnel, and it is the least that IPv6
	// allows (RFC 8200, 5).
	SafeMTU = 1280
	// WideMTU is what is used where the path carries it: with what is around
	// it, it fits Ethernet, whatever the families.
	WideMTU = 1420
	// DefaultKeepalive keeps the binding of a NAT open: the shortest timeouts
	// met in the field are 20 to 30 seconds.
	DefaultKeepalive = 15 * time.Second

	minMTU      = 576
	maxMTU      = 1440
	maxInterval = 65535 * time.Second
)

// ResolveFunc finds the addresses of a host name, as
// [net.Resolver.LookupNetIP] does for the network "ip".
type ResolveFunc func(ctx context.Context, host string) ([]netip.Addr, error)

// Config describes the satellite's end: an identity and the one peer behind
// which the broker is. The zero value of every field but PrivateKey,
// Addresses and Peer has a meaning.
type Config struct {
	PrivateKey PrivateKey
	Addresses  []netip.Prefix // inner addresses of this end
	MTU        int            // bytes; 0 is SafeMTU, or more where the path carries it, up to WideMTU
	DNS        []netip.Addr   // name servers inside the tunnel; none: names are resolved outside
	ListenPort uint16         // UDP; 0 is any
	Peer       Peer

	// StateDir is where the time of the last handshake is kept, so that a
	// clock that was set back is recognised. Empty: not kept.
	StateDir string
	// Resolve finds the endpoints' addresses; nil is the system's resolver.
	Resolve ResolveFunc `json:"-"`
}

// Peer is the other end of a tunnel, or one of the hub's.
type Peer struct {
	Name         string // for people; the comment "# Name = ..." of a file
	PublicKey    PublicKey
	PresharedKey PresharedKey
	Endpoints    []string       // host:port, tried in this order
	AllowedIPs   []netip.Prefix // inner addresses behind the peer
	Keepalive    time.Duration  // whole seconds; 0 is DefaultKeepalive, negative is none
}

// Validate says what is missing or impossible, naming the field as wg-quick
// does. It never quotes a key.
func (c *Config) Validate() error {
	errs := []error{c.validateInterface()}
	if c.Peer.PublicKey.IsZero() {
		errs = append(errs, errors.New("PublicKey of the peer is missing: it is what `wg pubkey` prints at the other end"))
	} else if c.Peer.PublicKey == c.PrivateKey.Public() {
		errs = append(errs, errors.New("PublicKey of the peer is this end's own: give the other end's"))
	}
	if len(c.Peer.Endpoints) == 0 {
		errs = append(errs, errors.New("the peer's Endpoint is missing: give host:port of the WireGuard server"))
	}
	for i, e := range c.Peer.Endpoints {
		if _, _, err := splitEndpoint(e); err != nil {
			errs = append(errs, fmt.Errorf("the peer's Endpoint %d %w", i+1, err))
		}
	}
	if len(c.Peer.AllowedIPs) == 0 {
		errs = append(errs, errors.New("AllowedIPs of the peer is missing: give the inner address of the broker, such as 10.77.0.1/32"))
	}
	if c.Peer.Keepalive > maxInterval {
		errs = append(errs, errors.New("PersistentKeepalive is over 65535 seconds"))
	}
	return errors.Join(errs...)
}

func (c *Config) validateInterface() error {
	var errs []error
	if c.PrivateKey.IsZero() {
		errs = append(errs, errors.New("PrivateKey is missing: make one with `wg genkey`"))
	}
	if len(c.Addresses) == 0 {
		errs = append(errs, errors.New("no Address is given: it is the inner address of this end, such as 10.77.0.7/32"))
	}
	for _, a := range c.Addresses {
		if !a.IsValid() || a.Addr().IsUnspecified() || a.Addr().IsMulticast() || a.Addr().IsLoopback() {
			errs = append(errs, fmt.Errorf("%v cannot be a host's Address", a))
		}
	}
	if c.MTU != 0 && (c.MTU < minMTU || c.MTU > maxMTU) {
		errs = append(errs, fmt.Errorf("MTU %d is not within %d and %d bytes", c.MTU, minMTU, maxMTU))
	}
	if c.MTU != 0 && c.MTU < SafeMTU && c.hasIPv6() {
		errs = append(errs, fmt.Errorf("MTU %d is under the %d bytes that IPv6 needs: raise it or take the IPv6 Address out", c.MTU, SafeMTU))
	}
	return errors.Join(errs...)
}

func (c *Config) hasIPv6() bool {
	for _, a := range c.Addresses {
		if a.Addr().Is6() {
			return true
		}
	}
	return false
}

// mtu is the most that may be used.
func (c *Config) mtu() int {
	if c.MTU == 0 {
		return WideMTU
	}
	return c.MTU
}

// safeMTU is what may be used unseen.
func (c *Config) safeMTU() int {
	if c.MTU == 0 {
		return SafeMTU
	}
	return c.MTU
}

func (p *Peer) keepaliveSeconds() int {
	switch {
	case p.Keepalive < 0:
		return 0
	case p.Keepalive == 0:
		return int(DefaultKeepalive / time.Second)
	default:
		return max(1, int(p.Keepalive/time.Second))
	}
}

// splitEndpoint takes host:port apart; the host may be a name or an address.
func splitEndpoint(endpoint string) (host string, port uint16, err error) {
	host, text, err := net.SplitHostPort(endpoint)
	if err != nil {
		return "", 0, errors.New("is not host:port (an IPv6 address stands in brackets)")
	}
	n, err := strconv.ParseUint(text, 10, 16)
	if err != nil || n == 0 {
		return "", 0, errors.New("has no port within 1 and 65535")
	}
	if host == "" || strings.ContainsAny(host, " \t\r\n=") {
		return "", 0, errors.New("has no host")
	}
	return host, uint16(n), nil
}
