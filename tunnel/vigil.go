package tunnel

import (
	"time"
)

// The limits of the vigil. WireGuard itself notices a dead peer after 15
// seconds and sends one handshake in five.
const (
	look          = 250 * time.Millisecond
	unansweredFor = 1250 * time.Millisecond // data out and nothing in, and three round trips more
	silentFor     = time.Second             // nothing in at all, after connections should have asked
	asksAfter     = 2 * time.Second         // which they do where nobody says otherwise
	firstFor      = time.Second             // no handshake yet
	minGap        = 700 * time.Millisecond  // between attempts, and two round trips more, where one is known
	unknownGap    = time.Second             // where none is
	maxGap        = 2500 * time.Millisecond // as long as the slowest round trip that may still come up
	doubtAgain    = 10 * time.Second        // a handshake settles a doubt for this long

	// A peer that was silent for so long, and did not answer so many attempts,
	// is dead. A link that loses one packet in ten gets there once in days.
	deadAfter    = 5 * time.Second
	deadAttempts = 3

	conflictSpan    = 30 * time.Second
	conflictPackets = 3
)

// alive makes every connection ask its other end often enough that silence
// means something: every two seconds, which costs a site on a mobile link some
// megabytes a day, and every second while there is work.
func alive() keepalive {
	return keepalive{idle: asksAfter, busy: time.Second, interval: 500 * time.Millisecond, count: 60}
}

// sight is what the vigil sees at one look.
type sight struct {
	rx        uint64    // bytes from the peer
	asked     time.Time // first packet that is unanswered yet; zero: none
	rtt       time.Duration
	handshake time.Time     // last; zero: none yet
	asks      time.Duration // after which the connections ask, when nothing comes in; 0: asksAfter
	wanted    bool          // somebody uses the tunnel
	stuck     bool          // a connection sends the same data again and again
}

type action int

const (
	actNone  action = iota
	actProbe        // a handshake beside the present session: any living peer answers it; follow the endpoint's name
	actRenew        // give the session up, and do the same
	actMove         // take the next endpoint, and renew
)

// vigil decides when the peer is gone and what to do about it:
//
//	        silence              still             still
//	hearing ───────▶ probe ─────────────▶ renew ─────────────▶ move ─┐
//	   ▲                                                       ▲     │
//	   └──────────── anything is heard ────────────────────────┴─────┘
//
// A connection that is stuck although packets come in may be a path that works
// one way only. The same steps follow, and then only a handshake, which needs
// both ways, counts as hearing.
//
// It is a pure function of what it saw: it reads no clock and does nothing
// itself.
type vigil struct {
	last      sight
	heard     time.Time // when something last came in
	wantedAt  time.Time // since when somebody waits; zero: nobody
	attempts  int       // in this silence
	next      time.Time // earliest time of the next attempt
	doubtAt   time.Time // since when the way out is in doubt; zero: it is not
	settledAt time.Time // when a handshake last ended such a doubt
	shookAt   time.Time // when the last handshake was seen
	rtt       time.Duration
	rx        uint64    // at the last look
	rxAt      time.Time // when it last grew, whatever that was worth
	recovered bool      // the last look ended a silence
	shook     bool      // the last look saw a new handshake
	dead      bool      // nothing can be on its way any more
}

func (v *vigil) see(now time.Time, s sight) action {
	v.recovered, v.shook = false, false
	if s.rx != v.rx || v.rxAt.IsZero() {
		v.rx, v.rxAt = s.rx, now
	}
	if s.rtt > 0 {
		v.rtt = s.rtt
	}
	v.hear(now, s)
	if !s.wanted {
		v.wantedAt, v.doubtAt, v.attempts, v.dead = time.Time{}, time.Time{}, 0, false
		return actNone
	}
	if v.wantedAt.IsZero() {
		v.wantedAt = now
	}
	if s.stuck && v.doubtAt.IsZero() && now.Sub(v.settledAt) > doubtAgain {
		v.doubtAt = now
	}
	next := v.next
	if v.attempts == 0 {
		next = v.fault(s)
	}
	if now.Before(next) {
		return actNone
	}
	v.dead = v.attempts >= deadAttempts && v.silence(now) >= deadAfter
	return v.attempt(now, s)
}

// silence is for how long the peer has not answered although it was asked; 0:
// it was not, or it has.
func (v *vigil) silence(now time.Time) time.Duration {
	if v.attempts == 0 {
		return 0
	}
	since := later(v.heard, v.wantedAt)
	if !v.doubtAt.IsZero() {
		// What came in later is no answer, but it began no sooner than the doubt.
		if since = later(v.rxAt, v.wantedAt); since.After(v.doubtAt) {
			since = v.doubtAt
		}
	}
	return now.Sub(since)
}

func (v *vigil) hear(now time.Time, s sight) {
	first := v.heard.IsZero()
	shook := first || !s.handshake.Equal(v.last.handshake)
	v.shook = shook && !first
	if !shook && (s.rx == v.last.rx || !v.doubtAt.IsZero()) {
		return
	}
	if shook {
		v.shookAt = now
	}
	if !v.doubtAt.IsZero() {
		v.settledAt = now
	}
	v.recovered = v.attempts > 0
	v.heard, v.doubtAt, v.attempts, v.dead = now, time.Time{}, 0, false
	v.last = s
}

// fault is when the present silence becomes one that is acted on.
func (v *vigil) fault(s sight) time.Time {
	if !v.doubtAt.IsZero() {
		return v.doubtAt
	}
	since := later(v.heard, v.wantedAt)
	if s.handshake.IsZero() {
		return since.Add(firstFor)
	}
	if s.asked.IsZero() {
		asks := s.asks
		if asks == 0 {
			asks = asksAfter
		}
		return since.Add(asks + silentFor + 3*s.rtt)
	}
	// A handshake is no answer to data, but it starts the wait anew.
	return later(s.asked, v.shookAt).Add(unansweredFor + 3*s.rtt)
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

func (v *vigil) attempt(now time.Time, s sight) action {
	v.attempts++
	v.next = now.Add(v.gap())
	switch {
	case s.handshake.IsZero():
		return actMove // nothing speaks for this endpoint more than for the next
	case v.attempts == 1:
		return actProbe
	case v.attempts <= 2:
		return actRenew
	default:
		return actMove
	}
}

// gap is how long the answer to an attempt is waited for: the next one makes
// WireGuard forget it. Now and then it is long, for a path whose round trip has
// become so; which of three attempts has that shifts, so that each of several
// endpoints does.
func (v *vigil) gap() time.Duration {
	const few, longEvery, shiftEvery = 6, 3, 9
	gap := unknownGap
	if v.rtt > 0 {
		gap = minGap + 2*v.rtt
	}
	if v.attempts > few && (v.attempts+v.attempts/shiftEvery)%longEvery == 0 {
		gap = maxGap
	}
	return min(gap, maxGap)
}

// rivalry tells stray packets from another process that uses our key.
type rivalry struct {
	foreign uint64
	since   time.Time
	count   uint64
}

// see takes the number of packets for foreign sessions so far and says that
// there is a rival.
func (r *rivalry) see(now time.Time, foreign uint64) bool {
	fresh := foreign - r.foreign
	r.foreign = foreign
	if fresh == 0 {
		return false
	}
	if now.Sub(r.since) > conflictSpan {
		r.since, r.count = now, 0
	}
	r.count += fresh
	return r.count >= conflictPackets
}
