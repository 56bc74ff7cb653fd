package tunnel

import (
	"bytes"
	"math/rand/v2"
	"net/netip"
	"testing"

	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip/checksum"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
)

// largeSegment is what the stack hands over: headers without lengths and sums
// that would be right for the packets it is cut into, and data in pieces.
func largeSegment(src, dst netip.Addr, flags header.TCPFlags, options, data []byte, mss int) *stack.PacketBuffer {
	whole := tcpPacket(src, dst, flags, options, data)
	l3, kind := header.IPv4MinimumSize, stack.GSOTCPv4
	if src.Is6() {
		l3, kind = header.IPv6MinimumSize, stack.GSOTCPv6
	}
	l4 := header.TCPMinimumSize + len(options)
	var payload buffer.Buffer
	for rest := data; len(rest) > 0; {
		n := min(len(rest), 1+len(rest)/3)
		_ = payload.Append(buffer.NewViewWithData(rest[:n]))
		rest = rest[n:]
	}
	pkt := stack.NewPacketBuffer(stack.PacketBufferOptions{ReserveHeaderBytes: l3 + l4, Payload: payload})
	copy(pkt.TransportHeader().Push(l4), whole[l3:])
	copy(pkt.NetworkHeader().Push(l3), whole)
	pkt.GSOOptions = stack.GSO{Type: kind, NeedsCsum: true, CsumOffset: header.TCPChecksumOffset, MSS: uint16(mss), L3HdrLen: uint16(l3), MaxSize: largestSegment}
	return pkt
}

// cutAll returns the packets of a segment, and demands that nothing is left.
func cutAll(t *testing.T, pkt *stack.PacketBuffer) (packets [][]byte) {
	t.Helper()
	var s segment
	s.load(pkt)
	for buf := make([]byte, largestSegment); !s.empty(); {
		packets = append(packets, bytes.Clone(buf[:s.cut(buf)]))
	}
	return packets
}

// What is cut is whole packets again, each valid by itself, and joins to what
// it was cut from.
func TestSegmentsAreCutAndJoined(t *testing.T) {
	t.Parallel()
	const mss = 1228
	timestamps := []byte{1, 1, 8, 10, 0, 0, 0, 9, 0, 0, 0, 7}
	rng := rand.New(rand.NewPCG(1, 2))
	for _, ends := range [][2]netip.Addr{{packetSrc4(), packetDst4()}, {packetSrc6(), packetDst6()}} {
		for _, size := range []int{1, mss - 1, mss, mss + 1, 2 * mss, 8192, 60000} {
			data := make([]byte, size)
			for i := range data {
				data[i] = byte(rng.Uint32())
			}
			const flags = header.TCPFlagAck | header.TCPFlagPsh | header.TCPFlagFin
			packets := cutAll(t, largeSegment(ends[0], ends[1], flags, timestamps, data, mss))
			if want := (size + mss - 1) / mss; len(packets) != want {
				t.Fatalf("%d bytes became %d packets, want %d", size, len(packets), want)
			}
			var run train
			var got []byte
			for i, packet := range packets {
				var in incoming
				if !in.read(packet) || in.head == 0 || len(in.packet) != len(packet) {
					t.Fatalf("packet %d of %d bytes is not valid: %x", i, size, packet[:60])
				}
				if last := in.tcp().Flags() == flags; last != (i == len(packets)-1) {
					t.Errorf("packet %d of %d has flags %v", i, len(packets), in.tcp().Flags())
				}
				if seq := in.tcp().SequenceNumber(); seq != 1+uint32(len(got)) {
					t.Errorf("packet %d has sequence number %d, want %d", i, seq, 1+len(got))
				}
				got = append(got, in.data()...)
				if !run.add(&in) {
					t.Fatalf("packet %d of %d does not join", i, len(packets))
				}
			}
			if !bytes.Equal(got, data) {
				t.Fatalf("%d bytes were changed", size)
			}
			joined := run.take()
			want := tcpPacket(ends[0], ends[1], flags, timestamps, data)
			same(t, joined.Flatten(), want)
		}
	}
}

// same compares packets but for their sums and numbers, which joining leaves.
func same(t *testing.T, got, want []byte) {
	t.Helper()
	for _, packet := range [][]byte{got, want} {
		l3 := header.IPv6MinimumSize
		if packet[0]>>4 == 4 {
			l3 = header.IPv4MinimumSize
			header.IPv4(packet).SetChecksum(0)
			header.IPv4(packet).SetID(0)
		}
		header.TCP(packet[l3:]).SetChecksum(0)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("joined to\n%x…, want\n%x…", got[:min(80, len(got))], want[:min(80, len(want))])
	}
}

