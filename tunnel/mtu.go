package tunnel

import (
	"context"
	"net/netip"
	"sync"
	"time"
)

const (
	// echoTries and echoWait bound one question: a packet of this size, does
	// it pass? Three lost in a row at random is rare; the first answer ends it.
	echoTries = 3
	echoWait  = time.Second
	// pathFresh is how long a size that passed is trusted. A new connection
	// after that asks again; so does a silence that has ended.
	pathFresh = 30 * time.Second
	// stuckAgain is how long a connection that is stuck is no reason to look
	// again: what it has lost, it sends again by and by.
	stuckAgain = 3 * time.Second
	pathAgain  = 10 * time.Minute // a path that was found narrow is asked whether it still is

	wireOverhead4 = 20 + 8 + 32 // IPv4, UDP and WireGuard around a packet
	wireOverhead6 = 40 + 8 + 32

	tcpOverhead = 60 // IPv6 and TCP headers; 20 more than IPv4 needs
)

// ladder is what a narrow path is tried with, in bytes of the inner packet.
func ladder() []int { return []int{1380, 1340, 1280, 1240, 1200, 1140, 1060, 960, 840, 700, 576} }

// path knows how large packets may be. It finds black holes, routes that carry
// small packets and swallow large ones without a word, by echo requests to the
// address that was last dialled, and keeps TCP to what passes.
type path struct {
	wake chan netip.Addr
	full int // bytes of the largest packet that may be used
	safe int // bytes of what may be used unseen

	mu      sync.Mutex
	size    int       // guarded by mu: bytes in use
	checked time.Time // guarded by mu: when a size last passed
	tried   time.Time // guarded by mu: when nobody answered
}

func newPath(cfg *Config) *path {
	return &path{wake: make(chan netip.Addr, 1), full: cfg.mtu(), safe: cfg.safeMTU(), size: cfg.safeMTU()}
}

// suspect asks for a look at the way to addr, unless there was one just now.
func (p *path) suspect(addr netip.Addr, now time.Time) {
	if p.passedWithin(now, pathFresh) {
		return
	}
	select {
	case p.wake <- addr:
	default:
	}
}

// passedWithin says whether a size was seen to pass just now.
func (p *path) passedWithin(now time.Time, span time.Duration) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return now.Sub(p.checked) < span
}

// unseen says that nobody knows whether more than is safe passes, and that it
// is worth asking.
func (p *path) unseen(now time.Time) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.safe < p.full && now.Sub(p.checked) >= pathFresh && now.Sub(p.tried) >= pathAgain
}

// stale forgets what was found about the path: it may be another one now. It
// returns what may be used until it is looked at again.
func (p *path) stale() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.checked, p.tried, p.size = time.Time{}, time.Time{}, min(p.size, p.safe)
	return p.size
}

// found returns the size that was in use before.
func (p *path) found(size int, now time.Time) (before int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	before, p.size, p.checked = p.size, size, now
	return before
}

func (p *path) unanswered(now time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.tried = now
}

func (p *path) current() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.size
}

// passing returns the largest size that passes, of the full one and those
// below it; 0 when not even a small packet is answered, which says nothing.
func passing(full int, pass func(size int) bool) int {
	const small = 100
	if pass(full) {
		return full
	}
	if !pass(small) {
		return 0
	}
	if pass(full) {
		return full // the path was away, not narrow
	}
	sizes := ladder()
	for len(sizes) > 0 && sizes[0] >= full {
		sizes = sizes[1:]
	}
	low, high := 0, len(sizes)-1 // the answer lies within; the last is taken untried
	for low < high {
		middle := (low + high) / 2
		if pass(sizes[middle]) {
			high = middle
		} else {
			low = middle + 1
		}
	}
	return sizes[low]
}

// watchPath looks at the path when somebody suspects it.
func (t *Tunnel) watchPath(ctx context.Context) {
	again := time.NewTimer(pathAgain)
	defer again.Stop()
	var to netip.Addr
	for {
		select {
		case <-ctx.Done():
			return
		case to = <-t.path.wake:
		case <-again.C:
			again.Reset(pathAgain)
			if t.path.current() == t.path.full || !to.IsValid() {
				continue
			}
		}
		t.lookAtPath(ctx, to)
	}
}

