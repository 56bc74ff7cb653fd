package tunnel

import (
	"crypto/ecdh"
	"crypto/rand"
	"crypto/subtle"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
)

const (
	keySize = 32
	mask    = "***"
)

var (
	errKeyText = errors.New("is not a WireGuard key (44 characters of base64 that end in =, as `wg genkey` prints)")
	errKeyZero = errors.New("is a key of zeros, which is no key")
)

// secret holds 32 bytes that no formatter reaches. It is a pointer to a pointer
// because package fmt, where it may not call methods, prints what a pointer
// points at (for a verb that does not fit, even a nested one), but not a second
// one behind it.
type secret struct{ box *box }

type box struct{ bytes *[keySize]byte }

func hide(b [keySize]byte) secret { return secret{&box{&b}} }

// IsZero says that no key was given.
func (s secret) IsZero() bool { return s.box == nil }

// Reveal returns the key in base64, the form of wg(8). It is for the place
// that stores the key, never for a log or an error.
func (s secret) Reveal() string {
	if s.IsZero() {
		return ""
	}
	return base64.StdEncoding.EncodeToString(s.box.bytes[:])
}

func (s secret) hex() string {
	if s.IsZero() {
		return ""
	}
	return hex.EncodeToString(s.box.bytes[:])
}

func (s secret) equal(other secret) bool {
	if s.IsZero() || other.IsZero() {
		return s.IsZero() && other.IsZero()
	}
	return subtle.ConstantTimeCompare(s.box.bytes[:], other.box.bytes[:]) == 1
}

// String, Format, GoString, LogValue, MarshalText: every way in which fmt, slog and the
// encoders print a value gives the mask.
func (s secret) String() string {
	if s.IsZero() {
		return ""
	}
	return mask
}

// GoString keeps %#v from printing the key.
func (s secret) GoString() string { return s.String() }

// Format keeps every other verb of package fmt from printing the key.
func (s secret) Format(f fmt.State, _ rune) { fmt.Fprint(f, s.String()) }

// LogValue keeps slog from printing the key.
func (s secret) LogValue() slog.Value { return slog.StringValue(s.String()) }

// MarshalText keeps encoders from printing the key.
func (s secret) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// PrivateKey is the secret half of an identity. It never prints itself; its
// zero value means that none was given.
type PrivateKey struct{ secret }

// NewPrivateKey makes a key from the operating system's randomness.
func NewPrivateKey() PrivateKey {
	var b [keySize]byte
	_, _ = rand.Read(b[:]) // never fails: crypto/rand ends the program instead
	b[0] &= 248
	b[31] = b[31]&127 | 64
	return PrivateKey{hide(b)}
}

// ParsePrivateKey reads the base64 form. Its error never quotes the text.
func ParsePrivateKey(text string) (PrivateKey, error) {
	b, err := parseKey(text)
	if err != nil {
		return PrivateKey{}, err
	}
	return PrivateKey{hide(b)}, nil
}

// Public returns the public half, by RFC 7748.
func (k PrivateKey) Public() PublicKey {
	if k.IsZero() {
		return PublicKey{}
	}
	key, err := ecdh.X25519().NewPrivateKey(k.box.bytes[:])
	if err != nil {
		return PublicKey{}
	}
	return PublicKey(key.PublicKey().Bytes())
}

// PresharedKey is the optional symmetric key between two peers. It never
// prints itself; its zero value means that none is used.
type PresharedKey struct{ secret }

// NewPresharedKey makes a key from the operating system's randomness.
func NewPresharedKey() PresharedKey {
	var b [keySize]byte
	_, _ = rand.Read(b[:]) // never fails: crypto/rand ends the program instead
	return PresharedKey{hide(b)}
}

// ParsePresharedKey reads the base64 form. Its error never quotes the text.
func ParsePresharedKey(text string) (PresharedKey, error) {
	b, err := parseKey(text)
	if err != nil {
		return PresharedKey{}, err
	}
	return PresharedKey{hide(b)}, nil
}

// PublicKey names a peer. It is no secret and prints as base64.
type PublicKey [keySize]byte

// ParsePublicKey reads the base64 form. Its error does not quote the text: a
// private key is put here by mistake now and then.
func ParsePublicKey(text string) (PublicKey, error) {
	b, err := parseKey(text)
	return PublicKey(b), err
}

// IsZero says that no key was given.
func (k PublicKey) IsZero() bool { return k == PublicKey{} }

func (k PublicKey) String() string { return base64.StdEncoding.EncodeToString(k[:]) }

// MarshalText gives the base64 form.
func (k PublicKey) MarshalText() ([]byte, error) { return []byte(k.String()), nil }

func (k PublicKey) hex() string { return hex.EncodeToString(k[:]) }

func parseKey(text string) ([keySize]byte, error) {
	var key [keySize]byte
	if len(text) != base64.StdEncoding.EncodedLen(keySize) {
		return key, errKeyText
	}
	b, err := base64.StdEncoding.Strict().DecodeString(text)
	if err != nil || len(b) != keySize {
		return key, errKeyText
	}
	copy(key[:], b)
	if key == [keySize]byte{} {
		return key, errKeyZero
	}
	return key, nil
}
