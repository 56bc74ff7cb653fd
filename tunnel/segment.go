package tunnel

import (
	"slices"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/checksum"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
)

// The stack hands TCP data over in large segments and leaves it to the link to
// cut them into packets and to sum them up, as it would to a network card: each
// pass through the stack costs more than the packet's encryption.

// largestSegment is the size of such a segment with its headers, in bytes.
const largestSegment = 1 << 16

// SupportedGSO makes the stack do so.
func (*link) SupportedGSO() stack.SupportedGSO { return stack.HostGSOSupported }

// GSOMaxSize is the largest segment that the stack may hand over.
func (*link) GSOMaxSize() uint32 { return largestSegment }

// segment is what is left of one that is being cut. The zero value is empty.
type segment struct {
	pkt  *stack.PacketBuffer
	head []byte   // IP and TCP header, which each packet repeats; its array is used again
	data [][]byte // what is not yet cut
	size int      // bytes in data
	seq  uint32   // of the next byte
	id   uint16   // of the next packet (IPv4)
}

// load takes a packet of the stack, whose reference it then holds.
func (s *segment) load(pkt *stack.PacketBuffer) {
	s.pkt = pkt
	s.data, s.size = pkt.AsSlices(), pkt.Data().Size()
	head := len(pkt.NetworkHeader().Slice()) + len(pkt.TransportHeader().Slice())
	s.head = slices.Grow(s.head[:0], head)[:head]
	s.take(s.head)
	if s.sums() {
		s.seq = s.tcp().SequenceNumber()
		if s.v4() {
			s.id = header.IPv4(s.head).ID()
		}
	}
}

// sums says that the packet is one of those whose sums are left to the link;
// the others are complete.
func (s *segment) sums() bool { return s.pkt.GSOOptions.NeedsCsum }

func (s *segment) v4() bool { return s.pkt.GSOOptions.Type == stack.GSOTCPv4 }

func (s *segment) tcp() header.TCP { return header.TCP(s.head[s.pkt.GSOOptions.L3HdrLen:]) }

// cut writes the next packet and returns its length; the last one empties s.
func (s *segment) cut(to []byte) int {
	room := s.size
	if mss := int(s.pkt.GSOOptions.MSS); s.sums() && mss > 0 {
		room = min(room, mss)
	}
	s.size -= room
	n := copy(to, s.head)
	if s.sums() {
		s.complete(to, n, room)
		return n + room
	}
	s.take(to[n : n+room])
	s.release()
	return n + room
}

// take copies the next bytes of what is left.
func (s *segment) take(to []byte) {
	for len(to) > 0 {
		c := copy(to, s.data[0])
		to = to[c:]
		if s.data[0] = s.data[0][c:]; len(s.data[0]) == 0 {
			s.data = s.data[1:]
		}
	}
}

// complete fills in data and what the headers of this packet say of it.
func (s *segment) complete(packet []byte, head, data int) {
	packet = packet[:head+data]
	s.take(packet[head:])
	l3 := int(s.pkt.GSOOptions.L3HdrLen)
	var src, dst tcpip.Address
	if s.v4() {
		ip := header.IPv4(packet)
		ip.SetTotalLength(uint16(len(packet))) //nolint:gosec // at most largestSegment
		ip.SetID(s.id)
		ip.SetChecksum(0)
		ip.SetChecksum(^ip.CalculateChecksum())
		src, dst = ip.SourceAddress(), ip.DestinationAddress()
	} else {
		ip := header.IPv6(packet)
		ip.SetPayloadLength(uint16(len(packet) - l3)) //nolint:gosec // at most largestSegment
		src, dst = ip.SourceAddress(), ip.DestinationAddress()
	}
	tcp := header.TCP(packet[l3:])
	tcp.SetSequenceNumber(s.seq)
	if s.size > 0 {
		tcp.SetFlags(uint8(tcp.Flags() &^ (header.TCPFlagFin | header.TCPFlagPsh)))
	}
	tcp.SetChecksum(0)
	pseudo := header.PseudoHeaderChecksum(header.TCPProtocolNumber, src, dst, uint16(len(tcp))) //nolint:gosec // at most largestSegment
	tcp.SetChecksum(^checksum.Checksum(tcp, pseudo))
	s.seq += uint32(data) //nolint:gosec // at most largestSegment
	s.id++
	if s.size == 0 {
		s.release()
	}
}

func (s *segment) empty() bool { return s.pkt == nil }

func (s *segment) release() {
	if s.pkt != nil {
		s.pkt.DecRef()
	}
	*s = segment{head: s.head[:0]}
}
