package tunnel

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv6"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/icmp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/udp"
	"gvisor.dev/gvisor/pkg/waiter"
)

const (
	nic = tcpip.NICID(1)

	tcpBuffer    = 1 << 20
	tcpBufferMax = 8 << 20
	// maxRTO keeps the pauses between retransmissions short, so that work
	// goes on soon after an outage; the default of the stack is two minutes. It
	// is more than the round trip of any path that jobs are sent by.
	maxRTO   = 1500 * time.Millisecond
	timeWait = 5 * time.Second

	busyFor = 15 * time.Second
)

// netstack is the TCP/IP of one end: a stack of gVisor over a link.
type netstack struct {
	link   *link
	stack  *stack.Stack
	v4, v6 bool

	mu    sync.Mutex
	conns map[*innerConn]struct{} // guarded by mu
	ended bool                    // guarded by mu: no more connections
}

func newNetstack(addrs []netip.Prefix, l *link) (*netstack, error) {
	n := &netstack{link: l, conns: map[*innerConn]struct{}{}}
	n.stack = stack.New(stack.Options{
		NetworkProtocols:   []stack.NetworkProtocolFactory{ipv4.NewProtocol, ipv6.NewProtocol},
		TransportProtocols: []stack.TransportProtocolFactory{tcp.NewProtocol, udp.NewProtocol, icmp.NewProtocol4, icmp.NewProtocol6},
		HandleLocal:        true,
	})
	if err := n.setUp(addrs); err != nil {
		n.stack.Close()
		return nil, err
	}
	return n, nil
}

func (n *netstack) setUp(addrs []netip.Prefix) error {
	if err := n.tune(); err != nil {
		return err
	}
	if err := n.stack.CreateNIC(nic, n.link); err != nil {
		return fmt.Errorf("inner interface: %s", err)
	}
	for _, prefix := range addrs {
		addr := prefix.Addr()
		protocol := ipv4.ProtocolNumber
		if addr.Is6() {
			protocol = ipv6.ProtocolNumber
			n.v6 = true
		} else {
			n.v4 = true
		}
		err := n.stack.AddProtocolAddress(nic, tcpip.ProtocolAddress{
			Protocol:          protocol,
			AddressWithPrefix: tcpip.AddrFromSlice(addr.AsSlice()).WithPrefix(),
		}, stack.AddressProperties{})
		if err != nil {
			return fmt.Errorf("inner address %v: %s", addr, err)
		}
	}
	if n.v4 {
		n.stack.AddRoute(tcpip.Route{Destination: header.IPv4EmptySubnet, NIC: nic})
	}
	if n.v6 {
		n.stack.AddRoute(tcpip.Route{Destination: header.IPv6EmptySubnet, NIC: nic})
	}
	return nil
}

// tune sets what differs from the stack's defaults. RACK is off because this
// version of gVisor spends a sixth of the CPU in it and gains nothing.
func (n *netstack) tune() error {
	sack := tcpip.TCPSACKEnabled(true)
	recovery := tcpip.TCPRecovery(0)
	moderate := tcpip.TCPModerateReceiveBufferOption(true)
	rto := tcpip.TCPMaxRTOOption(maxRTO)
	wait := tcpip.TCPTimeWaitTimeoutOption(timeWait)
	send := tcpip.TCPSendBufferSizeRangeOption{Min: 4 << 10, Default: tcpBuffer, Max: tcpBufferMax}
	receive := tcpip.TCPReceiveBufferSizeRangeOption{Min: 4 << 10, Default: tcpBuffer, Max: tcpBufferMax}
	for _, option := range []tcpip.SettableTransportProtocolOption{&sack, &recovery, &moderate, &rto, &wait, &send, &receive} {
		if err := n.stack.SetTransportProtocolOption(tcp.ProtocolNumber, option); err != nil {
			return fmt.Errorf("inner TCP, option %T: %s", option, err)
		}
	}
	return nil
}

// close resets what is open and stops the stack. The device must have been
// closed before, so that no packet comes in any more.
func (n *netstack) close() {
	n.abort()
	n.stack.RemoveNIC(nic)
	n.stack.Close()
	n.stack.Wait()
	n.link.drain()
}

