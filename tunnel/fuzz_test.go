package tunnel

import (
	"encoding/binary"
	"testing"

	"golang.zx2c4.com/wireguard/device"
)

// FuzzTap demands that no packet breaks the tap, that only packets of sessions
// count, and that those of our own sessions never do.
func FuzzTap(f *testing.F) {
	packet := func(kind byte, size int) []byte {
		b := make([]byte, size)
		b[0] = kind
		return b
	}
	f.Add(packet(device.MessageInitiationType, device.MessageInitiationSize), packet(device.MessageTransportType, device.MessageTransportSize))
	f.Add(packet(device.MessageResponseType, device.MessageResponseSize), packet(device.MessageTransportType, 3))
	f.Fuzz(func(t *testing.T, sent, received []byte) {
		tap := newTap()
		tap.ours.Store(1) // it has been at work for long
		tap.received(received)
		session := len(received) >= device.MessageTransportSize && received[0] == device.MessageTransportType
		if got := tap.foreign.Load() == 1; got != session {
			t.Fatalf("%x counts: %v", received, got)
		}
		tap.sent(sent)
		if !session || len(sent) < 8 {
			return
		}
		handshake := packet(device.MessageInitiationType, device.MessageInitiationSize)
		binary.LittleEndian.PutUint32(handshake[4:], binary.LittleEndian.Uint32(received[device.MessageTransportOffsetReceiver:]))
		tap.sent(handshake)
		tap.received(received)
		if tap.foreign.Load() != 1 {
			t.Fatal("a packet of our own session counts")
		}
	})
}

// FuzzTrain demands that no packets from a peer, however odd, break what joins
// them, and that nothing is lost or made up: what is handed over is as long as
// what came, less the headers of those that were joined.
func FuzzTrain(f *testing.F) {
	f.Add(tcpPacket(packetSrc4(), packetDst4(), 0x10, nil, []byte("one")), tcpPacket(packetSrc4(), packetDst4(), 0x10, nil, []byte("two")))
	f.Add(tcpPacket(packetSrc6(), packetDst6(), 0x10, nil, []byte("one")), tcpPacket(packetSrc6(), packetDst6(), 0x11, nil, nil))
	f.Fuzz(func(t *testing.T, first, second []byte) {
		var run train
		want, joined := 0, 0
		for _, packet := range [][]byte{first, second} {
			var in incoming
			if len(packet) == 0 || !in.read(packet) {
				continue
			}
			if run.add(&in) {
				want += len(in.packet)
				if joined++; joined > 1 {
					want -= in.head
				}
			}
		}
		if joined == 0 {
			return
		}
		if whole := run.take(); whole.Size() != int64(want) {
			t.Fatalf("%d packets became %d bytes, want %d", joined, whole.Size(), want)
		}
	})
}
