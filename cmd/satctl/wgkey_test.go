package main

import (
	"os/exec"
	"strings"
	"testing"

	"usm-satellite/jobs"
)

// TestKeysAreThoseOfWireGuard compares with the tool of WireGuard itself.
func TestKeysAreThoseOfWireGuard(t *testing.T) {
	t.Parallel()
	for range 20 {
		keys, err := newKeyPair()
		if err != nil {
			t.Fatal(err)
		}
		wg := exec.CommandContext(t.Context(), "wg", "pubkey")
		wg.Stdin = strings.NewReader(keys.private.Reveal() + "\n")
		want, err := wg.Output()
		if err != nil {
			t.Fatalf("wg pubkey (Debian package wireguard-tools) is needed: %v", err)
		}
		if got := keys.public; got != strings.TrimSpace(string(want)) {
			t.Fatalf("public key: got %s, want %s", got, want)
		}
	}
}

func TestPublicOfQuotesNothing(t *testing.T) {
	t.Parallel()
	for _, text := range []string{"", "canary", "Y2FuYXJ5", "canary canary canary canary canary canary canary="} {
		if _, err := publicOf(jobs.NewSecret(text)); err == nil || strings.Contains(err.Error(), "canary") {
			t.Errorf("%q: got %v", text, err)
		}
	}
}
