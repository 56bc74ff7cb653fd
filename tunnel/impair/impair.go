// Package impair is a bad network in a box, for tests: a UDP proxy that
// loses, reorders, duplicates, delays, throttles and swallows datagrams, and
// that gives its clients new source ports, as a NAT does; and a TCP line that
// delays, throttles, holds back and cuts. The same seed and
// the same traffic give the same decisions.
//
//	p, err := impair.Listen(1, "127.0.0.1:51820")
//	...
//	defer p.Close()
//	p.Set(impair.Rules{Loss: 0.01, Delay: 25 * time.Millisecond})
//	dial(p.Addr())
//
// It is not for production code.
package impair

import (
	"container/heap"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"
)

// Rules say what happens to the datagrams of one direction. The zero value
// changes nothing.
type Rules struct {
	Loss      float64       // share of datagrams lost, 0 to 1
	Duplicate float64       // share sent twice
	Reorder   float64       // share held back for ReorderBy, so that later ones overtake
	ReorderBy time.Duration // 0: 5 ms
	Delay     time.Duration // of every datagram
	Jitter    time.Duration // up to this much more, at random
	Rate      int           // bytes a second; 0: no limit
	Queue     time.Duration // longest wait for Rate before datagrams are lost; 0: 250 ms
	MTU       int           // larger UDP payloads vanish without a word; 0: none do
	BlackHole bool          // everything vanishes
}

// Counts say what happened to the datagrams of one direction.
type Counts struct{ In, Lost, Out uint64 }

// Proxy stands between clients and one target.
type Proxy struct {
	front *net.UDPConn
	addr  netip.AddrPort
	wg    sync.WaitGroup
	up    *way // to the target
	down  *way // to the clients

	mu      sync.Mutex
	target  netip.AddrPort             // guarded by mu
	clients map[netip.AddrPort]*client // guarded by mu
	closed  bool                       // guarded by mu
}

type client struct {
	addr  netip.AddrPort
	back  *net.UDPConn
	asked map[netip.AddrPort]bool // guarded by Proxy.mu: targets that it has sent to
}

// Listen starts a proxy to target on a free port of 127.0.0.1.
func Listen(seed uint64, target string) (*Proxy, error) {
	return ListenAt(seed, netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), 0), target)
}

// ListenAt starts a proxy to target at an address.
func ListenAt(seed uint64, at netip.AddrPort, target string) (*Proxy, error) {
	to, err := netip.ParseAddrPort(target)
	if err != nil {
		return nil, fmt.Errorf("impair: target: %w", err)
	}
	front, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(at))
	if err != nil {
		return nil, fmt.Errorf("impair: %w", err)
	}
	enlarge(front)
	p := &Proxy{
		front: front, addr: front.LocalAddr().(*net.UDPAddr).AddrPort(), //nolint:forcetypeassert // it is a UDP socket
		target: to, clients: map[netip.AddrPort]*client{},
		up: newWay(seed), down: newWay(seed + 1),
	}
	p.wg.Go(p.up.run)
	p.wg.Go(p.down.run)
	p.wg.Go(p.forward)
	return p, nil
}

// enlarge lets bursts wait in the socket: losses must come from the rules.
func enlarge(c *net.UDPConn) {
	const size = 4 << 20
	_ = c.SetReadBuffer(size)
	_ = c.SetWriteBuffer(size)
}

// Addr is where clients send to.
func (p *Proxy) Addr() string { return p.addr.String() }

// Set gives both directions the same rules, from the next datagram on.
func (p *Proxy) Set(rules Rules) { p.SetUp(rules); p.SetDown(rules) }

// SetUp changes the rules for what goes to the target.
func (p *Proxy) SetUp(rules Rules) { p.up.set(rules) }

// SetDown changes the rules for what goes to the clients.
func (p *Proxy) SetDown(rules Rules) { p.down.set(rules) }

// Counts of the two directions so far.
func (p *Proxy) Counts() (up, down Counts) { return p.up.counts(), p.down.counts() }

// SetTarget sends everything to another target from now on.
func (p *Proxy) SetTarget(target string) error {
	to, err := netip.ParseAddrPort(target)
	if err != nil {
		return fmt.Errorf("impair: target: %w", err)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.target = to
	return nil
}

// Rebind gives every client a new source port, as a NAT does that has
// forgotten it. What the target still sends to the old ports is lost.
func (p *Proxy) Rebind() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for key, c := range p.clients {
		_ = c.back.Close()
		delete(p.clients, key)
	}
}

// Close ends the proxy and waits for its goroutines.
func (p *Proxy) Close() error {
	p.mu.Lock()
	if p.closed {
		p.mu.Unlock()
		return net.ErrClosed
	}
	p.closed = true
	err := p.front.Close()
	for _, c := range p.clients {
		err = errors.Join(err, c.back.Close())
	}
	p.mu.Unlock()
	p.up.stop()
	p.down.stop()
	p.wg.Wait()
	return err
}

const largest = 1 << 16

// forward takes what clients send.
func (p *Proxy) forward() {
	buf := make([]byte, largest)
	for {
		n, from, err := p.front.ReadFromUDPAddrPort(buf)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			continue
		}
		c, target := p.client(from)
		if c == nil {
			continue
		}
		p.up.take(buf[:n], func(b []byte) { _, _ = c.back.WriteToUDPAddrPort(b, target) })
	}
}

