package jobs

import (
	"encoding/json"
	"errors"
	"math"
	"strings"
	"time"
	"unicode/utf8"
)

// missing stands for a number that the body does not have. What nearly each job
// has is no pointer: making those takes a third of the time of reading a job.
const missing = math.MinInt

// wireJob is a body as it comes: everything optional, so that what is wrong
// can be named.
type wireJob struct {
	Schema         int              `json:"schema"` // missing: not there
	ID             string           `json:"job_id"`
	Action         string           `json:"action"`
	Target         Target           `json:"target"`
	Params         json.RawMessage  `json:"params"`
	Credentials    []wireCredential `json:"credentials"`
	TimeoutMS      int64            `json:"timeout_ms"` // missing: not there
	Deadline       *string          `json:"deadline"`
	Class          *string          `json:"class"`
	IdempotencyKey *string          `json:"idempotency_key"`
	Limits         *Limits          `json:"limits"`
	Metadata       json.RawMessage  `json:"metadata"`
	Stream         bool             `json:"stream"`
}

type wireCredential struct {
	Ref    string           `json:"ref"`
	Sealed string           `json:"sealed"`
	KeyID  string           `json:"key_id"`
	SNMP   *SNMPCredential  `json:"snmp"`
	Login  *LoginCredential `json:"login"`
	HTTP   *HTTPCredential  `json:"http"`
}

// Decode reads the body of a message. With a Fault the job still holds what
// could be read (its id, action and metadata), so that the answer can say
// which job it is for. The registry has not judged it yet: see Registry.Judge.
func Decode(body []byte) (*Job, *Fault) {
	if len(body) > MaxJobBytes {
		return &Job{}, Invalid("the job", "is larger than %d bytes", MaxJobBytes)
	}
	if !utf8.Valid(body) {
		return &Job{}, Invalid("the job", "is not UTF-8")
	}
	wire := wireJob{Schema: missing, TimeoutMS: missing}
	err := json.Unmarshal(body, &wire)
	job, fault := wire.job()
	if err != nil {
		return job, decodeFault(err)
	}
	return job, fault
}

func decodeFault(err error) *Fault {
	var typeErr *json.UnmarshalTypeError
	switch {
	case errors.Is(err, errSecretNotString):
		return Invalid("credentials", "hold a secret that is not a string")
	case errors.As(err, &typeErr) && typeErr.Field == "":
		return Invalid("the job", "must be a JSON object, not %s", typeErr.Value)
	case errors.As(err, &typeErr):
		return Invalid(typeErr.Field, "must be %s, not %s", jsonKind(typeErr.Type.Kind().String()), typeErr.Value)
	default:
		return Invalid("the job", "is not JSON")
	}
}

func (w *wireJob) job() (*Job, *Fault) {
	job := &Job{Timeout: DefaultTimeout, Metadata: w.Metadata, Stream: w.Stream}
	if validID(w.ID) {
		job.ID = w.ID
	}
	if len(job.Metadata) > maxMetadata {
		job.Metadata = nil
		return job, Invalid("metadata", "is larger than %d bytes", maxMetadata)
	}
	job.Action = printable(w.Action)
	for _, check := range []func(*Job) *Fault{w.identity, w.times, w.what, w.credentials, w.limits} {
		if fault := check(job); fault != nil {
			return job, fault
		}
	}
	return job, nil
}

// printable keeps a name that comes from outside harmless in logs and answers.
func printable(s string) string {
	s = strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || r == utf8.RuneError {
			return -1
		}
		return r
	}, s)
	if len(s) > maxIDLength {
		s = strings.ToValidUTF8(s[:maxIDLength], "")
	}
	return s
}

func (w *wireJob) identity(_ *Job) *Fault {
	switch {
	case w.Schema == missing:
		return Invalid("schema", "is missing; it must be %d", SchemaVersion)
	case w.Schema != SchemaVersion:
		return Faultf(CodeUnsupportedSchema, StageQueue, "schema %d is not known; this satellite speaks %d", w.Schema, SchemaVersion)
	case w.ID == "":
		return Invalid("job_id", "is missing")
	case !validID(w.ID):
		return Invalid("job_id", "must be 1 to %d of the characters A-Z a-z 0-9 . _ : -", maxIDLength)
	case w.Action == "":
		return Invalid("action", "is missing")
	}
	return nil
}

