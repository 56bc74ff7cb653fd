package tunnel

import (
	"encoding/binary"
	"sync/atomic"
	"time"

	"golang.zx2c4.com/wireguard/conn"
	"golang.zx2c4.com/wireguard/device"
)

const ownIndices = 16

// A tap is a UDP socket that notes for which sessions packets arrive. Each
// session has an index that its owner chose and announced in a handshake
// (WireGuard paper, 5.4). A transport packet for an index that this process
// never chose was meant for another process that holds the same key: the peer
// knows one session for a key, the last one, and sends its packets to whoever
// spoke last.
type tap struct {
	conn.Bind
	own     [ownIndices]atomic.Uint64 // index | known; written in a ring by Send
	at      atomic.Uint32
	foreign atomic.Uint64 // packets for somebody else's session
	shaking atomic.Int64  // when we last began a handshake, in unix nanoseconds
}

const known = 1 << 32

func newTap() *tap { return &tap{Bind: conn.NewDefaultBind()} }

// Open starts listening and looks at what is received.
func (t *tap) Open(port uint16) ([]conn.ReceiveFunc, uint16, error) {
	fns, actual, err := t.Bind.Open(port)
	for i, receive := range fns {
		fns[i] = func(packets [][]byte, sizes []int, eps []conn.Endpoint) (int, error) {
			n, err := receive(packets, sizes, eps)
			for j := range n {
				t.received(packets[j][:sizes[j]])
			}
			return n, err
		}
	}
	return fns, actual, err
}

// Send looks at what is sent.
func (t *tap) Send(bufs [][]byte, ep conn.Endpoint) error {
	for _, b := range bufs {
		t.sent(b)
	}
	return t.Bind.Send(bufs, ep)
}

func (t *tap) sent(b []byte) {
	initiation := len(b) == device.MessageInitiationSize && b[0] == device.MessageInitiationType
	response := len(b) == device.MessageResponseSize && b[0] == device.MessageResponseType
	if initiation || response {
		slot := t.at.Add(1) % ownIndices
		t.own[slot].Store(known | uint64(binary.LittleEndian.Uint32(b[4:])))
	}
	if initiation {
		t.shaking.Store(time.Now().UnixNano())
	}
}

// limited says that WireGuard would not begin another handshake yet.
func (t *tap) limited() bool {
	return time.Since(time.Unix(0, t.shaking.Load())) < device.RekeyTimeout
}

func (t *tap) received(b []byte) {
	if len(b) < device.MessageTransportSize || b[0] != device.MessageTransportType {
		return
	}
	index := known | uint64(binary.LittleEndian.Uint32(b[device.MessageTransportOffsetReceiver:]))
	for i := range t.own {
		if t.own[i].Load() == index {
			return
		}
	}
	t.foreign.Add(1)
}
