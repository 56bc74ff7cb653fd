package tunnel

import (
	"os"
	"sync"
	"sync/atomic"
	"time"

	"golang.zx2c4.com/wireguard/conn"
	"golang.zx2c4.com/wireguard/tun"
	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
)

// linkQueue is how many packets wait between the TCP stack and WireGuard. A
// full queue holds the stack back, so that nothing is lost inside the process.
const linkQueue = 256

// A link joins WireGuard and the network stack: to the one it is a TUN
// device, to the other a network interface.
//
// WireGuard's own netstack hands over one packet a read, which costs half of
// the throughput; here a read takes all that wait, up to the batch of the UDP
// socket, which then leave in one system call.
type link struct {
	mtu    atomic.Uint32
	narrow atomic.Uint32 // TCP is kept to packets of this many bytes; 0: of mtu
	asked  atomic.Int64  // when the first packet left that is unanswered yet, in unix nanoseconds; 0: none
	admit  func(packet []byte) bool

	questionMu sync.Mutex
	question   []byte // guarded by questionMu: the packet of asked

	out     chan *stack.PacketBuffer
	cutting segment // by Read, which one goroutine calls
	events  chan tun.Event
	done    chan struct{}
	close   sync.Once

	mu         sync.RWMutex
	dispatcher stack.NetworkDispatcher // guarded by mu
}

var (
	_ tun.Device         = tunDevice{}
	_ stack.LinkEndpoint = (*link)(nil)
	_ stack.GSOEndpoint  = (*link)(nil)
)

// newLink makes a link for packets of up to mtu bytes. A packet from the peer
// that admit refuses is dropped; nil admits all.
func newLink(mtu int, admit func([]byte) bool) *link {
	l := &link{
		out:    make(chan *stack.PacketBuffer, linkQueue),
		events: make(chan tun.Event, 1),
		done:   make(chan struct{}),
		admit:  admit,
	}
	l.mtu.Store(uint32(mtu)) //nolint:gosec // Validate keeps it under 2^16
	l.events <- tun.EventUp
	return l
}

// tunDevice is the side of a link that WireGuard sees. It is a type of its own
// because both sides have a Close, an MTU and a Name of other kinds.
type tunDevice struct{ *link }

// Read takes all packets that wait, at least one, at most one for each buffer.
func (d tunDevice) Read(bufs [][]byte, sizes []int, offset int) (int, error) {
	n := 0
	for n < len(bufs) {
		if d.cutting.empty() && !d.next(n == 0) {
			break
		}
		packet := bufs[n][offset:]
		sizes[n] = d.cutting.cut(packet)
		d.leaves(packet[:sizes[n]])
		n++
	}
	if n == 0 {
		return 0, os.ErrClosed
	}
	return n, nil
}

// next loads what the stack hands over next, and says whether there was
// something; it waits for it, or for the end of the link, if told to.
func (d tunDevice) next(wait bool) bool {
	if wait {
		select {
		case pkt := <-d.out:
			d.cutting.load(pkt)
			return true
		case <-d.done:
			return false
		}
	}
	select {
	case pkt := <-d.out:
		d.cutting.load(pkt)
		return true
	default:
		return false
	}
}

// leaves looks at a packet before it is encrypted.
func (d tunDevice) leaves(packet []byte) {
	if d.asked.Load() == 0 && expectsAnswer(packet) {
		d.keepQuestion(packet)
		d.asked.Store(time.Now().UnixNano())
	}
	d.clamp(packet)
}

// Write hands packets that WireGuard has authenticated to the stack.
func (d tunDevice) Write(bufs [][]byte, offset int) (int, error) {
	d.mu.RLock()
	dispatcher := d.dispatcher
	d.mu.RUnlock()
	if dispatcher == nil {
		return 0, os.ErrClosed
	}
	d.asked.Store(0)
	var run train
	for _, buf := range bufs {
		packet := buf[offset:]
		if len(packet) == 0 || (d.admit != nil && !d.admit(packet)) {
			continue
		}
		d.clamp(packet)
		var in incoming
		if !in.read(packet) {
			continue
		}
		if !run.add(&in) {
			deliver(dispatcher, &run)
			run.add(&in)
		}
	}
	deliver(dispatcher, &run)
	return len(bufs), nil
}

