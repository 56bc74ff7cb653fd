// Package tunnel carries connections through WireGuard inside the process:
// no interface of the operating system, no route and no privilege is needed.
//
// It has two ends. A [Tunnel] is the satellite's: it dials the broker through
// the peer, watches that traffic really arrives, and moves to another endpoint
// when it does not. A [Hub] is the core's: it answers many satellites on one
// UDP port and relays one TCP port of its inner address to the broker, and
// nothing else. Any WireGuard server can stand in for the hub.
//
//	cfg, err := tunnel.ParseQuick(file)
//	...
//	t, err := tunnel.Open(ctx, cfg, logger)
//	...
//	defer t.Close()
//	conn, err := t.DialContext(ctx, "tcp", "10.77.0.1:5672")
//
// The package knows nothing of AMQP or jobs, and it is not a VPN: only what
// is dialled with DialContext goes through it.
//
// The protocol is that of wireguard.com/papers/wireguard.pdf; the text of the
// configuration is that of wg(8) and wg-quick(8).
package tunnel
