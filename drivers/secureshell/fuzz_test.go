package secureshell

import (
	"testing"

	"golang.org/x/crypto/ssh/knownhosts"
)

// FuzzKnownHosts demands that no file breaks the reader, and that each key
// that it takes is found again in what is written of it.
func FuzzKnownHosts(f *testing.F) {
	const key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGPKSUTyz1HwHReFVvD5obVsALAgJRNarH4TRpNePnAS"
	f.Add([]byte("192.0.2.1 " + key + "\n[192.0.2.2]:2222,sw " + key + "\n"))
	f.Add([]byte("@revoked * " + key + "\n|1|a|b " + key + "\n192.0.2.3 ssh-rsa AAAA"))
	f.Fuzz(func(t *testing.T, content []byte) {
		for host, keys := range parseKnownHosts(content) {
			for _, key := range keys {
				if key == nil {
					t.Fatalf("%q has no key", host)
				}
				if again := parseKnownHosts([]byte(knownhosts.Line([]string{"192.0.2.9"}, key))); len(again["192.0.2.9"]) != 1 {
					t.Fatalf("the key of %q does not come back", host)
				}
			}
		}
	})
}
