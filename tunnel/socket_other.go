//go:build !linux

package tunnel

import "golang.zx2c4.com/wireguard/conn"

// newSocket returns wireguard-go's own socket.
func newSocket() conn.Bind { return conn.NewDefaultBind() }
