package cli

import (
	"context"
	"strings"

	"usm-satellite/jobs"
)

// partBytes is how much output of one step goes into a part of a stream.
const partBytes = 256 << 10

// maxErrorLine bounds the device's words in a message, in bytes.
const maxErrorLine = 200

// How far from the ends of an output an error is looked for: a device says no
// at once, or at the end; what looks like one in the middle of a long listing
// is a listing.
const (
	firstErrorLines = 40
	lastErrorLines  = 10
)

// emitError says that a part of a stream could not be sent.
type emitError struct{ err error }

func (e *emitError) Error() string { return "emit: " + e.err.Error() }
func (e *emitError) Unwrap() error { return e.err }

// part is a piece of a step's output, sent before the end.
type part struct {
	Step   int    `json:"step"` // from 1
	Output string `json:"output"`
}

// collector takes the output of one step: errors found, kept as far as there is
// room or sent in parts.
type collector struct {
	ctx  context.Context //nolint:containedctx // of the one step
	r    *runner
	at   int
	out  strings.Builder
	held int // what out takes of the room
	n    int // lines of output
	last [lastErrorLines]string
}

func newCollector(ctx context.Context, r *runner) *collector {
	return &collector{ctx: ctx, r: r, at: r.at}
}

// line takes a whole line without its end.
func (c *collector) line(raw []byte) error {
	c.n++
	step := &c.r.steps[c.at]
	line := text(raw)
	if c.n <= firstErrorLines {
		c.judge(step, line)
	} else {
		c.last[c.n%lastErrorLines] = line
	}
	return c.add(line)
}

// judge notes the first line that is an error.
func (c *collector) judge(step *Step, line string) {
	for _, re := range c.r.p.platform.errors {
		if step.Error == "" && re.MatchString(line) {
			step.Error = clip(strings.TrimSpace(line), maxErrorLine)
		}
	}
}

// question takes an unfinished line that was asked.
func (c *collector) question(line string) {
	c.add(text([]byte(line))) //nolint:errcheck // the next line says it again
}

func (c *collector) add(line string) error {
	step := &c.r.steps[c.at]
	if c.r.job.Stream && c.out.Len() >= partBytes {
		sent, err := jobs.Emit(c.ctx, part{Step: c.at + 1, Output: c.out.String()})
		if err != nil {
			return &emitError{err}
		}
		if sent {
			step.Streamed += c.out.Len()
			c.r.room += c.held
			c.held = 0
			c.out.Reset()
		}
	}
	size := jobs.JSONSize(line) + 2
	if c.r.room < size {
		c.r.truncated, step.Truncated = true, true
		return nil
	}
	if err := jobs.Take(c.ctx, size); err != nil {
		return err
	}
	c.r.room -= size
	c.held += size
	c.out.WriteString(line)
	c.out.WriteByte('\n')
	return nil
}

// close gives the step its output.
func (c *collector) close() {
	step := &c.r.steps[c.at]
	for i := range c.last {
		c.judge(step, c.last[(c.n+1+i)%lastErrorLines])
	}
	step.Output = strings.TrimSuffix(c.out.String(), "\n")
}

func clip(s string, limit int) string {
	if len(s) > limit {
		return strings.ToValidUTF8(s[:limit], "") + "…"
	}
	return s
}
