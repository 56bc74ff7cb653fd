package tunnel

import (
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
)

// Keys that nobody uses, planted to see that they are never printed.
const (
	canaryKey = "2PkD4qYQZr5m0xQ3l7m9Cw7vV8yQk3rJm1nO5tW2s0A="
	canaryPSK = "8Hn1bYw0Tq6m2xR5l9m3Dw1vU4yQk7rJm5nP1tZ6s2Q="
)

func publicText() string { return NewPrivateKey().Public().String() }

func TestParseQuickReadsAWholeFile(t *testing.T) {
	t.Parallel()
	public := publicText()
	text := "\ufeff[Interface] # ours\r\n" +
		"privatekey=" + canaryKey + "\r\n" +
		"Address = 10.77.0.7/32, fd77::7\r\nAddress = 10.78.0.7/24\r\n" +
		"DNS = 10.77.0.1, corp.example\r\nMTU = 1400\r\nListenPort = 0\r\nTable = off\r\nSaveConfig = true\r\n\r\n" +
		"[Peer]\r\n# Name = the hub\r\n# MoreEndpoints = b.example:1, [2001:db8::1]:2\r\nPublicKey = " + public + "\r\n" +
		"PresharedKey = " + canaryPSK + " # shared\r\nEndpoint = a.example:51820\r\n" +
		"AllowedIPs = 10.77.0.1/24,fd77::1/128\r\nPersistentKeepalive = 25\r\n# a comment = of no meaning\r\n"
	c, err := ParseQuick(strings.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	if c.PrivateKey.Reveal() != canaryKey || c.Peer.PresharedKey.Reveal() != canaryPSK || c.Peer.PublicKey.String() != public {
		t.Error("the keys are not those of the file")
	}
	c.PrivateKey, c.Peer.PresharedKey, c.Peer.PublicKey = PrivateKey{}, PresharedKey{}, PublicKey{}
	want := Config{
		Addresses: []netip.Prefix{netip.MustParsePrefix("10.77.0.7/32"), netip.MustParsePrefix("fd77::7/128"), netip.MustParsePrefix("10.78.0.7/24")},
		DNS:       []netip.Addr{netip.MustParseAddr("10.77.0.1")},
		MTU:       1400,
		Peer: Peer{
			Name:       "the hub",
			Endpoints:  []string{"a.example:51820", "b.example:1", "[2001:db8::1]:2"},
			AllowedIPs: []netip.Prefix{netip.MustParsePrefix("10.77.0.0/24"), netip.MustParsePrefix("fd77::1/128")},
			Keepalive:  25 * time.Second,
		},
	}
	if !reflect.DeepEqual(c, want) {
		t.Errorf("got  %+v\nwant %+v", c, want)
	}
}

// quickFile is a good file in which a test replaces or adds lines.
func quickFile(replace map[string]string) string {
	lines := []string{
		"[Interface]", "PrivateKey = " + canaryKey, "Address = 10.77.0.7/32", "",
		"[Peer]", "PublicKey = " + publicText(), "PresharedKey = " + canaryPSK, "Endpoint = hub.example:51820", "AllowedIPs = 10.77.0.1/32", "",
	}
	for i, line := range lines {
		key, _, _ := strings.Cut(line, " ")
		if with, ok := replace[key]; ok && key != "" {
			lines[i] = with
		}
	}
	return strings.Join(lines, "\n") + replace["+"]
}

func TestParseQuickRefuses(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name    string
		replace map[string]string
		want    string
	}{
		{"no private key", map[string]string{"PrivateKey": ""}, "PrivateKey is missing: make one with `wg genkey`"},
		{"a short private key", map[string]string{"PrivateKey": "PrivateKey = " + canaryKey[:30]}, "line 2: PrivateKey is not a WireGuard key"},
		{"a private key in hex", map[string]string{"PrivateKey": "PrivateKey = " + strings.Repeat("ab", 32)}, "line 2: PrivateKey is not a WireGuard key"},
		{"a private key of zeros", map[string]string{"PrivateKey": "PrivateKey = " + strings.Repeat("A", 43) + "="}, "zeros"},
		{"a key without a name", map[string]string{"PrivateKey": canaryKey}, "line 2: is neither [Section] nor Key = value"},
		{"a key for a name", map[string]string{"PrivateKey": canaryKey + " = PrivateKey"}, "line 2: is neither"},
		{"no address", map[string]string{"Address": ""}, "no Address is given"},
		{"a bad address", map[string]string{"Address": "Address = 10.77.0"}, "line 3: Address"},
		{"loopback for an address", map[string]string{"Address": "Address = 127.0.0.1/8"}, "cannot be a host's Address"},
		{"no peer", map[string]string{"[Peer]": "", "PublicKey": "", "PresharedKey": "", "Endpoint": "", "AllowedIPs": ""}, "PublicKey of the peer is missing"},
		{"no endpoint", map[string]string{"Endpoint": ""}, "the peer's Endpoint is missing"},
		{"an endpoint without a port", map[string]string{"Endpoint": "Endpoint = hub.example"}, "line 8: Endpoint is not host:port"},
		{"an endpoint with a bad port", map[string]string{"Endpoint": "Endpoint = hub.example:0"}, "line 8: Endpoint has no port"},
		{"no allowed addresses", map[string]string{"AllowedIPs": ""}, "AllowedIPs of the peer is missing"},
		{"a bad preshared key", map[string]string{"PresharedKey": "PresharedKey = " + canaryPSK[:43]}, "line 7: PresharedKey is not a WireGuard key"},
		{"a bad keepalive", map[string]string{"+": "PersistentKeepalive = often"}, "line 10: PersistentKeepalive is neither off nor"},
		{"a bad MTU", map[string]string{"Address": "MTU = 9000"}, "line 3: MTU is not a number of bytes within"},
		{"an MTU that IPv6 forbids", map[string]string{"Address": "Address = fd77::7\nMTU = 1200"}, "under the 1280 bytes that IPv6 needs"},
		{"commands", map[string]string{"Address": "PostUp = rm -rf /"}, "line 3: PostUp runs commands, which this program does not do"},
		{"a misspelt key", map[string]string{"Address": "Adddress = 10.77.0.7/32"}, "line 3: Adddress is not a setting"},
		{"a key of the other section", map[string]string{"Address": "Endpoint = hub.example:51820"}, "line 3: Endpoint is not a setting"},
		{"an unknown section", map[string]string{"[Peer]": "[Pier]"}, "line 5: [Pier] is not a section"},
		{"an open section", map[string]string{"[Peer]": "[Peer"}, "line 5: starts with [ but"},
		{"a setting before any section", map[string]string{"[Interface]": ""}, "line 2: PrivateKey stands before"},
		{"no value", map[string]string{"Address": "Address ="}, "line 3: Address has no value"},
		{"two peers", map[string]string{"+": "[Peer]\nPublicKey = " + publicText()}, "MoreEndpoints"},
		{"two interfaces", map[string]string{"+": "[Interface]\n"}, "more than one [Interface]"},
		{"bad further endpoints", map[string]string{"+": "# MoreEndpoints = a.example"}, "line 10: # MoreEndpoints is not host:port"},
		{"a line without end", map[string]string{"+": "#" + strings.Repeat("x", maxLine)}, "line 10: is longer"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			_, err := ParseQuick(strings.NewReader(quickFile(tt.replace)))
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Fatalf("got %v, want %q", err, tt.want)
			}
			if leaks(err.Error()) {
				t.Errorf("the error holds a key: %v", err)
			}
		})
	}
	if _, err := ParseQuick(strings.NewReader(quickFile(nil))); err != nil {
		t.Errorf("the unchanged file: %v", err)
	}
}

