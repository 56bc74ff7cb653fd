package jobs

import (
	"encoding/json"
	"errors"
	"log/slog"
)

const mask = "***"

var errSecretNotString = errors.New("a secret must be a string")

// Secret is a string that must not reach a log, an error or a result. It
// prints as a mask in every way that fmt, slog and encoding/json know; Reveal
// is the only way to its value.
type Secret struct{ value string }

// NewSecret wraps value.
func NewSecret(value string) Secret { return Secret{value} }

// Reveal returns the value itself, for the call that needs it.
func (s Secret) Reveal() string { return s.value }

// IsZero says that nothing was given.
func (s Secret) IsZero() bool { return s.value == "" }

func (s Secret) String() string {
	if s.value == "" {
		return ""
	}
	return mask
}

// GoString keeps %#v from printing the value.
func (s Secret) GoString() string { return s.String() }

// LogValue keeps slog from printing the value.
func (s Secret) LogValue() slog.Value { return slog.StringValue(s.String()) }

// MarshalText keeps encoders from printing the value.
func (s Secret) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// MarshalJSON keeps encoding/json from printing the value: the handlers of
// slog do not apply LogValue inside a struct.
func (s Secret) MarshalJSON() ([]byte, error) { return json.Marshal(s.String()) }

// UnmarshalJSON reads the value. Its error does not quote it.
func (s *Secret) UnmarshalJSON(data []byte) error {
	var value string
	if err := json.Unmarshal(data, &value); err != nil {
		return errSecretNotString
	}
	s.value = value
	return nil
}
