package tunnel

import (
	"math/rand/v2"
	"slices"
	"testing"
	"time"
)

// watcher plays time and a peer to a vigil.
type watcher struct {
	v    vigil
	now  time.Time
	s    sight
	acts []action
	at   []time.Duration
	from time.Time
}

func newWatcher() *watcher {
	start := time.Unix(1_800_000_000, 0)
	return &watcher{now: start, from: start}
}

func (w *watcher) pass(d time.Duration) {
	for end := w.now.Add(d); w.now.Before(end); {
		w.now = w.now.Add(look)
		if act := w.v.see(w.now, w.s); act != actNone {
			w.acts = append(w.acts, act)
			w.at = append(w.at, w.now.Sub(w.from))
		}
	}
}

func (w *watcher) mark() { w.from, w.acts, w.at = w.now, nil, nil }

func shaken() *watcher {
	w := newWatcher()
	w.s = sight{rx: 100, handshake: w.now, wanted: true}
	w.pass(look)
	return w
}

func TestVigilLeavesALivingPeerAlone(t *testing.T) {
	t.Parallel()
	w := shaken()
	for range 100 {
		w.s.asked = w.now
		w.pass(time.Second)
		w.s.rx += 50
		w.s.asked = time.Time{}
		w.pass(2 * time.Second)
	}
	if len(w.acts) != 0 {
		t.Errorf("acted %v on a peer that answers every two seconds", w.acts)
	}
}

func TestVigilLeavesAnIdleTunnelAlone(t *testing.T) {
	t.Parallel()
	w := shaken()
	w.s.wanted = false
	w.pass(10 * time.Minute)
	if len(w.acts) != 0 {
		t.Errorf("acted %v although nobody uses the tunnel", w.acts)
	}
	w.s.wanted = true
	w.pass(time.Second)
	if len(w.acts) != 0 {
		t.Errorf("held the idle time against the peer: %v", w.acts)
	}
}

func TestVigilEscalates(t *testing.T) {
	t.Parallel()
	w := shaken()
	w.mark()
	w.s.asked = w.now
	w.pass(20 * time.Second)
	if want := []action{actProbe, actRenew, actMove, actMove}; !slices.Equal(w.acts[:4], want) {
		t.Errorf("did %v, want %v", w.acts, want)
	}
	if w.at[0] > 2*time.Second || w.at[2] > 4*time.Second {
		t.Errorf("acted after %v, want the first within 2 s of unanswered data and the move within 4 s", w.at)
	}
	for i := 1; i < len(w.at); i++ {
		if gap := w.at[i] - w.at[i-1]; gap > maxGap+look {
			t.Errorf("a gap of %v between attempts", gap)
		}
	}
	w.s.rx++
	w.s.asked = time.Time{}
	w.pass(look)
	if !w.v.recovered || w.v.attempts != 0 {
		t.Error("one packet did not end the silence")
	}
	w.mark()
	w.pass(time.Second)
	if len(w.acts) != 0 || w.v.recovered {
		t.Errorf("went on with %v after the peer was heard", w.acts)
	}
}

func TestVigilSilenceWithoutData(t *testing.T) {
	t.Parallel()
	for asks, want := range map[time.Duration]time.Duration{0: asksAfter + silentFor, asksAfter: asksAfter + silentFor, time.Second: time.Second + silentFor} {
		w := shaken()
		w.s.asks = asks
		w.mark()
		w.pass(5 * time.Second)
		if len(w.at) == 0 || w.at[0] < want || w.at[0] > want+2*look {
			t.Errorf("acted at %v, want first after %v", w.at, want)
		}
	}
}

func TestVigilFirstHandshake(t *testing.T) {
	t.Parallel()
	w := newWatcher()
	w.s.wanted = true
	w.pass(5 * time.Second)
	if want := []action{actMove, actMove, actMove}; len(w.acts) < 3 || !slices.Equal(w.acts[:3], want) {
		t.Fatalf("did %v, want %v", w.acts, want)
	}
	if w.at[0] > firstFor+2*look {
		t.Errorf("repeated the first initiation after %v", w.at[0])
	}
}

