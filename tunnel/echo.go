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
	wq := new(waiter.Queue)
	ep, err := n.openEcho(to, wq)
	if err != nil {
		return err
	}
	defer ep.Close()
	entry, ready := waiter.NewChannelEntry(waiter.ReadableEvents)
	wq.EventRegister(&entry)
	defer wq.EventUnregister(&entry)

	length, err := sendEcho(ep, to, size, seq)
	if err != nil {
		return err
	}
	answer := make([]byte, length)
	for {
		w := tcpip.SliceWriter(answer)
		r, err := ep.Read(&w, tcpip.ReadOptions{})
		if err == nil && r.Count == length && binary.BigEndian.Uint16(answer[6:]) == seq {
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

// callOut sends a small echo request and does not wait for the answer.
func (n *netstack) callOut(to netip.Addr, seq uint16) {
	ep, err := n.openEcho(to, new(waiter.Queue))
	if err != nil {
		return
	}
	defer ep.Close()
	_, _ = sendEcho(ep, to, 0, seq) // a request that is lost is one of many
}

func (n *netstack) openEcho(to netip.Addr, wq *waiter.Queue) (tcpip.Endpoint, error) {
	remote, network := full(netip.AddrPortFrom(to, 0))
	transport := icmp.ProtocolNumber4
	if to.Is6() {
		transport = icmp.ProtocolNumber6
	}
	ep, err := n.stack.NewEndpoint(transport, network, wq)
	if err != nil {
		return nil, fmt.Errorf("echo: %s", err)
	}
	if err := ep.Connect(remote); err != nil {
		ep.Close()
		return nil, fmt.Errorf("echo: %s", err)
	}
	return ep, nil
}

// sendEcho returns the length of the message above IP.
func sendEcho(ep tcpip.Endpoint, to netip.Addr, size int, seq uint16) (int, error) {
	kind, overhead := byte(header.ICMPv4Echo), header.IPv4MinimumSize
	if to.Is6() {
		kind, overhead = byte(header.ICMPv6EchoRequest), header.IPv6MinimumSize
	}
	request := make([]byte, max(size-overhead, header.ICMPv4MinimumSize))
	request[0] = kind
	binary.BigEndian.PutUint16(request[6:], seq) // the stack fills in checksum and identifier
	if _, err := ep.Write(bytes.NewReader(request), tcpip.WriteOptions{}); err != nil {
		return 0, fmt.Errorf("echo: %s", err)
	}
	return len(request), nil
}
