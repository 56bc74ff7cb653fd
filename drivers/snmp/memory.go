package snmp

import "time"

const (
	maxRemembered = 20_000 // devices
	regrowAfter   = 500    // good answers after which a device gets another chance
	leastTimeout  = 500 * time.Millisecond
)

// device is what one piece of equipment was found to take and to need. It is
// kept across jobs, by address and port.
type device struct {
	MaxRepetitions uint32 // of a GetBulk that it answers; 0: not limited yet
	MaxOIDs        int    // of a Get that it answers; 0: not limited yet
	NoBulk         bool   // GetBulk is broken: walk by GetNext
	PDUBytes       int    // of the largest answer that came
	RTT, Deviation time.Duration
	good           int // answers since it was limited
}

// learned is the report of it in a result.
type learned struct {
	MaxRepetitions uint32  `json:"max_repetitions,omitempty"`
	MaxOIDs        int     `json:"max_oids,omitempty"`
	NoBulk         bool    `json:"no_bulk,omitempty"`
	PDUBytes       int     `json:"pdu_bytes"`
	RTTMS          float64 `json:"rtt_ms"`
	TimeoutMS      int64   `json:"timeout_ms"` // of the first try of the next request
}

func (d device) report() learned {
	return learned{
		d.MaxRepetitions, d.MaxOIDs, d.NoBulk, d.PDUBytes,
		float64(d.RTT.Microseconds()) / 1000, d.timeout().Milliseconds(),
	}
}

// answered takes an answer of so many bytes, this long after its request, into
// account (RFC 6298, section 2, for the times).
func (d device) answered(rtt time.Duration, bytes int) device {
	if d.RTT == 0 {
		d.RTT, d.Deviation = max(rtt, 1), rtt/2
	} else {
		d.Deviation += (max(d.RTT-rtt, rtt-d.RTT) - d.Deviation) / 4
		d.RTT = max(1, d.RTT+(rtt-d.RTT)/8)
	}
	d.PDUBytes = max(d.PDUBytes, bytes)
	if d.good++; d.good >= regrowAfter {
		d = d.regrown()
	}
	return d
}

// regrown gives a device another chance: what limited it may have been loss.
func (d device) regrown() device {
	d.good = 0
	if d.NoBulk {
		d.NoBulk, d.MaxRepetitions = false, 2
		return d
	}
	if d.MaxRepetitions *= 2; d.MaxRepetitions > maxRepetitions {
		d.MaxRepetitions = 0
	}
	return d
}

// shrunk asks less of a device that did not answer a GetBulk for n rows.
func (d device) shrunk(n uint32) device {
	d.good = 0
	if d.MaxRepetitions = n / 3; d.MaxRepetitions < 1 {
		d.NoBulk = true
	}
	return d
}

// timeout is how long the first try of a request waits for an answer.
func (d device) timeout() time.Duration {
	if d.RTT == 0 {
		return firstTimeout
	}
	return min(max(2*d.RTT+4*d.Deviation, leastTimeout), 10*time.Second)
}
