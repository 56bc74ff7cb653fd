package icmp

import (
	"bytes"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/net/icmp"
	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"

	"usm-satellite/jobs"
)

// socket is one ICMP socket of one family, shared by all pings: a goroutine
// reads it and hands each reply to whoever waits for its sequence number.
type socket struct {
	conn *icmp.PacketConn
	raw  bool // not the unprivileged kind: the kernel does not sort out other programs' replies
	v6   bool
	mark mark
	done chan struct{}

	mu      sync.Mutex
	seq     uint16            // guarded by mu
	waiting map[uint16]waiter // guarded by mu
}

// mark tells the replies to one socket from those to others that ping from the
// same address. A raw socket hears them all, and the process id, which many
// take for the echo id, is 1 in every container.
type mark struct {
	id    uint16  // of the echo; the kernel's own choice on an unprivileged socket
	token [8]byte // the payload begins with it
}

func newMark() mark {
	var random [10]byte
	_, _ = rand.Read(random[:]) // never fails
	return mark{binary.BigEndian.Uint16(random[:]), [8]byte(random[2:])}
}

// on says that a payload is one of this mark's, as far as it goes: some devices
// cut it off, and a reply too short to tell still has the id and the sequence
// number.
func (m mark) on(payload []byte) bool {
	n := min(len(payload), len(m.token))
	return bytes.Equal(payload[:n], m.token[:n])
}

// waiter is a request under way.
type waiter struct {
	replies chan<- echo
	of      netip.Addr // nobody else's reply counts
}

// echo is a reply, or an error that a router sent in place of one.
type echo struct {
	seq  uint16 // of the request
	from netip.Addr
	at   time.Time
	ttl  int
	err  *jobs.Fault
}

// open opens an unprivileged datagram socket where the kernel lets this user,
// else a raw one.
func open(v6 bool) (*socket, error) {
	kinds := []string{"udp4", "ip4:icmp"}
	address := "0.0.0.0"
	if v6 {
		kinds, address = []string{"udp6", "ip6:ipv6-icmp"}, "::"
	}
	for i, kind := range kinds {
		conn, err := icmp.ListenPacket(kind, address)
		if err != nil {
			continue
		}
		s := &socket{conn: conn, raw: i == 1, v6: v6, mark: newMark(), done: make(chan struct{}), waiting: make(map[uint16]waiter)}
		s.prepare()
		go s.read()
		return s, nil
	}
	return nil, jobs.Faultf(jobs.CodeInternal, jobs.StageConnect, "this satellite may not ping: allow it by the sysctl "+
		"net.ipv4.ping_group_range=\"0 2147483647\" (in compose: sysctls), or by the capability NET_RAW")
}

// prepare sets what makes the socket better, where the kernel knows of it.
// A scan's replies may all be there before the reader gets a core again: the
// buffer has room for them, and on a raw socket the kernel leaves out what is
// none, above all the requests to this machine.
func (s *socket) prepare() {
	const room = 1 << 20 // bytes: some thousand small packets as the kernel counts them
	var under net.PacketConn
	if s.v6 {
		conn := s.conn.IPv6PacketConn()
		under = conn.PacketConn
		_ = conn.SetControlMessage(ipv6.FlagHopLimit, true)
		if s.raw {
			var filter ipv6.ICMPFilter
			acceptOnly(&filter, ipv6.ICMPTypeEchoReply, ipv6.ICMPTypeDestinationUnreachable, ipv6.ICMPTypeTimeExceeded)
			_ = conn.SetICMPFilter(&filter)
		}
	} else {
		conn := s.conn.IPv4PacketConn()
		under = conn.PacketConn
		_ = conn.SetControlMessage(ipv4.FlagTTL, true)
		if s.raw {
			var filter ipv4.ICMPFilter
			acceptOnly(&filter, ipv4.ICMPTypeEchoReply, ipv4.ICMPTypeDestinationUnreachable, ipv4.ICMPTypeTimeExceeded)
			_ = conn.SetICMPFilter(&filter)
		}
	}
	if c, ok := under.(interface{ SetReadBuffer(bytes int) error }); ok {
		_ = c.SetReadBuffer(room)
	}
}

// acceptOnly makes a filter of either family let these types through alone.
func acceptOnly[T icmp.Type](filter interface {
	SetAll(block bool)
	Accept(kind T)
}, kinds ...T,
) {
	filter.SetAll(true)
	for _, kind := range kinds {
		filter.Accept(kind)
	}
}

func (s *socket) close() {
	_ = s.conn.Close()
	<-s.done
}

