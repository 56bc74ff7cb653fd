package drivers

import (
	"encoding/binary"
	"net"
	"strings"
	"testing"
	"time"

	"usm-satellite/jobs"
)

// What the site of threeSpaces has beside its device, once ways has made it.
const (
	pingedHost       = "192.0.2.18"
	silentHost       = "192.0.2.33" // the router drops what is for it
	forbiddenHost    = "192.0.2.49" // the router says that it lets nothing through to it
	missingNeighbour = "192.0.2.9"
)

// ways lays out a site, and puts the test at its satellite. The device answers
// pings as peer says: its kernel does not.
func ways(t *testing.T, peer *echoPeer) {
	t.Helper()
	space := threeSpaces(t)
	script(t, strings.NewReplacer("RR", strings.TrimSuffix(space, "s")+"r", "DD", strings.TrimSuffix(space, "s")+"d").Replace(`
		ip -n RR route add blackhole 192.0.2.32/28
		ip -n RR route add prohibit 192.0.2.48/28
		ip netns exec DD sysctl -qw net.ipv4.icmp_echo_ignore_all=1
	`))
	if peer != nil {
		opened := make(chan error)
		go func() { // its thread is of the device from here on
			enter(t, strings.TrimSuffix(space, "s")+"d")
			var err error
			peer.conn, err = net.ListenPacket("ip4:icmp", "0.0.0.0")
			opened <- err
		}()
		if err := <-opened; err != nil {
			t.Fatal(err)
		}
		done := make(chan struct{})
		go func() {
			defer close(done)
			peer.serve()
		}()
		t.Cleanup(func() {
			peer.conn.Close()
			<-done
		})
	}
	enter(t, space)
}

// echoPeer answers pings (RFC 792) late, wrongly, or not all of them.
type echoPeer struct {
	delay  time.Duration
	most   int // answers; 0: any number
	garble bool
	conn   net.PacketConn
}

func (p *echoPeer) serve() {
	packet := make([]byte, 65535)
	for count := 1; ; {
		n, from, err := p.conn.ReadFrom(packet)
		if err != nil {
			return
		}
		if n < 8 || packet[0] != 8 || p.most > 0 && count > p.most {
			continue
		}
		count++
		time.Sleep(p.delay)
		reply := packet[:n]
		reply[0] = 0
		if p.garble {
			for i := 4; i < n; i++ { // another id, number and content
				reply[i] ^= 0x55
			}
		}
		binary.BigEndian.PutUint16(reply[2:], 0)
		binary.BigEndian.PutUint16(reply[2:], checksum(reply))
		_, _ = p.conn.WriteTo(reply, from)
	}
}

// checksum is that of RFC 1071.
func checksum(b []byte) uint16 {
	sum := uint32(0)
	for i := range b {
		sum += uint32(b[i]) << (8 * (1 - i%2))
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}

func to(address string) map[string]any {
	return map[string]any{"target": map[string]any{"address": address, "port": 9}}
}

func wants(t *testing.T, r attempted, code jobs.Code) {
	t.Helper()
	if r.fault == nil || r.fault.Code != code {
		t.Errorf("got %v, want %s: %s", r.fault, code, r.data)
	}
	if r.took > 30*time.Second {
		t.Errorf("it took %s", r.took)
	}
}

func pingRefused(t *testing.T, c conformer) {
	ways(t, nil)
	wants(t, attempt(t, t.Context(), c, to(forbiddenHost)), jobs.CodeUnreachable)
}

func pingSilent(t *testing.T, c conformer) {
	ways(t, nil)
	wants(t, attempt(t, t.Context(), c, with(to(silentHost), "timeout_ms", 2000)), jobs.CodeTimeout)
}

// Replies that take longer than the time between two pings count.
func pingSlow(t *testing.T, c conformer) {
	ways(t, &echoPeer{delay: 150 * time.Millisecond})
	r := attempt(t, t.Context(), c, to(pingedHost))
	if r.fault != nil || !strings.Contains(r.data, `"received":2`) {
		t.Errorf("got %v, %s", r.fault, r.data)
	}
}

func pingGarbled(t *testing.T, c conformer) {
	ways(t, &echoPeer{garble: true})
	wants(t, attempt(t, t.Context(), c, with(to(pingedHost), "timeout_ms", 2000)), jobs.CodeTimeout)
}

func pingDropped(t *testing.T, c conformer) {
	ways(t, &echoPeer{most: 1})
	r := attempt(t, t.Context(), c, to(pingedHost))
	if r.fault != nil || !strings.Contains(r.data, `"received":1`) || !strings.Contains(r.data, `"loss_pct":50`) {
		t.Errorf("got %v, %s", r.fault, r.data)
	}
}

func connectSilent(t *testing.T, c conformer) {
	ways(t, nil)
	wants(t, attempt(t, t.Context(), c, with(to(silentHost), "timeout_ms", 1000)), jobs.CodeTimeout)
}

func neighbourSilent(t *testing.T, c conformer) {
	ways(t, nil)
	wants(t, attempt(t, t.Context(), c, to(missingNeighbour)), jobs.CodeUnreachable)
}

// Hops that are silent are a finding; they end all the same.
func routeSilent(t *testing.T, c conformer) {
	ways(t, nil)
	r := attempt(t, t.Context(), c, with(to(silentHost), "params", map[string]any{"max_hops": 2, "probes": 1}))
	if r.fault != nil || !strings.Contains(r.data, `"reached":false`) || strings.Count(r.data, `"ttl":`) != 2 {
		t.Errorf("got %v, %s", r.fault, r.data)
	}
	if r.took > 30*time.Second {
		t.Errorf("it took %s", r.took)
	}
}

// cancelledInSpace cancels a job that waits for an address which says nothing.
func cancelledInSpace(address string) func(*testing.T, conformer) {
	return func(t *testing.T, c conformer) {
		ways(t, nil)
		cancelDuring(t, c, func() (map[string]any, <-chan struct{}) {
			underWay := make(chan struct{})
			time.AfterFunc(200*time.Millisecond, func() { close(underWay) })
			return to(address), underWay
		})
	}
}