// leaks says that a text holds a piece of a planted key.
func leaks(text string) bool {
	for _, key := range []string{canaryKey, canaryPSK} {
		raw, err := parseKey(key)
		if err != nil {
			return true
		}
		for _, form := range []string{key[:12], fmt.Sprintf("%x", raw[:6]), fmt.Sprintf("%X", raw[:6]), strings.Trim(fmt.Sprintf("%d", raw[:4]), "[]")} {
			if strings.Contains(text, form) {
				return true
			}
		}
	}
	return false
}

func TestLineErrorNamesTheLine(t *testing.T) {
	t.Parallel()
	_, err := ParseQuick(strings.NewReader("[Interface]\nMTU = x\n"))
	var line *LineError
	if !errors.As(err, &line) || line.Line != 2 || line.Key != "MTU" {
		t.Errorf("got %v", err)
	}
}

func TestKeepaliveForms(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]int{"": 15, "off": 0, "0": 0, "1": 1, "25": 25, "65535": 65535} {
		add := ""
		if text != "" {
			add = "PersistentKeepalive = " + text
		}
		c, err := ParseQuick(strings.NewReader(quickFile(map[string]string{"+": add})))
		if err != nil || c.Peer.keepaliveSeconds() != want {
			t.Errorf("%q: %d seconds (%v), want %d", text, c.Peer.keepaliveSeconds(), err, want)
		}
	}
}

