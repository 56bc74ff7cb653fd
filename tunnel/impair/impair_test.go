package impair

import (
	"encoding/binary"
	"net"
	"net/netip"
	"slices"
	"testing"
	"time"
)

const patience = 60 * time.Second

// target counts what arrives, and from where.
type target struct {
	conn *net.UDPConn
	from []netip.AddrPort
	seqs []uint32
	at   []time.Time
}

func newTarget(t *testing.T) *target {
	t.Helper()
	c, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	enlarge(c)
	t.Cleanup(func() { c.Close() })
	return &target{conn: c}
}

// read takes n datagrams.
func (g *target) read(t *testing.T, n int) {
	t.Helper()
	if err := g.conn.SetReadDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, largest)
	for range n {
		size, from, err := g.conn.ReadFromUDPAddrPort(buf)
		if err != nil {
			t.Fatalf("after %d datagrams: %v", len(g.seqs), err)
		}
		if size < 4 {
			t.Fatalf("got %d bytes", size)
		}
		g.from = append(g.from, from)
		g.seqs = append(g.seqs, binary.BigEndian.Uint32(buf))
		g.at = append(g.at, time.Now())
	}
}

func setUp(t *testing.T, seed uint64) (*Proxy, *target, *net.UDPConn) {
	t.Helper()
	g := newTarget(t)
	p, err := Listen(seed, g.conn.LocalAddr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	})
	c, err := net.Dial("udp", p.Addr())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return p, g, c.(*net.UDPConn)
}

func send(t *testing.T, p *Proxy, c *net.UDPConn, from, to uint32) {
	t.Helper()
	for i := from; i < to; i++ {
		if _, err := c.Write(binary.BigEndian.AppendUint32(nil, i)); err != nil {
			t.Fatal(err)
		}
		// One at a time: the order of decisions is then the order of sending.
		waitIn(t, p, uint64(i)+1)
	}
}

func waitIn(t *testing.T, p *Proxy, n uint64) {
	t.Helper()
	end := time.Now().Add(patience)
	for {
		if up, _ := p.Counts(); up.In >= n {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("the proxy did not take datagram %d", n)
		}
		<-time.After(20 * time.Microsecond)
	}
}

func TestCleanProxyChangesNothing(t *testing.T) {
	t.Parallel()
	p, g, c := setUp(t, 1)
	send(t, p, c, 0, 500)
	g.read(t, 500)
	if !slices.IsSorted(g.seqs) {
		t.Error("the order changed")
	}
	if _, err := g.conn.WriteToUDPAddrPort([]byte("back"), g.from[0]); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 10)
	if err := c.SetReadDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	if n, err := c.Read(buf); err != nil || string(buf[:n]) != "back" {
		t.Errorf("got %q, %v", buf[:n], err)
	}
}

func TestSameSeedLosesTheSame(t *testing.T) {
	t.Parallel()
	var runs [2][]uint32
	for i := range runs {
		p, g, c := setUp(t, 42)
		p.SetUp(Rules{Loss: 0.3})
		send(t, p, c, 0, 400)
		up, _ := p.Counts()
		g.read(t, int(up.In-up.Lost))
		runs[i] = g.seqs
	}
	if !slices.Equal(runs[0], runs[1]) {
		t.Error("two runs with one seed lost different datagrams")
	}
	if n := len(runs[0]); n < 200 || n > 350 {
		t.Errorf("%d of 400 came through a loss of 0.3", n)
	}
}

func TestDuplicateReorderDelay(t *testing.T) {
	t.Parallel()
	p, g, c := setUp(t, 7)
	const delay = 20 * time.Millisecond
	p.SetUp(Rules{Duplicate: 1, Delay: delay})
	start := time.Now()
	send(t, p, c, 0, 1)
	g.read(t, 2)
	if g.seqs[0] != 0 || g.seqs[1] != 0 || g.at[0].Sub(start) < delay {
		t.Errorf("got %v after %v", g.seqs, g.at[0].Sub(start))
	}
	g.seqs = nil
	p.SetUp(Rules{Reorder: 0.3, ReorderBy: 200 * time.Millisecond})
	send(t, p, c, 1, 101)
	g.read(t, 100)
	if slices.IsSorted(g.seqs) {
		t.Error("nothing was reordered")
	}
	slices.Sort(g.seqs)
	for i, seq := range g.seqs {
		if seq != uint32(i)+1 {
			t.Fatalf("datagram %d is missing", i+1)
		}
	}
}

func TestRateHoldsBack(t *testing.T) {
	t.Parallel()
	p, g, c := setUp(t, 3)
	p.SetUp(Rules{Rate: 4000, Queue: time.Minute}) // 1 ms for each of our four-byte datagrams
	start := time.Now()
	send(t, p, c, 0, 200)
	g.read(t, 200)
	if took := time.Since(start); took < 190*time.Millisecond {
		t.Errorf("200 datagrams took %v at one a millisecond", took)
	}
}

func TestMTUBlackHoleAndRebind(t *testing.T) {
	t.Parallel()
	p, g, c := setUp(t, 9)
	p.SetUp(Rules{MTU: 100})
	if _, err := c.Write(make([]byte, 101)); err != nil {
		t.Fatal(err)
	}
	waitIn(t, p, 1)
	send(t, p, c, 1, 2)
	p.SetUp(Rules{BlackHole: true})
	send(t, p, c, 2, 3)
	p.SetUp(Rules{})
	p.Rebind()
	send(t, p, c, 3, 4)
	g.read(t, 2)
	if !slices.Equal(g.seqs, []uint32{1, 3}) {
		t.Errorf("got %v, want the small one and the one after the black hole", g.seqs)
	}
	if g.from[0] == g.from[1] {
		t.Error("the source port is the same after Rebind")
	}
	if up, _ := p.Counts(); up.Lost != 2 {
		t.Errorf("%d lost, want 2", up.Lost)
	}
}
