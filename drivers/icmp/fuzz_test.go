package icmp

import (
	"net/netip"
	"testing"
)

// FuzzHandle demands that no packet breaks the socket, that none is taken for
// more than one answer, and that a reply counts from the one it was asked of
// only.
func FuzzHandle(f *testing.F) {
	f.Add([]byte{0, 0, 0, 0, 0, 9, 0, 1}, false, true)
	f.Add([]byte{0, 0, 0, 0, 0, 9, 0, 1, 1, 2, 3, 4, 5, 6, 7, 8, 8}, false, true)
	f.Add([]byte{129, 0, 0, 0, 0, 9, 0, 1}, true, true)
	quoted := append([]byte{11, 0, 0, 0, 0, 0, 0, 0, 0x45, 0, 0, 28, 0, 0, 0, 0, 1, 1, 0, 0, 127, 0, 0, 1, 127, 0, 0, 2}, 8, 0, 0, 0, 0, 9, 0, 1)
	f.Add(quoted, false, true)
	f.Add([]byte{3, 3, 0, 0, 0, 0, 0, 0, 0x4f}, false, false)
	asked, other := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2")
	f.Fuzz(func(t *testing.T, packet []byte, v6, raw bool) {
		for _, from := range []netip.Addr{asked, other} {
			replies := make(chan echo, 2)
			s := &socket{v6: v6, raw: raw, mark: mark{id: 9, token: [8]byte{1, 2, 3, 4, 5, 6, 7, 8}}, waiting: map[uint16]waiter{1: {replies: replies, of: asked}}}
			s.handle(packet, echo{from: from})
			s.handle(packet, echo{from: from})
			if len(replies) > 1 || len(replies)+len(s.waiting) != 1 {
				t.Fatalf("%d replies, %d wait", len(replies), len(s.waiting))
			}
			if len(replies) == 1 && from == other && (<-replies).err == nil {
				t.Fatal("somebody else's reply counts")
			}
		}
	})
}