// A packet that is complete leaves as it is.
func TestSmallPacketsAreNotTouched(t *testing.T) {
	t.Parallel()
	want := tcpPacket(packetSrc4(), packetDst4(), header.TCPFlagRst, nil, nil)
	got := cutAll(t, stack.NewPacketBuffer(stack.PacketBufferOptions{Payload: buffer.MakeWithData(want)}))
	if len(got) != 1 || !bytes.Equal(got[0], want) {
		t.Errorf("%x became %x", want, got)
	}
}

func TestTrainKeepsApart(t *testing.T) {
	t.Parallel()
	const ack = header.TCPFlagAck
	src, dst := packetSrc4(), packetDst4()
	data := []byte("some data")
	follow := func(change func(tcp header.TCP)) []byte { // the packet that would follow, changed
		packet := tcpPacket(src, dst, ack, nil, data)
		tcp := header.TCP(packet[header.IPv4MinimumSize:])
		tcp.SetSequenceNumber(1 + uint32(len(data)))
		change(tcp)
		return resum(packet)
	}
	tests := []struct {
		name          string
		first, second []byte
		joins         bool
	}{
		{"what follows", nil, follow(func(header.TCP) {}), true},
		{"what follows and acknowledges more", nil, follow(func(h header.TCP) { h.SetAckNumber(5) }), true},
		{"the end", nil, follow(func(h header.TCP) { h.SetFlags(uint8(ack | header.TCPFlagFin)) }), true},
		{"a gap", nil, follow(func(h header.TCP) { h.SetSequenceNumber(100) }), false},
		{"the same again", nil, tcpPacket(src, dst, ack, nil, data), false},
		{"another source port", nil, follow(func(h header.TCP) { h.SetSourcePort(1) }), false},
		{"another port", nil, follow(func(h header.TCP) { h.SetDestinationPort(1) }), false},
		{"a reset", nil, follow(func(h header.TCP) { h.SetFlags(uint8(ack | header.TCPFlagRst)) }), false},
		{"urgent data", nil, follow(func(h header.TCP) { h.SetFlags(uint8(ack | header.TCPFlagUrg)) }), false},
		{"what comes after the end", tcpPacket(src, dst, ack|header.TCPFlagFin, nil, data), follow(func(header.TCP) {}), false},
		{"no data", nil, tcpPacket(src, dst, ack, nil, nil), false},
		{"data after none", tcpPacket(src, dst, ack, nil, nil), tcpPacket(src, dst, ack, nil, data), false},
		{"other options", nil, tcpPacket(src, dst, ack, []byte{1, 1, 1, 0}, data), false},
		{"another address", nil, tcpPacket(dst, dst, ack, nil, data), false},
		{"the other family", nil, tcpPacket(packetSrc6(), packetDst6(), ack, nil, data), false},
		{"another mark", nil, marked(follow(func(header.TCP) {})), false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			first := tt.first
			if first == nil {
				first = tcpPacket(src, dst, ack, nil, data)
			}
			var run train
			var in incoming
			if !in.read(first) || !run.add(&in) {
				t.Fatal("the first packet was not taken")
			}
			if !in.read(tt.second) {
				t.Fatal("the second packet is damaged")
			}
			if joins := run.add(&in); joins != tt.joins {
				t.Errorf("joins: %v, want %v", joins, tt.joins)
			}
		})
	}
}

// resum mends the sum of a TCP packet over IPv4.
func resum(packet []byte) []byte {
	tcp := header.TCP(packet[header.IPv4MinimumSize:])
	tcp.SetChecksum(0)
	ip := header.IPv4(packet)
	sum := header.PseudoHeaderChecksum(header.TCPProtocolNumber, ip.SourceAddress(), ip.DestinationAddress(), uint16(len(tcp)))
	tcp.SetChecksum(^checksum.Checksum(tcp, sum))
	ip.SetChecksum(0)
	ip.SetChecksum(^ip.CalculateChecksum())
	return packet
}

// marked sets a congestion mark.
func marked(packet []byte) []byte {
	packet[1] |= 3
	return resum(packet)
}

// The stack is told that sums were checked: so a packet with any bit wrong that
// a sum covers must not get there. IPv6 has none over its first four bytes and
// the hop limit, and with another next header the packet is no TCP.
func TestDamagedPacketsAreDropped(t *testing.T) {
	t.Parallel()
	for _, ends := range [][2]netip.Addr{{packetSrc4(), packetDst4()}, {packetSrc6(), packetDst6()}} {
		good := tcpPacket(ends[0], ends[1], header.TCPFlagAck, nil, []byte("some data"))
		for bit := range 8 * len(good) {
			packet := bytes.Clone(good)
			packet[bit/8] ^= 1 << (bit % 8)
			at := bit / 8
			if ends[0].Is6() && (at < 4 || at == 6 || at == 7) || packet[0]>>4 != good[0]>>4 {
				continue // one of the other family is for an address that nobody has
			}
			var in incoming
			if in.read(packet) {
				t.Errorf("%v: bit %d of byte %d is wrong, and nobody notices", ends[0], bit%8, at)
			}
		}
	}
}
