package tunnel

import (
	"encoding/binary"
	"net/netip"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/transport/icmp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/udp"
)

const (
	protocolICMP4 = uint8(icmp.ProtocolNumber4)
	protocolICMP6 = uint8(icmp.ProtocolNumber6)
	protocolTCP   = uint8(tcp.ProtocolNumber)
	protocolUDP   = uint8(udp.ProtocolNumber)

	optionEnd, optionNop, optionMSS = 0, 1, 2 // RFC 9293, 3.1
)

// upper returns the protocol and the bytes above the IP header, and the
// destination. Fragments and IPv6 extension headers give ok = false: neither
// end of a tunnel sends them.
func upper(packet []byte) (protocol uint8, payload []byte, dst netip.Addr, ok bool) {
	if len(packet) < header.IPv4MinimumSize {
		return 0, nil, dst, false
	}
	switch packet[0] >> 4 {
	case 4:
		ip := header.IPv4(packet)
		if !ip.IsValid(len(packet)) || ip.More() || ip.FragmentOffset() != 0 {
			return 0, nil, dst, false
		}
		dst = netip.AddrFrom4([4]byte(packet[16:20]))
		return packet[9], packet[ip.HeaderLength():ip.TotalLength()], dst, true
	case 6:
		ip := header.IPv6(packet)
		if !ip.IsValid(len(packet)) {
			return 0, nil, dst, false
		}
		dst = netip.AddrFrom16([16]byte(packet[24:40]))
		end := header.IPv6MinimumSize + int(ip.PayloadLength())
		return packet[6], packet[header.IPv6MinimumSize:end], dst, true
	}
	return 0, nil, dst, false
}

// expectsAnswer says that a living peer answers this packet soon: it opens a
// TCP connection or carries data in one.
func expectsAnswer(packet []byte) bool {
	protocol, segment, _, ok := upper(packet)
	if !ok || protocol != protocolTCP || len(segment) < header.TCPMinimumSize {
		return false
	}
	t := header.TCP(segment)
	return t.Flags().Contains(header.TCPFlagSyn) || len(segment) > int(t.DataOffset())
}

// clampMSS lowers the largest segment that a SYN asks for to limit bytes, in
// place, and mends the checksum (RFC 1624). Other packets stay as they are.
func clampMSS(packet []byte, limit uint16) {
	protocol, segment, _, ok := upper(packet)
	if !ok || protocol != protocolTCP || len(segment) < header.TCPMinimumSize {
		return
	}
	t := header.TCP(segment)
	end := int(t.DataOffset())
	if !t.Flags().Contains(header.TCPFlagSyn) || end > len(segment) || end < header.TCPMinimumSize {
		return
	}
	options := segment[header.TCPMinimumSize:end]
	for i := 0; i+1 < len(options); {
		switch options[i] {
		case optionEnd:
			return
		case optionNop:
			i++
			continue
		case optionMSS:
			if options[i+1] == 4 && i+4 <= len(options) {
				lowerMSS(segment, header.TCPMinimumSize+i+2, limit)
			}
			return
		}
		if options[i+1] < 2 {
			return
		}
		i += int(options[i+1])
	}
}

func lowerMSS(segment []byte, at int, limit uint16) {
	old := binary.BigEndian.Uint16(segment[at:])
	if old <= limit {
		return
	}
	binary.BigEndian.PutUint16(segment[at:], limit)
	if at%2 != 0 {
		// The two bytes lie across the words that the checksum adds.
		old, limit = old<<8|old>>8, limit<<8|limit>>8
	}
	sum := uint32(^binary.BigEndian.Uint16(segment[header.TCPChecksumOffset:])) + uint32(^old) + uint32(limit)
	sum = sum&0xffff + sum>>16
	sum = sum&0xffff + sum>>16
	binary.BigEndian.PutUint16(segment[header.TCPChecksumOffset:], ^uint16(sum)) //nolint:gosec // folded to 16 bits
}

func toAddr(a tcpip.Address) netip.Addr {
	addr, _ := netip.AddrFromSlice(a.AsSlice())
	return addr.Unmap()
}