// abort resets every connection and refuses new ones.
func (n *netstack) abort() {
	n.mu.Lock()
	n.ended = true
	conns := make([]*innerConn, 0, len(n.conns))
	for c := range n.conns {
		conns = append(conns, c)
	}
	n.mu.Unlock()
	for _, c := range conns {
		c.reset()
	}
}

func (n *netstack) open() int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return len(n.conns)
}

// look returns the slowest round trip of the connections, how soon the first of
// them asks when nothing comes in (0: there are none), and the address of one
// that has been retransmitting for several looks in a row; the zero address
// says that there is none.
func (n *netstack) look() (rtt, asks time.Duration, stuck netip.Addr) {
	const looks = 6
	n.mu.Lock()
	defer n.mu.Unlock()
	now := time.Now()
	for c := range n.conns {
		c.calmDown(now)
		if own := c.asks(now); asks == 0 || own < asks {
			asks = own
		}
		var info tcpip.TCPInfoOption
		if c.ep.GetSockOpt(&info) != nil {
			continue
		}
		rtt = max(rtt, info.RTT)
		if c.retransmits(&info) && c.stuck >= looks {
			stuck = c.remote.Addr()
		}
	}
	return rtt, asks, stuck
}

// retransmits says whether the other end leaves data unacknowledged that was
// sent again, and counts in stuck for how many calls in a row.
func (c *innerConn) retransmits(info *tcpip.TCPInfoOption) bool {
	if info.CcState != tcpip.RTORecovery {
		c.stuck = 0
		return false
	}
	c.stuck++
	return true
}

// innerConn is a TCP connection inside the tunnel.
type innerConn struct {
	*gonet.TCPConn
	ep     tcpip.Endpoint
	stack  *netstack
	remote netip.AddrPort
	out    *gather // nil: what is written comes in large pieces anyhow
	packet int     // bytes of the largest packet that was in use when it was opened
	once   sync.Once
	alive  keepalive
	read   atomic.Int64  // when data was last read, in unix nanoseconds
	stuck  int           // looks of the watching goroutine that found it retransmitting; that goroutine only
	idle   time.Duration // after which it asks, as set last; the vigil's goroutine only
	slowed time.Time     // when that last became longer; the vigil's goroutine only
}

// ask makes every connection ask its other end now, not when its turn comes:
// one that the other end does not know any more is then reset at once.
func (n *netstack) ask() {
	n.link.repeat()
	n.mu.Lock()
	defer n.mu.Unlock()
	for c := range n.conns {
		c.askAfter(time.Millisecond)
	}
}

// calmDown undoes ask, which takes a millisecond, and makes a connection ask
// sooner while there is work to wait for.
func (c *innerConn) calmDown(now time.Time) {
	idle := c.alive.idle
	if c.alive.busy > 0 && now.Sub(time.Unix(0, c.read.Load())) < busyFor {
		idle = c.alive.busy
	}
	if c.idle == c.alive.busy && idle > c.idle {
		c.slowed = now
	}
	c.askAfter(idle)
}

// asks is after which silence it asks. Where that has just become longer, it
// counts from then, and not from when something last came in.
func (c *innerConn) asks(now time.Time) time.Duration {
	if now.Sub(c.slowed) < 2*c.idle {
		return c.idle + c.alive.busy + look
	}
	return c.idle
}

func (c *innerConn) askAfter(idle time.Duration) {
	if c.idle == idle {
		return
	}
	c.idle = idle
	option := tcpip.KeepaliveIdleOption(idle)
	_ = c.ep.SetSockOpt(&option) // fails on one that is closed, which asks nothing
}

// Read notes when there was something to read.
func (c *innerConn) Read(b []byte) (int, error) {
	n, err := c.TCPConn.Read(b)
	if n > 0 {
		c.read.Store(time.Now().UnixNano())
	}
	return n, err
}

