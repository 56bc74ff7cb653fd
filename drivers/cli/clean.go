package cli

import (
	"bytes"
	"unicode/utf8"
)

// maxColumns is where the cursor of a cleaned line stops: what a device
// writes beyond it goes on there.
const maxColumns = 1 << 16

// cleaner makes of what a device sent for one line what a person would have
// seen of it: escape sequences (ECMA-48) are taken out, backspaces, returns
// and erasures done. Its zero value is ready; it is used by one goroutine.
type cleaner struct {
	cells  []byte // not runes: a terminal of bytes is right for what devices send
	column int
	erased bool // something was overwritten or erased: blanks at the end are its remains
}

// clean returns the visible text of a line. What has no control characters is
// returned as it is.
func (c *cleaner) clean(line []byte) []byte {
	if bytes.IndexFunc(line, func(r rune) bool { return r < ' ' && r != '\t' || r == 0x7f }) < 0 {
		return line
	}
	c.cells, c.column, c.erased = c.cells[:0], 0, false
	for i := 0; i < len(line); {
		i += c.step(line[i:])
	}
	if c.erased {
		return bytes.TrimRight(c.cells, " ")
	}
	return c.cells
}

// step takes one character or sequence and returns its length.
func (c *cleaner) step(b []byte) int {
	switch b[0] {
	case '\r':
		c.column = 0
	case '\b':
		c.column = max(c.column-1, 0)
	case 0x1b:
		return c.escape(b)
	case '\t':
		c.put(b[0])
	default:
		if b[0] >= ' ' && b[0] != 0x7f {
			c.put(b[0])
		}
	}
	return 1
}

func (c *cleaner) put(b byte) {
	if c.column < len(c.cells) {
		c.cells[c.column] = b
		c.erased = true
	} else {
		for len(c.cells) < c.column {
			c.cells = append(c.cells, ' ')
		}
		c.cells = append(c.cells, b)
	}
	c.column = min(c.column+1, maxColumns)
}

// escape takes a sequence that starts with ESC. One that is not finished is
// taken to the end.
func (c *cleaner) escape(b []byte) int {
	if len(b) == 1 {
		return 1
	}
	switch b[1] {
	case '[':
		return c.csi(b)
	case ']', 'P', '^', '_', 'X': // strings, up to BEL or ESC \
		for i := 2; i < len(b); i++ {
			if b[i] == 0x07 {
				return i + 1
			}
			if b[i] == 0x1b && i+1 < len(b) && b[i+1] == '\\' {
				return i + 2
			}
		}
		return len(b)
	}
	i := 1
	for i < len(b) && b[i] >= 0x20 && b[i] <= 0x2f { // intermediates, as in ESC ( B
		i++
	}
	return min(i+1, len(b))
}

func (c *cleaner) csi(b []byte) int {
	i, n := 2, 0
	for i < len(b) && (b[i] < 0x40 || b[i] > 0x7e) {
		if b[i] >= '0' && b[i] <= '9' {
			n = min(n*10+int(b[i]-'0'), maxColumns)
		}
		i++
	}
	if i == len(b) {
		return i
	}
	if b[i] != 'K' {
		n = max(n, 1)
	}
	switch b[i] {
	case 'D':
		c.column = max(c.column-n, 0)
	case 'C':
		c.column = min(c.column+n, maxColumns)
	case 'G':
		c.column = n - 1
	case 'K':
		c.eraseLine(n)
	case 'P':
		if c.column < len(c.cells) {
			c.cells = append(c.cells[:c.column], c.cells[min(c.column+n, len(c.cells)):]...)
			c.erased = true
		}
	}
	return i + 1
}

func (c *cleaner) eraseLine(how int) {
	c.erased = true
	switch how {
	case 0:
		c.cells = c.cells[:min(c.column, len(c.cells))]
	case 1:
		for i := range min(c.column+1, len(c.cells)) {
			c.cells[i] = ' '
		}
	default:
		c.cells = c.cells[:0]
	}
}

// text makes a string that JSON can carry. What is no UTF-8 is read as
// Latin-1, so that nothing is lost and nothing is doubtful.
func text(b []byte) string {
	if utf8.Valid(b) {
		return string(b)
	}
	var out []rune
	for len(b) > 0 {
		r, size := utf8.DecodeRune(b)
		if r == utf8.RuneError && size <= 1 {
			r = rune(b[0])
			size = 1
		}
		out = append(out, r)
		b = b[size:]
	}
	return string(out)
}
