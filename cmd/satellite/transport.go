package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/crypto/x509roots/fallback/bundle"

	"usm-satellite/broker"
	"usm-satellite/tunnel"
)

// transport is how the broker is reached: the routes of the session, and the
// tunnel where there is one.
type transport struct {
	routes  []broker.Route
	tunnel  *tunnel.Tunnel // nil: none
	release func()         // gives the key slot back
	deny    []netip.Prefix // the tunnel's own networks, which no job may reach
}

func (t *transport) close() {
	if t.tunnel != nil {
		_ = t.tunnel.Close()
	}
	if t.release != nil {
		t.release()
	}
}

// hasTunnel says that a WireGuard setting is given.
func (s settings) hasTunnel() bool {
	return s.WGConfigFile != "" || s.WGPrivateKey != "" || s.WGAddress != "" || s.WGPeerKey != "" || s.WGEndpoint != ""
}

// openTransport chooses the dial mode by what is set, as design: a tunnel
// where there is a WireGuard setting, else directly; protected by TLS where
// the DSN says amqps.
func openTransport(ctx context.Context, s settings, env map[string]string, log *slog.Logger) (_ *transport, err error) {
	dsn, err := broker.ParseDSN(s.DSN)
	if err != nil {
		return nil, usageError("US_AMQP_DSN %s", err)
	}
	t := &transport{}
	defer func() {
		if err != nil {
			t.close()
		}
	}()
	first := broker.Route{Name: schemeName(dsn), DSN: dsn}
	if s.hasTunnel() {
		if err := t.openTunnel(ctx, s, log); err != nil {
			return nil, err
		}
		if first, err = t.tunnelRoute(s, dsn); err != nil {
			return nil, err
		}
	} else if first.Dial, err = s.directly(ctx, env, dsn); err != nil {
		return nil, err
	}
	if first.TLS, err = s.tlsConfig(dsn); err != nil {
		return nil, err
	}
	t.routes = []broker.Route{first}
	return t, t.addFallback(s, env)
}

func schemeName(dsn broker.DSN) string {
	if dsn.TLS {
		return "amqps"
	}
	return "amqp"
}

func (t *transport) openTunnel(ctx context.Context, s settings, log *slog.Logger) error {
	slots, err := s.tunnelConfigs()
	if err != nil {
		return err
	}
	cfg, err := t.takeSlot(s, slots)
	if err != nil {
		return err
	}
	cfg.StateDir = s.StateDir
	if t.tunnel, err = tunnel.Open(ctx, cfg, log); err != nil {
		return usageError("the tunnel cannot be opened: %s", err)
	}
	for _, p := range cfg.Addresses {
		t.deny = append(t.deny, netip.PrefixFrom(p.Addr(), p.Addr().BitLen()))
	}
	return nil
}

// takeSlot chooses among several keys: by number, or the first that no other
// process of this host holds.
func (t *transport) takeSlot(s settings, slots []tunnel.Config) (tunnel.Config, error) {
	switch {
	case s.WGSlot > len(slots):
		return tunnel.Config{}, usageError("USM_WG_SLOT is %d, but there are only %d key slots in USM_WG_CONFIG_FILE", s.WGSlot, len(slots))
	case s.WGSlot > 0:
		return slots[s.WGSlot-1], nil
	case s.StateDir == "":
		return slots[0], nil
	}
	cfg, release, _, err := tunnel.TakeSlot(s.StateDir, slots)
	switch {
	case err == nil:
		t.release = release
		return cfg, nil
	case errors.Is(err, tunnel.ErrNoSlot) && len(slots) == 1:
		return tunnel.Config{}, usageError("another process of this host is using this WireGuard key: one process does the work of many, so start only one (or enrol with --replicas)")
	case errors.Is(err, tunnel.ErrNoSlot) || len(slots) > 1:
		return tunnel.Config{}, usageError("no WireGuard key slot can be taken: %s", err)
	default: // no directory for the lock: two processes are then told apart by their fight
		return slots[0], nil
	}
}