// keep takes charge of a connection that is whole: from here on others may
// reset it.
func (n *netstack) keep(c *innerConn) (*innerConn, error) {
	if err := c.alive.set(c.ep); err != nil {
		c.ep.Abort()
		return nil, err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.ended {
		c.ep.Abort()
		return nil, net.ErrClosed
	}
	n.conns[c] = struct{}{}
	return c, nil
}

// Write takes b; where much is written in small pieces, they are sent together.
func (c *innerConn) Write(b []byte) (int, error) {
	if c.out == nil {
		return c.TCPConn.Write(b)
	}
	return c.out.Write(b)
}

// SetWriteDeadline bounds writes.
func (c *innerConn) SetWriteDeadline(t time.Time) error {
	if c.out == nil {
		return c.TCPConn.SetWriteDeadline(t)
	}
	c.out.setDeadline(t)
	return nil
}

// SetDeadline bounds reads and writes.
func (c *innerConn) SetDeadline(t time.Time) error {
	return errors.Join(c.SetReadDeadline(t), c.SetWriteDeadline(t))
}

// CloseWrite says that no more comes, after what was written.
func (c *innerConn) CloseWrite() error {
	if c.out == nil {
		return c.TCPConn.CloseWrite()
	}
	c.out.end(func() { _ = c.TCPConn.CloseWrite() }) // fails on one that is gone
	return nil
}

// Close ends the connection in good order: what was written is still sent.
func (c *innerConn) Close() error {
	err := net.ErrClosed
	c.once.Do(func() {
		err = nil
		finish := func() {
			c.stack.forget(c)
			_ = c.TCPConn.Close() // never fails
			c.stopTimers()
		}
		if c.out == nil {
			finish()
			return
		}
		c.out.end(finish)
	})
	return err
}

// reset ends the connection at once and tells the other end so.
func (c *innerConn) reset() {
	c.once.Do(func() {
		c.stack.forget(c)
		c.ep.Abort()
		if c.out != nil {
			c.out.fail(net.ErrClosed)
		}
		c.stopTimers()
	})
}

// stopTimers ends the deadlines, whose timers stay in memory until they fire.
func (c *innerConn) stopTimers() { _ = c.TCPConn.SetDeadline(time.Time{}) }

func (n *netstack) forget(c *innerConn) {
	n.mu.Lock()
	defer n.mu.Unlock()
	delete(n.conns, c)
}

// keepalive asks the other end of an idle connection whether it is there.
type keepalive struct {
	idle, interval time.Duration
	busy           time.Duration // in the place of idle for busyFor after data was read; 0: idle
	count          int
	unacked        time.Duration // longest time that data may stay unacknowledged (RFC 5482); 0: the stack's
}

func (k keepalive) set(ep tcpip.Endpoint) error {
	idle, interval := tcpip.KeepaliveIdleOption(k.idle), tcpip.KeepaliveIntervalOption(k.interval)
	ep.SocketOptions().SetKeepAlive(true)
	limit := tcpip.TCPUserTimeoutOption(k.unacked)
	for _, err := range []tcpip.Error{
		ep.SetSockOpt(&limit),
		ep.SetSockOpt(&idle),
		ep.SetSockOpt(&interval),
		ep.SetSockOptInt(tcpip.KeepaliveCountOption, k.count),
	} {
		if err != nil {
			return fmt.Errorf("inner TCP keepalive: %s", err)
		}
	}
	return nil
}

func full(addr netip.AddrPort) (tcpip.FullAddress, tcpip.NetworkProtocolNumber) {
	protocol := ipv4.ProtocolNumber
	if addr.Addr().Is6() {
		protocol = ipv6.ProtocolNumber
	}
	return tcpip.FullAddress{NIC: nic, Addr: tcpip.AddrFromSlice(addr.Addr().AsSlice()), Port: addr.Port()}, protocol
}

// dialTCP connects to an address inside the tunnel.
func (n *netstack) dialTCP(ctx context.Context, addr netip.AddrPort, k keepalive) (*innerConn, error) {
	fail := func(err error) error {
		return &net.OpError{Op: "dial", Net: "tcp", Addr: net.TCPAddrFromAddrPort(addr), Err: err}
	}
	remote, protocol := full(addr)
	wq := new(waiter.Queue)
	ep, err := n.stack.NewEndpoint(tcp.ProtocolNumber, protocol, wq)
	if err != nil {
		return nil, fail(errors.New(err.String()))
	}
	entry, connected := waiter.NewChannelEntry(waiter.WritableEvents)
	wq.EventRegister(&entry)
	defer wq.EventUnregister(&entry)

	packet := n.link.largest()
	err = ep.Connect(remote)
	if _, ok := err.(*tcpip.ErrConnectStarted); ok {
		select {
		case <-ctx.Done():
			ep.Abort()
			return nil, fail(ctx.Err())
		case <-connected:
		}
		err = ep.LastError()
	}
	if err != nil {
		ep.Close()
		return nil, fail(plainError(err))
	}
	conn := gonet.NewTCPConn(wq, ep)
	c, keepErr := n.keep(&innerConn{TCPConn: conn, ep: ep, stack: n, remote: addr, out: newGather(conn), packet: packet, alive: k})
	if keepErr != nil {
		return nil, fail(keepErr)
	}
	return c, nil
}

// plainError gives the stack's errors the names that the net package's have.
func plainError(err tcpip.Error) error {
	switch err.(type) {
	case *tcpip.ErrConnectionRefused:
		return syscall.ECONNREFUSED
	case *tcpip.ErrConnectionReset:
		return syscall.ECONNRESET
	case *tcpip.ErrTimeout:
		return syscall.ETIMEDOUT
	case *tcpip.ErrHostUnreachable, *tcpip.ErrNetworkUnreachable:
		return syscall.EHOSTUNREACH
	}
	return errors.New(err.String())
}

// dialUDP gives a datagram socket, which the resolver inside the tunnel needs.
func (n *netstack) dialUDP(addr netip.AddrPort) (net.Conn, error) {
	remote, protocol := full(addr)
	return gonet.DialUDP(n.stack, nil, &remote, protocol)
}

// listener accepts connections on one inner address and port.
type listener struct {
	stack *netstack
	wq    *waiter.Queue
	ep    tcpip.Endpoint
	alive keepalive
}

func (n *netstack) listen(addr netip.AddrPort, k keepalive) (*listener, error) {
	local, protocol := full(addr)
	wq := new(waiter.Queue)
	ep, err := n.stack.NewEndpoint(tcp.ProtocolNumber, protocol, wq)
	if err != nil {
		return nil, fmt.Errorf("inner listener: %s", err)
	}
	if err := ep.Bind(local); err != nil {
		ep.Close()
		return nil, fmt.Errorf("inner address %v: %s", addr, err)
	}
	const backlog = 256
	if err := ep.Listen(backlog); err != nil {
		ep.Close()
		return nil, fmt.Errorf("inner address %v: %s", addr, err)
	}
	return &listener{stack: n, wq: wq, ep: ep, alive: k}, nil
}

// accept waits for the next connection, or for the end of ctx.
func (l *listener) accept(ctx context.Context) (*innerConn, error) {
	entry, ready := waiter.NewChannelEntry(waiter.ReadableEvents)
	l.wq.EventRegister(&entry)
	defer l.wq.EventUnregister(&entry)
	for {
		var remote tcpip.FullAddress
		ep, wq, err := l.ep.Accept(&remote)
		if err == nil {
			c, keepErr := l.stack.keep(&innerConn{
				TCPConn: gonet.NewTCPConn(wq, ep), ep: ep, stack: l.stack, remote: netip.AddrPortFrom(toAddr(remote.Addr), remote.Port),
				packet: l.stack.link.largest(), alive: l.alive,
			})
			if keepErr == nil || errors.Is(keepErr, net.ErrClosed) {
				return c, keepErr
			}
			continue // this one was gone before it was taken
		}
		if _, ok := err.(*tcpip.ErrWouldBlock); !ok {
			return nil, fmt.Errorf("inner listener: %s", err)
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-ready:
		}
	}
}

func (l *listener) close() { l.ep.Close() }
