package snmp

import (
	"crypto/sha256"
	"sync"

	"github.com/gosnmp/gosnmp"
)

// maxKeys bounds the cache: an entry is about 200 bytes.
const maxKeys = 10_000

// keyring derives the keys of SNMPv3 users. The costly part, a megabyte hashed
// for each password (RFC 3414, A.2), is done once and kept under a hash of the
// password; making it fit an engine is two hashes. The library would do the
// costly part again for each engine, and keep it without bound.
type keyring struct {
	known *lru[[sha256.Size]byte, *passwordKey]
}

type passwordKey struct {
	once sync.Once
	key  []byte
}

func newKeyring() *keyring { return &keyring{newLRU[[sha256.Size]byte, *passwordKey](maxKeys)} }

// ofPassword returns the key of a password, which fits no engine yet.
func (k *keyring) ofPassword(auth gosnmp.SnmpV3AuthProtocol, password string) []byte {
	id := sha256.Sum256(append([]byte{byte(auth)}, password...))
	entry := k.known.update(id, func(e *passwordKey) *passwordKey {
		if e == nil {
			e = new(passwordKey)
		}
		return e
	})
	entry.once.Do(func() { // many jobs at once: one of them hashes
		const stretch = 1 << 20
		repeated := make([]byte, 0, 4096+len(password))
		for len(repeated) < 4096 {
			repeated = append(repeated, password...)
		}
		hash := auth.HashType().New()
		for left := stretch; left > 0; left -= len(repeated) {
			_, _ = hash.Write(repeated[:min(left, len(repeated))])
		}
		entry.key = hash.Sum(nil)
	})
	return entry.key
}

// localised returns the key of a password at an engine (RFC 3414, 2.6).
func (k *keyring) localised(auth gosnmp.SnmpV3AuthProtocol, password, engine string) []byte {
	key := k.ofPassword(auth, password)
	hash := auth.HashType().New()
	_, _ = hash.Write(key)
	_, _ = hash.Write([]byte(engine))
	_, _ = hash.Write(key)
	return hash.Sum(nil)
}

// privacy returns the key for encryption. Hashes that are shorter than the key
// are extended in one of two ways: by the draft of Blumenthal for AES-192 and
// AES-256, by that of Reeder, as Cisco does, for AES-192-C and AES-256-C.
func (k *keyring) privacy(auth gosnmp.SnmpV3AuthProtocol, priv gosnmp.SnmpV3PrivProtocol, password, engine string) []byte {
	key := k.localised(auth, password, engine)
	length := len(key)
	switch priv {
	case gosnmp.AES:
		length = 16
	case gosnmp.AES192, gosnmp.AES192C:
		length = 24
	case gosnmp.AES256, gosnmp.AES256C:
		length = 32
	default:
	}
	if len(key) >= length {
		return key[:length]
	}
	if priv == gosnmp.AES192 || priv == gosnmp.AES256 {
		hash := auth.HashType().New()
		_, _ = hash.Write(key)
		return append(key, hash.Sum(nil)...)[:length]
	}
	return append(key, k.localised(auth, string(key), engine)...)[:length]
}

// fit gives the security parameters of a user their keys for their engine.
func (k *keyring) fit(sp *gosnmp.UsmSecurityParameters) {
	if sp.AuthenticationProtocol > gosnmp.NoAuth {
		sp.SecretKey = k.localised(sp.AuthenticationProtocol, sp.AuthenticationPassphrase, sp.AuthoritativeEngineID)
	}
	if sp.PrivacyProtocol > gosnmp.NoPriv {
		sp.PrivacyKey = k.privacy(sp.AuthenticationProtocol, sp.PrivacyProtocol, sp.PrivacyPassphrase, sp.AuthoritativeEngineID)
	}
}
