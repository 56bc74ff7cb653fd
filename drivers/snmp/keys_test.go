package snmp

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"sync"
	"testing"

	"github.com/gosnmp/gosnmp"
)

// The keys of RFC 3414, A.3.
func TestKeysOfTheRFC(t *testing.T) {
	t.Parallel()
	engine := string([]byte{0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2})
	for auth, want := range map[gosnmp.SnmpV3AuthProtocol]string{
		gosnmp.MD5: "526f5eed9fcce26f8964c2930787d82b",
		gosnmp.SHA: "6695febc9288e36282235fc7151f128497b38f3f",
	} {
		if got := hex.EncodeToString(newKeyring().localised(auth, "maplesyrup", engine)); got != want {
			t.Errorf("%s: got %s, want %s", auth, got, want)
		}
	}
}

func TestKeysAgreeWithTheLibrary(t *testing.T) {
	t.Parallel()
	ring := newKeyring()
	for name, auth := range authProtocols() {
		for privName, priv := range privProtocols() {
			if auth == gosnmp.NoAuth && priv != gosnmp.NoPriv {
				continue
			}
			for _, engine := range []string{"\x80\x00\x1f\x88\x80one", "\x80\x00\x1f\x88\x80two"} {
				ours := &gosnmp.UsmSecurityParameters{
					AuthoritativeEngineID: engine, AuthenticationProtocol: auth, AuthenticationPassphrase: "first password",
					PrivacyProtocol: priv, PrivacyPassphrase: "second password, of another length",
				}
				theirs, ok := ours.Copy().(*gosnmp.UsmSecurityParameters)
				if !ok {
					t.Fatal("not a copy")
				}
				if err := theirs.InitSecurityKeys(); err != nil {
					t.Fatal(err)
				}
				ring.fit(ours)
				if !bytes.Equal(ours.SecretKey, theirs.SecretKey) || !bytes.Equal(ours.PrivacyKey, theirs.PrivacyKey) {
					t.Errorf("%q %q: got %x and %x, want %x and %x", name, privName, ours.SecretKey, ours.PrivacyKey, theirs.SecretKey, theirs.PrivacyKey)
				}
			}
		}
	}
}

func TestKeysAreBoundedAndShared(t *testing.T) {
	t.Parallel()
	ring := &keyring{newLRU[[32]byte, *passwordKey](3)}
	var wg sync.WaitGroup
	for i := range 16 {
		wg.Go(func() { ring.localised(gosnmp.SHA, fmt.Sprint("password", i%4), "engine") })
	}
	wg.Wait()
	if n := len(ring.known.items); n != 3 {
		t.Errorf("%d keys are kept", n)
	}
}

// A device that is new costs two hashes where its password is known.
func BenchmarkKeysOfANewEngine(b *testing.B) {
	ring := newKeyring()
	n := 0
	b.Run("ours", func(b *testing.B) {
		for b.Loop() {
			n++
			ring.privacy(gosnmp.SHA, gosnmp.AES, "a long password", fmt.Sprint("engine", n))
		}
	})
	b.Run("library", func(b *testing.B) {
		for b.Loop() {
			n++
			_ = (&gosnmp.UsmSecurityParameters{
				AuthoritativeEngineID: fmt.Sprint("engine", n), AuthenticationProtocol: gosnmp.SHA, AuthenticationPassphrase: "a long password",
				PrivacyProtocol: gosnmp.AES, PrivacyPassphrase: "a long password",
			}).InitSecurityKeys()
		}
	})
}
