package tunnel

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"net/netip"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/transport/icmp"
	"gvisor.dev/gvisor/pkg/waiter"
)

// echo sends an echo request that makes an inner packet of size bytes, and
// waits for the answer, which has the same size (RFC 792, RFC 4443).
func (n *netstack) echo(ctx context.Context, to netip.Addr, size int, seq uint16) error {
	remote, network := full(netip.AddrPortFrom(to, 0))
	transport, kind, overhead := icmp.ProtocolNumber4, byte(header.ICMPv4Echo), header.IPv4MinimumSize
	if to.Is6() {
		transport, kind, overhead = icmp.ProtocolNumber6, byte(header.ICMPv6EchoRequest), header.IPv6MinimumSize
	}
	wq := new(waiter.Queue)
	ep, err := n.stack.NewEndpoint(transport, network, wq)
	if err != nil {
		return fmt.Errorf("echo: %s", err)
	}
	defer ep.Close()
	if err := ep.Connect(remote); err != nil {
		return fmt.Errorf("echo: %s", err)
	}
	entry, ready := waiter.NewChannelEntry(waiter.ReadableEvents)
	wq.EventRegister(&entry)
	defer wq.EventUnregister(&entry)

	request := make([]byte, max(size-overhead, header.ICMPv4MinimumSize))
	request[0] = kind
	binary.BigEndian.PutUint16(request[6:], seq) // the stack fills in checksum and identifier
	if _, err := ep.Write(bytes.NewReader(request), tcpip.WriteOptions{}); err != nil {
		return fmt.Errorf("echo: %s", err)
	}
	answer := make([]byte, len(request))
	for {
		w := tcpip.SliceWriter(answer)
		r, err := ep.Read(&w, tcpip.ReadOptions{})
		if err == nil && r.Count == len(request) && binary.BigEndian.Uint16(answer[6:]) == seq {
			return nil
		}
		if err == nil {
			continue
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-ready:
		}
	}
}