// tunnelConfigs reads the wg-quick files, or the USM_WG_ variables.
func (s settings) tunnelConfigs() ([]tunnel.Config, error) {
	if s.WGConfigFile == "" {
		cfg, err := s.tunnelConfig()
		return []tunnel.Config{cfg}, err
	}
	var configs []tunnel.Config
	for _, path := range list(s.WGConfigFile) {
		file, err := os.Open(path)
		if err != nil {
			return nil, usageError("USM_WG_CONFIG_FILE: %s cannot be read (%s)", path, reason(err))
		}
		cfg, err := tunnel.ParseQuick(file)
		_ = file.Close()
		if err != nil {
			return nil, usageError("USM_WG_CONFIG_FILE: %s: %s", path, err)
		}
		s.override(&cfg)
		configs = append(configs, cfg)
	}
	return configs, nil
}

// override lets single variables win over a file.
func (s settings) override(cfg *tunnel.Config) {
	if s.WGMTU != 0 {
		cfg.MTU = s.WGMTU
	}
	if s.WGEndpoint != "" {
		cfg.Peer.Endpoints = list(s.WGEndpoint)
	}
	if s.WGKeepalive != 0 {
		cfg.Peer.Keepalive = time.Duration(s.WGKeepalive) * time.Second
	}
}

func (s settings) tunnelConfig() (cfg tunnel.Config, err error) {
	for name, value := range map[string]string{
		"USM_WG_PRIVATE_KEY": s.WGPrivateKey, "USM_WG_ADDRESS": s.WGAddress,
		"USM_WG_PEER_PUBLIC_KEY": s.WGPeerKey, "USM_WG_ENDPOINT": s.WGEndpoint,
	} {
		if value == "" {
			return cfg, usageError("%s is not set; the tunnel needs it (or a wg-quick file in USM_WG_CONFIG_FILE)", name)
		}
	}
	if cfg.PrivateKey, err = tunnel.ParsePrivateKey(s.WGPrivateKey); err != nil {
		return cfg, usageError("USM_WG_PRIVATE_KEY: %s", err)
	}
	if cfg.Peer.PublicKey, err = tunnel.ParsePublicKey(s.WGPeerKey); err != nil {
		return cfg, usageError("USM_WG_PEER_PUBLIC_KEY: %s", err)
	}
	if s.WGPreshared != "" {
		if cfg.Peer.PresharedKey, err = tunnel.ParsePresharedKey(s.WGPreshared); err != nil {
			return cfg, usageError("USM_WG_PRESHARED_KEY: %s", err)
		}
	}
	if cfg.Addresses, err = prefixes("USM_WG_ADDRESS", s.WGAddress); err != nil {
		return cfg, err
	}
	allowed := s.WGAllowedIPs
	if allowed == "" {
		allowed = "0.0.0.0/0,::/0"
	}
	if cfg.Peer.AllowedIPs, err = prefixes("USM_WG_ALLOWED_IPS", allowed); err != nil {
		return cfg, err
	}
	for _, text := range list(s.WGDNS) {
		addr, err := netip.ParseAddr(text)
		if err != nil {
			return cfg, usageError("USM_WG_DNS must be IP addresses, separated by commas")
		}
		cfg.DNS = append(cfg.DNS, addr)
	}
	s.override(&cfg)
	return cfg, nil
}

func prefixes(name, text string) ([]netip.Prefix, error) {
	var all []netip.Prefix
	for _, item := range list(text) {
		var prefix netip.Prefix
		addr, err := netip.ParseAddr(item)
		if err == nil {
			prefix = netip.PrefixFrom(addr, addr.BitLen())
		} else if prefix, err = netip.ParsePrefix(item); err != nil {
			return nil, usageError("%s must be addresses, as 10.77.0.7/32, separated by commas", name)
		}
		all = append(all, prefix)
	}
	return all, nil
}

// tunnelRoute dials the broker's address inside the tunnel, whatever host the
// DSN names: TLS then checks the DSN's name, and no DNS is needed inside.
func (t *transport) tunnelRoute(s settings, dsn broker.DSN) (broker.Route, error) {
	inner := dsn.Address()
	if s.WGBroker != "" {
		host, port, err := splitHostPort("USM_WG_BROKER", s.WGBroker)
		if err != nil {
			return broker.Route{}, err
		}
		inner = net.JoinHostPort(host, strconv.Itoa(port))
	}
	return broker.Route{
		Name: "wireguard+" + schemeName(dsn), DSN: dsn,
		Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
			return t.tunnel.DialContext(ctx, network, inner)
		},
		Probe: func(ctx context.Context) error { return t.tunnel.Ready(ctx, inner) },
		Way:   t.tunnel,
	}, nil
}

