package main

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

const handWritten = `# the hub's peers, by hand

[Peer]   # the old one
# Name = sat-1
PublicKey = AAAA
AllowedIPs = 10.77.0.2/32, fd77::2/128
# Name is above

# a note about nobody
[Peer]
# Name = sat-2/1
PublicKey = BBBB
AllowedIPs = 10.77.0.4/31

[Peer]
# Name = sat-2/2
PublicKey = CCCC
AllowedIPs = 10.77.1.0/32
`

func parsed(t *testing.T, text string) *peersFile {
	t.Helper()
	f, err := parsePeersFile([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func TestPeersFileKeepsWhatItDoesNotTouch(t *testing.T) {
	t.Parallel()
	f := parsed(t, handWritten)
	if got := f.String(); got != handWritten {
		t.Errorf("round trip: got %q", got)
	}
	if err := f.add("[Peer]\n# Name = sat-3\nPublicKey = DDDD\nAllowedIPs = 10.77.0.9/32\n"); err != nil {
		t.Fatal(err)
	}
	if n := f.remove("3"); n != 1 || f.String() != handWritten {
		t.Errorf("add and remove: %d removed, got %q", n, f)
	}
}

func TestPeersFileRemovesOneSatelliteOnly(t *testing.T) {
	t.Parallel()
	f := parsed(t, handWritten)
	if n := f.remove("2"); n != 2 {
		t.Errorf("removed %d, want 2", n)
	}
	got := f.String()
	if strings.Contains(got, "BBBB") || strings.Contains(got, "CCCC") || !strings.Contains(got, "AAAA") || !strings.Contains(got, "a note") {
		t.Errorf("left %q", got)
	}
	if n := f.remove("2"); n != 0 {
		t.Errorf("removed %d again", n)
	}
	if n := parsed(t, strings.ReplaceAll(handWritten, "sat-2", "sat-20")).remove("2"); n != 0 {
		t.Error("sat-20 was taken for sat-2")
	}
}

func TestFreeAddresses(t *testing.T) {
	t.Parallel()
	network, hub := netip.MustParsePrefix("10.77.0.0/16"), netip.MustParseAddr("10.77.0.1")
	got, err := freeAddresses(network, hub, parsed(t, handWritten), 3)
	if err != nil || fmt.Sprint(got) != "[10.77.0.3 10.77.0.6 10.77.0.7]" {
		t.Errorf("got %v, %v", got, err)
	}
	small := netip.MustParsePrefix("10.77.0.0/29") // .1 hub, .2 .4 .5 taken, .7 broadcast
	if got, err := freeAddresses(small, hub, parsed(t, handWritten), 2); err != nil || fmt.Sprint(got) != "[10.77.0.3 10.77.0.6]" {
		t.Errorf("got %v, %v", got, err)
	}
	if _, err := freeAddresses(small, hub, parsed(t, handWritten), 3); err == nil || !strings.Contains(err.Error(), "--network") {
		t.Errorf("a full network: %v", err)
	}
}

// TestChangePeersLosesNoChange has many writers at one file.
func TestChangePeersLosesNoChange(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "peers.conf")
	if err := os.WriteFile(path, []byte(handWritten), 0o640); err != nil {
		t.Fatal(err)
	}
	const writers = 20
	var wg sync.WaitGroup
	for i := range writers {
		wg.Go(func() {
			err := changePeers(path, func(f *peersFile) error {
				free, err := freeAddresses(netip.MustParsePrefix("10.77.0.0/16"), netip.MustParseAddr("10.77.0.1"), f, 1)
				if err != nil {
					return err
				}
				return f.add(fmt.Sprintf("[Peer]\n# Name = sat-%d\nPublicKey = K%d\nAllowedIPs = %s/32\n", 100+i, i, free[0]))
			})
			if err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	addresses := map[string]bool{}
	for _, b := range parsed(t, string(content)).blocks {
		addresses[b.allowed[0].String()] = true
	}
	if len(addresses) != 3+writers {
		t.Errorf("%d different addresses, want %d", len(addresses), 3+writers)
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o640 {
		t.Errorf("mode %v, %v; want it kept", info.Mode(), err)
	}
}

func FuzzParsePeersFile(f *testing.F) {
	f.Add(handWritten)
	f.Fuzz(func(t *testing.T, text string) {
		peers, err := parsePeersFile([]byte(text))
		if err != nil {
			return
		}
		before := peers.String()
		if err := peers.add("[Peer]\n# Name = sat-new\nPublicKey = X\nAllowedIPs = 10.9.9.9/32\n"); err != nil {
			t.Fatal(err)
		}
		if len(peers.of("new")) == 0 {
			t.Fatalf("the block is not found in %q", peers)
		}
		if !strings.HasPrefix(peers.String(), before) {
			t.Fatalf("adding changed %q", before)
		}
	})
}
