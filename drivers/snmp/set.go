package snmp

import (
	"context"
	"errors"
	"fmt"

	"github.com/gosnmp/gosnmp"

	"usm-satellite/jobs"
)

type setParams struct {
	Varbinds []wanted `json:"varbinds"`
}

func (p *setParams) check() *jobs.Fault {
	if len(p.Varbinds) == 0 || len(p.Varbinds) > libraryOIDs {
		return jobs.Invalid("params.varbinds", "must be 1 to %d objects to set", libraryOIDs)
	}
	_, fault := p.pdus()
	return fault
}

func (p *setParams) pdus() ([]gosnmp.SnmpPDU, *jobs.Fault) {
	pdus := make([]gosnmp.SnmpPDU, len(p.Varbinds))
	for i, w := range p.Varbinds {
		pdu, fault := w.pdu(fmt.Sprintf("params.varbinds[%d]", i))
		if fault != nil {
			return nil, fault
		}
		pdus[i] = pdu
	}
	return pdus, nil
}

// set sends one SetRequest, once. Before it goes a Get that changes nothing:
// a device that does not answer that, or refuses the credential, was sent no
// change, and the next credential may be tried. After it only the device's
// own word ends the job as anything but unknown.
func (d *driver) set(ctx context.Context, job *jobs.Job) (jobs.Output, error) {
	var p setParams
	_ = jobs.DecodeParams(job, &p) // checked before
	pdus, fault := p.pdus()
	if fault != nil {
		return jobs.Output{}, fault
	}
	var out jobs.Output
	err := d.each(ctx, job, func(s *session) error {
		const sysUpTime = "1.3.6.1.2.1.1.3.0"
		if _, err := s.ask(readRetries, func() (*gosnmp.SnmpPacket, error) { return s.Get([]string{sysUpTime}) }); err != nil {
			return notSent(s.fault(err))
		}
		// What is left of the job's time: a device may write to flash first.
		s.wire.begin()
		s.Timeout, s.Retries = remaining(ctx, job), 0
		packet, err := s.Set(pdus)
		if err != nil {
			return sent(s.fault(err))
		}
		if packet.Error != gosnmp.NoError {
			return statusFault(packet)
		}
		vars := make([]Varbind, len(packet.Variables))
		for i, pdu := range packet.Variables {
			vars[i] = varbind(pdu)
		}
		out.Data, out.Learned = varbinds{vars}, s.device.report()
		return nil
	})
	return out, err
}

// notSent moves a fault before the point where the change would have left.
func notSent(err error) error {
	var fault *jobs.Fault
	if !errors.As(err, &fault) || fault.Stage == jobs.StageLogin {
		return err
	}
	moved := *fault
	moved.Stage = jobs.StageConnect
	return &moved
}

// sent moves a fault behind the point where the change has left.
func sent(err error) error {
	var fault *jobs.Fault
	if !errors.As(err, &fault) || fault.Code == jobs.CodeRefused {
		return err
	}
	moved := *fault
	moved.Stage = jobs.StageExecute
	switch {
	case fault.Code == jobs.CodeTimeout:
		moved.Message = "the set was sent and not answered"
	case fault.Message == notAuthentic: // somebody's word, not the device's
		moved.Code = jobs.CodeProtocolError
	}
	return &moved
}
