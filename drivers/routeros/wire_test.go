package routeros

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"slices"
	"strings"
	"testing"
)

// The lengths are those of the manual's table, at the edges of its rows.
func TestLengthsAreThoseOfTheManual(t *testing.T) {
	for _, c := range []struct {
		n    int
		want []byte
	}{
		{1, []byte{0x01}},
		{0x7F, []byte{0x7F}},
		{0x80, []byte{0x80, 0x80}},
		{0x3FFF, []byte{0xBF, 0xFF}},
		{0x4000, []byte{0xC0, 0x40, 0x00}},
		{maxWord, []byte{0xD0, 0x00, 0x00}},
	} {
		word := strings.Repeat("w", c.n)
		got := appendWord(nil, word)
		if !bytes.Equal(got[:len(got)-c.n], c.want) {
			t.Errorf("the length %#x is written as % x, want % x", c.n, got[:len(got)-c.n], c.want)
		}
		words, _, err := readSentence(bufio.NewReader(bytes.NewReader(append(got, 0))))
		if err != nil || len(words) != 1 || words[0] != word {
			t.Errorf("a word of %#x bytes comes back as %d words, %v", c.n, len(words), err)
		}
	}
}

func TestBadSentencesAreRefused(t *testing.T) {
	for _, c := range []struct {
		name string
		in   []byte
		want error
	}{
		{"nothing", nil, io.EOF},
		{"no end", []byte("\x03!re"), io.ErrUnexpectedEOF},
		{"half a word", []byte("\x05!re"), io.ErrUnexpectedEOF},
		{"half a length", []byte{0xC0, 1}, io.ErrUnexpectedEOF},
		{"a control byte", []byte{0xF8}, errLength},
		{"a word of 256 MiB", []byte{0xF0, 0x10, 0, 0, 0}, errTooLong},
		{"a word too long by one", []byte{0xD0, 0x00, 0x01}, errTooLong},
		{"too many words", append(bytes.Repeat([]byte{1, 'a'}, maxWords+1), 0), errTooMany},
		{"empty words for ever", make([]byte, maxSentence+1), errTooMany},
	} {
		if _, _, err := readSentence(bufio.NewReader(bytes.NewReader(c.in))); !errors.Is(err, c.want) {
			t.Errorf("%s: got %v, want %v", c.name, err, c.want)
		}
	}
}

// FuzzReadSentence: no input makes the reader fail, or keep more than came;
// what it accepts says the same once written again.
func FuzzReadSentence(f *testing.F) {
	for _, seed := range []string{"\x03!re\x08=.id=*1\x00", "\x05!done\x00", "\x00\x00\x06!fatal\x03bye\x00", "\xf0\xff\xff\xff\xff", "\x80\x80", "\xc0\x40"} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		words, size, err := readSentence(bufio.NewReader(bytes.NewReader(in)))
		if size > maxSentence+maxWord {
			t.Fatalf("%d bytes were read for one sentence", size)
		}
		if err != nil {
			return
		}
		if len(words) == 0 || len(strings.Join(words, "")) > len(in) {
			t.Fatalf("%d bytes became %d words", len(in), len(words))
		}
		again, _, err := readSentence(bufio.NewReader(bytes.NewReader(appendSentence(nil, words))))
		if err != nil || !slices.Equal(words, again) {
			t.Fatalf("%q comes back as %q, %v", words, again, err)
		}
	})
}
