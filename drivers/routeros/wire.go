package routeros

import (
	"bufio"
	"encoding/binary"
	"errors"
	"io"
)

// Limits on what a device may send.
const (
	maxWord      = 1 << 20  // bytes of a word
	maxWords     = 1 << 12  // of a sentence
	maxSentence  = 4 << 20  // bytes of a sentence
	maxSentences = 1 << 20  // of the replies to one sentence
	maxReplies   = 64 << 20 // bytes read for one job; what exceeds the result is counted and dropped
)

var (
	errLength   = errors.New("a word has a reserved length byte")
	errTooLong  = errors.New("a word is too long")
	errTooMany  = errors.New("a sentence is too long")
	errControl  = errors.New("a sentence does not begin with a reply word")
	errTooLarge = errors.New("the replies are too long")
)

// appendWord adds a word with its length in front: 1 to 5 bytes, the leading
// bits of the first say how many (MikroTik, "API", "Protocol").
func appendWord(b []byte, word string) []byte {
	n := uint32(len(word)) //nolint:gosec // checked before: at most maxWord
	switch {
	case n < 0x80:
		b = append(b, byte(n))
	case n < 0x4000:
		four := binary.BigEndian.AppendUint32(nil, n|0x8000)
		b = append(b, four[2:]...)
	case n < 0x200000:
		four := binary.BigEndian.AppendUint32(nil, n|0xC00000)
		b = append(b, four[1:]...)
	case n < 0x10000000:
		b = binary.BigEndian.AppendUint32(b, n|0xE0000000)
	default:
		b = binary.BigEndian.AppendUint32(append(b, 0xF0), n)
	}
	return append(b, word...)
}

// appendSentence adds words and the empty word that ends them.
func appendSentence(b []byte, words []string) []byte {
	for _, word := range words {
		b = appendWord(b, word)
	}
	return append(b, 0)
}

func readLength(r io.ByteReader) (int, error) {
	first, err := r.ReadByte()
	if err != nil {
		return 0, err
	}
	more, n := 0, uint64(first)
	switch {
	case first < 0x80:
	case first < 0xC0:
		more, n = 1, n&0x3F
	case first < 0xE0:
		more, n = 2, n&0x1F
	case first < 0xF0:
		more, n = 3, n&0x0F
	case first == 0xF0:
		more, n = 4, 0
	default: // 0xF8 and on are control bytes that no version of the protocol defines
		return 0, errLength
	}
	for range more {
		b, err := r.ReadByte()
		if err != nil {
			return 0, noEOF(err)
		}
		n = n<<8 | uint64(b)
	}
	if n > maxWord {
		return 0, errTooLong
	}
	return int(n), nil
}

// noEOF: a connection that ends inside a sentence did not end well.
func noEOF(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// readSentence reads words up to the empty one. Memory is taken as the bytes
// come, never for what a length claims. Empty sentences are skipped, as the
// protocol asks.
func readSentence(r *bufio.Reader) (words []string, size int, err error) {
	for {
		n, err := readLength(r)
		if err != nil {
			if len(words) > 0 {
				err = noEOF(err)
			}
			return nil, size, err
		}
		if size++; size > maxSentence {
			return nil, size, errTooMany
		}
		if n == 0 && len(words) > 0 {
			return words, size, nil
		}
		if n == 0 {
			continue
		}
		if size += n; size > maxSentence || len(words) == maxWords {
			return nil, size, errTooMany
		}
		word, err := readWord(r, n)
		if err != nil {
			return nil, size, err
		}
		words = append(words, word)
	}
}

func readWord(r *bufio.Reader, n int) (string, error) {
	const step = 4 << 10
	word := make([]byte, 0, min(n, step))
	for len(word) < n {
		had := len(word)
		word = append(word, make([]byte, min(n-had, step))...)
		if _, err := io.ReadFull(r, word[had:]); err != nil {
			return "", noEOF(err)
		}
	}
	return string(word), nil
}
