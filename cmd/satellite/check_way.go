package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"syscall"
	"time"

	"usm-satellite/tunnel"
)

// How often the doctor asks, and how long it waits for a refusal each time. A hub
// is silent to what is no handshake, so that silence is the good answer.
const (
	udpTries    = 4
	udpPatience = 250 * time.Millisecond
)

// udpLeaves sends a byte to each endpoint. What the network says of it tells
// a dead hub and this machine's own firewall from the silences that look alike.
func udpLeaves(ctx context.Context, endpoints []netip.AddrPort) (string, error) {
	var refusals []string
	for _, endpoint := range endpoints {
		if err := pokeUDP(ctx, endpoint); err != nil {
			refusals = append(refusals, udpWords(endpoint, err))
		}
	}
	switch {
	case len(refusals) < len(endpoints) || len(endpoints) == 0:
		return strings.Join(append([]string{"packets leave this machine, and are not refused"}, refusals...), "; but "), nil
	default:
		return "", usageError("%s", strings.Join(refusals, "; "))
	}
}

// pokeUDP returns the error that the network answers with, if any. Only a
// connected socket is told of it.
func pokeUDP(ctx context.Context, to netip.AddrPort) error {
	conn, err := (&net.Dialer{}).DialContext(ctx, "udp", to.String())
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	buf := make([]byte, 1)
	for range udpTries { // the next write is told as well of what the last one met
		if _, err := conn.Write(buf); err != nil {
			return err
		}
		if err := conn.SetReadDeadline(time.Now().Add(udpPatience)); err != nil {
			return err
		}
		if _, err := conn.Read(buf); err != nil && !isDeadline(err) {
			return err
		}
	}
	return nil
}

func isDeadline(err error) bool {
	var netErr net.Error
	return errors.As(err, &netErr) && netErr.Timeout()
}

func udpWords(to netip.AddrPort, err error) string {
	switch {
	case errors.Is(err, syscall.ECONNREFUSED):
		return fmt.Sprintf("%s refuses UDP: the hub is down, or USM_WG_ENDPOINT has the wrong port, or a firewall there rejects it", to)
	case errors.Is(err, syscall.EPERM), errors.Is(err, syscall.EACCES):
		return fmt.Sprintf("this machine's own firewall does not let UDP out to %s: allow it, or set USM_FALLBACK_DSN", to)
	case errors.Is(err, syscall.ENETUNREACH), errors.Is(err, syscall.EHOSTUNREACH), errors.Is(err, syscall.EADDRNOTAVAIL):
		return fmt.Sprintf("there is no route from this machine to %s: correct its network, or USM_WG_ENDPOINT", to)
	default:
		return fmt.Sprintf("UDP to %s fails: %s", to, reason(err))
	}
}

// clock finds a clock that cannot be right: before this program existed, or
// before the last handshake, which the hub then refuses without a word.
func (d *doctor) clock() (string, error) {
	now := time.Now()
	says := "this machine's clock says " + now.UTC().Format(time.RFC3339)
	if now.Year() < 2025 {
		return "", usageError("%s, which cannot be: set it (NTP); certificates, deadlines and WireGuard need it", says)
	}
	if d.settings.hasTunnel() {
		configs, _ := d.settings.tunnelConfigs() // the next step says what is wrong with them
		for _, cfg := range configs {
			if behind, last := tunnel.ClockBehind(d.settings.StateDir, cfg.PrivateKey.Public(), now); behind > 0 {
				return "", usageError("%s, %s before the last handshake of this key (%s): the hub refuses older handshakes without a word, until the clock has caught up; set the clock (NTP). If it is right and was wrong then, restart the hub and delete the wireguard-*.handshake files in %s",
					says, behind.Round(time.Second), last.UTC().Format(time.RFC3339), d.settings.StateDir)
			}
		}
	}
	return says + clockKeeper(), nil
}
