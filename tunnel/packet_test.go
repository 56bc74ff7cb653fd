package tunnel

import (
	"bytes"
	"net/netip"
	"testing"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/checksum"
	"gvisor.dev/gvisor/pkg/tcpip/header"
)

func packetSrc4() netip.Addr { return netip.MustParseAddr("10.77.0.7") }
func packetDst4() netip.Addr { return hubAddr4() }
func packetSrc6() netip.Addr { return netip.MustParseAddr("fd77::7") }
func packetDst6() netip.Addr { return hubAddr6() }

// tcpPacket makes a valid packet around a TCP segment.
func tcpPacket(src, dst netip.Addr, flags header.TCPFlags, options, data []byte) []byte {
	segment := make([]byte, header.TCPMinimumSize+len(options)+len(data))
	header.TCP(segment).Encode(&header.TCPFields{
		SrcPort: 40000, DstPort: 5672, SeqNum: 1, Flags: flags, WindowSize: 65535,
		DataOffset: uint8(header.TCPMinimumSize + len(options)),
	})
	copy(segment[header.TCPMinimumSize:], options)
	copy(segment[header.TCPMinimumSize+len(options):], data)
	a, b := tcpip.AddrFromSlice(src.AsSlice()), tcpip.AddrFromSlice(dst.AsSlice())
	sum := header.PseudoHeaderChecksum(header.TCPProtocolNumber, a, b, uint16(len(segment)))
	header.TCP(segment).SetChecksum(^checksum.Checksum(segment, sum))
	if src.Is4() {
		packet := make([]byte, header.IPv4MinimumSize, header.IPv4MinimumSize+len(segment))
		header.IPv4(packet).Encode(&header.IPv4Fields{TotalLength: uint16(header.IPv4MinimumSize + len(segment)), TTL: 64, Protocol: protocolTCP, SrcAddr: a, DstAddr: b})
		header.IPv4(packet).SetChecksum(^header.IPv4(packet).CalculateChecksum())
		return append(packet, segment...)
	}
	packet := make([]byte, header.IPv6MinimumSize, header.IPv6MinimumSize+len(segment))
	header.IPv6(packet).Encode(&header.IPv6Fields{PayloadLength: uint16(len(segment)), HopLimit: 64, TransportProtocol: header.TCPProtocolNumber, SrcAddr: a, DstAddr: b})
	return append(packet, segment...)
}

func checksumHolds(t *testing.T, packet []byte, src, dst netip.Addr) bool {
	t.Helper()
	_, segment, _, ok := upper(packet)
	if !ok {
		t.Fatal("not a packet any more")
	}
	sum := header.PseudoHeaderChecksum(header.TCPProtocolNumber, tcpip.AddrFromSlice(src.AsSlice()), tcpip.AddrFromSlice(dst.AsSlice()), uint16(len(segment)))
	return checksum.Checksum(segment, sum) == 0xffff
}

func TestClampMSS(t *testing.T) {
	t.Parallel()
	mss := func(n uint16) []byte { return []byte{2, 4, byte(n >> 8), byte(n)} }
	tests := []struct {
		name    string
		flags   header.TCPFlags
		options []byte
		want    []byte // nil: unchanged
	}{
		{"lowered", header.TCPFlagSyn, mss(1240), mss(1000)},
		{"lowered in the answer", header.TCPFlagSyn | header.TCPFlagAck, mss(1460), mss(1000)},
		{"at an odd place", header.TCPFlagSyn, append([]byte{1}, append(mss(1240), 1, 1, 1)...), append([]byte{1}, append(mss(1000), 1, 1, 1)...)},
		{"behind another option", header.TCPFlagSyn, append([]byte{3, 3, 7, 1}, mss(0xffff)...), append([]byte{3, 3, 7, 1}, mss(1000)...)},
		{"small already", header.TCPFlagSyn, mss(536), nil},
		{"equal", header.TCPFlagSyn, mss(1000), nil},
		{"no SYN", header.TCPFlagAck, mss(1240), nil},
		{"after the end of options", header.TCPFlagSyn, append([]byte{0, 0, 0, 0}, mss(1240)...), nil},
		{"option of length 0", header.TCPFlagSyn, []byte{9, 0, 2, 4}, nil},
		{"option cut off", header.TCPFlagSyn, []byte{1, 1, 2, 4}, nil},
		{"none", header.TCPFlagSyn, nil, nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			for _, ends := range [][2]netip.Addr{{packetSrc4(), packetDst4()}, {packetSrc6(), packetDst6()}} {
				packet := tcpPacket(ends[0], ends[1], tt.flags, tt.options, []byte("data"))
				want := tt.options
				if tt.want != nil {
					want = tt.want
				}
				clampMSS(packet, 1000)
				_, segment, _, _ := upper(packet)
				if got := segment[header.TCPMinimumSize : header.TCPMinimumSize+len(want)]; !bytes.Equal(got, want) {
					t.Errorf("options are %v, want %v", got, want)
				}
				if !checksumHolds(t, packet, ends[0], ends[1]) {
					t.Error("the checksum is wrong")
				}
			}
		})
	}
}

