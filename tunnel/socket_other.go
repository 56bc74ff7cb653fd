//go:build !linux

package tunnel

import (
	"net/netip"

	"golang.zx2c4.com/wireguard/conn"
)

// newSocket returns wireguard-go's own socket.
func newSocket() conn.Bind { return conn.NewDefaultBind() }

// wireMTU returns 0: nobody knows.
func wireMTU(netip.AddrPort) int { return 0 }
