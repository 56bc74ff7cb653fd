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
	pathAgain = 10 * time.Minute // a path that was found narrow is asked whether it still is

	tcpOverhead = 60 // IPv6 and TCP headers; 20 more than IPv4 needs
)

// ladder is what a narrow path is tried with, in bytes of the inner packet.
func ladder() []int { return []int{1380, 1340, 1240, 1200, 1140, 1060, 960, 840, 700, 576} }

// path finds black holes: routes that carry small packets and swallow large
// ones without a word. It sends echo requests of growing trouble to the
// address that was last dialled, and keeps TCP to what passes.
type path struct {
	wake chan netip.Addr

	mu      sync.Mutex
	checked time.Time // guarded by mu: when a size last passed
	size    int       // guarded by mu: found size; 0: the full one passes, or none was tried
}

func newPath() *path { return &path{wake: make(chan netip.Addr, 1)} }

// suspect asks for a look at the way to addr, unless there was one just now.
func (p *path) suspect(addr netip.Addr, now time.Time) {
	p.mu.Lock()
	fresh := now.Sub(p.checked) < pathFresh
	p.mu.Unlock()
	if fresh {
		return
	}
	select {
	case p.wake <- addr:
	default:
	}
}

// stale forgets what was found about the path: it may be another one now.
func (p *path) stale() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.checked = time.Time{}
}

func (p *path) found(size int, now time.Time) (changed bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	changed = p.size != size
	p.checked, p.size = now, size
	return changed
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
			if t.path.current() == 0 || !to.IsValid() {
				continue
			}
		}
		t.lookAtPath(ctx, to)
	}
}

func (t *Tunnel) lookAtPath(ctx context.Context, to netip.Addr) {
	var seq uint16
	wait := echoWait
	size := passing(t.cfg.mtu(), func(size int) bool {
		for range echoTries {
			seq++
			start := time.Now()
			attempt, cancel := context.WithTimeout(ctx, wait)
			err := t.wire.net.echo(attempt, to, size, seq)
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
	narrow := size
	if size == t.cfg.mtu() {
		narrow = 0
	}
	if !t.path.found(narrow, time.Now()) {
		return
	}
	link := t.wire.net.link
	if narrow == 0 {
		link.maxSeg.Store(0)
		t.log.InfoContext(ctx, "the path carries full packets again", "mtu", size)
		return
	}
	link.maxSeg.Store(uint32(size - tcpOverhead)) //nolint:gosec // a rung of the ladder
	reset := t.wire.net.resetOlder(time.Now())
	t.log.WarnContext(ctx, "the path swallows large packets, using smaller ones",
		"mtu", size, "configured", t.cfg.mtu(), "connections_reset", reset,
		"remedy", "set MTU to this value, or let the routers on the way send ICMP \"fragmentation needed\"")
}

// resetOlder ends connections that were opened before: they have agreed on
// segments that do not pass. Their users connect anew.
func (n *netstack) resetOlder(than time.Time) int {
	n.mu.Lock()
	var old []*innerConn
	for c := range n.conns {
		if c.opened.Before(than) {
			old = append(old, c)
		}
	}
	n.mu.Unlock()
	for _, c := range old {
		c.reset()
	}
	return len(old)
}