func (t *Tunnel) lookAtPath(ctx context.Context, to netip.Addr) {
	wait := echoWait
	size := passing(t.widest(), func(size int) bool {
		for range echoTries {
			start := time.Now()
			attempt, cancel := context.WithTimeout(ctx, wait)
			err := t.echo(attempt, to, size)
			cancel()
			if err == nil {
				wait = min(echoWait, echoWait/2+4*time.Since(start))
				return true
			}
		}
		return false
	})
	if size == 0 || ctx.Err() != nil {
		return // nobody answers echo requests there, or nobody is there
	}
	t.use(ctx, size)
}

// widest is the largest packet that is worth a question. What the wire towards
// the peer does not carry whole would be sent in fragments, which many networks
// drop, and which cost more than they carry.
func (t *Tunnel) widest() int {
	const padding = 16 // WireGuard fills packets up to a multiple of it
	if t.path.safe == t.path.full {
		return t.path.full // somebody knows better
	}
	endpoint, _, _, _ := t.route.view()
	overhead := wireOverhead4
	if endpoint.Addr().Is6() {
		overhead = wireOverhead6
	}
	whole := (wireMTU(endpoint) - overhead) / padding * padding
	if whole <= 0 {
		return t.path.full // nobody knows
	}
	return min(t.path.full, max(whole, t.path.safe))
}

func (t *Tunnel) echo(ctx context.Context, to netip.Addr, size int) error {
	return t.wire.net.echo(ctx, to, size, uint16(t.echoes.Add(1))) //nolint:gosec // a number for each is enough
}

// use keeps packets to a size that was found to pass.
func (t *Tunnel) use(ctx context.Context, size int) {
	before := t.path.found(size, time.Now())
	t.wire.net.link.limit(size)
	reset := t.wire.net.resetWider(size)
	switch {
	case size < before:
		t.log.WarnContext(ctx, "the path swallows large packets, using smaller ones",
			"mtu", size, "before", before, "connections_reset", reset,
			"remedy", "set MTU to this value, or let the routers on the way send ICMP \"fragmentation needed\"")
	case size > before:
		t.log.InfoContext(ctx, "the path carries larger packets", "mtu", size, "before", before)
	}
}

// widen finds out whether the path carries full packets before a connection is
// made, which agrees for its whole life on how large segments are. A small
// packet that leaves at the same time tells how long an answer takes; who
// answers neither is not waited for, and not asked again for a while.
func (t *Tunnel) widen(ctx context.Context, to netip.Addr) {
	const small = 100
	const patience, least, most = 600 * time.Millisecond, 20 * time.Millisecond, 250 * time.Millisecond
	if !t.path.unseen(time.Now()) {
		return
	}
	widest := t.widest()
	if widest <= t.path.safe {
		return
	}
	asking, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	ask := func(size int) <-chan error {
		answered := make(chan error, 1)
		go func() { answered <- t.echo(asking, to, size) }() // ends with asking
		return answered
	}
	start := time.Now()
	sign, wide := ask(small), ask(widest)
	for {
		select {
		case err := <-wide:
			if err == nil {
				t.use(ctx, widest)
				return
			}
			wide = nil
		case err := <-sign:
			if err != nil {
				if ctx.Err() == nil {
					t.path.unanswered(time.Now())
				}
				return
			}
			sign = nil
			time.AfterFunc(min(max(time.Since(start), least), most), cancel)
		}
		if wide == nil && sign == nil {
			return // the path is looked at more closely later
		}
	}
}

// resetWider ends connections that agreed on larger packets than pass. Their
// users connect anew.
func (n *netstack) resetWider(size int) int {
	n.mu.Lock()
	var wide []*innerConn
	for c := range n.conns {
		if c.packet > size {
			wide = append(wide, c)
		}
	}
	n.mu.Unlock()
	for _, c := range wide {
		c.reset()
	}
	return len(wide)
}
