package jobs

import (
	"encoding/json"
	"time"
)

// SchemaVersion is the version of the wire contract that this package speaks.
const SchemaVersion = 1

// Class says whether a job changes the equipment.
type Class string

// The classes. A Read may be run again, a Write never is.
const (
	Read  Class = "read"
	Write Class = "write"
)

// Limits of a job as a core may send it.
const (
	DefaultTimeout  = 30 * time.Second
	MaxTimeout      = 20 * time.Minute
	MaxJobBytes     = 1 << 20 // of a body, uncompressed
	maxIDLength     = 128
	maxMetadata     = 4 << 10
	maxCredentials  = 16
	maxDeviceSlots  = 64
	DefaultMaxBytes = 8 << 20 // of a result
)

// Job is one piece of work, decoded and checked.
type Job struct {
	ID             string
	Action         string
	Target         Target
	Params         json.RawMessage // an object, or nil
	Credentials    []Credential
	Timeout        time.Duration
	Deadline       time.Time // zero: none
	Class          Class     // "" until the registry has judged it
	IdempotencyKey string
	Limits         Limits
	Metadata       json.RawMessage // returned unchanged
	Stream         bool            // parts are sent as they come
}

// Target is the equipment of a job.
type Target struct {
	Address  string `json:"address"`             // IP address or name
	Port     int    `json:"port,omitempty"`      // 0: the action's own
	DeviceID string `json:"device_id,omitempty"` // key of per-device limits; default: the address
}

// Device returns the key of the per-device limits.
func (t Target) Device() string {
	if t.DeviceID != "" {
		return t.DeviceID
	}
	return t.Address
}

// Limits bound what a job may cost. Zero values are the satellite's defaults.
type Limits struct {
	MaxResultBytes    int `json:"max_result_bytes,omitempty"`
	MaxRows           int `json:"max_rows,omitempty"`
	MaxRepetitions    int `json:"max_repetitions,omitempty"`
	DeviceConcurrency int `json:"device_concurrency,omitempty"`
}

// ResultBytes returns the largest result that the job wants, in bytes.
func (l Limits) ResultBytes() int {
	if l.MaxResultBytes > 0 {
		return min(l.MaxResultBytes, DefaultMaxBytes)
	}
	return DefaultMaxBytes
}

// Credential is one way to log in. Exactly one field group is set.
type Credential struct {
	Ref    string // name of a secret file of the satellite
	Sealed string // reserved by the contract
	KeyID  string
	SNMP   *SNMPCredential
	Login  *LoginCredential
	HTTP   *HTTPCredential
}

// SNMPCredential is a community (versions 1, 2c) or a user (version 3, RFC 3414).
type SNMPCredential struct {
	Version         string `json:"version"`
	Community       Secret `json:"community"`
	Username        string `json:"username"`
	AuthProtocol    string `json:"auth_protocol"`
	AuthPassword    Secret `json:"auth_password"`
	PrivProtocol    string `json:"priv_protocol"`
	PrivPassword    Secret `json:"priv_password"`
	Context         string `json:"context"`
	ContextEngineID string `json:"context_engine_id"`
}

// LoginCredential logs in to a command line, NETCONF or the RouterOS API.
type LoginCredential struct {
	Username       string `json:"username"`
	Password       Secret `json:"password"`
	PrivateKey     Secret `json:"private_key"`
	Passphrase     Secret `json:"passphrase"`
	EnablePassword Secret `json:"enable_password"`
}

// HTTPCredential is a user with a password (basic, digest) or a bearer token.
type HTTPCredential struct {
	Username string `json:"username"`
	Password Secret `json:"password"`
	Bearer   Secret `json:"bearer"`
}
