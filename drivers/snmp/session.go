package snmp

import (
	"context"
	"errors"
	"net"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/gosnmp/gosnmp"

	"usm-satellite/jobs"
)

// Tries of one request. The first wait is short: most losses are single, and a
// device that is there answers in milliseconds. Each wait doubles the last.
const (
	firstTimeout = 1500 * time.Millisecond
	readRetries  = 2
	libraryOIDs  = 60 // gosnmp refuses more varbinds in a request
	usualOIDs    = 40 // of a Get, until a device finds them too many
)

// session is one credential at one device, for one job.
type session struct {
	*gosnmp.GoSNMP

	ctx      context.Context
	wire     *wire
	key      string // of the device in the memory
	known    *lru[string, device]
	device   device // as of now
	keys     *keyring
	patience time.Duration // most that the first try of a request may wait
	heard    bool          // the device has answered this credential
}

// each opens a session with each credential of the job in turn, until one is
// not refused.
func (d *driver) each(ctx context.Context, job *jobs.Job, do func(*session) error) error {
	creds, fault := d.credentials(job)
	if fault != nil {
		return fault
	}
	var err error
	for i, cred := range creds {
		if err = d.with(ctx, job, cred, len(creds)-i, do); !refused(err) || ctx.Err() != nil {
			return err
		}
	}
	return err
}

// refused says that another credential may fare better. A wrong community is
// met with silence, so a timeout is a refusal too, where nothing was answered.
func refused(err error) bool {
	var fault *jobs.Fault
	return errors.As(err, &fault) && (fault.Code == jobs.CodeAuthFailed || fault.Code == jobs.CodeTimeout && fault.Stage == jobs.StageConnect)
}

// with opens a session whose credential has left-1 others behind it: all of
// them must find time within the job's limit.
func (d *driver) with(ctx context.Context, job *jobs.Job, cred jobs.SNMPCredential, left int, do func(*session) error) error {
	addr, err := d.Network.Resolve(ctx, job.Target.Address)
	if err != nil {
		return err
	}
	port := job.Target.Port
	if port == 0 {
		port = 161
	}
	client := &gosnmp.GoSNMP{
		Target: addr.String(), Port: uint16(port), Transport: "udp", Context: ctx, Control: d.Network.Control,
		Timeout: firstTimeout, Retries: readRetries, ExponentialTimeout: true, MaxOids: libraryOIDs,
	}
	if fault := authenticate(client, cred); fault != nil {
		return fault
	}
	if err := client.Connect(); err != nil {
		return jobs.DialFault(ctx, err)
	}
	conn := &wire{Conn: client.Conn}
	client.Conn = conn
	// The library waits for packets without looking at ctx. A deadline in the
	// past would not do: the library may set another one right after.
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer func() {
		stop()
		_ = conn.Close()
	}()
	const waits = 1 + 2 + 4 // of a request and its tries
	s := &session{
		GoSNMP: client, ctx: ctx, wire: conn, known: d.devices, keys: d.keys,
		key:      net.JoinHostPort(addr.String(), strconv.Itoa(port)),
		patience: max(remaining(ctx, job)/time.Duration(waits*left), 50*time.Millisecond),
	}
	s.device = s.known.get(s.key)
	if err := s.discover(); err != nil {
		return err
	}
	return do(s)
}

func remaining(ctx context.Context, job *jobs.Job) time.Duration {
	if deadline, ok := ctx.Deadline(); ok {
		return time.Until(deadline)
	}
	return job.Timeout
}

// budget is how long the first try of a request waits.
func (s *session) budget() time.Duration { return min(s.device.timeout(), s.patience) }

// ask makes one request and judges whether what came is an answer to it.
func (s *session) ask(retries int, request func() (*gosnmp.SnmpPacket, error)) (*gosnmp.SnmpPacket, error) {
	s.wire.begin()
	s.Timeout, s.Retries = s.budget(), retries
	packet, err := request()
	if err != nil {
		return nil, err
	}
	if packet == nil || packet.PDUType != gosnmp.GetResponse || packet.Error == gosnmp.NoError && len(packet.Variables) == 0 {
		return nil, jobs.Faultf(jobs.CodeProtocolError, jobs.StageParse, "%s", notSNMP)
	}
	s.heard = true
	s.note()
	return packet, nil
}

// note remembers how the device took the last request.
func (s *session) note() {
	rtt, largest := s.wire.rtt, s.wire.largest
	s.learn(func(d device) device { return d.answered(rtt, largest) })
}

func (s *session) learn(change func(device) device) { s.device = s.known.update(s.key, change) }

// get asks for a few objects in one request. A device that finds the answer
// too big is asked for half of them at a time, and is known for it from then on.
func (s *session) get(oids []string) ([]Varbind, error) {
	packet, err := s.ask(readRetries, func() (*gosnmp.SnmpPacket, error) { return s.Get(oids) })
	if err != nil {
		if silent(err) && s.heard && len(oids) > 1 && s.ctx.Err() == nil {
			return s.halves(oids)
		}
		return nil, s.fault(err)
	}
	switch {
	case packet.Error == gosnmp.TooBig && len(oids) > 1:
		return s.halves(oids)
	case packet.Error == gosnmp.NoSuchName && len(oids) > 1: // version 1 refuses all for the lack of one
		return s.split(oids)
	case packet.Error == gosnmp.NoSuchName:
		return []Varbind{{OID: oids[0], Type: "NoSuchObject"}}, nil
	case packet.Error != gosnmp.NoError:
		return nil, statusFault(packet)
	}
	return answersTo(oids, packet.Variables)
}

// answersTo checks that a device answered for the objects it was asked for.
func answersTo(oids []string, pdus []gosnmp.SnmpPDU) ([]Varbind, error) {
	vars := make([]Varbind, len(pdus))
	got := make([]string, len(pdus))
	for i, pdu := range pdus {
		vars[i] = varbind(pdu)
		got[i] = vars[i].OID
	}
	if !slices.Equal(got, oids) {
		return nil, jobs.Faultf(jobs.CodeProtocolError, jobs.StageParse, "the device answered for other objects than it was asked for: %s", got[0])
	}
	return vars, nil
}

// halves asks for less at a time, from now on.
func (s *session) halves(oids []string) ([]Varbind, error) {
	s.learn(func(d device) device {
		if half := len(oids) / 2; d.MaxOIDs == 0 || half < d.MaxOIDs {
			d.MaxOIDs = half
		}
		return d
	})
	return s.split(oids)
}

func (s *session) split(oids []string) ([]Varbind, error) {
	first, err := s.get(oids[:len(oids)/2])
	if err != nil {
		return nil, err
	}
	rest, err := s.get(oids[len(oids)/2:])
	return append(first, rest...), err
}

func (s *session) maxOIDs() int {
	if s.device.MaxOIDs > 0 {
		return s.device.MaxOIDs
	}
	return usualOIDs
}

func silent(err error) bool {
	var netErr net.Error
	return errors.Is(err, gosnmp.ErrMaxRetriesExceeded) || err != nil && strings.Contains(err.Error(), "request timeout") ||
		errors.As(err, &netErr) && netErr.Timeout()
}
