package main

import (
	"crypto/ecdh"
	"crypto/rand"
	"encoding/base64"
	"fmt"

	"usm-satellite/jobs"
)

const wgKeyLength = 32

// wgKeyPair is a WireGuard identity. The private half may be elsewhere.
type wgKeyPair struct {
	private jobs.Secret // empty: it never leaves the site
	public  string
}

// newKeyPair makes an identity on the spot.
func newKeyPair() (wgKeyPair, error) {
	key, err := ecdh.X25519().GenerateKey(rand.Reader)
	if err != nil {
		return wgKeyPair{}, fmt.Errorf("make a key: %w", err)
	}
	bytes := key.Bytes()
	clamp(bytes)
	private := jobs.NewSecret(base64.StdEncoding.EncodeToString(bytes))
	public, err := publicOf(private)
	return wgKeyPair{private, public}, err
}

// clamp sets the bits that RFC 7748, section 5, fixes, so that the key is
// written as wg genkey would write it. X25519 does the same when it computes.
func clamp(key []byte) {
	key[0] &= 248
	key[31] = key[31]&127 | 64
}

// publicOf returns the public half of a private key in base64. Its error does
// not quote the key.
func publicOf(private jobs.Secret) (string, error) {
	bytes, err := base64.StdEncoding.DecodeString(private.Reveal())
	if err != nil || len(bytes) != wgKeyLength {
		return "", fmt.Errorf("is no WireGuard key: it must be %d bytes in base64, as wg genkey prints", wgKeyLength)
	}
	key, err := ecdh.X25519().NewPrivateKey(bytes)
	if err != nil {
		return "", fmt.Errorf("is no WireGuard key")
	}
	return base64.StdEncoding.EncodeToString(key.PublicKey().Bytes()), nil
}

// newPresharedKey makes the symmetric key that WireGuard mixes in.
func newPresharedKey() jobs.Secret {
	var key [wgKeyLength]byte
	_, _ = rand.Read(key[:]) // never fails: crypto/rand
	return jobs.NewSecret(base64.StdEncoding.EncodeToString(key[:]))
}

// newPassword makes a password of 192 bits that needs no escape in a DSN, a
// compose file or a shell.
func newPassword() jobs.Secret {
	var random [24]byte
	_, _ = rand.Read(random[:]) // never fails: crypto/rand
	return jobs.NewSecret(base64.RawURLEncoding.EncodeToString(random[:]))
}

func validPublicKey(text string) bool {
	bytes, err := base64.StdEncoding.DecodeString(text)
	return err == nil && len(bytes) == wgKeyLength
}
