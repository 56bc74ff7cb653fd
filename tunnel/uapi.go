package tunnel

import (
	"bufio"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"time"
)

// The configuration protocol is that of wireguard.com/xplatform.

// deviceText configures the identity of a device. It holds the private key
// and must go nowhere but into the device.
func deviceText(key PrivateKey, port uint16) string {
	return fmt.Sprintf("private_key=%s\nlisten_port=%d\n", key.hex(), port)
}

// peerText configures one peer; an invalid endpoint leaves it as it is. It
// holds the preshared key and must go nowhere but into the device.
func peerText(p *Peer, endpoint netip.AddrPort, keepalive int) string {
	var b strings.Builder
	fmt.Fprintf(&b, "public_key=%s\n", p.PublicKey.hex())
	psk := p.PresharedKey.hex()
	if psk == "" {
		psk = strings.Repeat("0", 2*keySize)
	}
	fmt.Fprintf(&b, "preshared_key=%s\n", psk)
	if endpoint.IsValid() {
		fmt.Fprintf(&b, "endpoint=%v\n", endpoint)
	}
	fmt.Fprintf(&b, "persistent_keepalive_interval=%d\nreplace_allowed_ips=true\n", keepalive)
	for _, prefix := range p.AllowedIPs {
		fmt.Fprintf(&b, "allowed_ip=%v\n", prefix)
	}
	return b.String()
}

func endpointText(key PublicKey, endpoint netip.AddrPort) string {
	return fmt.Sprintf("public_key=%s\nupdate_only=true\nendpoint=%v\n", key.hex(), endpoint)
}

func removeText(key PublicKey) string {
	return fmt.Sprintf("public_key=%s\nremove=true\n", key.hex())
}

// peerState is what a device knows of one peer.
type peerState struct {
	endpoint  netip.AddrPort
	handshake time.Time // zero: none yet
	rx, tx    uint64    // bytes on the wire
}

// readState takes the device's answer apart. Keys other than public ones are
// passed over unread.
func readState(text string) map[PublicKey]peerState {
	peers := map[PublicKey]peerState{}
	var key PublicKey
	var state peerState
	var sec, nsec int64
	keep := func() {
		if key.IsZero() {
			return
		}
		if sec != 0 || nsec != 0 {
			state.handshake = time.Unix(sec, nsec)
		}
		peers[key] = state
	}
	lines := bufio.NewScanner(strings.NewReader(text))
	for lines.Scan() {
		name, value, _ := strings.Cut(lines.Text(), "=")
		switch name {
		case "public_key":
			keep()
			key, state, sec, nsec = hexKey(value), peerState{}, 0, 0
		case "endpoint":
			state.endpoint, _ = netip.ParseAddrPort(value)
		case "last_handshake_time_sec":
			sec, _ = strconv.ParseInt(value, 10, 64)
		case "last_handshake_time_nsec":
			nsec, _ = strconv.ParseInt(value, 10, 64)
		case "rx_bytes":
			state.rx, _ = strconv.ParseUint(value, 10, 64)
		case "tx_bytes":
			state.tx, _ = strconv.ParseUint(value, 10, 64)
		}
	}
	keep()
	return peers
}

func hexKey(text string) PublicKey {
	var key PublicKey
	if len(text) != 2*keySize {
		return key
	}
	for i := range key {
		b, err := strconv.ParseUint(text[2*i:2*i+2], 16, 8)
		if err != nil {
			return PublicKey{}
		}
		key[i] = byte(b)
	}
	return key
}
