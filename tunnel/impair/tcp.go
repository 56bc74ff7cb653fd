package impair

import (
	"context"
	"math/rand/v2"
	"net"
	"sync"
	"time"
)

// LineRules say what happens to the bytes of one direction of a TCP line. What
// the net loses, doubles or reorders, TCP mends, and it shows as delay. The
// zero value changes nothing.
type LineRules struct {
	Delay     time.Duration // of every byte
	Jitter    time.Duration // up to this much more for each piece, at random; their order stays
	Rate      int           // bytes a second; 0: no limit
	Cut       float64       // chance of each piece to end its connection, 0 to 1
	BlackHole bool          // nothing passes until this is lifted, and nobody is told
}

// Line stands between TCP clients and one target.
type Line struct {
	listener net.Listener
	target   string
	ctx      context.Context //nolint:containedctx // of its life
	stop     context.CancelFunc
	all      sync.WaitGroup

	mu     sync.Mutex
	rules  [2]LineRules      // up, down. Guarded by mu
	change chan struct{}     // closed when rules change. Guarded by mu
	rand   *rand.Rand        // guarded by mu
	conns  map[net.Conn]bool // guarded by mu
	closed bool              // guarded by mu
}

const (
	up   = 0 // to the target
	down = 1 // to the client

	pieceBytes = 16 << 10
	maxPieces  = 256 // of one direction of a connection on their way: then its sender waits
)

// ListenTCP starts a line to target on a free port of 127.0.0.1. It opens no
// connections once ctx has ended.
func ListenTCP(ctx context.Context, seed uint64, target string) (*Line, error) {
	ctx, stop := context.WithCancel(ctx)
	listener, err := new(net.ListenConfig).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		stop()
		return nil, err
	}
	l := &Line{
		ctx: ctx, stop: stop,
		listener: listener, target: target, conns: make(map[net.Conn]bool), change: make(chan struct{}),
		rand: rand.New(rand.NewPCG(seed, seed)), //nolint:gosec // decisions must repeat, not surprise
	}
	l.all.Go(l.accept)
	return l, nil
}

// Addr is where clients dial.
func (l *Line) Addr() string { return l.listener.Addr().String() }

// Set gives both directions the same rules, from the next piece on.
func (l *Line) Set(rules LineRules) { l.set(rules, up, down) }

// SetUp changes the rules for what goes to the target.
func (l *Line) SetUp(rules LineRules) { l.set(rules, up) }

// SetDown changes the rules for what goes to the clients.
func (l *Line) SetDown(rules LineRules) { l.set(rules, down) }

func (l *Line) set(rules LineRules, directions ...int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, d := range directions {
		l.rules[d] = rules
	}
	close(l.change)
	l.change = make(chan struct{})
}

// Mute lets nothing pass for a while.
func (l *Line) Mute(ctx context.Context, d time.Duration) {
	before := l.rulesNow()
	l.Set(LineRules{BlackHole: true})
	defer func() {
		l.SetUp(before[up])
		l.SetDown(before[down])
	}()
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}

func (l *Line) rulesNow() [2]LineRules {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.rules
}

// Cut ends every connection, as a router does that forgot its table.
func (l *Line) Cut() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for conn := range l.conns {
		_ = conn.Close()
	}
}

// Close ends the line and waits for its goroutines.
func (l *Line) Close() error {
	l.stop()
	err := l.listener.Close()
	l.mu.Lock()
	l.closed = true
	l.mu.Unlock()
	l.Cut()
	l.set(LineRules{}, up, down)
	l.all.Wait()
	return err
}

func (l *Line) accept() {
	for {
		client, err := l.listener.Accept()
		if err != nil {
			return // closed
		}
		l.all.Go(func() { l.carry(client) })
	}
}

// carry joins a client to the target until either ends.
func (l *Line) carry(client net.Conn) {
	defer func() { _ = client.Close() }()
	dialer := net.Dialer{Timeout: 5 * time.Second}
	target, err := dialer.DialContext(l.ctx, "tcp", l.target)
	if err != nil {
		return
	}
	defer func() { _ = target.Close() }()
	if !l.keep(client, target) {
		return
	}
	defer l.forget(client, target)
	var both sync.WaitGroup
	pump := func(from, to net.Conn, direction int) {
		l.pump(from, to, direction)
		_ = from.Close()
		_ = to.Close()
	}
	both.Go(func() { pump(client, target, up) })
	both.Go(func() { pump(target, client, down) })
	both.Wait()
}

func (l *Line) keep(conns ...net.Conn) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, conn := range conns {
		l.conns[conn] = true
	}
	return !l.closed
}

func (l *Line) forget(conns ...net.Conn) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, conn := range conns {
		delete(l.conns, conn)
	}
}

// piece is some bytes on their way.
type piece struct {
	due  time.Time
	data []byte
}

// pump carries one direction: a reader that decides when what it reads is due,
// and a writer that waits for that.
func (l *Line) pump(from, to net.Conn, direction int) {
	pieces := make(chan piece, maxPieces)
	var writer sync.WaitGroup
	writer.Go(func() {
		for p := range pieces {
			l.wait(direction, p.due)
			if _, err := to.Write(p.data); err != nil {
				_ = from.Close() // ends the reader
			}
		}
	})
	var last time.Time
	for {
		buffer := make([]byte, pieceBytes)
		n, err := from.Read(buffer)
		if n > 0 {
			var cut bool
			if last, cut = l.due(direction, last, n); cut {
				break
			}
			pieces <- piece{last, buffer[:n]}
		}
		if err != nil {
			break
		}
	}
	close(pieces)
	writer.Wait()
}

// due says when a piece arrives, or that it ends its connection.
func (l *Line) due(direction int, last time.Time, n int) (due time.Time, cut bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	jitter, luck := l.rand.Float64(), l.rand.Float64() // drawn whatever the rules are
	r := l.rules[direction]
	due = time.Now().Add(r.Delay + time.Duration(jitter*float64(r.Jitter)))
	if due.Before(last) {
		due = last
	}
	if r.Rate > 0 {
		due = due.Add(time.Duration(n) * time.Second / time.Duration(r.Rate))
	}
	return due, luck < r.Cut
}

// wait returns when a piece is due and nothing holds it back.
func (l *Line) wait(direction int, due time.Time) {
	timer := time.NewTimer(time.Until(due))
	defer timer.Stop()
	<-timer.C
	for {
		l.mu.Lock()
		held, change := l.rules[direction].BlackHole && !l.closed, l.change
		l.mu.Unlock()
		if !held {
			return
		}
		<-change
	}
}