func (p *Proxy) client(from netip.AddrPort) (*client, netip.AddrPort) {
	p.mu.Lock()
	defer p.mu.Unlock()
	c := p.clients[from]
	if c == nil {
		if p.closed {
			return nil, p.target
		}
		back, err := net.ListenUDP("udp", nil)
		if err != nil {
			return nil, p.target
		}
		enlarge(back)
		c = &client{addr: from, back: back, asked: map[netip.AddrPort]bool{}}
		p.clients[from] = c
		p.wg.Go(func() { p.backward(c) })
	}
	c.asked[p.target] = true
	return c, p.target
}

// backward takes what the target sends to one client. As with a NAT, nothing
// comes in from an address that the client has sent nothing to.
func (p *Proxy) backward(c *client) {
	buf := make([]byte, largest)
	for {
		n, from, err := c.back.ReadFromUDPAddrPort(buf)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			continue
		}
		p.mu.Lock()
		asked := c.asked[netip.AddrPortFrom(from.Addr().Unmap(), from.Port())]
		p.mu.Unlock()
		if !asked {
			continue
		}
		p.down.take(buf[:n], func(b []byte) { _, _ = p.front.WriteToUDPAddrPort(b, c.addr) })
	}
}

// way is one direction: it decides, and sends what is due.
type way struct {
	in, lost, out atomic.Uint64
	wake, done    chan struct{}
	once          sync.Once

	mu    sync.Mutex
	rules Rules      // guarded by mu
	rand  *rand.Rand // guarded by mu
	queue queue      // guarded by mu
	seq   uint64     // guarded by mu
	busy  time.Time  // guarded by mu: until when Rate is used up
}

func newWay(seed uint64) *way {
	return &way{
		rand: rand.New(rand.NewPCG(seed, seed)), //nolint:gosec // decisions must repeat, not surprise
		wake: make(chan struct{}, 1), done: make(chan struct{}),
	}
}

func (w *way) set(rules Rules) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.rules = rules
}

func (w *way) counts() Counts {
	return Counts{In: w.in.Load(), Lost: w.lost.Load(), Out: w.out.Load()}
}

func (w *way) stop() { w.once.Do(func() { close(w.done) }) }

// take decides about one datagram.
func (w *way) take(b []byte, send func([]byte)) {
	w.in.Add(1)
	now := time.Now()
	w.mu.Lock()
	defer w.mu.Unlock()
	// Every decision draws, whatever the rules are, so that changing one rule
	// does not change the others' luck.
	loss, twice, late, jitter := w.rand.Float64(), w.rand.Float64(), w.rand.Float64(), w.rand.Float64()
	r := w.rules
	due, fits := w.due(now, len(b), r)
	if r.BlackHole || loss < r.Loss || (r.MTU > 0 && len(b) > r.MTU) || !fits {
		w.lost.Add(1)
		return
	}
	due = due.Add(r.Delay + time.Duration(jitter*float64(r.Jitter)))
	if late < r.Reorder {
		by := r.ReorderBy
		if by == 0 {
			by = 5 * time.Millisecond
		}
		due = due.Add(by)
	}
	copies := 1
	if twice < r.Duplicate {
		copies = 2
	}
	for range copies {
		w.push(datagram{due: due, data: append([]byte(nil), b...), send: send})
	}
}

// due is when the line is free for size bytes.
func (w *way) due(now time.Time, size int, r Rules) (time.Time, bool) {
	if r.Rate <= 0 {
		return now, true
	}
	limit := r.Queue
	if limit == 0 {
		limit = 250 * time.Millisecond
	}
	start := now
	if w.busy.After(start) {
		start = w.busy
	}
	if start.Sub(now) > limit {
		return now, false
	}
	w.busy = start.Add(time.Duration(size) * time.Second / time.Duration(r.Rate))
	return w.busy, true
}

func (w *way) push(d datagram) {
	w.seq++
	d.seq = w.seq
	heap.Push(&w.queue, d)
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

// run sends datagrams when they are due.
func (w *way) run() {
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		d, wait := w.pop()
		if d.send != nil {
			d.send(d.data)
			w.out.Add(1)
			continue
		}
		timer.Reset(wait)
		select {
		case <-w.done:
			return
		case <-w.wake:
		case <-timer.C:
		}
	}
}

// pop takes the next datagram that is due, or says how long to wait.
func (w *way) pop() (datagram, time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.queue) == 0 {
		return datagram{}, time.Hour
	}
	if wait := time.Until(w.queue[0].due); wait > 0 {
		return datagram{}, wait
	}
	return heap.Pop(&w.queue).(datagram), 0 //nolint:forcetypeassert // the queue holds nothing else
}

type datagram struct {
	due  time.Time
	seq  uint64
	data []byte
	send func([]byte)
}

// queue is a heap by time, and by order of arrival within it.
type queue []datagram

func (q queue) Len() int      { return len(q) }
func (q queue) Swap(i, j int) { q[i], q[j] = q[j], q[i] }

func (q queue) Less(i, j int) bool {
	if q[i].due.Equal(q[j].due) {
		return q[i].seq < q[j].seq
	}
	return q[i].due.Before(q[j].due)
}

// Push is for container/heap.
func (q *queue) Push(x any) { *q = append(*q, x.(datagram)) } //nolint:forcetypeassert // push gives nothing else

// Pop is for container/heap.
func (q *queue) Pop() any {
	old := *q
	last := old[len(old)-1]
	old[len(old)-1] = datagram{}
	*q = old[:len(old)-1]
	return last
}
