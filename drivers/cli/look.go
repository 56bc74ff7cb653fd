package cli

import (
	"bytes"
	"context"
	"strings"
	"time"
)

// sawPager is answered inside of wait and never leaves it.
const sawPager eventKind = -1

// maxPagers is how often a pager may be answered without a line coming.
const maxPagers = 20

// settleQuestion is how long a question must stand: "Last login: " is one
// only until the rest of the line has come.
const settleQuestion = 60 * time.Millisecond

// look says what the unfinished line is, and how long it must stay so.
func (s *session) look(questions []question) (event, time.Duration, bool) {
	tail := s.tail
	if len(tail) > maxMatch {
		tail = tail[len(tail)-maxMatch:]
	}
	if len(tail) == 0 {
		return event{}, 0, false
	}
	line := string(s.cleaner.clean(tail))
	if strings.TrimSpace(line) == "" {
		return event{}, 0, false
	}
	for i, q := range s.platform.pager {
		if q.re.MatchString(line) {
			return event{kind: sawPager, index: i, text: line}, 0, true
		}
	}
	for i, q := range questions {
		if q.re.MatchString(line) {
			return event{kind: sawQuestion, index: i, text: line}, settleQuestion, true
		}
	}
	if settle, ok := s.isPrompt(line); ok {
		return event{kind: sawPrompt, text: line}, settle, true
	}
	return event{}, 0, false
}

// isPrompt says whether a line is a prompt, and how long to doubt it.
func (s *session) isPrompt(line string) (time.Duration, bool) {
	matches := s.platform.prompt.MatchString(line)
	same := line == s.prompt
	if !same && matches && s.host != "" {
		host := hostOf(s.platform.prompt, line)
		same = host == s.host || host == "" && strings.Contains(line, s.host) // "[sw1-GigabitEthernet0/0/1]"
	}
	switch {
	case same && s.echoes && !s.echo.seen:
		return settleUnknown, true // the one from before, behind a log line that came in between
	case same && s.lines == 0 && s.received > 0:
		return settleWeak, true // perhaps drawn anew, before the echo
	case same && len(strings.TrimSpace(line)) > 2:
		return settleKnown, true
	case same:
		return settleWeak, true // "# " and the like stand in many outputs
	case matches:
		return settleUnknown, true
	default:
		return settleUnknown, len(s.prompt) > 2 && strings.HasSuffix(line, s.prompt)
	}
}

// turnPage answers a pager and takes its text off the received. What the
// device sends to erase it then finds nothing and does no harm.
func (s *session) turnPage(ctx context.Context, found event) error {
	q := s.platform.pager[found.index]
	if at := q.re.FindIndex(s.tail); at != nil {
		s.tail = append(s.tail[:at[0]], s.tail[at[1]:]...)
	} else {
		s.tail = s.tail[:0]
	}
	if len(bytes.TrimSpace(s.cleaner.clean(s.tail))) == 0 {
		s.tail = s.tail[:0]
	}
	received, lines := s.received, s.lines
	err := s.write(ctx, s.typed(q))
	s.received, s.lines = received, lines
	return err
}

// typed is what a reply puts on the wire.
func (s *session) typed(q question) string {
	if q.Raw {
		return q.Answer
	}
	return q.Answer + s.platform.Newline
}
