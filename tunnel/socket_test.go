//go:build linux

package tunnel

import (
	"bytes"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"testing"

	"golang.zx2c4.com/wireguard/conn"
)

// A hub with several addresses answers from the one that it was asked at: the
// proxy takes nothing from another one, as a NAT does not.
func TestHubAnswersFromWhereItWasAsked(t *testing.T) {
	t.Parallel()
	s, key := newSite(7), NewPrivateKey()
	h, _ := startHub(t, hubConfig(key, startEcho(t), s), quiet())
	p := startProxy(t, 51, fmt.Sprintf("127.0.0.9:%d", h.UDPPort()))
	tun := startTunnel(t, s.config(key.Public(), p.Addr()), quiet())
	c := dial(t, tun, inner(hubAddr4()))
	if err := say(c, "a word"); err != nil {
		t.Fatal(err)
	}
	exchange(t, c, 5, 1<<20)
}

// Batches of datagrams of many sizes arrive whole and one by one, by both
// families, whether the kernel merges and cuts them or not, and the answers
// come from the address that was asked.
func TestSocketKeepsDatagrams(t *testing.T) {
	for _, tt := range []struct {
		name, from, asked string
		single            bool
	}{
		{"IPv4", "127.0.0.1", "127.0.0.9", false},
		{"IPv4, uncut", "127.0.0.1", "127.0.0.9", true},
		{"IPv6", "::1", "::1", false},
		{"IPv6, uncut", "::1", "::1", true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			a, b := openSocket(t), openSocket(t)
			if tt.single {
				a.family(tt.asked).single.Store(true)
				b.family(tt.asked).single.Store(true)
			}
			to, err := a.ParseEndpoint(netip.AddrPortFrom(netip.MustParseAddr(tt.asked), b.family(tt.asked).port()).String())
			if err != nil {
				t.Fatal(err)
			}
			var sent [][]byte
			for i, size := range []int{1, 1400, 1400, 1400, 700, 700, 1400, 32, 1400, 1400, 9000, 9000, 1} {
				sent = append(sent, bytes.Repeat([]byte{byte(i + 1)}, size))
			}
			for range 100 {
				sent = append(sent, bytes.Repeat([]byte{0xab}, 500))
			}
			if err := a.Send(sent, to); err != nil {
				t.Fatal(err)
			}
			got, from := b.take(t, tt.asked, len(sent))
			if !slices.EqualFunc(got, sent, bytes.Equal) {
				t.Errorf("%d datagrams arrived of %d, or changed, or in another order", len(got), len(sent))
			}
			if ep := from.(*endpoint); ep.SrcIP().String() != tt.asked {
				t.Errorf("asked at %v, want %s", ep.SrcIP(), tt.asked)
			}
			if err := b.Send([][]byte{[]byte("answer")}, from); err != nil {
				t.Fatal(err)
			}
			_, from = a.take(t, tt.from, 1)
			if got := from.DstIP().String(); got != tt.asked {
				t.Errorf("answered from %s, want %s", got, tt.asked)
			}
		})
	}
}

// An address that this host has no longer is not insisted on.
func TestSocketForgetsAnAddressThatIsGone(t *testing.T) {
	a, b := openSocket(t), openSocket(t)
	e := &endpoint{dst: netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), b.family("127.0.0.1").port())}
	e.to, e.src = net.UDPAddrFromAddrPort(e.dst), source{addr: netip.MustParseAddr("192.0.2.1")}
	control := e.src.control()
	e.control.Store(&control)
	if err := a.Send([][]byte{[]byte("a word")}, e); err != nil {
		t.Fatal(err)
	}
	if got, _ := b.take(t, "127.0.0.1", 1); string(got[0]) != "a word" {
		t.Errorf("got %q", got)
	}
}

func openSocket(t *testing.T) *socket {
	t.Helper()
	s := &socket{}
	if _, _, err := s.Open(0); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

func (s *socket) family(address string) *udpFamily {
	if netip.MustParseAddr(address).Is6() {
		return s.v6
	}
	return s.v4
}

// take receives n datagrams of the family of an address.
func (s *socket) take(t *testing.T, address string, n int) (got [][]byte, from conn.Endpoint) {
	t.Helper()
	bufs := make([][]byte, conn.IdealBatchSize)
	for i := range bufs {
		bufs[i] = make([]byte, 65535)
	}
	sizes, eps := make([]int, len(bufs)), make([]conn.Endpoint, len(bufs))
	for len(got) < n {
		k, err := s.family(address).receive(bufs, sizes, eps)
		if err != nil {
			t.Fatal(err)
		}
		for i := range k {
			got, from = append(got, bytes.Clone(bufs[i][:sizes[i]])), eps[i]
		}
	}
	return got, from
}
