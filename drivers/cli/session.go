package cli

import (
	"bytes"
	"context"
	"errors"
	"io"
	"regexp"
	"strings"
	"time"
)

// How long a line must stay as it is before it is taken for a prompt. A
// prompt that is known is believed almost at once; one that only looks like a
// prompt may be a line of output of which the rest is still on its way.
const (
	settleKnown   = 15 * time.Millisecond
	settleWeak    = 250 * time.Millisecond
	settleUnknown = 500 * time.Millisecond
)

// Limits on what a device may send.
const (
	maxTail     = 64 << 10  // of a line; a longer one is cut into several
	maxMatch    = 1024      // of the end of the line, to be matched against patterns
	maxReceived = 256 << 20 // of one command, kept or not
	maxGreeting = 1 << 20   // before the first prompt
)

// What ends a wait.
var (
	errClosed  = errors.New("the device closed the connection")
	errEndless = errors.New("the output does not end")
	errAsked   = errors.New("the device asks a question that nothing answers")
	errPager   = errors.New("the device shows a pager that its answer does not move")
)

// session is a command line with somebody logged in, or about to be. It is
// used by one goroutine; a second one of its own reads the connection.
type session struct {
	conn     io.ReadWriteCloser
	platform *platform
	chunks   chan []byte   // written and closed by the reader
	done     chan struct{} // closed by Close
	ended    chan struct{} // closed by the reader

	tail       []byte // received, not yet a whole line
	cleaner    cleaner
	prompt     string // the last one, cleaned
	host       string // its part that stays
	transcript *transcript
	received   int // bytes since the last send
	lines      int // lines since the last send
	total      int // bytes since the start
	last       time.Time
	echo       echo // of the last line sent
	echoes     bool // the device has echoed a line before
}

func newSession(conn io.ReadWriteCloser, p *platform, t *transcript) *session {
	s := &session{
		conn: conn, platform: p, transcript: t,
		chunks: make(chan []byte, 4), done: make(chan struct{}), ended: make(chan struct{}),
	}
	go s.receive() // ends when Close has closed conn, or conn has ended
	return s
}

// receive is the reader: it waits when nobody takes what it has read, so that
// a flood fills the peer's buffers, not ours.
func (s *session) receive() {
	defer close(s.ended)
	defer close(s.chunks)
	for {
		buf := make([]byte, 8192)
		n, err := s.conn.Read(buf)
		if n > 0 {
			select {
			case s.chunks <- buf[:n]:
			case <-s.done:
				return
			}
		}
		if err != nil {
			return
		}
	}
}

// Close ends the connection and waits until the reader has ended.
func (s *session) Close() error {
	close(s.done)
	err := s.conn.Close()
	<-s.ended
	return err
}

// idle says that the device is there and has nothing more to say: the session
// may serve another job.
func (s *session) idle() bool {
	select {
	case <-s.chunks: // closed, or words that nobody has asked for
		return false
	default:
		return true
	}
}

// answerTime is how long a kept session may take to show its prompt again.
const answerTime = 3 * time.Second

// answers asks a kept session for its prompt: a device may be gone without a
// word, and a command sent into nothing would leave a change unknown.
func (s *session) answers(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, answerTime)
	defer cancel()
	before := s.prompt
	if s.send(ctx, "", false) != nil {
		return false
	}
	_, err := s.wait(ctx, nil, nil)
	return err == nil && s.prompt == before
}

// send types a line. hidden keeps it out of the transcript.
func (s *session) send(ctx context.Context, line string, hidden bool) error {
	shown := line
	if hidden {
		shown = "***"
	}
	s.transcript.sent(shown)
	s.echo = newEcho(line, s.prompt)
	if hidden {
		s.echo = newEcho("", "")
	}
	return s.write(ctx, line+s.platform.Newline)
}

// write sends as it is and starts the count of what comes back.
func (s *session) write(ctx context.Context, raw string) error {
	s.received, s.lines = 0, 0
	stop := context.AfterFunc(ctx, func() { s.conn.Close() })
	defer stop()
	if _, err := io.WriteString(s.conn, raw); err != nil {
		return s.cause(ctx, err)
	}
	return nil
}

// cause says why an operation failed: the end of ctx closes the connection,
// and the connection's error then says nothing.
func (s *session) cause(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	return errClosed
}

