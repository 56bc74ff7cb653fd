package icmp

import (
	"net/netip"
	"runtime"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

const patience = 30 * time.Second // of a busy machine

// ownSpace puts the test into a network namespace of its own. A new one lets
// nobody ping without privileges (net.ipv4.ping_group_range). Its thread is never given back.
func ownSpace(t *testing.T) {
	t.Helper()
	runtime.LockOSThread()
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		t.Fatal("the test needs a network namespace:", err)
	}
	control, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(control)
	lo, err := unix.NewIfreq("lo")
	if err != nil {
		t.Fatal(err)
	}
	lo.SetUint16(unix.IFF_UP)
	if err := unix.IoctlIfreq(control, unix.SIOCSIFFLAGS, lo); err != nil {
		t.Fatal(err)
	}
}

func openRaw(t *testing.T, v6 bool) *socket {
	t.Helper()
	s, err := open(v6)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.close)
	if !s.raw {
		t.Fatal("the socket is not a raw one")
	}
	return s
}

// ask pings and waits for the reply.
func ask(t *testing.T, s *socket, addr netip.Addr, size int) uint16 {
	t.Helper()
	replies := make(chan echo, 1)
	seq, err := s.expect(waiter{replies, addr})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.send(addr, seq, size); err != nil {
		t.Fatal(err)
	}
	select {
	case e := <-replies:
		if e.err != nil {
			t.Fatal(e.err)
		}
	case <-time.After(patience):
		t.Fatalf("%s: no reply of %d bytes", addr, size)
	}
	return seq
}

// Two processes that ping one address with one echo id, as replicas on the
// host's network did that are each process 1 of their container.
func TestRepliesToAnotherSocketDoNotCount(t *testing.T) {
	for _, address := range []string{"127.0.0.1", "::1"} {
		t.Run(address, func(t *testing.T) {
			ownSpace(t)
			addr := netip.MustParseAddr(address)
			mine, other := openRaw(t, addr.Is6()), openRaw(t, addr.Is6())
			if mine.mark == other.mark {
				t.Fatal("two sockets have one mark")
			}
			other.mark.id = mine.mark.id
			replies := make(chan echo, 1)
			seq, err := mine.expect(waiter{replies, addr}) // is never sent
			if err != nil {
				t.Fatal(err)
			}
			if taken := ask(t, other, addr, 56); taken != seq {
				t.Fatalf("the other socket's number is %d, not %d", taken, seq)
			}
			ask(t, mine, addr, 56) // what came before was seen
			if len(replies) > 0 {
				t.Error("a reply to another socket counts")
			}
		})
	}
}

// Replies too short for the whole mark count all the same.
func TestShortRepliesCount(t *testing.T) {
	for _, address := range []string{"127.0.0.1", "::1"} {
		t.Run(address, func(t *testing.T) {
			ownSpace(t)
			addr := netip.MustParseAddr(address)
			s := openRaw(t, addr.Is6())
			for _, size := range []int{0, 1, 7, 8, 9} {
				ask(t, s, addr, size)
			}
		})
	}
}