// Each of several endpoints is waited for as long as the slowest path needs,
// whatever their number.
func TestVigilWaitsLongForEachEndpoint(t *testing.T) {
	t.Parallel()
	for n := 1; n <= 9; n++ {
		w := newWatcher()
		w.s.wanted = true
		w.pass(5 * time.Minute)
		long := make(map[int]bool)
		for i := 1; i < len(w.at); i++ {
			if w.at[i]-w.at[i-1] >= maxGap {
				long[i%n] = true
			}
		}
		if len(long) != n {
			t.Errorf("of %d endpoints, %d are ever waited for", n, len(long))
		}
	}
}

func TestRivalryNeedsMoreThanAStray(t *testing.T) {
	t.Parallel()
	now := time.Unix(1_800_000_000, 0)
	var r rivalry
	for i := range 20 { // one stray packet in 20 seconds, for ever
		now = now.Add(20 * time.Second)
		if r.see(now, 1+uint64(i)) {
			t.Fatal("single strays are taken for a rival")
		}
	}
	total := uint64(100)
	saw := false
	now = now.Add(20 * time.Second)
	for range 8 {
		now = now.Add(look)
		total++
		saw = saw || r.see(now, total)
	}
	if !saw {
		t.Error("eight packets for another session in two seconds are no sign of a rival")
	}
}

func TestPassingFindsTheLargestRung(t *testing.T) {
	t.Parallel()
	for _, limit := range []int{1500, 1280, 1279, 1200, 1100, 900, 700, 576, 200} {
		tries := 0
		got := passing(SafeMTU, func(size int) bool { tries++; return size <= limit })
		want := SafeMTU
		if limit < SafeMTU {
			want = ladder()[len(ladder())-1]
			for _, rung := range ladder() {
				if rung <= limit {
					want = rung
					break
				}
			}
		}
		if got != want || tries > 7 {
			t.Errorf("limit %d: got %d after %d tries, want %d", limit, got, tries, want)
		}
	}
	if got := passing(SafeMTU, func(int) bool { return false }); got != 0 {
		t.Errorf("nobody answers: got %d, want 0", got)
	}
}

func TestVigilDeclaresDeath(t *testing.T) {
	t.Parallel()
	for name, asked := range map[string]bool{"with data on the way": true, "idle": false} {
		w := shaken()
		w.s.rtt = time.Millisecond
		w.mark()
		if asked {
			w.s.asked = w.now
		}
		for !w.v.dead && w.now.Sub(w.from) < time.Minute {
			w.pass(look)
		}
		took := w.now.Sub(w.from)
		if took < deadAfter || took > deadAfter+time.Second || len(w.acts) < deadAttempts {
			t.Errorf("%s: dead after %v and %d attempts", name, took, len(w.acts))
		}
		if got := w.v.silence(w.now); got < deadAfter || got > took {
			t.Errorf("%s: silent for %v, of %v", name, got, took)
		}
		w.s.rx++
		w.s.asked = time.Time{}
		w.pass(look)
		if w.v.dead || w.v.silence(w.now) != 0 {
			t.Errorf("%s: still dead after the peer was heard", name)
		}
	}
}

// A connection that gets stuck in a silence tells nothing new: the silence has
// begun before.
func TestVigilCountsASilenceFromItsBeginning(t *testing.T) {
	t.Parallel()
	for name, hearing := range map[string]bool{"nothing comes in": false, "the way in works": true} {
		w := shaken()
		w.s.rtt = time.Millisecond
		w.mark()
		if !hearing {
			w.pass(4 * time.Second)
		}
		w.s.asked, w.s.stuck = w.now, true
		stuck := w.now
		for !w.v.dead && w.now.Sub(w.from) < time.Minute {
			if hearing {
				w.s.rx++
			}
			w.pass(look)
		}
		since := w.from
		if hearing {
			since = stuck
		}
		if took := w.now.Sub(since); took < deadAfter || took > deadAfter+time.Second {
			t.Errorf("%s: dead after %v", name, took)
		}
	}
}