// event is what a wait has found at the end of the received.
type event struct {
	kind  eventKind
	index int    // of the question
	text  string // the line, cleaned
}

type eventKind int

const (
	sawPrompt eventKind = iota
	sawQuestion
)

// wait reads until a prompt or one of the questions stands at the end of the
// received. Whole lines go to sink as they come; pagers are answered.
func (s *session) wait(ctx context.Context, questions []question, sink func(line []byte) error) (event, error) {
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	pagers := 0
	for {
		found, settle, ok := s.look(questions)
		if ok && found.kind == sawPager {
			if pagers++; pagers > maxPagers {
				return event{}, errPager
			}
			if err := s.turnPage(ctx, found); err != nil {
				return event{}, err
			}
			continue
		}
		if !ok {
			settle = time.Hour
		}
		timer.Reset(settle)
		chunk, err := s.next(ctx, timer)
		switch {
		case err != nil:
			return event{}, err
		case chunk != nil:
			lines := s.lines
			if err := s.take(chunk, sink); err != nil {
				return event{}, err
			}
			if s.lines > lines {
				pagers = 0
			}
		case ok:
			return s.finish(found, sink)
		}
	}
}

// next returns the next chunk, or nil when the timer has ended first.
func (s *session) next(ctx context.Context, timer *time.Timer) ([]byte, error) {
	select {
	case chunk, open := <-s.chunks:
		if !open {
			return nil, s.cause(ctx, errClosed)
		}
		return chunk, nil
	default:
	}
	select {
	case chunk, open := <-s.chunks:
		if !open {
			return nil, s.cause(ctx, errClosed)
		}
		return chunk, nil
	case <-timer.C:
		return nil, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// take adds a chunk and gives the whole lines to sink.
func (s *session) take(chunk []byte, sink func(line []byte) error) error {
	s.total += len(chunk)
	s.last = time.Now()
	s.received += len(chunk)
	if s.received > maxReceived || s.prompt == "" && s.received > maxGreeting {
		return errEndless
	}
	s.tail = append(s.tail, chunk...)
	rest := s.tail
	for {
		end := bytes.IndexByte(rest, '\n')
		if end < 0 && len(rest) <= maxTail {
			break
		}
		line := rest
		if end >= 0 {
			line, rest = rest[:end], rest[end+1:]
		} else {
			rest = nil
		}
		s.lines++
		if err := s.line(bytes.TrimRight(line, "\r"), sink); err != nil {
			return err
		}
	}
	s.tail = s.tail[:copy(s.tail, rest)]
	return nil
}

func (s *session) line(raw []byte, sink func(line []byte) error) error {
	line := s.cleaner.clean(raw)
	s.transcript.line(line)
	echo := s.echo.is(line)
	s.echoes = s.echoes || echo && s.echo.seen && s.echo.want != ""
	if sink == nil || echo {
		return nil
	}
	return sink(line)
}

// finish takes what was found off the received.
func (s *session) finish(found event, sink func(line []byte) error) (event, error) {
	if found.kind == sawPrompt {
		before, prompt := s.splitPrompt(found.text)
		if before != "" && sink != nil {
			if err := sink([]byte(before)); err != nil {
				return event{}, err
			}
		}
		s.prompt = prompt
		if host := hostOf(s.platform.prompt, prompt); host != "" {
			s.host = host
		}
	}
	s.transcript.open(found.text)
	s.tail = s.tail[:0]
	return found, nil
}

// splitPrompt parts output without an end of line from the prompt behind it.
func (s *session) splitPrompt(line string) (before, prompt string) {
	if s.prompt != "" && hostOf(s.platform.prompt, line) == "" {
		if before, ok := strings.CutSuffix(line, s.prompt); ok {
			return before, s.prompt
		}
	}
	return "", line
}

func hostOf(re *regexp.Regexp, prompt string) string {
	i := re.SubexpIndex("host")
	m := re.FindStringSubmatch(prompt)
	if i < 0 || m == nil {
		return ""
	}
	return m[i]
}

// stands says that an unfinished line has not changed for a while.
func (s *session) stands() bool {
	return len(s.tail) > 0 && time.Since(s.last) >= quiet
}
