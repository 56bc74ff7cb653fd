package traceroute

import (
	"context"
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"usm-satellite/jobs"
)

// probe sends one datagram and waits for what comes of it.
func (d driver) probe(ctx context.Context, to netip.AddrPort, ttl int) (reply, error) {
	conn, err := d.network.DialContext(ctx, "udp", to.String())
	if err != nil {
		return reply{}, err
	}
	defer conn.Close()
	udp, ok := conn.(*net.UDPConn)
	if !ok {
		return reply{}, jobs.Faultf(jobs.CodeUnsupportedAction, jobs.StageConnect, "traceroute needs a socket of the kernel's")
	}
	raw, err := udp.SyscallConn()
	if err != nil {
		return reply{}, jobs.DialFault(ctx, err)
	}
	var optErr error
	if err := raw.Control(func(fd uintptr) { optErr = prepare(int(fd), to.Addr().Is6(), ttl) }); err != nil || optErr != nil {
		return reply{}, jobs.Faultf(jobs.CodeUnsupportedAction, jobs.StageConnect, "this system does not let a socket hear of errors on the way (IP_RECVERR)")
	}
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer stop()
	_ = udp.SetReadDeadline(time.Now().Add(probeWait))
	began := time.Now()
	if _, err := udp.Write(make([]byte, 32)); err != nil && ctx.Err() == nil {
		return reply{}, jobs.DialFault(ctx, err)
	}
	var r reply
	err = raw.Read(func(fd uintptr) bool { return receive(int(fd), to.Addr(), &r) })
	switch {
	case ctx.Err() != nil:
		return reply{}, jobs.Faultf(jobs.CodeTimeout, jobs.StageExecute, "the way was not known within the job's time limit")
	case errors.Is(err, os.ErrDeadlineExceeded):
		return reply{}, nil
	case err != nil:
		return reply{}, jobs.DialFault(ctx, err)
	}
	rtt := float64(time.Since(began).Microseconds()) / 1000
	r.RTTMS = &rtt
	return r, nil
}

func prepare(fd int, is6 bool, ttl int) error {
	if is6 {
		return errors.Join(unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_RECVERR, 1),
			unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_UNICAST_HOPS, ttl))
	}
	return errors.Join(unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_RECVERR, 1),
		unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_TTL, ttl))
}

// receive takes an error or an answer, and says whether there was one.
func receive(fd int, target netip.Addr, r *reply) bool {
	buf, oob := make([]byte, 512), make([]byte, 512)
	_, n, _, _, err := unix.Recvmsg(fd, buf, oob, unix.MSG_ERRQUEUE|unix.MSG_DONTWAIT)
	if err == nil {
		messages, err := unix.ParseSocketControlMessage(oob[:n])
		if err != nil {
			return false
		}
		for _, m := range messages {
			if parse(m.Data, target, r) {
				return true
			}
		}
		return false
	}
	if _, _, err = unix.Recvfrom(fd, buf, unix.MSG_DONTWAIT); err == nil {
		r.Address, r.reached = target.String(), true // something listens there, and said so
		return true
	}
	return false
}

// parse reads a struct sock_extended_err with the address of who sent it
// (linux/errqueue.h).
func parse(b []byte, target netip.Addr, r *reply) bool {
	const (
		fixed       = 16
		portUnreach = 3 // RFC 792
		noPort6     = 4 // RFC 4443, 3.1
	)
	if len(b) < fixed+8 {
		return false
	}
	origin, kind, code := b[4], b[5], b[6]
	from := b[fixed:]
	var offender netip.Addr
	switch {
	case origin == unix.SO_EE_ORIGIN_ICMP && binary.NativeEndian.Uint16(from) == unix.AF_INET:
		offender = netip.AddrFrom4([4]byte(from[4:8]))
	case origin == unix.SO_EE_ORIGIN_ICMP6 && len(from) >= 24 && binary.NativeEndian.Uint16(from) == unix.AF_INET6:
		offender = netip.AddrFrom16([16]byte(from[8:24]))
	default:
		r.Note = "the satellite's own system could not send it"
		return true
	}
	r.Address = offender.String()
	v4 := origin == unix.SO_EE_ORIGIN_ICMP
	switch {
	case v4 && kind == 11, !v4 && kind == 3: // time exceeded
	case (v4 && kind == 3 && code == portUnreach || !v4 && kind == 1 && code == noPort6) && offender == target:
		r.reached = true
	default:
		r.Note = "the router says that the target cannot be reached"
	}
	return true
}
