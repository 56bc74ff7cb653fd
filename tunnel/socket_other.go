//go:build !linux

package tunnel

import "golang.zx2c4.com/wireguard/conn"

// newSocket returns wireguard-go's own socket: what makes it unfit for a hub on
// Linux, it does on Linux only.
func newSocket() conn.Bind { return conn.NewDefaultBind() }