// directly dials without a tunnel.
func (s settings) directly(ctx context.Context, env map[string]string, dsn broker.DSN) (broker.DialFunc, error) {
	if err := s.checkPlaintext(ctx, dsn); err != nil {
		return nil, err
	}
	return proxied(env, dsn)
}

// checkPlaintext refuses what would send the password and the jobs in clear
// over networks that nobody knows.
func (s settings) checkPlaintext(ctx context.Context, dsn broker.DSN) error {
	if dsn.TLS || s.Plaintext {
		return nil
	}
	addrs := []netip.Addr{}
	if addr, err := netip.ParseAddr(dsn.Host); err == nil {
		addrs = append(addrs, addr)
	} else {
		ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
		defer cancel()
		found, err := net.DefaultResolver.LookupNetIP(ctx, "ip", dsn.Host)
		if err != nil {
			return nil // the session says so, and tries again
		}
		addrs = found
	}
	for _, addr := range addrs {
		if addr = addr.Unmap(); !addr.IsLoopback() && !addr.IsPrivate() && !addr.IsLinkLocalUnicast() {
			return usageError("US_AMQP_DSN: plain AMQP to %s, a public address, would show the password and the jobs to everybody on the way: use the tunnel (USM_WG_...) or amqps://; USM_ALLOW_PLAINTEXT=true allows it all the same", dsn.Host)
		}
	}
	return nil
}

// tlsConfig: TLS 1.2 or later, the name always checked.
func (s settings) tlsConfig(dsn broker.DSN) (*tls.Config, error) {
	if !dsn.TLS {
		return nil, nil //nolint:nilnil // no TLS is an answer
	}
	cfg := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: dsn.Host, RootCAs: publicRoots()}
	if s.CAFile != "" {
		pem, err := os.ReadFile(s.CAFile)
		if err != nil {
			return nil, usageError("USM_AMQP_CA_FILE: the file cannot be read (%s)", reason(err))
		}
		cfg.RootCAs = x509.NewCertPool()
		if !cfg.RootCAs.AppendCertsFromPEM(pem) {
			return nil, usageError("USM_AMQP_CA_FILE: the file holds no certificate in PEM form")
		}
	}
	if s.CertFile != "" {
		pair, err := tls.LoadX509KeyPair(s.CertFile, s.KeyFile)
		if err != nil {
			return nil, usageError("USM_AMQP_CERT_FILE and USM_AMQP_KEY_FILE cannot be read as a certificate and its key in PEM form")
		}
		cfg.Certificates = []tls.Certificate{pair}
	}
	return cfg, nil
}

// publicRoots are the system's, or, in an image from scratch, the ones that the
// binary carries.
func publicRoots() *x509.CertPool {
	if pool, err := x509.SystemCertPool(); err == nil && !pool.Equal(x509.NewCertPool()) {
		return pool
	}
	pool := x509.NewCertPool()
	for root := range bundle.Roots() {
		if cert, err := x509.ParseCertificate(root.Certificate); err == nil && root.Constraint == nil {
			pool.AddCert(cert)
		}
	}
	return pool
}

// addFallback adds the direct AMQPS route.
func (t *transport) addFallback(s settings, env map[string]string) error {
	if s.FallbackDSN == "" {
		return nil
	}
	dsn, err := broker.ParseDSN(s.FallbackDSN)
	switch {
	case err != nil:
		return usageError("USM_FALLBACK_DSN %s", err)
	case !dsn.TLS:
		return usageError("USM_FALLBACK_DSN must begin with amqps://: there is no step down to plain AMQP")
	case t.tunnel == nil:
		return usageError("USM_FALLBACK_DSN is for satellites with a tunnel; without one, set US_AMQP_DSN only")
	}
	tlsConfig, err := s.tlsConfig(dsn)
	if err != nil {
		return err
	}
	dial, err := proxied(env, dsn)
	if err != nil {
		return err
	}
	t.routes = append(t.routes, broker.Route{Name: "amqps", DSN: dsn, Dial: dial, TLS: tlsConfig})
	return nil
}

// denied lists the addresses that no job may reach besides the policy's own:
// those of the broker and of the tunnel's ends.
func (t *transport) denied() []netip.Prefix {
	deny := t.deny
	for _, r := range t.routes {
		if addr, err := netip.ParseAddr(strings.Trim(r.DSN.Host, "[]")); err == nil && !addr.IsLoopback() {
			deny = append(deny, netip.PrefixFrom(addr, addr.BitLen()))
		}
	}
	return deny
}
