package tunnel

import (
	"time"
)

// The limits of the vigil. WireGuard itself notices a dead peer after 15
// seconds and sends one handshake in five.
const (
	look          = 250 * time.Millisecond
	unansweredFor = 1500 * time.Millisecond // data out and nothing in
	silentFor     = 3 * time.Second         // nothing in at all; connections ask every two seconds
	firstFor      = time.Second             // no handshake yet
	firstGap      = time.Second
	maxGap        = 2500 * time.Millisecond // as long as the slowest round trip that may still come up

	conflictSpan    = 10 * time.Second
	conflictPackets = 3
)

// alive makes every connection ask its other end often enough that silence
// means something.
func alive() keepalive {
	return keepalive{idle: 2 * time.Second, interval: time.Second, count: 30}
}

// sight is what the vigil sees at one look.
type sight struct {
	rx        uint64    // bytes from the peer
	asked     uint64    // packets to which an answer is due
	handshake time.Time // last; zero: none yet
	wanted    bool      // somebody uses the tunnel
}

type action int

const (
	actNone  action = iota
	actProbe        // a handshake beside the present session: any living peer answers it
	actRenew        // give the session up and shake hands anew
	actMove         // look the endpoint's name up again, take the next endpoint, and renew
)

// vigil decides when the peer is gone and what to do about it:
//
//	        silence              still             still
//	hearing ───────▶ probe ─────────────▶ renew ─────────────▶ move ─┐
//	   ▲                                                       ▲     │
//	   └──────────── anything is heard ────────────────────────┴─────┘
//
// It is a pure function of what it saw: it reads no clock and does nothing
// itself.
type vigil struct {
	last      sight
	heard     time.Time // when something last came in
	askedAt   time.Time // first unanswered packet since; zero: none
	wantedAt  time.Time // since when somebody waits; zero: nobody
	attempts  int       // in this silence
	next      time.Time // earliest time of the next attempt
	recovered bool      // the last look ended a silence
}

func (v *vigil) see(now time.Time, s sight) action {
	v.recovered = false
	if s.rx != v.last.rx || !s.handshake.Equal(v.last.handshake) || v.heard.IsZero() {
		v.recovered = v.attempts > 0
		v.heard, v.askedAt, v.attempts = now, time.Time{}, 0
		v.last = s
	}
	if !s.wanted {
		v.wantedAt, v.askedAt, v.attempts = time.Time{}, time.Time{}, 0
		v.last.asked = s.asked
		return actNone
	}
	if v.wantedAt.IsZero() {
		v.wantedAt = now
	}
	if v.askedAt.IsZero() && s.asked != v.last.asked {
		v.askedAt = now
	}
	if now.Before(v.fault(s)) || (v.attempts > 0 && now.Before(v.next)) {
		return actNone
	}
	return v.attempt(now, s)
}

// fault is when the present silence becomes one that is acted on.
func (v *vigil) fault(s sight) time.Time {
	since := v.heard
	if v.wantedAt.After(since) {
		since = v.wantedAt
	}
	if s.handshake.IsZero() {
		return since.Add(firstFor)
	}
	at := since.Add(silentFor)
	if !v.askedAt.IsZero() && v.askedAt.Add(unansweredFor).Before(at) {
		at = v.askedAt.Add(unansweredFor)
	}
	return at
}

func (v *vigil) attempt(now time.Time, s sight) action {
	v.attempts++
	gap := firstGap + time.Duration(max(0, v.attempts-2))*500*time.Millisecond
	v.next = now.Add(min(gap, maxGap))
	switch {
	case v.attempts == 1 && !s.handshake.IsZero():
		return actProbe
	case v.attempts <= 2:
		return actRenew
	default:
		return actMove
	}
}

// rivalry tells stray packets from another process that uses our key.
type rivalry struct {
	foreign uint64
	since   time.Time
	count   uint64
}

// see takes the number of packets for foreign sessions so far and says that
// there is a rival.
func (r *rivalry) see(now time.Time, foreign uint64, shaken bool) bool {
	fresh := foreign - r.foreign
	r.foreign = foreign
	if !shaken || fresh == 0 {
		return false // packets before our first handshake were for our predecessor
	}
	if now.Sub(r.since) > conflictSpan {
		r.since, r.count = now, 0
	}
	r.count += fresh
	return r.count >= conflictPackets && now.After(r.since)
}
