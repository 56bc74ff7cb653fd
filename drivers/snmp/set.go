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

// set sends one SetRequest, once. For version 3 the engine is found first, by
// a request that changes nothing, so that what the set meets is an answer to
// the set. Only credentials that were refused before that are followed by the
// next one.
func (d *driver) set(ctx context.Context, job *jobs.Job) (jobs.Output, error) {
	var p setParams
	_ = jobs.DecodeParams(job, &p) // checked before
	pdus, fault := p.pdus()
	if fault != nil {
		return jobs.Output{}, fault
	}
	var out jobs.Output
	err := d.each(ctx, job, func(s *session) error {
		if err := s.discover(); err != nil {
			return err
		}
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
		out.Data = varbinds{vars}
		return nil
	})
	return out, err
}

// discover makes a version 3 session ready with a Get of sysUpTime.0.
func (s *session) discover() error {
	if s.Version != gosnmp.Version3 {
		return nil
	}
	limit := s.Timeout
	s.Timeout, s.Retries = min(firstTimeout, limit), readRetries
	defer func() { s.Timeout, s.Retries = limit, 0 }()
	if _, err := s.Get([]string{"1.3.6.1.2.1.1.3.0"}); err != nil {
		return s.fault(err)
	}
	return nil
}

// sent moves a fault behind the point where the change has left.
func sent(err error) error {
	var fault *jobs.Fault
	if !errors.As(err, &fault) || fault.Code == jobs.CodeRefused {
		return err
	}
	moved := *fault
	if fault.Code == jobs.CodeTimeout {
		moved.Message = "the set was sent and not answered"
	}
	moved.Stage = jobs.StageExecute
	return &moved
}
