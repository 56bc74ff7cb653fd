package routeros

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"strings"

	"usm-satellite/jobs"
)

// session is one connection, for one job.
type session struct {
	conn   net.Conn
	reader *bufio.Reader
	stage  jobs.Stage // of a fault, as of now
	hide   string     // the password: a device may repeat what it was told

	replies   []reply
	room      int // bytes that replies may still take in the result
	rows      int // most replies; 0: any
	read      int // bytes so far
	truncated bool
}

func newSession(ctx context.Context, conn net.Conn, resultBytes, rows int) *session {
	const frame = 1 << 10 // the rest of the result
	return &session{
		conn: conn, reader: bufio.NewReader(jobs.TakeReader(ctx, conn)), stage: jobs.StageLogin,
		replies: []reply{}, room: max(resultBytes-frame, 0), rows: rows,
	}
}

func (s *session) login(cred jobs.LoginCredential) error {
	s.hide = cred.Password.Reveal()
	if err := s.send([]string{"/login", "=name=" + cred.Username, "=password=" + s.hide}); err != nil {
		return err
	}
	failed := false
	for {
		r, err := s.receive(0)
		if err != nil {
			return err
		}
		switch r.Type {
		case "!trap", "!fatal":
			failed = true
		case "!done":
		default:
			return s.fault("the device answered the login with %.20q", r.Type)
		}
		switch _, challenge := r.Attributes["ret"]; {
		case r.Type == "!trap": // its !done follows
		case failed:
			return jobs.Faultf(jobs.CodeAuthFailed, jobs.StageLogin, "the device refuses this user name or password")
		case challenge:
			return s.fault("the device wants the login of RouterOS before 6.43 (a challenge), which is not spoken")
		default:
			return nil
		}
	}
}

// callAll makes the calls in their order, and stops at the first that the
// device refuses.
func (s *session) callAll(sentences [][]string) error {
	allRead := true
	for _, words := range sentences {
		allRead = allRead && reads(words)
	}
	for i, words := range sentences {
		// Until the first change leaves, the state of the device is known.
		if allRead || !reads(words) {
			s.stage = jobs.StageExecute
		}
		if err := s.call(i+1, words); err != nil {
			return err
		}
	}
	return nil
}

func (s *session) call(n int, words []string) error {
	if err := s.send(words); err != nil {
		return err
	}
	var trap *jobs.Fault
	for range maxSentences {
		r, err := s.receive(n)
		if err != nil {
			return err
		}
		s.keep(r)
		switch r.Type {
		case "!re", "!empty":
		case "!trap":
			if trap == nil {
				trap = jobs.Faultf(jobs.CodeCommandError, jobs.StageExecute, "sentence %d (%s): the device says: %s", n, words[0], s.said(r))
			}
		case "!fatal":
			return s.fault("sentence %d: the device ended the session: %s", n, s.said(r))
		case "!done":
			if trap != nil {
				return trap
			}
			return nil
		default:
			return s.fault("the device sent a reply of no known type, %.20q", r.Type)
		}
	}
	return s.fault("sentence %d: %s", n, errTooLarge)
}

// said is what a device says of a failure, for people.
func (s *session) said(r reply) string {
	text := r.Attributes["message"]
	if s.hide != "" {
		text = strings.ReplaceAll(text, s.hide, "***")
	}
	const most = 300
	if len(text) > most {
		text = strings.ToValidUTF8(text[:most], "") + "…"
	}
	if text == "" {
		return "nothing more"
	}
	return text
}

func (s *session) send(words []string) error {
	if _, err := s.conn.Write(appendSentence(nil, words)); err != nil {
		return s.broken(err)
	}
	return nil
}

func (s *session) receive(n int) (reply, error) {
	words, size, err := readSentence(s.reader)
	s.read += size
	switch {
	case err != nil:
		return reply{}, s.broken(err)
	case s.read > maxReplies:
		return reply{}, s.broken(errTooLarge)
	case words[0][0] != '!':
		return reply{}, s.broken(errControl)
	}
	r := reply{Sentence: n, Type: clean(words[0]), Attributes: make(map[string]string, len(words)-1)}
	for _, word := range words[1:] {
		name, value, isAttribute := strings.Cut(strings.TrimPrefix(word, "="), "=")
		switch {
		case word[0] == '=' && isAttribute, word[0] == '.' && isAttribute:
			r.Attributes[clean(name)] = clean(value)
		default: // !fatal says why in a plain word
			r.Attributes["message"] = clean(word)
		}
	}
	return r, nil
}

// clean makes text of what a device sends: names on it may be in any code page.
func clean(s string) string { return strings.ToValidUTF8(s, "\uFFFD") }

// keep puts a reply into the result, within its limits. What says how a
// sentence ended is short, and always kept.
func (s *session) keep(r reply) {
	size := 60
	for name, value := range r.Attributes {
		size += jobs.JSONSize(name) + jobs.JSONSize(value) + 6
	}
	if r.Type != "!done" && (size > s.room || s.rows > 0 && len(s.replies) >= s.rows) {
		s.truncated = true
		return
	}
	if size > s.room {
		s.truncated = true
		r.Attributes = map[string]string{}
	}
	s.room -= size
	s.replies = append(s.replies, r)
}

func (s *session) fault(format string, args ...any) error {
	return jobs.Faultf(jobs.CodeProtocolError, s.stage, format, args...)
}

// broken names what ended a conversation. What ended the job is named by
// jobs.FaultOf.
func (s *session) broken(err error) error {
	var netErr net.Error
	switch {
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return s.fault("the device closed the connection before its answer was complete")
	case errors.Is(err, errLength), errors.Is(err, errTooLong), errors.Is(err, errTooMany), errors.Is(err, errControl), errors.Is(err, errTooLarge):
		return s.fault("what the device sends is not the RouterOS API: %v", err)
	case errors.As(err, &netErr) && netErr.Timeout():
		return jobs.Faultf(jobs.CodeTimeout, s.stage, "the device is silent")
	default:
		return s.fault("the connection broke")
	}
}
