package traceroute

import (
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"
)

// FuzzParse demands that no word of the kernel's about an error breaks the
// reader, and that the target is reached only by its own word.
func FuzzParse(f *testing.F) {
	v4 := []byte{111, 0, 0, 0, unix.SO_EE_ORIGIN_ICMP, 3, 3, 0, 0, 0, 0, 0, 0, 0, 0, 0, unix.AF_INET, 0, 0, 0, 192, 0, 2, 1}
	f.Add(v4)
	f.Add(append([]byte{113, 0, 0, 0, unix.SO_EE_ORIGIN_ICMP6, 3, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, unix.AF_INET6, 0}, make([]byte, 24)...))
	target := netip.MustParseAddr("192.0.2.1")
	f.Fuzz(func(t *testing.T, message []byte) {
		var r reply
		if !parse(message, target, &r) {
			return
		}
		if r.reached && r.Address != target.String() {
			t.Fatalf("reached by the word of %s", r.Address)
		}
		if r.Address == "" && r.Note == "" {
			t.Fatalf("%x says nothing", message)
		}
	})
}
