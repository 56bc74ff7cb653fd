package tunnel

import (
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"unsafe"

	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"
	"golang.org/x/sys/unix"
	"golang.zx2c4.com/wireguard/conn"
)

const (
	mostMerged  = 64        // UDP_MAX_SEGMENTS: datagrams that the kernel cuts from one, or merges into one
	mostBytes   = 65507     // of a datagram's payload, where the IPv4 header counts
	bufferBytes = 7_000_000 // of the socket, each way: what wireguard-go asks for
	openTries   = 100       // for a port that is free for both families
)

// A socket is the UDP socket of a tunnel or a hub. It moves datagrams in
// batches, merged and cut by the kernel (UDP_GRO, UDP_SEGMENT), as wireguard-go's
// own does, in whose place it stands for two reasons (version of 2026-05):
//
//   - That one loses with every merged read which address of this host was
//     asked. A hub with a second address, such as a floating one, would answer
//     from its first, and a site's NAT lets nothing in from where it asked
//     nothing.
//   - It uses the memory of an IPv4 address again for an IPv6 one, of which
//     then only the first four bytes are right. Who goes from one family to the
//     other speaks to nobody.
type socket struct {
	mu     sync.RWMutex
	v4, v6 *udpFamily // guarded by mu; nil: closed, or a family that this host lacks
}

func newSocket() conn.Bind { return &socket{} }

// udpFamily is the socket of one family.
type udpFamily struct {
	conn   *net.UDPConn
	batch  batcher
	merged bool        // what is read may be several datagrams
	single atomic.Bool // a route refuses to cut what is sent

	in   []ipv4.Message // of the one goroutine that receives
	last *endpoint      // and who it last heard
	out  sync.Pool      // of *[]ipv4.Message
}

// batcher is what ipv4.PacketConn and ipv6.PacketConn have in common.
type batcher interface {
	ReadBatch(messages []ipv4.Message, flags int) (int, error)
	WriteBatch(messages []ipv4.Message, flags int) (int, error)
}

// Open listens on a port of both families; 0 is a free one.
func (s *socket) Open(port uint16) ([]conn.ReceiveFunc, uint16, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.v4 != nil || s.v6 != nil {
		return nil, 0, conn.ErrBindAlreadyOpen
	}
	for try := 1; ; try++ {
		err := s.open(port)
		if err == nil {
			break
		}
		if port != 0 || try == openTries || !errors.Is(err, unix.EADDRINUSE) {
			return nil, 0, err
		}
	}
	var receive []conn.ReceiveFunc
	for _, f := range []*udpFamily{s.v4, s.v6} {
		if f != nil {
			receive = append(receive, f.receive)
			port = f.port()
		}
	}
	return receive, port, nil
}

// open does so once; s.mu is held.
func (s *socket) open(port uint16) (err error) {
	if s.v4, err = listenUDP("udp4", port); err != nil {
		return err
	}
	if s.v4 != nil {
		port = s.v4.port()
	}
	if s.v6, err = listenUDP("udp6", port); err != nil {
		return errors.Join(err, s.close())
	}
	if s.v4 == nil && s.v6 == nil {
		return unix.EAFNOSUPPORT
	}
	return nil
}

// listenUDP returns nil for a family that the host lacks.
func listenUDP(network string, port uint16) (*udpFamily, error) {
	c, err := net.ListenUDP(network, &net.UDPAddr{Port: int(port)})
	if errors.Is(err, unix.EAFNOSUPPORT) {
		return nil, nil //nolint:nilnil // said above
	}
	if err != nil {
		return nil, err
	}
	f := &udpFamily{conn: c, batch: ipv4.NewPacketConn(c)}
	if network == "udp6" {
		f.batch = ipv6.NewPacketConn(c)
	}
	raw, err := c.SyscallConn()
	if err == nil {
		err = raw.Control(func(fd uintptr) { f.merged = prepare(int(fd), network) })
	}
	if err != nil {
		return nil, errors.Join(err, c.Close())
	}
	reads := conn.IdealBatchSize
	if f.merged {
		reads /= mostMerged
	}
	f.in = messages(reads)
	f.out.New = func() any { out := messages(conn.IdealBatchSize); return &out }
	return f, nil
}

// prepare sets the options of a socket, each of which it can do without, and
// says whether it merges what it receives. A kernel that cannot say so (before
// 5.12) had faults in it.
func prepare(fd int, network string) (merged bool) {
	for _, option := range []int{unix.SO_RCVBUF, unix.SO_SNDBUF, unix.SO_RCVBUFFORCE, unix.SO_SNDBUFFORCE} {
		_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, option, bufferBytes)
	}
	if network == "udp4" {
		_ = unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_PKTINFO, 1)
	} else {
		_ = unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_RECVPKTINFO, 1)
	}
	if unix.SetsockoptInt(fd, unix.IPPROTO_UDP, unix.UDP_GRO, 1) != nil {
		return false
	}
	if on, err := unix.GetsockoptInt(fd, unix.IPPROTO_UDP, unix.UDP_GRO); err != nil || on != 1 {
		_ = unix.SetsockoptInt(fd, unix.IPPROTO_UDP, unix.UDP_GRO, 0)
		return false
	}
	return true
}