func validID(id string) bool {
	return id != "" && len(id) <= maxIDLength && strings.IndexFunc(id, func(r rune) bool {
		return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("._:-", r))
	}) < 0
}

func (w *wireJob) times(job *Job) *Fault {
	if w.TimeoutMS != missing {
		if w.TimeoutMS <= 0 {
			return Invalid("timeout_ms", "must be more than 0")
		}
		job.Timeout = MaxTimeout
		if w.TimeoutMS < MaxTimeout.Milliseconds() {
			job.Timeout = time.Duration(w.TimeoutMS) * time.Millisecond
		}
	}
	if w.Deadline != nil {
		deadline, err := time.Parse(time.RFC3339Nano, *w.Deadline)
		if err != nil {
			return Invalid("deadline", "must be a time of RFC 3339, as 2026-01-31T12:00:00Z")
		}
		job.Deadline = deadline
	}
	return nil
}

func (w *wireJob) what(job *Job) *Fault {
	job.Target = w.Target
	if fault := checkTarget(job.Target); fault != nil {
		return fault
	}
	if len(w.Params) > 0 && string(w.Params) != "null" {
		if w.Params[0] != '{' {
			return Invalid("params", "must be an object")
		}
		job.Params = w.Params
	}
	if w.Class != nil {
		job.Class = Class(*w.Class)
		if job.Class != Read && job.Class != Write {
			return Invalid("class", "must be %q or %q", Read, Write)
		}
	}
	if w.IdempotencyKey != nil {
		job.IdempotencyKey = *w.IdempotencyKey
		if !validID(job.IdempotencyKey) {
			return Invalid("idempotency_key", "must be 1 to %d of the characters A-Z a-z 0-9 . _ : -", maxIDLength)
		}
	}
	return nil
}

func checkTarget(t Target) *Fault {
	switch {
	case len(t.Address) > 253 || t.Address != printable(t.Address) || strings.ContainsAny(t.Address, " /\\[]@"):
		return Invalid("target.address", "must be an IP address or a name")
	case t.Port < 0 || t.Port > 65535:
		return Invalid("target.port", "must be 1 to 65535")
	case len(t.DeviceID) > maxIDLength || t.DeviceID != printable(t.DeviceID):
		return Invalid("target.device_id", "must be at most %d printable characters", maxIDLength)
	}
	return nil
}

func (w *wireJob) credentials(job *Job) *Fault {
	if len(w.Credentials) > maxCredentials {
		return Invalid("credentials", "must be at most %d", maxCredentials)
	}
	for _, c := range w.Credentials {
		if c.Sealed != "" {
			return Faultf(CodeNoCredentials, StageCredentials, "credentials: sealed ones are not supported by this version; use ref or inline ones")
		}
		if c.Ref == "" && c.SNMP == nil && c.Login == nil && c.HTTP == nil {
			return Invalid("credentials", "hold one without ref, snmp, login or http")
		}
		job.Credentials = append(job.Credentials, Credential(c))
	}
	return nil
}

func (w *wireJob) limits(job *Job) *Fault {
	if w.Limits == nil {
		return nil
	}
	job.Limits = *w.Limits
	for name, value := range map[string]int{
		"max_result_bytes": job.Limits.MaxResultBytes, "max_rows": job.Limits.MaxRows,
		"max_repetitions": job.Limits.MaxRepetitions, "device_concurrency": job.Limits.DeviceConcurrency,
	} {
		if value < 0 {
			return Invalid("limits."+name, "must be more than 0")
		}
	}
	job.Limits.DeviceConcurrency = min(job.Limits.DeviceConcurrency, maxDeviceSlots)
	return nil
}

// Judge finds the action of a job, its class, and whether target and
// parameters are as the action wants them. It sets job.Class.
func (r Registry) Judge(job *Job) (Action, *Fault) {
	action, ok := r[job.Action]
	if !ok {
		return Action{}, Faultf(CodeUnsupportedAction, StageQueue, "the action %q is not known to this version of the satellite", job.Action)
	}
	if action.Target && job.Target.Address == "" {
		return action, Invalid("target.address", "is missing; %s needs one", job.Action)
	}
	if action.Check != nil {
		if fault := action.Check(job); fault != nil {
			return action, fault
		}
	}
	class := action.Class
	if action.ClassOf != nil {
		class = action.ClassOf(job)
	}
	if job.Class == Write || action.Asks && job.Class == Read {
		class = job.Class
	}
	job.Class = class
	return action, nil
}