// expect takes a sequence number that nobody uses.
func (s *socket) expect(w waiter) (uint16, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for range 1 << 16 {
		s.seq++
		if _, taken := s.waiting[s.seq]; !taken {
			s.waiting[s.seq] = w
			return s.seq, nil
		}
	}
	return 0, errors.New("every sequence number is in use")
}

// forget gives a sequence number back, unless it is somebody else's by now.
func (s *socket) forget(seq uint16, replies chan<- echo) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.waiting[seq].replies == replies {
		delete(s.waiting, seq)
	}
}

// send sends one echo request with a payload of size bytes: the mark's token,
// as far as it has room, then bytes that count up.
func (s *socket) send(to netip.Addr, seq uint16, size int) error {
	var kind icmp.Type = ipv4.ICMPTypeEcho
	if s.v6 {
		kind = ipv6.ICMPTypeEchoRequest
	}
	payload := make([]byte, size)
	for i := range payload {
		payload[i] = byte(i)
	}
	copy(payload, s.mark.token[:])
	message := icmp.Message{Type: kind, Body: &icmp.Echo{ID: int(s.mark.id), Seq: int(seq), Data: payload}}
	packet, err := message.Marshal(nil)
	if err != nil {
		return err
	}
	var dst net.Addr = &net.UDPAddr{IP: to.AsSlice(), Zone: to.Zone()}
	if s.raw {
		dst = &net.IPAddr{IP: to.AsSlice(), Zone: to.Zone()}
	}
	_, err = s.conn.WriteTo(packet, dst)
	return err
}

// read ends when the socket is closed.
func (s *socket) read() {
	defer close(s.done)
	buffer := make([]byte, 65536)
	for {
		n, ttl, from, err := s.readOne(buffer)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			continue // an error of the network about one packet
		}
		s.handle(buffer[:n], echo{from: addrOf(from), at: time.Now(), ttl: ttl})
	}
}

func (s *socket) readOne(buffer []byte) (n, ttl int, from net.Addr, err error) {
	if s.v6 {
		n, cm, from, err := s.conn.IPv6PacketConn().ReadFrom(buffer)
		if cm != nil {
			ttl = cm.HopLimit
		}
		return n, ttl, from, err
	}
	n, cm, from, err := s.conn.IPv4PacketConn().ReadFrom(buffer)
	if cm != nil {
		ttl = cm.TTL
	}
	return n, ttl, from, err
}

// addrOf returns the address of either kind of socket, without a zone.
func addrOf(from net.Addr) netip.Addr {
	var ip net.IP
	switch a := from.(type) {
	case *net.UDPAddr:
		ip = a.IP
	case *net.IPAddr:
		ip = a.IP
	}
	addr, _ := netip.AddrFromSlice(ip)
	return addr.Unmap()
}

func (s *socket) handle(packet []byte, e echo) {
	protocol := 1
	if s.v6 {
		protocol = 58
	}
	message, err := icmp.ParseMessage(protocol, packet)
	if err != nil {
		return
	}
	switch body := message.Body.(type) {
	case *icmp.Echo:
		if message.Type == ipv4.ICMPTypeEchoReply || message.Type == ipv6.ICMPTypeEchoReply {
			if (!s.raw || body.ID == int(s.mark.id)) && s.mark.on(body.Data) {
				s.deliver(uint16(body.Seq), e) //nolint:gosec // 16 bits on the wire
			}
		}
	case *icmp.DstUnreach:
		e.err = jobs.Faultf(jobs.CodeUnreachable, jobs.StageExecute, "a router says that the device cannot be reached")
		s.refused(body.Data, e)
	case *icmp.TimeExceeded:
		e.err = jobs.Faultf(jobs.CodeUnreachable, jobs.StageExecute, "a router says that the packet's time to live ended")
		s.refused(body.Data, e)
	}
}

// refused finds the request that a router quotes, by id and sequence number:
// more of it need not be there (RFC 792).
func (s *socket) refused(quoted []byte, e echo) {
	header := 40
	if !s.v6 {
		if len(quoted) < 1 {
			return
		}
		header = int(quoted[0]&0x0f) * 4
	}
	if len(quoted) < header+8 {
		return
	}
	inner := quoted[header:]
	if s.raw && binary.BigEndian.Uint16(inner[4:]) != s.mark.id {
		return
	}
	s.deliver(binary.BigEndian.Uint16(inner[6:]), e)
}

func (s *socket) deliver(seq uint16, e echo) {
	s.mu.Lock()
	defer s.mu.Unlock()
	w, ok := s.waiting[seq]
	if !ok || e.err == nil && e.from != w.of.WithZone("") {
		return
	}
	delete(s.waiting, seq) // the first reply counts
	e.seq = seq
	w.replies <- e // buffered for one of each request
}