// messages have room for one buffer and for the control messages of one.
func messages(n int) []ipv4.Message {
	all := make([]ipv4.Message, n)
	room := unix.CmsgSpace(unix.SizeofInet6Pktinfo) + unix.CmsgSpace(4)
	for i := range all {
		all[i].Buffers, all[i].OOB = make([][]byte, 1, 4), make([]byte, room)
	}
	return all
}

// Close ends the reads.
func (s *socket) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.close()
}

func (s *socket) close() error {
	var errs []error
	for _, f := range []*udpFamily{s.v4, s.v6} {
		if f != nil {
			errs = append(errs, f.conn.Close())
		}
	}
	s.v4, s.v6 = nil, nil
	return errors.Join(errs...)
}

func (f *udpFamily) port() uint16 { return f.conn.LocalAddr().(*net.UDPAddr).AddrPort().Port() } //nolint:forcetypeassert // of a UDP socket

// BatchSize is the most datagrams of one call.
func (*socket) BatchSize() int { return conn.IdealBatchSize }

// SetMark is not used: nothing here routes by marks.
func (*socket) SetMark(uint32) error { return errors.ErrUnsupported }

// receive reads a batch. Merged datagrams are read into the last buffers, and
// cut into those from the first on: each is out of the way before its own place
// is needed.
func (f *udpFamily) receive(bufs [][]byte, sizes []int, eps []conn.Endpoint) (n int, err error) {
	first := len(bufs) - len(f.in)
	for i := range f.in {
		f.in[i].Buffers[0], f.in[i].OOB = bufs[first+i], f.in[i].OOB[:cap(f.in[i].OOB)]
	}
	got, err := f.batch.ReadBatch(f.in, 0)
	if err != nil {
		return 0, err
	}
	for i := range got {
		m := &f.in[i]
		size, src := aside(m.OOB[:m.NN])
		f.hear(m.Addr.(*net.UDPAddr), src) //nolint:forcetypeassert // of a UDP socket
		for data := m.Buffers[0][:m.N]; len(data) > 0 && n < len(bufs); n++ {
			one := len(data)
			if size > 0 {
				one = min(size, one)
			}
			sizes[n], eps[n] = copy(bufs[n], data[:one]), f.last
			data = data[one:]
		}
	}
	return n, nil
}

// aside reads the control messages of a datagram: the size of those that were
// merged into it, 0 for one that was not, and which address of this host it was
// sent to.
func aside(oob []byte) (size int, src source) {
	for len(oob) >= unix.SizeofCmsghdr {
		head, data, rest, err := unix.ParseOneSocketControlMessage(oob)
		if err != nil {
			return size, src
		}
		switch {
		case head.Level == unix.IPPROTO_UDP && head.Type == unix.UDP_GRO && len(data) >= 4:
			size = int(binary.NativeEndian.Uint32(data))
		case head.Level == unix.IPPROTO_IP && head.Type == unix.IP_PKTINFO && len(data) >= unix.SizeofInet4Pktinfo:
			src.addr = netip.AddrFrom4([4]byte(data[4:8])) // ipi_spec_dst
		case head.Level == unix.IPPROTO_IPV6 && head.Type == unix.IPV6_PKTINFO && len(data) >= unix.SizeofInet6Pktinfo:
			src.addr = netip.AddrFrom16([16]byte(data[:16]))
			src.iface = binary.NativeEndian.Uint32(data[16:20])
		}
		oob = rest
	}
	return size, src
}

// source is where an answer leaves from. The interface is up to the routes,
// but for an address that every interface has.
type source struct {
	addr  netip.Addr
	iface uint32
}

func (s source) control() []byte {
	switch {
	case s.addr.Is4():
		return unix.PktInfo4(&unix.Inet4Pktinfo{Spec_dst: s.addr.As4()})
	case s.addr.IsLinkLocalUnicast():
		return unix.PktInfo6(&unix.Inet6Pktinfo{Addr: s.addr.As16(), Ifindex: s.iface})
	case s.addr.Is6():
		return unix.PktInfo6(&unix.Inet6Pktinfo{Addr: s.addr.As16()})
	default:
		return nil
	}
}

// endpoint is a peer's address and ours towards it.
type endpoint struct {
	dst     netip.AddrPort
	to      *net.UDPAddr
	src     source
	control atomic.Pointer[[]byte] // of src; nil: the kernel chooses
}

// hear makes last the endpoint of a datagram. Most come from where the one
// before came from.
func (f *udpFamily) hear(from *net.UDPAddr, src source) {
	dst := from.AddrPort()
	if e := f.last; e != nil && e.dst == dst && e.src == src && e.control.Load() != nil {
		return
	}
	e := &endpoint{dst: dst, to: from, src: src}
	if control := src.control(); control != nil {
		e.control.Store(&control)
	}
	f.last = e
}