func deliver(dispatcher stack.NetworkDispatcher, run *train) {
	if run.n == 0 {
		return
	}
	protocol := header.IPv4ProtocolNumber
	if run.cars[0].packet[0]>>4 == 6 {
		protocol = header.IPv6ProtocolNumber
	}
	pkt := stack.NewPacketBuffer(stack.PacketBufferOptions{Payload: run.take()})
	dispatcher.DeliverNetworkPacket(protocol, pkt)
	pkt.DecRef()
}

func (d tunDevice) Name() (string, error)    { return "netstack", nil }
func (d tunDevice) File() *os.File           { return nil }
func (d tunDevice) Events() <-chan tun.Event { return d.events }
func (d tunDevice) MTU() (int, error)        { return int(d.mtu.Load()), nil }
func (d tunDevice) BatchSize() int           { return conn.IdealBatchSize }

// Close ends Read and everything that waits to write. It closes no channel
// that another goroutine may send on, and it may be called twice.
func (d tunDevice) Close() error {
	d.close.Do(func() {
		close(d.done)
		close(d.events)
	})
	return nil
}

// WritePackets queues packets of the stack. When the queue is full it waits
// for WireGuard to take some, as a socket would.
func (l *link) WritePackets(pkts stack.PacketBufferList) (int, tcpip.Error) {
	for n, pkt := range pkts.AsSlice() {
		select {
		case l.out <- pkt.IncRef():
		case <-l.done:
			pkt.DecRef()
			return n, &tcpip.ErrClosedForSend{}
		}
	}
	return pkts.Len(), nil
}

// limit keeps TCP connections that are opened from now on to packets of size
// bytes, in both directions.
func (l *link) limit(size int) {
	if size == int(l.mtu.Load()) {
		size = 0
	}
	l.narrow.Store(uint32(size))
}

// largest is that size.
func (l *link) largest() int {
	if size := l.narrow.Load(); size != 0 {
		return int(size)
	}
	return int(l.mtu.Load())
}

func (l *link) clamp(packet []byte) {
	if size := l.narrow.Load(); size != 0 {
		clampMSS(packet, uint16(size-tcpOverhead)) //nolint:gosec // under 2^16
	}
}

// unanswered is when the first packet left to which no answer has come yet;
// the zero time says that there is none.
func (l *link) unanswered() time.Time {
	at := l.asked.Load()
	if at == 0 {
		return time.Time{}
	}
	return time.Unix(0, at)
}

func (l *link) keepQuestion(packet []byte) {
	l.questionMu.Lock()
	defer l.questionMu.Unlock()
	l.question = append(l.question[:0], packet...)
}

// repeat sends the first unanswered packet again, before TCP would: a peer that
// has just come back answers it at once, be it that it knows no such
// connection.
func (l *link) repeat() {
	if l.asked.Load() == 0 {
		return
	}
	l.questionMu.Lock()
	pkt := stack.NewPacketBuffer(stack.PacketBufferOptions{Payload: buffer.MakeWithData(l.question)})
	l.questionMu.Unlock()
	select {
	case l.out <- pkt:
	default: // so much is waiting that something will be asked anyhow
		pkt.DecRef()
	}
}

// drain drops what was queued after the reader ended.
func (l *link) drain() {
	l.cutting.release()
	for {
		select {
		case pkt := <-l.out:
			pkt.DecRef()
		default:
			return
		}
	}
}

// Attach is told where packets from the peer go; nil detaches.
func (l *link) Attach(dispatcher stack.NetworkDispatcher) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.dispatcher = dispatcher
}

// IsAttached says whether the stack takes packets.
func (l *link) IsAttached() bool {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return l.dispatcher != nil
}

// MTU is the size of the largest packet in bytes.
func (l *link) MTU() uint32 { return l.mtu.Load() }

// SetMTU changes it.
func (l *link) SetMTU(mtu uint32) { l.mtu.Store(mtu) }

// Capabilities says that sums are checked before the stack gets a packet.
func (*link) Capabilities() stack.LinkEndpointCapabilities {
	return stack.CapabilityRXChecksumOffload
}

// The rest of a network interface, which has no link layer here.

func (*link) MaxHeaderLength() uint16                 { return 0 }
func (*link) LinkAddress() tcpip.LinkAddress          { return "" }
func (*link) SetLinkAddress(tcpip.LinkAddress)        {}
func (*link) Wait()                                   {}
func (*link) ARPHardwareType() header.ARPHardwareType { return header.ARPHardwareNone }
func (*link) AddHeader(*stack.PacketBuffer)           {}
func (*link) ParseHeader(*stack.PacketBuffer) bool    { return true }
func (*link) Close()                                  {}
func (*link) SetOnCloseAction(func())                 {}
