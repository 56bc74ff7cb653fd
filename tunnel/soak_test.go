package tunnel

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// soak is how many there are of something: few, or with SOAK=1 (`make soak`)
// as many as it takes to see a slow leak.
func soak(few, many int) int {
	if soaking() {
		return many
	}
	return few
}

func soaking() bool { return os.Getenv("SOAK") == "1" }

// residue is what a process holds on to.
type residue struct{ goroutines, descriptors, heapKiB, rssKiB int }

func (r residue) String() string {
	return fmt.Sprintf("%d goroutines, %d descriptors, heap %d KiB, resident %d KiB", r.goroutines, r.descriptors, r.heapKiB, r.rssKiB)
}

// measureResidue gives back to the system first what nobody uses any more.
func measureResidue(t *testing.T) residue {
	t.Helper()
	runtime.GC()
	debug.FreeOSMemory() // collects once more
	var memory runtime.MemStats
	runtime.ReadMemStats(&memory)
	files, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	r := residue{goroutines: runtime.NumGoroutine(), descriptors: len(files), heapKiB: int(memory.HeapAlloc >> 10)}
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := bytes.Cut(status, []byte("VmRSS:"))
	if _, err := fmt.Sscan(string(rest), &r.rssKiB); err != nil {
		t.Fatalf("VmRSS in /proc/self/status: %v", err)
	}
	return r
}

// noSlope demands that the later half of many cycles left next to nothing. The
// first half may fill caches and pools; a leak goes on. The live heap is the
// sharp measure: a device alone takes hundreds of KiB, the timer of a forgotten
// deadline with what hangs on it four. Resident memory has the
// runtime's own fragments in it.
func noSlope(t *testing.T, cycles int, middle, end residue) {
	t.Helper()
	if grown := end.heapKiB - middle.heapKiB; grown > 256+cycles {
		t.Errorf("the live heap grew by %d KiB in %d cycles", grown, cycles)
	}
	if grown := end.rssKiB - middle.rssKiB; grown > 16<<10+32*cycles {
		t.Errorf("resident memory grew by %d KiB in %d cycles", grown, cycles)
	}
	if grown := end.descriptors - middle.descriptors; grown > cycles/10 { // io.Copy's pipes come and go
		t.Errorf("%d more descriptors after %d cycles", grown, cycles)
	}
}

// junk sends n datagrams that no peer would, and demands not one back. Its
// socket is the only one whose address the hub hears of, and it takes what
// comes from anywhere.
func junk(t *testing.T, h *Hub, n int) {
	t.Helper()
	c, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	to := netip.MustParseAddrPort(local(h))
	random := rand.New(rand.NewChaCha8([32]byte{5}))
	noise := make([]byte, 1<<16)
	for i := range noise {
		noise[i] = byte(random.Uint32())
	}
	lostBefore := droppedAt(t, to.Port())
	for i := range n {
		if i%256 == 0 { // what the kernel drops tests nothing
			eventually(t, "the hub takes what it was sent", func() bool {
				waiting, _, ok := receiveQueue(t, to.Port())
				return ok && waiting < 1<<16
			})
		}
		b := junkDatagram(random, noise, i)
		if _, err := c.WriteToUDPAddrPort(b, to); err != nil && !errors.Is(err, syscall.ENOBUFS) {
			t.Fatal(err)
		}
	}
	if err := c.SetReadDeadline(time.Now().Add(500 * time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	if got, from, err := c.ReadFromUDPAddrPort(make([]byte, 1<<16)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("%v answered junk with %d bytes (%v)", from, got, err)
	}
	lost := droppedAt(t, to.Port()) - lostBefore
	t.Logf("%d datagrams of junk, of which the hub's kernel dropped %d: no answer", n, lost)
	if lost > n/2 {
		t.Errorf("most of the junk never reached the hub")
	}
}

// junkDatagram is noise of a random size, or of the size of a message of
// WireGuard; every other begins as one does.
func junkDatagram(random *rand.Rand, noise []byte, i int) []byte {
	size := 1 + random.IntN(1400)
	if i%3 == 0 {
		sizes := []int{0, 1, 4, 32, 64, 92, 148}
		size = sizes[random.IntN(len(sizes))]
	}
	at := random.IntN(len(noise) - size)
	b := noise[at : at+size]
	if i%2 == 0 && size >= 4 {
		copy(b, []byte{byte(1 + random.IntN(4)), 0, 0, 0}) // message types 1 to 4
	}
	return b
}

func droppedAt(t *testing.T, port uint16) (dropped int) {
	t.Helper()
	eventually(t, "the kernel's table names the hub's socket", func() (ok bool) {
		_, dropped, ok = receiveQueue(t, port)
		return ok
	})
	return dropped
}

// receiveQueue says how many bytes wait in the kernel for a UDP port, and how
// many datagrams it has dropped. The table may miss a socket while others come
// and go: ok is then false. It is this thread's table: that of the process is
// its main thread's, which another test may have sent into another namespace.
func receiveQueue(t *testing.T, port uint16) (waiting uint64, dropped int, ok bool) {
	t.Helper()
	table, err := os.ReadFile("/proc/thread-self/net/udp")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(table)) {
		f := strings.Fields(line)
		if len(f) < 13 || !strings.HasSuffix(f[1], fmt.Sprintf(":%04X", port)) {
			continue
		}
		_, queue, _ := strings.Cut(f[4], ":")
		if waiting, err = strconv.ParseUint(queue, 16, 64); err != nil {
			t.Fatal(err)
		}
		if dropped, err = strconv.Atoi(f[12]); err != nil {
			t.Fatal(err)
		}
		return waiting, dropped, true
	}
	return 0, 0, false
}
