package snmp

import (
	"crypto/rand"
	"encoding/binary"
	"time"

	"github.com/gosnmp/gosnmp"

	"usm-satellite/jobs"
)

// discover finds the engine of a device of version 3 with its clock (RFC 3414,
// section 4), and makes the session's keys fit it. It is done for each job:
// a device that restarted or was replaced since is met as it is now.
func (s *session) discover() error {
	sp, ok := s.SecurityParameters.(*gosnmp.UsmSecurityParameters)
	if s.Version != gosnmp.Version3 || !ok || sp.AuthoritativeEngineID != "" {
		return nil
	}
	s.wire.begin()
	timeout := s.budget()
	for range readRetries + 1 {
		engine, err := s.askEngine(timeout)
		if err != nil && s.ctx.Err() == nil && silent(err) {
			timeout *= 2
			continue
		}
		if err != nil {
			return s.fault(err)
		}
		sp.AuthoritativeEngineID = engine.AuthoritativeEngineID
		sp.AuthoritativeEngineBoots = engine.AuthoritativeEngineBoots
		sp.AuthoritativeEngineTime = engine.AuthoritativeEngineTime
		if s.ContextEngineID == "" {
			s.ContextEngineID = engine.AuthoritativeEngineID
		}
		s.keys.fit(sp)
		s.note()
		return nil
	}
	return s.fault(gosnmp.ErrMaxRetriesExceeded)
}

// askEngine sends one discovery and waits for the report that answers it.
func (s *session) askEngine(timeout time.Duration) (*gosnmp.UsmSecurityParameters, error) {
	var random [4]byte
	_, _ = rand.Read(random[:])                  // never fails
	id := binary.BigEndian.Uint32(random[:]) / 2 // 31 bits (RFC 3412, section 6)
	request, err := (&gosnmp.SnmpPacket{
		Version: gosnmp.Version3, MsgFlags: gosnmp.Reportable, SecurityModel: gosnmp.UserSecurityModel,
		SecurityParameters: &gosnmp.UsmSecurityParameters{}, PDUType: gosnmp.GetRequest, MsgID: id, RequestID: id,
	}).MarshalMsg()
	if err != nil {
		return nil, err
	}
	if err := s.wire.SetDeadline(time.Now().Add(timeout)); err != nil {
		return nil, err
	}
	if _, err := s.wire.Write(request); err != nil {
		return nil, err
	}
	buffer := make([]byte, 65535)
	for {
		n, err := s.wire.Read(buffer)
		if err != nil {
			return nil, err
		}
		reader := &gosnmp.GoSNMP{
			Version: gosnmp.Version3, SecurityModel: gosnmp.UserSecurityModel, MsgFlags: gosnmp.NoAuthNoPriv,
			SecurityParameters: &gosnmp.UsmSecurityParameters{UserName: "discovery"},
		}
		packet, err := decode(reader, buffer[:n])
		if err != nil {
			return nil, err
		}
		sp, ok := packet.SecurityParameters.(*gosnmp.UsmSecurityParameters)
		if !ok || packet.MsgID != id || packet.PDUType != gosnmp.Report {
			continue // an answer to an earlier try, or to nothing
		}
		if n := len(sp.AuthoritativeEngineID); n < 5 || n > 32 { // RFC 3411, section 5
			return nil, jobs.Faultf(jobs.CodeProtocolError, jobs.StageConnect, "the device's SNMPv3 engine id is not valid: it has %d bytes, not 5 to 32", n)
		}
		return sp, nil
	}
}

// decode reads a packet. The library's decoder is known to panic at times.
func decode(reader *gosnmp.GoSNMP, packet []byte) (p *gosnmp.SnmpPacket, err error) {
	defer func() {
		if recover() != nil {
			p, err = nil, jobs.Faultf(jobs.CodeProtocolError, jobs.StageParse, "%s", notSNMP)
		}
	}()
	return reader.SnmpDecodePacket(packet)
}