// ParseEndpoint reads an address and a port.
func (*socket) ParseEndpoint(text string) (conn.Endpoint, error) {
	dst, err := netip.ParseAddrPort(text)
	if err != nil {
		return nil, err
	}
	return &endpoint{dst: dst, to: net.UDPAddrFromAddrPort(dst)}, nil
}

func (e *endpoint) ClearSrc()           { e.control.Store(nil) }
func (e *endpoint) DstToString() string { return e.dst.String() }
func (e *endpoint) DstIP() netip.Addr   { return e.dst.Addr() }
func (e *endpoint) SrcIP() netip.Addr   { return e.src.addr }
func (e *endpoint) SrcToString() string { return e.src.addr.String() }

func (e *endpoint) DstToBytes() []byte {
	b, _ := e.dst.MarshalBinary() // never fails
	return b
}

// Send sends datagrams to one peer.
func (s *socket) Send(bufs [][]byte, to conn.Endpoint) error {
	e, ok := to.(*endpoint)
	if !ok {
		return conn.ErrWrongEndpointType
	}
	s.mu.RLock()
	f := s.v4
	if e.dst.Addr().Is6() {
		f = s.v6
	}
	s.mu.RUnlock()
	if f == nil {
		return unix.EAFNOSUPPORT
	}
	err := f.send(bufs, e)
	if err != nil && e.control.Load() != nil {
		// The address that it was asked at may be gone from this host.
		e.ClearSrc()
		return f.send(bufs, e)
	}
	return err
}

// send gives the kernel datagrams of one size as one, to cut, unless a route
// has refused that: some network drivers cannot, and none cuts into datagrams
// larger than it carries, which one by one go in fragments.
func (f *udpFamily) send(bufs [][]byte, e *endpoint) error {
	out := f.out.Get().(*[]ipv4.Message) //nolint:forcetypeassert // nothing else is in it
	defer f.out.Put(out)
	single := f.single.Load()
	err := f.write(fill(*out, bufs, e, single))
	if single || !errors.Is(err, unix.EIO) && !errors.Is(err, unix.EMSGSIZE) && !errors.Is(err, unix.EINVAL) {
		return err
	}
	if err = f.write(fill(*out, bufs, e, true)); err == nil {
		f.single.Store(true)
	}
	return err
}

func (f *udpFamily) write(all []ipv4.Message) error {
	for len(all) > 0 {
		n, err := f.batch.WriteBatch(all, 0)
		if err != nil {
			return err
		}
		all = all[n:]
	}
	return nil
}

// fill makes messages of datagrams.
func fill(out []ipv4.Message, bufs [][]byte, e *endpoint, single bool) []ipv4.Message {
	n := 0
	var control []byte
	if c := e.control.Load(); c != nil {
		control = *c
	}
	for ; len(bufs) > 0; n++ {
		k := 1
		if !single {
			k = alike(bufs)
		}
		m := &out[n]
		m.Addr, m.Buffers, m.OOB = e.to, append(m.Buffers[:0], bufs[:k]...), append(m.OOB[:0], control...)
		if k > 1 {
			m.OOB = appendCut(m.OOB, len(bufs[0]))
		}
		bufs = bufs[k:]
	}
	return out[:n]
}

// alike returns how many of the datagrams can go as one: all of one size, but
// for the last, which may be smaller.
func alike(bufs [][]byte) int {
	size, total := len(bufs[0]), len(bufs[0])
	for k, b := range bufs[1:min(len(bufs), mostMerged)] {
		total += len(b)
		if len(bufs[k]) != size || len(b) > size || total > mostBytes {
			return k + 1
		}
	}
	return min(len(bufs), mostMerged)
}

// appendCut asks the kernel to cut a message into datagrams of a size.
func appendCut(oob []byte, size int) []byte {
	at := len(oob)
	oob = append(oob, make([]byte, unix.CmsgSpace(2))...)
	head := (*unix.Cmsghdr)(unsafe.Pointer(&oob[at])) //nolint:gosec // the kernel's layout, which differs by machine
	head.Level, head.Type = unix.IPPROTO_UDP, unix.UDP_SEGMENT
	head.SetLen(unix.CmsgLen(2))
	binary.NativeEndian.PutUint16(oob[at+unix.CmsgLen(0):], uint16(size)) //nolint:gosec // of a datagram
	return oob
}

// wireMTU returns how large the packets are that the route to an address takes,
// IP header and all; 0: nobody knows.
func wireMTU(to netip.AddrPort) int {
	c, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(to)) // sends nothing
	if err != nil {
		return 0
	}
	defer func() { _ = c.Close() }()
	raw, err := c.SyscallConn()
	if err != nil {
		return 0
	}
	level, option := unix.IPPROTO_IP, unix.IP_MTU
	if to.Addr().Is6() {
		level, option = unix.IPPROTO_IPV6, unix.IPV6_MTU
	}
	mtu := 0
	if raw.Control(func(fd uintptr) { mtu, err = unix.GetsockoptInt(int(fd), level, option) }) != nil || err != nil {
		return 0
	}
	return mtu
}
