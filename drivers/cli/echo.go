package cli

import "strings"

// Limits on where an echo is looked for.
const (
	maxEchoLines = 8  // lines after the command was sent
	minEchoPart  = 20 // characters of an echo that a device has cut into lines
)

// echo finds the command in what the device sends back: as it was typed,
// behind the prompt drawn anew, or cut into several lines. Something that
// nobody has asked for (a log line) may come before it.
type echo struct {
	want, prompt string
	got          string // of one in several lines
	lines        int
	seen         bool // it came: what follows is the answer
	done         bool // it came, or will not come any more
}

func newEcho(command, prompt string) echo {
	want := squeeze(command)
	return echo{want: want, prompt: squeeze(prompt), seen: want == "", done: want == ""}
}

// is says whether a line belongs to the echo.
func (e *echo) is(line []byte) bool {
	if e.done {
		return false
	}
	e.lines++
	got := e.got + squeeze(string(line))
	got = strings.TrimPrefix(got, e.prompt)
	switch {
	case got == e.want:
		e.seen, e.done = true, true
		return true
	case e.lines >= maxEchoLines:
		e.done = true
		return false
	case got == "", len(got) >= minEchoPart && strings.HasPrefix(e.want, got):
		e.got = got
		return true
	default:
		e.got = ""
		return false
	}
}

// squeeze takes the blanks out: a device that cuts a line puts some in.
func squeeze(s string) string {
	return strings.Map(func(r rune) rune {
		if r == ' ' || r == '\t' {
			return -1
		}
		return r
	}, s)
}