func TestParsePeersRefuses(t *testing.T) {
	t.Parallel()
	key := publicText()
	block := func(key, ips string) string { return "[Peer]\nPublicKey = " + key + "\nAllowedIPs = " + ips + "\n" }
	tests := []struct{ name, text, want string }{
		{"an interface", "[Interface]\n", "line 1: [Interface] is not for this file"},
		{"no key", "[Peer]\n# Name = site 7\nAllowedIPs = 10.77.0.7\n", "peer 1 (site 7) has no PublicKey"},
		{"no addresses", "[Peer]\nPublicKey = " + key + "\n", "has no AllowedIPs"},
		{"the same key twice", block(key, "10.77.0.7") + block(key, "10.77.0.8"), "peers 1 and 2 have the same PublicKey"},
		{"the same address twice", block(key, "10.77.0.7") + block(publicText(), "10.77.0.7/32"), "same address 10.77.0.7/32"},
		{"an address within a network", block(key, "10.77.0.0/24") + block(publicText(), "10.77.0.7"), "lies within"},
		{"a private key twice", "[Peer]\nPublicKey = " + canaryKey[:40] + "\n", "line 2: PublicKey is not a WireGuard key"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			_, err := ParsePeers(strings.NewReader(tt.text))
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Fatalf("got %v, want %q", err, tt.want)
			}
			if leaks(err.Error()) {
				t.Errorf("the error holds a key: %v", err)
			}
		})
	}
	peers, err := ParsePeers(strings.NewReader("# empty\n"))
	if err != nil || len(peers) != 0 {
		t.Errorf("an empty file: %v, %v", peers, err)
	}
}

func TestKeysNeverPrint(t *testing.T) {
	t.Parallel()
	c, err := ParseQuick(strings.NewReader(quickFile(nil)))
	if err != nil {
		t.Fatal(err)
	}
	type hidden struct{ c Config }
	var out strings.Builder
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d", "%t", "%p"} {
		fmt.Fprintf(&out, verb+verb+verb+verb+verb, c, &c, c.PrivateKey, c.Peer.PresharedKey, hidden{c})
	}
	for _, v := range []any{c, &c, c.Peer, c.PrivateKey} {
		data, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		out.Write(data)
		slog.New(slog.NewTextHandler(&out, nil)).Info("x", "v", v)
		slog.New(slog.NewJSONHandler(&out, nil)).Info("x", "v", v)
	}
	if leaks(out.String()) {
		t.Errorf("a key was printed: %s", out.String())
	}
	if !leaks(c.PrivateKey.Reveal()) || !leaks(c.PrivateKey.hex()) {
		t.Error("the search for leaks finds nothing, not even the key itself")
	}
}

func TestKeys(t *testing.T) {
	t.Parallel()
	// RFC 7748, 6.1: Alice's key pair.
	const private, public = "dwdtCnMYpX08FsFyUbJmRd9ML4frwJkqsXf7pR25LCo=", "hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo="
	k, err := ParsePrivateKey(private)
	if err != nil || k.Public().String() != public {
		t.Errorf("public half = %v (%v), want %s", k.Public(), err, public)
	}
	a, b := NewPresharedKey(), NewPresharedKey()
	if NewPrivateKey().equal(NewPrivateKey().secret) || a.Reveal() == b.Reveal() {
		t.Error("two new keys are the same")
	}
	if !(PrivateKey{}).IsZero() || (PrivateKey{}).Public() != (PublicKey{}) || (PrivateKey{}).Reveal() != "" {
		t.Error("the zero key is not empty")
	}
}

func FuzzParseQuick(f *testing.F) {
	f.Add(quickFile(nil))
	f.Add(quickFile(map[string]string{"+": "# MoreEndpoints = a:1, b:2\nPersistentKeepalive = off"}))
	f.Add("[Interface]\nAddress = ::ffff:1.2.3.4/120\n[Peer]\nAllowedIPs=::/0,0.0.0.0/0")
	f.Fuzz(func(t *testing.T, text string) {
		c, err := ParseQuick(strings.NewReader(text))
		if err != nil {
			if strings.Contains(text, canaryKey) && leaks(err.Error()) {
				t.Errorf("the error holds a key: %v", err)
			}
			return
		}
		if err := c.Validate(); err != nil {
			t.Errorf("taken, but not valid: %v", err)
		}
		if got := readState(peerText(&c.Peer, netip.AddrPort{}, 1)); len(got) != 1 {
			t.Errorf("the device would see %d peers", len(got))
		}
	})
}

func FuzzParsePeers(f *testing.F) {
	f.Add("[Peer]\n# Name = site 7\nPublicKey = " + publicText() + "\nAllowedIPs = 10.77.0.7/32, fd77::7\n")
	f.Add("[Peer]\n[Peer]\n")
	f.Fuzz(func(t *testing.T, text string) {
		peers, err := ParsePeers(strings.NewReader(text))
		if err != nil {
			return
		}
		for _, p := range peers {
			if p.PublicKey.IsZero() || len(p.AllowedIPs) == 0 || slices.ContainsFunc(p.AllowedIPs, func(x netip.Prefix) bool { return x != x.Masked() }) {
				t.Errorf("taken: %+v", p)
			}
			if strings.ContainsAny(p.Name, "\n\r\x1b") {
				t.Errorf("a name with control characters: %q", p.Name)
			}
		}
	})
}
