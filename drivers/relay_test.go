package drivers

import (
	"net"
	"strconv"
	"sync"
	"testing"
	"time"
)

// relayFault is what goes wrong on the way from a device. The device itself is
// a real one.
type relayFault struct {
	silent bool          // nothing comes
	delay  time.Duration // everything comes that much later
	garble bool          // every byte is another one
	drop   bool          // all is well for so many packets (UDP) or bytes (TCP), then silence or the end
	stall  bool          // the same, and the connection stays
	after  int
}

// relay stands between a driver and a device.
type relay struct {
	t       *testing.T
	fault   relayFault
	backend string
	port    int
	spoken  chan struct{} // closed when the driver has sent something, or has connected
	once    sync.Once
	stalled chan struct{} // closed when the device has fallen silent by stall
	still   sync.Once
	stop    chan struct{}
	closers []func() error
	mu      sync.Mutex
	wg      sync.WaitGroup
}

func newRelay(t *testing.T, network string, port int, fault relayFault) *relay {
	t.Helper()
	r := &relay{t: t, fault: fault, backend: net.JoinHostPort("127.0.0.1", strconv.Itoa(port)), spoken: make(chan struct{}), stalled: make(chan struct{}), stop: make(chan struct{})}
	if network == "udp" {
		front, err := net.ListenPacket("udp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		r.port = front.LocalAddr().(*net.UDPAddr).Port
		r.later(front.Close)
		r.wg.Go(func() { r.packets(front) })
	} else {
		front, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		r.port = front.Addr().(*net.TCPAddr).Port
		r.later(front.Close)
		r.wg.Go(func() { r.connections(front) })
	}
	t.Cleanup(r.close)
	return r
}

func (r *relay) later(f func() error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.closers = append(r.closers, f)
}

// close ends everything, and waits for it.
func (r *relay) close() {
	r.mu.Lock()
	closers := r.closers
	r.closers = nil
	r.mu.Unlock()
	if closers == nil {
		return
	}
	close(r.stop)
	for _, f := range closers {
		_ = f()
	}
	r.wg.Wait()
}

func (r *relay) stand() { r.still.Do(func() { close(r.stalled) }) }

func (r *relay) heard() { r.once.Do(func() { close(r.spoken) }) }

// wait is false when the relay ends meanwhile.
func (r *relay) wait() bool {
	select {
	case <-r.stop:
		return false
	case <-time.After(r.fault.delay):
		return true
	}
}

func (r *relay) spoil(b []byte) {
	if r.fault.garble {
		for i := range b {
			b[i] ^= byte(0x55 + i*7)
		}
	}
}

// packets relays UDP for one client.
func (r *relay) packets(front net.PacketConn) {
	back, err := net.Dial("udp", r.backend)
	if err != nil {
		r.t.Error(err)
		return
	}
	defer back.Close()
	r.later(back.Close)
	clients := make(chan net.Addr, 1)
	r.wg.Go(func() { r.answers(front, back, clients) })
	buffer := make([]byte, 65535)
	known := false
	for {
		n, client, err := front.ReadFrom(buffer)
		if err != nil {
			return
		}
		r.heard()
		if r.fault.silent {
			continue
		}
		if !known {
			known = true
			clients <- client
		}
		_, _ = back.Write(buffer[:n])
	}
}

func (r *relay) answers(front net.PacketConn, back net.Conn, clients <-chan net.Addr) {
	var client net.Addr
	select {
	case client = <-clients:
	case <-r.stop:
		return
	}
	buffer := make([]byte, 65535)
	for count := 1; ; count++ {
		n, err := back.Read(buffer)
		if err == nil && r.fault.stall && count > r.fault.after {
			r.stand()
			return
		}
		if err != nil || r.fault.drop && count > r.fault.after || !r.wait() {
			return
		}
		r.spoil(buffer[:n])
		_, _ = front.WriteTo(buffer[:n], client)
	}
}

// connections relays TCP.
func (r *relay) connections(front net.Listener) {
	for {
		client, err := front.Accept()
		if err != nil {
			return
		}
		r.later(client.Close)
		r.heard()
		if r.fault.silent {
			continue
		}
		back, err := net.Dial("tcp", r.backend)
		if err != nil {
			r.t.Error(err)
			return
		}
		r.later(back.Close)
		r.wg.Go(func() { r.copy(back, client, false) })
		r.wg.Go(func() { r.copy(client, back, true) })
	}
}

// copy ends with either side; both are closed then.
func (r *relay) copy(to, from net.Conn, fromDevice bool) {
	defer to.Close()
	defer from.Close()
	buffer := make([]byte, 16<<10)
	count := 0
	for {
		n, err := from.Read(buffer)
		if err != nil {
			return
		}
		part := buffer[:n]
		if fromDevice {
			if r.fault.drop && count+n > r.fault.after {
				_, _ = to.Write(part[:r.fault.after-count])
				return
			}
			if r.fault.stall && count+n > r.fault.after {
				_, _ = to.Write(part[:r.fault.after-count])
				r.stand()
				<-r.stop
				return
			}
			if !r.wait() {
				return
			}
			r.spoil(part)
		}
		count += n
		if _, err := to.Write(part); err != nil {
			return
		}
	}
}