func TestExpectsAnswer(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name   string
		packet []byte
		want   bool
	}{
		{"opening", tcpPacket(packetSrc4(), packetDst4(), header.TCPFlagSyn, nil, nil), true},
		{"data", tcpPacket(packetSrc6(), packetDst6(), header.TCPFlagAck, nil, []byte("x")), true},
		{"acknowledgement", tcpPacket(packetSrc4(), packetDst4(), header.TCPFlagAck, nil, nil), false},
		{"nothing", nil, false},
		{"noise", bytes.Repeat([]byte{0x45}, 60), false},
	}
	for _, tt := range tests {
		if got := expectsAnswer(tt.packet); got != tt.want {
			t.Errorf("%s: %v, want %v", tt.name, got, tt.want)
		}
	}
}

func TestGateAdmitsOnlyTheHub(t *testing.T) {
	t.Parallel()
	admit := gate([]netip.Prefix{netip.PrefixFrom(packetDst4(), 32), netip.PrefixFrom(packetDst6(), 128)})
	change := func(packet []byte, at int, b byte) []byte {
		packet = bytes.Clone(packet)
		packet[at] = b
		return packet
	}
	tcp4 := tcpPacket(packetSrc4(), packetDst4(), header.TCPFlagSyn, nil, nil)
	tcp6 := tcpPacket(packetSrc6(), packetDst6(), header.TCPFlagSyn, nil, nil)
	tests := []struct {
		name   string
		packet []byte
		want   bool
	}{
		{"TCP to the hub", tcp4, true},
		{"TCP to the hub over IPv6", tcp6, true},
		{"TCP to another peer", tcpPacket(packetSrc4(), netip.MustParseAddr("10.77.0.8"), header.TCPFlagSyn, nil, nil), false},
		{"TCP to another peer over IPv6", tcpPacket(packetSrc6(), netip.MustParseAddr("fd77::8"), header.TCPFlagSyn, nil, nil), false},
		{"TCP to the host", tcpPacket(packetSrc4(), netip.MustParseAddr("127.0.0.1"), header.TCPFlagSyn, nil, nil), false},
		{"UDP", change(tcp4, 9, 17), false},
		{"UDP over IPv6", change(tcp6, 6, 17), false},
		{"a fragment", change(tcp4, 6, 0x20), false},
		{"a later fragment", change(tcp4, 7, 1), false},
		{"IPv6 extension headers", change(tcp6, 6, 0), false},
		{"an echo request", change(change(tcp4, 9, protocolICMP4), 20, 8), true},
		{"an echo reply", change(change(tcp4, 9, protocolICMP4), 20, 0), false},
		{"a redirect", change(change(tcp4, 9, protocolICMP4), 20, 5), false},
		{"an echo request over IPv6", change(change(tcp6, 6, protocolICMP6), 40, 128), true},
		{"packet too big", change(change(tcp6, 6, protocolICMP6), 40, 2), false},
		{"a router's advertisement", change(change(tcp6, 6, protocolICMP6), 40, 134), false},
		{"cut short", tcp4[:19], false},
		{"nothing", nil, false},
	}
	for _, tt := range tests {
		if got := admit(tt.packet); got != tt.want {
			t.Errorf("%s: admitted %v, want %v", tt.name, got, tt.want)
		}
	}
}

func FuzzPacket(f *testing.F) {
	f.Add(tcpPacket(packetSrc4(), packetDst4(), header.TCPFlagSyn, []byte{2, 4, 5, 0xb4}, nil))
	f.Add(tcpPacket(packetSrc6(), packetDst6(), header.TCPFlagSyn, []byte{1, 2, 4, 5, 0xb4, 1, 1, 1}, []byte("x")))
	admit := gate([]netip.Prefix{netip.PrefixFrom(packetDst4(), 32), netip.PrefixFrom(packetDst6(), 128)})
	f.Fuzz(func(t *testing.T, packet []byte) {
		before := len(packet)
		clampMSS(packet, 1000)
		if _, _, dst, ok := upper(packet); admit(packet) && (!ok || (dst != packetDst4() && dst != packetDst6())) {
			t.Errorf("admitted a packet to %v", dst)
		}
		_ = expectsAnswer(packet)
		if len(packet) != before {
			t.Error("the length changed")
		}
	})
}
