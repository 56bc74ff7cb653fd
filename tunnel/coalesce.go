package tunnel

import (
	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip/checksum"
	"gvisor.dev/gvisor/pkg/tcpip/header"
)

// Segments of one connection that arrive together and follow each other are
// handed to the stack as one: each pass through it costs more than the
// packet's decryption, and each second one an answer.

// incoming is one packet from the peer, as far as joining needs to know it.
type incoming struct {
	packet []byte
	l3     int // bytes of the IP header
	head   int // bytes of the IP and the TCP header; 0: not to be joined
}

// read looks at a packet; ok is false for one that is damaged. What WireGuard
// has authenticated was damaged before, between the sender and the far end of
// the tunnel. Fragments are left to the stack unseen.
func (in *incoming) read(packet []byte) (ok bool) {
	*in = incoming{packet: packet}
	var sum uint16 // of addresses, protocol and length
	var protocol uint8
	switch packet[0] >> 4 {
	case 4:
		ip := header.IPv4(packet)
		if !ip.IsValid(len(packet)) || !ip.IsChecksumValid() {
			return false
		}
		if ip.More() || ip.FragmentOffset() != 0 {
			return true
		}
		in.l3, in.packet = int(ip.HeaderLength()), packet[:ip.TotalLength()]
		protocol = ip.Protocol()
		sum = header.PseudoHeaderChecksum(ip.TransportProtocol(), ip.SourceAddress(), ip.DestinationAddress(), uint16(len(in.packet)-in.l3)) //nolint:gosec // under 2^16
	case 6:
		ip := header.IPv6(packet)
		if !ip.IsValid(len(packet)) {
			return false
		}
		in.l3, in.packet = header.IPv6MinimumSize, packet[:header.IPv6MinimumSize+int(ip.PayloadLength())]
		protocol = ip.NextHeader()
		sum = header.PseudoHeaderChecksum(ip.TransportProtocol(), ip.SourceAddress(), ip.DestinationAddress(), ip.PayloadLength())
	default:
		return false
	}
	segment := in.packet[in.l3:]
	switch protocol {
	case protocolTCP:
		if len(segment) < header.TCPMinimumSize || checksum.Checksum(segment, sum) != 0xffff {
			return false
		}
		if end := int(header.TCP(segment).DataOffset()); end >= header.TCPMinimumSize && end < len(segment) {
			in.head = in.l3 + end
		}
	case protocolUDP:
		if len(segment) < header.UDPMinimumSize {
			return false
		}
		return header.UDP(segment).Checksum() == 0 || checksum.Checksum(segment, sum) == 0xffff
	}
	return true
}

func (in *incoming) tcp() header.TCP { return header.TCP(in.packet[in.l3:]) }

func (in *incoming) data() []byte { return in.packet[in.head:] }

// train is a run of packets that are handed over as one. The zero value is
// empty.
type train struct {
	cars [maxCars]incoming
	n    int
	size int    // bytes of the whole
	next uint32 // sequence number that one more must have
}

const maxCars = 64

// add takes a packet, unless it does not belong to those that are there.
func (t *train) add(in *incoming) bool {
	if t.n > 0 && !t.fits(in) {
		return false
	}
	if t.n == 0 {
		t.size = in.head
	}
	if in.head > 0 {
		t.next = in.tcp().SequenceNumber() + uint32(len(in.data())) //nolint:gosec // under 2^16
		t.size += len(in.data())
	}
	t.cars[t.n] = *in
	t.n++
	return true
}

// fits says that in goes on where the last one ended: data of the same
// connection in the same direction.
func (t *train) fits(in *incoming) bool {
	const plain = header.TCPFlagAck | header.TCPFlagPsh
	last := &t.cars[t.n-1]
	if t.n == maxCars || in.head == 0 || in.head != last.head || in.l3 != last.l3 || t.size+len(in.data()) >= largestSegment {
		return false
	}
	a, b := last.tcp(), in.tcp()
	return b.SequenceNumber() == t.next && [4]byte(a[:4]) == [4]byte(b[:4]) && // ports
		a.Flags()&^plain == 0 && b.Flags()&^(plain|header.TCPFlagFin) == 0 &&
		sameWay(last.packet, in.packet, in.l3)
}

// sameWay compares two IP headers of l3 bytes: addresses and marks.
func sameWay(a, b []byte, l3 int) bool {
	switch {
	case a[0] != b[0]:
		return false
	case a[0]>>4 == 4:
		return l3 == header.IPv4MinimumSize && a[1] == b[1] && [8]byte(a[12:20]) == [8]byte(b[12:20])
	}
	return [4]byte(a[:4]) == [4]byte(b[:4]) && [32]byte(a[8:40]) == [32]byte(b[8:40])
}

// take makes one packet of those that are there, and empties the train. Its
// headers are the last one's, for what they acknowledge is the newest; sums
// have been checked and are not made anew.
func (t *train) take() buffer.Buffer {
	last := &t.cars[t.n-1]
	if t.n == 1 {
		t.n = 0
		return buffer.MakeWithData(last.packet)
	}
	whole := buffer.NewView(t.size)
	_, _ = whole.Write(last.packet[:last.head]) // it grows, and never fails
	head := whole.AsSlice()
	header.TCP(head[last.l3:]).SetSequenceNumber(t.cars[0].tcp().SequenceNumber())
	if head[0]>>4 == 4 {
		header.IPv4(head).SetTotalLength(uint16(t.size)) //nolint:gosec // under largestSegment
	} else {
		header.IPv6(head).SetPayloadLength(uint16(t.size - last.l3)) //nolint:gosec // under largestSegment
	}
	for i := range t.cars[:t.n] {
		_, _ = whole.Write(t.cars[i].data())
	}
	t.n = 0
	return buffer.MakeWithView(whole)
}
