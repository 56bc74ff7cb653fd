package tunnel

import (
	"encoding/binary"
	"sync/atomic"
	"time"

	"golang.zx2c4.com/wireguard/conn"
	"golang.zx2c4.com/wireguard/device"
)

const (
	// ownIndices is more than there can be handshakes in the three minutes for
	// which the peer may go on sending in a session: while what it says does not
	// arrive, it does not learn of the newer ones (vigil, minGap).
	ownIndices = 512
	// settled is how long after the first packet for us others still count as
	// sent before it: they were for a predecessor that had our port.
	settled = time.Second
)

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
	ours    atomic.Int64  // when the first packet for one of our sessions came, in unix nanoseconds; 0: none yet
	foreign atomic.Uint64 // packets for somebody else's session
	shaking atomic.Int64  // when we last began a handshake, in unix nanoseconds
	asked   atomic.Uint64 // for which session: index | known
	shook   atomic.Int64  // when it was last answered, in unix nanoseconds; 0: never
	took    atomic.Int64  // and after how many nanoseconds

	answered chan struct{} // a handshake of ours was answered
}

const known = 1 << 32

func newTap() *tap { return &tap{Bind: newSocket(), answered: make(chan struct{}, 1)} }

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
		t.asked.Store(known | uint64(binary.LittleEndian.Uint32(b[4:])))
		t.shaking.Store(time.Now().UnixNano())
	}
}

// limited says that WireGuard would not begin another handshake yet.
func (t *tap) limited() bool {
	return time.Since(time.Unix(0, t.shaking.Load())) < device.RekeyTimeout
}

func (t *tap) received(b []byte) {
	if len(b) == device.MessageResponseSize && b[0] == device.MessageResponseType {
		if t.asked.Load() == known|uint64(binary.LittleEndian.Uint32(b[8:])) {
			now := time.Now().UnixNano()
			t.took.Store(now - t.shaking.Load())
			t.shook.Store(now)
		}
		select {
		case t.answered <- struct{}{}:
		default: // not taken up yet
		}
	}
	if len(b) < device.MessageTransportSize || b[0] != device.MessageTransportType {
		return
	}
	if t.owns(known | uint64(binary.LittleEndian.Uint32(b[device.MessageTransportOffsetReceiver:]))) {
		if t.ours.Load() == 0 {
			t.ours.Store(time.Now().UnixNano())
		}
		return
	}
	if ours := t.ours.Load(); ours != 0 && time.Since(time.Unix(0, ours)) >= settled {
		t.foreign.Add(1)
	}
}

// plausible bounds TCP's word about the round trip by that of the last
// handshake. What had to wait for a handshake, or in a silence for its end,
// counts the whole wait as its round trip, and TCP forgets that only slowly.
func (t *tap) plausible(rtt time.Duration) time.Duration {
	const more = 250 * time.Millisecond
	if t.shook.Load() == 0 {
		return rtt
	}
	return min(rtt, more+2*time.Duration(t.took.Load()))
}

// owns looks from the newest session to the oldest.
func (t *tap) owns(index uint64) bool {
	at := t.at.Load()
	for age := range uint32(ownIndices) {
		if t.own[(at-age)%ownIndices].Load() == index {
			return true
		}
	}
	return false
}