// Data that is sent into a silence must not put off the next attempt.
func TestVigilKeepsItsPace(t *testing.T) {
	t.Parallel()
	w := shaken()
	w.s.rtt = time.Millisecond
	w.mark()
	w.pass(asksAfter + silentFor + look)
	w.s.asked = w.now
	w.pass(4 * time.Second)
	for i := 1; i < len(w.at); i++ {
		if gap := w.at[i] - w.at[i-1]; gap > minGap+2*look {
			t.Errorf("attempts at %v", w.at)
		}
	}
}

// lossy plays a network that loses a share of the packets each way, and for a
// second everything, now and then.
type lossy struct {
	*watcher
	random *rand.Rand
	loss   float64
	rtt    time.Duration
	fine   time.Time // end of the second without anything
	due    []arrival
}

type arrival struct {
	at    time.Time
	shake bool
}

// send lets a question pass both ways, or not.
func (l *lossy) send(shake bool) {
	pass := (1 - l.loss) * (1 - l.loss)
	if l.now.Before(l.fine) || l.random.Float64() > pass {
		return
	}
	l.due = append(l.due, arrival{l.now.Add(l.rtt), shake})
}

// step passes one look: the connection asks as alive says, and carries data
// every five seconds, sent again as TCP does.
func (l *lossy) step(nextAsk *time.Time, rto *time.Duration, again *time.Time) {
	l.now = l.now.Add(look)
	if l.random.IntN(80) == 0 {
		l.fine = l.now.Add(time.Second)
	}
	for len(l.due) > 0 && !l.due[0].at.After(l.now) {
		a := l.due[0]
		l.due = l.due[1:]
		if l.v.attempts > 1 && !a.shake {
			continue // the session was given up
		}
		l.s.rx++
		l.s.asked = time.Time{}
		*nextAsk = l.now.Add(alive().idle)
		if a.shake {
			l.s.handshake = l.now
		}
	}
	if !l.now.Before(*nextAsk) {
		l.send(false)
		*nextAsk = l.now.Add(alive().interval)
	}
	switch fresh := l.s.asked.IsZero(); {
	case fresh && l.random.IntN(20) == 0:
		l.s.asked, *rto = l.now, l.rtt+200*time.Millisecond
		l.send(false)
		*again = l.now.Add(*rto)
	case !fresh && !l.now.Before(*again):
		l.send(false)
		*rto = min(2**rto, maxRTO)
		*again = l.now.Add(*rto)
	}
	if act := l.v.see(l.now, l.s); act != actNone {
		l.due = slices.DeleteFunc(l.due, func(a arrival) bool { return a.shake }) // forgotten
		l.send(true)
	}
}

// A bad network must not send the satellite to and fro between its ways.
func TestVigilForgivesABadNetwork(t *testing.T) {
	t.Parallel()
	const hours = 12
	for _, c := range []struct {
		loss  float64
		delay time.Duration
	}{{0.05, 300 * time.Millisecond}, {0.10, 300 * time.Millisecond}, {0.10, 10 * time.Millisecond}, {0, 0}} {
		l := &lossy{watcher: shaken(), random: rand.New(rand.NewPCG(3, 7)), loss: c.loss, rtt: 2 * c.delay}
		l.s.rtt = l.rtt
		var nextAsk, again time.Time
		var rto time.Duration
		deaths, silences := 0, 0
		for end := l.now.Add(hours * time.Hour); l.now.Before(end); {
			was := l.v.dead
			l.step(&nextAsk, &rto, &again)
			if l.v.dead && !was {
				deaths++
			}
			if l.v.recovered {
				silences++
			}
		}
		t.Logf("loss %.0f %%, delay %v: %d silences, %d deaths in %d hours", 100*c.loss, c.delay, silences, deaths, hours)
		if deaths > 0 {
			t.Errorf("loss %.0f %%, delay %v: taken for dead %d times in %d hours", 100*c.loss, c.delay, deaths, hours)
		}
		if c.loss > 0 && silences == 0 {
			t.Error("the network was not bad")
		}
	}
}
