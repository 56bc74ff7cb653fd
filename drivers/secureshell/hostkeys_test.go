package secureshell

import (
	"crypto/ed25519"
	"crypto/rand"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"golang.org/x/crypto/ssh"
)

func newKey(t testing.TB) ssh.PublicKey {
	t.Helper()
	public, _, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	key, err := ssh.NewPublicKey(public)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// TestFirstKeyWins lets several processes (a store each) meet several keys of
// each device at once: exactly one key of a device is kept, and all agree.
func TestFirstKeyWins(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	const stores, devices = 6, 20
	var wg sync.WaitGroup
	var kept [devices]atomic.Int32
	for range stores {
		keys := OpenHostKeys(dir)
		wg.Go(func() {
			for i := range devices {
				stored, err := keys.add(fmt.Sprintf("192.0.2.%d:22", i), newKey(t))
				if err != nil {
					t.Error(err)
				}
				if stored {
					kept[i].Add(1)
				}
			}
		})
	}
	wg.Wait()
	for i := range kept {
		if n := kept[i].Load(); n != 1 {
			t.Errorf("device %d: %d keys were taken for the first", i, n)
		}
	}
	content, err := os.ReadFile(filepath.Join(dir, knownHostsName))
	if err != nil || strings.Count(string(content), "\n") != devices {
		t.Errorf("known_hosts has %d lines, %v", strings.Count(string(content), "\n"), err)
	}
}

func TestAnEditedFileIsSeen(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	keys, key := OpenHostKeys(dir), newKey(t)
	if stored, err := keys.add("[2001:db8::1]:2222", key); !stored || err != nil {
		t.Fatal(stored, err)
	}
	if known, err := keys.lookup("[2001:db8::1]:2222"); len(known) != 1 || err != nil {
		t.Fatalf("got %v, %v", known, err)
	}
	path := filepath.Join(dir, knownHostsName)
	if err := os.WriteFile(path, []byte("# a person was here\nnot a line\n192.0.2.1 "+string(ssh.MarshalAuthorizedKey(key))), 0o600); err != nil {
		t.Fatal(err)
	}
	if known, err := keys.lookup("[2001:db8::1]:2222"); len(known) != 0 || err != nil {
		t.Errorf("a removed line is still known: %v, %v", known, err)
	}
	if known, err := keys.lookup("192.0.2.1:22"); len(known) != 1 || err != nil {
		t.Errorf("an added line is not known: %v, %v", known, err)
	}
	if err := os.WriteFile(path, []byte("cut in the mid"), 0o600); err != nil {
		t.Fatal(err)
	}
	if stored, err := keys.add("192.0.2.2:22", key); !stored || err != nil {
		t.Fatal(stored, err)
	}
	if known, _ := OpenHostKeys(dir).lookup("192.0.2.2:22"); len(known) != 1 {
		t.Error("a line behind a cut one is lost")
	}
}

func TestPins(t *testing.T) {
	t.Parallel()
	key, other := newKey(t), newKey(t)
	line := strings.TrimSpace(string(ssh.MarshalAuthorizedKey(key)))
	for _, s := range []string{ssh.FingerprintSHA256(key), ssh.FingerprintSHA256(key) + "=", line, line + " a comment", "host " + line, "  " + line + "\n"} {
		p, err := parsePin(s)
		if err != nil || !p.set() || !p.matches(key) || p.matches(other) {
			t.Errorf("%q: %v, matches %t, another %t", s, err, err == nil && p.matches(key), err == nil && p.matches(other))
		}
	}
	for _, s := range []string{"SHA256:", "SHA256:AAAA", "MD5:00:11", "ssh-ed25519", "nonsense", line[:40]} {
		if err := CheckPin(s); err == nil {
			t.Errorf("%q is taken for a pin", s)
		}
	}
	if err := CheckPin(""); err != nil {
		t.Errorf("no pin: %v", err)
	}
}

// FuzzPin demands that no pin breaks its reader or pins nothing unseen.
func FuzzPin(f *testing.F) {
	f.Add("SHA256:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU")
	f.Add("ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGPKSUTyz1HwHReFVvD5obVsALAgJRNarH4TRpNePnAS x")
	f.Fuzz(func(t *testing.T, s string) {
		p, err := parsePin(s)
		if err == nil && !p.set() && strings.TrimSpace(s) != "" {
			t.Fatalf("%q pins nothing", s)
		}
	})
}
