package jobs

import (
	"encoding/json"
	"time"
)

// Status is how a job ended. The values are part of the wire contract.
type Status string

// The statuses of the contract, each of them terminal.
const (
	StatusOK            Status = "ok"
	StatusPartial       Status = "partial"
	StatusFailed        Status = "failed"
	StatusTimeout       Status = "timeout"
	StatusExpired       Status = "expired"
	StatusCancelled     Status = "cancelled"
	StatusDenied        Status = "denied"
	StatusUnsupported   Status = "unsupported"
	StatusInvalid       Status = "invalid"
	StatusPoison        Status = "poison"
	StatusIndeterminate Status = "indeterminate" // of a write: it may have run
)

// Statuses lists every status of the contract.
func Statuses() []Status {
	return []Status{
		StatusOK, StatusPartial, StatusFailed, StatusTimeout, StatusExpired, StatusCancelled,
		StatusDenied, StatusUnsupported, StatusInvalid, StatusPoison, StatusIndeterminate,
	}
}

// Result is the one answer to a job, as it goes over the wire.
type Result struct {
	Schema      int             `json:"schema"`
	JobID       string          `json:"job_id"`
	Action      string          `json:"action,omitempty"`
	SatelliteID string          `json:"satellite_id"`
	Replica     string          `json:"replica,omitempty"`
	Transport   string          `json:"transport,omitempty"` // what carried the job: "wireguard+amqp", "amqps", …
	Status      Status          `json:"status"`
	Error       *Fault          `json:"error,omitempty"`
	Data        json.RawMessage `json:"data,omitempty"`
	Learned     json.RawMessage `json:"learned,omitempty"` // what the driver found out of the device
	Attempts    int             `json:"attempts"`
	Redelivered bool            `json:"redelivered"`
	FromStore   bool            `json:"from_store,omitempty"`
	Truncated   bool            `json:"truncated,omitempty"`
	Warnings    []string        `json:"warnings,omitempty"`
	ReceivedAt  Time            `json:"received_at"`
	StartedAt   *Time           `json:"started_at,omitempty"`
	FinishedAt  Time            `json:"finished_at"`
	QueueWaitMS int64           `json:"queue_wait_ms"`
	DeviceWait  int64           `json:"device_wait_ms"`
	RunMS       int64           `json:"run_ms"`
	Metadata    json.RawMessage `json:"metadata,omitempty"`
}

// Time is a moment as the contract writes it: RFC 3339, UTC, milliseconds.
type Time struct{ time.Time }

const timeLayout = "2006-01-02T15:04:05.000Z"

// MarshalJSON writes the moment.
func (t Time) MarshalJSON() ([]byte, error) {
	return []byte(`"` + t.UTC().Format(timeLayout) + `"`), nil
}

// UnmarshalJSON reads what MarshalJSON writes.
func (t *Time) UnmarshalJSON(text []byte) (err error) {
	t.Time, err = time.Parse(`"`+timeLayout+`"`, string(text))
	return err
}

// statusOf says how a job ended that failed with f.
func statusOf(f *Fault, class Class) Status {
	if class == Write && f.leavesWriteUnknown() {
		return StatusIndeterminate
	}
	switch f.Code {
	case CodeTimeout, CodeCircuitOpen:
		return StatusTimeout
	case CodeExpired:
		return StatusExpired
	case CodeCancelled:
		return StatusCancelled
	case CodePolicyDenied, CodeBadSignature, CodeReplayed:
		return StatusDenied
	case CodeUnsupportedAction, CodeUnsupportedSchema:
		return StatusUnsupported
	case CodeInvalidJob:
		return StatusInvalid
	case CodePoison:
		return StatusPoison
	case CodeInterruptedWrite:
		return StatusIndeterminate
	default:
		return StatusFailed
	}
}
